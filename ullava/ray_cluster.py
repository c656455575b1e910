"""A cluster of Ray: one that is there already, or one of this machine alone that begins and ends with a command."""

from __future__ import annotations

import math
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ullava.errors import UserError

OBJECT_STORE_BYTES = 200 * 1024 * 1024
"""Shared memory of a cluster of our own. Questions and paths travel; images are read where they are needed."""

STARTS = 3
"""How often a cluster of our own is begun. Ray gives it 30 seconds, too few on a machine that is busy."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """Where the work runs. ``address``: of the head of a cluster, or None for this machine alone.

    ``cpus``, ``gpus``: what each worker or replica takes for itself. A GPU may be shared: 0.5.
    """

    address: str | None = None
    cpus: float = 1.0
    gpus: float = 0.0


def import_ray(cluster: Cluster) -> Any:
    """Return the library, told before its import how a cluster of our own is to be. Raises UserError without it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would tell its makers about the cluster
    if cluster.address is None:
        # Ray's own switch for machines without clusters: everything listens on the loopback address. It listens on all
        # addresses otherwise, and whoever reaches it can run programs.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
        os.environ.setdefault("RAY_AUTH_MODE", "token")
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    try:
        import ray
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "ray":
            raise
        raise UserError("--engine ray needs ray: pip install 'ullava[ray]'") from error
    return ray


@contextmanager
def joined(cluster: Cluster, workers: int | None = None) -> Iterator[Any]:
    """Join a cluster, or begin one that is large enough for ``workers`` (None: for what this machine has).

    Gives the library; leaves the cluster at the end. One of our own listens on the loopback address alone.

    Raises:
        UserError: ray is not installed, or the cluster cannot be reached.
    """
    ray = import_ray(cluster)
    options: dict[str, Any] = {"address": cluster.address, "log_to_driver": False, "logging_level": "error"}
    if cluster.address is None:
        cpus = None if workers is None else math.ceil(workers * cluster.cpus)
        options |= {
            "address": "local", "num_cpus": cpus, "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }  # fmt: skip
    for left in reversed(range(STARTS)):
        try:
            ray.init(**options)
            break
        except Exception as error:  # Ray has no error of its own for "The current node timed out during startup"
            ray.shutdown()
            if cluster.address is None and "timed out during startup" in str(error) and left:
                continue
            where = cluster.address or "this machine"
            raise UserError(f"the cluster of Ray on {where} cannot be joined: {_first_line(error)}") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def places(ray: Any, cluster: Cluster) -> int:
    """Return how many workers the cluster has room for now. Raises UserError where it is none."""
    there = ray.cluster_resources()
    wanted = {"CPU": cluster.cpus, "GPU": cluster.gpus}
    found = min(int(there.get(name, 0) // amount) for name, amount in wanted.items() if amount > 0)
    if found < 1:
        asked = ", ".join(f"{amount:g} {name}" for name, amount in wanted.items() if amount > 0)
        has = ", ".join(f"{there.get(name, 0):g} {name}" for name in wanted)
        raise UserError(f"the cluster of Ray has no room for one worker: it takes {asked}, the cluster has {has}")
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def tell(text: str) -> None:
    """Print a line about the cluster for a person, beside what the command prints."""
    print(text, file=sys.stderr, flush=True)
