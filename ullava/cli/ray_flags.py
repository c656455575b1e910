"""The flags by which commands say where Ray runs them, and on how much of each machine."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ullava.errors import UserError
from ullava.ray_cluster import Cluster

FLAGS = ("ray_address", "cpus_each", "gpus_each")


def add_ray(parser: argparse.ArgumentParser, what: str) -> argparse._ArgumentGroup:
    """Declare ``--engine`` and the flags that go with ``--engine ray``, and return their group.

    ``what``: what Ray begins several of.
    """
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local",
        help="local: this process (default); ray: many, on one machine or a cluster (docs/many_machines.md)",
    )  # fmt: skip
    group = parser.add_argument_group("with --engine ray")
    group.add_argument(
        "--ray-address", metavar="HOST:PORT",
        help="the head of a cluster, or 'auto' on a machine of it (default: this machine alone)",
    )  # fmt: skip
    group.add_argument("--cpus-each", type=amount, metavar="N", help=f"CPUs that a {what} takes (default: 1)")
    group.add_argument("--gpus-each", type=amount, metavar="N", help=f"GPUs that a {what} takes (default: 0)")
    return group


def cluster_of(args: argparse.Namespace) -> Cluster:
    """Return the cluster that the flags ask for. Raises UserError for workers that take nothing."""
    cluster = Cluster(args.ray_address, args.cpus_each if args.cpus_each is not None else 1.0, args.gpus_each or 0.0)
    if not cluster.cpus and not cluster.gpus:
        raise UserError("--cpus-each 0: something has to say how many fit on a machine; give --gpus-each")
    return cluster


def check_ray(args: argparse.Namespace, more: Sequence[str]) -> None:
    """Refuse flags of Ray, those named ``more`` among them, without ``--engine ray``."""
    given = [name for name in (*FLAGS, *more) if getattr(args, name) is not None]
    if args.engine != "ray" and given:
        named = ", ".join("--" + name.replace("_", "-") for name in given)
        raise UserError(f"{named}: {'goes' if len(given) == 1 else 'go'} with --engine ray")


def amount(text: str) -> float:
    """Read how much of something is taken: a whole number, or a part below 1 (Ray shares one device that way)."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10_000 or (value > 1 and value != int(value)):
        raise argparse.ArgumentTypeError(f"expected a whole number, or a part of one such as 0.5, not '{text}'")
    return value
