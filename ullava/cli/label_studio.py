"""``ullava label-studio``: a machine-learning backend for Label Studio, which takes a sentence from the annotator."""

from __future__ import annotations

import argparse
import os

from ullava.cli.loading_flags import add_device
from ullava.cli.numbers import fraction, port
from ullava.errors import UserError

HELP = "be the machine-learning backend of Label Studio: a sentence in, brush masks and rectangles out"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--model", default="tiny", metavar="MODEL", help="a name, a folder or a Hub id (default: tiny)")
    parser.add_argument(
        "--url", metavar="URL",
        help="where Label Studio is, as this process reaches it (default: the variable LABEL_STUDIO_URL); the access "
        "token of one of its users comes in the variable LABEL_STUDIO_API_KEY",
    )  # fmt: skip
    parser.add_argument(
        "--image-host", action="append", default=[], metavar="NAME",
        help="a further host that images may be fetched from; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this machine alone"
    )
    parser.add_argument("--port", type=port, default=9090, metavar="N", help="default: %(default)s; 0 takes a free one")
    parser.add_argument(
        "--without-login", action="store_true",
        help="listen on the network without BASIC_AUTH_USER and BASIC_AUTH_PASS, the variables that hold the login",
    )  # fmt: skip
    add_device(parser)
    parser.add_argument(
        "--min-score", type=fraction, default=0.0, metavar="S", help="leave out things below it (default: none)"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    user, password = os.environ.get("BASIC_AUTH_USER", ""), os.environ.get("BASIC_AUTH_PASS", "")
    if bool(user) != bool(password):
        raise UserError("BASIC_AUTH_USER and BASIC_AUTH_PASS: set both or none")
    from ullava.plugins.label_studio_server import Settings, serve

    return serve(
        Settings(
            args.model,
            url=args.url or os.environ.get("LABEL_STUDIO_URL") or None,
            token=os.environ.get("LABEL_STUDIO_API_KEY") or None,
            image_hosts=args.image_host,
            host=args.host,
            port=args.port,
            login=(user, password) if user else None,
            without_login=args.without_login,
            device=args.device,
            min_score=args.min_score,
        )
    )
