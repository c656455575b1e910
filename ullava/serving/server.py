"""The process: models by name, an app, and uvicorn, which ends when all that was accepted is answered."""

from __future__ import annotations

import logging
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from ullava.errors import UserError
from ullava.inference.load import weights_folder
from ullava.listening import is_loopback, listen
from ullava.serving.app import Page, create_app
from ullava.serving.engine import Engine, load_engine
from ullava.serving.fetch import Fetcher
from ullava.serving.guard import Access, App, Streams, allowed_hosts
from ullava.serving.limits import MIB, Limits
from ullava.serving.metrics import Metrics
from ullava.serving.registry import ModelRegistry

_SHORTEST_KEY = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``ullava serve`` was told. ``models``: public name -> a name, a folder or a Hub id.

    ``loading``: options of ``ullava.load``.
    """

    models: Mapping[str, str]
    host: str = "127.0.0.1"
    port: int = 8000
    loading: Mapping[str, Any] = field(default_factory=dict)
    api_key: str | None = None
    without_key: bool = False
    allow_urls: bool = False
    allow_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    default_tokens: int = 128
    limits: Limits = field(default_factory=Limits)
    page: bool = True


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or Ctrl-C; what was accepted by then is answered first. Returns the exit code.

    Raises UserError: a model that is not there, an address that is taken or open to the network without a key.
    """
    check(settings)
    listening = listen(settings.host, settings.port)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with ExitStack() as open_things:
        page = _page(open_things) if settings.page else None
        app = loaded_app(settings, page)
        ending = None if page is None else page.streams.ending.set
        return run_app(app, listening, settings.limits.timeout_s, ending)


def loaded_app(settings: Settings, page: Page | None = None) -> App:
    """Return the app of these settings, the default model loaded. Raises UserError as ``ullava.load``."""
    metrics = Metrics()
    limits = settings.limits

    def loader(name: str, where: str) -> Engine:
        return load_engine(name, where, limits, settings.loading, metrics.batch)

    registry = ModelRegistry(settings.models, loader, limits.max_loaded)
    registry.put(registry.default, loader(registry.default, settings.models[registry.default]))
    fetcher = Fetcher(limits.max_body_mib * MIB, limits.fetch_timeout_s, limits.max_redirects)
    return create_app(
        registry,
        limits,
        Access(settings.api_key, allowed_hosts(settings.host, settings.allow_hosts), tuple(settings.cors_origins)),
        metrics=metrics,
        fetcher=fetcher if settings.allow_urls else None,
        default_tokens=settings.default_tokens,
        page=page,
    )


def _page(open_things: ExitStack) -> Page | None:
    """Return the web page, with a folder for visitors' files that goes with the server; None without gradio."""
    try:
        from ullava.serving.page.blocks import IDLE_STREAMS, STREAMS, mount_page
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "gradio":
            raise
        print("no page: gradio is missing; install the extra: pip install 'ullava[page]'", file=sys.stderr)
        return None
    folder = Path(open_things.enter_context(tempfile.TemporaryDirectory(prefix="ullava-page-")))
    return Page(lambda app, service: mount_page(app, service, folder), Streams(STREAMS, IDLE_STREAMS))


def run_app(app: object, listening: socket.socket, timeout_s: int, on_stop: Callable[[], None] | None = None) -> int:
    """Run an app on a socket until a signal comes and all is answered; 1 if the app could not begin.

    ``on_stop`` is called when the signal comes.
    """
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=timeout_s + 5,
        server_header=False,
        ws="none",
    )
    server = _Server(config, on_stop)
    host, port = listening.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host

    def heard(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    # uvicorn obeys these signals, then raises them again when all is done: here the wish to end was met by then.
    before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
    print(f"serving on http://{shown}:{port} (its API: http://{shown}:{port}/docs)", file=sys.stderr, flush=True)
    try:
        server.run(sockets=[listening])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0 if server.started else 1


class _Server(uvicorn.Server):
    """uvicorn's server, which tells ``on_stop`` of the signal to end as soon as it comes."""

    def __init__(self, config: uvicorn.Config, on_stop: Callable[[], None] | None) -> None:
        super().__init__(config)
        self._on_stop = on_stop

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take the signal."""
        if self._on_stop is not None:
            self._on_stop()
        super().handle_exit(sig, frame)


def check(settings: Settings) -> None:
    """Judge settings before anything is loaded. Raises UserError, one line for each thing to mend."""
    problems: list[str] = []
    if settings.api_key is not None and len(settings.api_key) < _SHORTEST_KEY:
        problems.append(f"--api-key: at least {_SHORTEST_KEY} characters, so that it cannot be guessed")
    if not is_loopback(settings.host) and settings.api_key is None and not settings.without_key:
        problems.append(
            f"--host {settings.host} is open to the network: give --api-key (or ULLAVA_API_KEY), or --without-key "
            "where something else decides who may ask"
        )
    for origin in settings.cors_origins:
        if origin == "*" or not origin.startswith(("http://", "https://")) or origin.endswith("/"):
            problems.append(f"--cors-origin '{origin}': expected a site such as https://example.org, without a path")
    if problems:
        raise UserError(problems)
    for where in settings.models.values():
        weights_folder(where)
