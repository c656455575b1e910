"""``ullava serve``: an HTTP API for models, for programs that know OpenAI's, Falcon Perception's or a tool's shape."""

from __future__ import annotations

import argparse
import os
from dataclasses import fields

from ullava.cli.generation_flags import positive
from ullava.cli.loading_flags import add_loading, loading_of
from ullava.cli.numbers import port
from ullava.cli.ray_flags import add_ray, check_ray, cluster_of
from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.errors import UserError

HELP = "serve models over HTTP: a web page, predictions, chat in OpenAI's shape, annotation tools"
KEY_VARIABLE = "ULLAVA_API_KEY"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from ullava.serving.limits import Limits, flag_of

    parser.add_argument(
        "--model", action="append", dest="models", metavar="[NAME=]MODEL",
        help="a name, a folder or a Hub id (default: tiny); may be repeated, requests choose by NAME, the first is "
        "the default",
    )  # fmt: skip
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: %(default)s, this machine alone"
    )
    parser.add_argument("--port", type=port, default=8000, metavar="N", help="default: %(default)s; 0 takes a free one")
    add_loading(parser)
    parser.add_argument(
        "--api-key", metavar="KEY",
        help=f"what clients have to send as 'Authorization: Bearer KEY'; better in the variable {KEY_VARIABLE}, since "
        "others on the machine can see command lines",
    )  # fmt: skip
    parser.add_argument("--without-key", action="store_true", help="listen on the network without a key")
    parser.add_argument("--allow-urls", action="store_true", help="fetch images behind http and https urls")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="a further name that the server is called by"
    )
    parser.add_argument(
        "--cors-origin", action="append", default=[], metavar="URL", help="a site whose pages may ask, in a browser"
    )
    parser.add_argument(
        "--default-tokens", type=positive, default=MAX_NEW_TOKENS, metavar="N",
        help="length of an answer where a request says nothing (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--no-page", action="store_true", help="serve the API alone, without the web page under /")
    ray = add_ray(parser, "replica")
    ray.add_argument(
        "--replicas", type=replicas, metavar="N or MIN-MAX",
        help="processes that answer, each with the models and limits of its own; MIN-MAX: as many as there is work for "
        "(default: 1)",
    )  # fmt: skip
    limits = parser.add_argument_group("limits")
    for item in fields(Limits):
        limits.add_argument(
            flag_of(item.name), type=int, default=item.default, metavar="N",
            help=f"{item.metadata['help']} (default: %(default)s)",
        )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Serve until told to end."""
    from ullava.serving.limits import Limits

    check_ray(args, ("replicas",))
    limits = Limits(**{item.name: getattr(args, item.name) for item in fields(Limits)})
    models = _models(args.models or ["tiny"])
    try:
        from ullava.serving.server import Settings, serve
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("torch", "transformers", "ullava"):
            raise
        raise UserError(f"{error.name} is missing; install the extra: pip install 'ullava[serve]'") from error
    settings = Settings(
        models=models,
        host=args.host,
        port=args.port,
        loading=loading_of(args),
        api_key=args.api_key or os.environ.get(KEY_VARIABLE) or None,
        without_key=args.without_key,
        allow_urls=args.allow_urls,
        allow_hosts=args.allow_host,
        cors_origins=args.cors_origin,
        default_tokens=args.default_tokens,
        limits=limits,
        page=not args.no_page,
    )
    if args.engine == "local":
        return serve(settings)
    from ullava.serving.on_ray import Replicas, serve_on_ray

    return serve_on_ray(settings, cluster_of(args), Replicas(*(args.replicas or (1, 1))))


def replicas(text: str) -> tuple[int, int]:
    """Read how many replicas, ``3``, or between what, ``1-8``."""
    least, dash, most = text.partition("-")
    found = positive(least), positive(most if dash else least)
    if found[0] > found[1]:
        raise argparse.ArgumentTypeError(f"expected N or MIN-MAX, not '{text}'")
    return found


def _models(given: list[str]) -> dict[str, str]:
    """``[NAME=]MODEL`` -> what requests call it, and where it is. A folder is called by its last part."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, where = text.partition("=")
        if not equals:
            where = text
            name = os.path.basename(os.path.normpath(text)) if os.path.isdir(text) else text
        if not name or not where:
            raise UserError(f"--model '{text}': expected MODEL or NAME=MODEL")
        if name in found:
            raise UserError(f"--model '{text}': '{name}' is served already; give it another NAME=")
        found[name] = where
    return found
