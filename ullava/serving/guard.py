"""What every request passes before the app sees it: key, origin, room, size, time; and the watch on its sender.

Plain ASGI (https://asgi.readthedocs.io, HTTP 2.3). The whole body is read here, so that the app begins with all of it
or not at all.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import json
import re
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from ullava.listening import is_loopback
from ullava.serving.limits import MIB, Limits
from ullava.serving.metrics import Metrics
from ullava.serving.refusals import RefusedError, internal, timed_out, too_large
from ullava.serving.service import queue_full

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = ("/health", "/v1/health", "/x-anylabeling/health")
_REQUEST_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Access:
    """Who may ask. ``api_key`` None: whoever reaches the server.

    ``hosts``: names that requests may call the server by, None = any. Those of the loopback address keep pages of
    other sites from reaching it under a name of theirs that leads here. ``origins``: sites whose pages may ask.
    """

    api_key: str | None = None
    hosts: tuple[str, ...] | None = ("localhost", "127.0.0.1", "::1")
    origins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Streams:
    """GETs that visitors of the page read for as long as they stay: no time limit ends them.

    ``paths``: how they begin; ``idle``: those of them that carry no answers, so that they end as soon as ``ending`` is
    set, when the server is told to stop.
    """

    paths: tuple[str, ...]
    idle: tuple[str, ...] = ()
    ending: asyncio.Event = field(default_factory=asyncio.Event)


class Guard:
    """An ASGI app around another one. ``retry_after_s``: what a request that finds no room is told.

    ``streams``: None = there is no page for visitors. At most ``max_queue`` of them are open at once.
    """

    def __init__(
        self,
        app: App,
        access: Access,
        limits: Limits,
        metrics: Metrics,
        retry_after_s: Callable[[], int],
        streams: Streams | None = None,
    ) -> None:
        self._app = app
        self._access = access
        self._limits = limits
        self._metrics = metrics
        self._retry_after_s = retry_after_s
        self._streams = streams
        self._open = 0
        self._staying = 0
        self._bytes = 0
        metrics.open.set_function(lambda: self._open)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or whatever else the server asks (lifespan)."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = _Exchange(scope, send)
        begun = time.monotonic()
        asks = scope["method"] == "POST"
        stays = self._stays(exchange)
        self._open += asks
        self._staying += stays
        try:
            await self._serve(exchange, receive)
        except RefusedError as refusal:
            await exchange.refuse(refusal)
        finally:
            self._open -= asks
            self._staying -= stays
            self._metrics.requests.labels(exchange.route, str(exchange.status or 499)).inc()
            self._metrics.seconds.labels(exchange.route).observe(time.monotonic() - begun)

    async def _serve(self, exchange: _Exchange, receive: Receive) -> None:
        ends = time.monotonic() + self._limits.timeout_s
        self._admit(exchange)
        held = 0
        try:
            body = bytearray()
            more = True
            while more:
                try:
                    message = await asyncio.wait_for(receive(), ends - time.monotonic())
                except TimeoutError:
                    self._metrics.dropped.labels("timeout").inc()
                    raise timed_out(self._limits.timeout_s) from None
                if message["type"] == "http.disconnect":
                    self._metrics.dropped.labels("gone").inc()
                    return
                body += message.get("body", b"")
                self._bytes += len(body) - held
                held = len(body)
                self._check_size(held)
                more = message.get("more_body", False)
            await self._answer(exchange, bytes(body), receive, ends)
        finally:
            self._bytes -= held

    async def _answer(self, exchange: _Exchange, body: bytes, receive: Receive, ends: float) -> None:
        """Run the app on a whole body; end it when its sender has gone or the time is up."""
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                await asyncio.Event().wait()  # the watch below tells when the sender has gone
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        async def leave() -> None:
            if self._streams is None or not exchange.path.startswith(self._streams.idle):
                await asyncio.Event().wait()
            else:
                await self._streams.ending.wait()

        app = asyncio.ensure_future(self._app(exchange.scope, replay, exchange.send))
        gone = asyncio.ensure_future(watch())
        stopping = asyncio.ensure_future(leave())
        try:
            left = None if self._stays(exchange) else max(ends - time.monotonic(), 0)
            await asyncio.wait((app, gone, stopping), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if app.done():
                app.result()
                return
            left_early = gone.done() or stopping.done()
            self._metrics.dropped.labels("gone" if left_early else "timeout").inc()
            app.cancel()
            with suppress(asyncio.CancelledError):
                await app
            if not left_early:
                raise timed_out(self._limits.timeout_s)
        except RefusedError:
            raise
        except Exception as error:  # the app has logged it; its sender gets a whole answer or none
            raise internal() from error
        finally:
            for task in (app, gone, stopping):
                task.cancel()

    def _stays(self, exchange: _Exchange) -> bool:
        paths = () if self._streams is None else self._streams.paths
        return exchange.scope["method"] == "GET" and exchange.path.startswith(paths)

    # ------------------------------------------------------------ before the body
    def _admit(self, exchange: _Exchange) -> None:
        """Judge a request by its head. Raises RefusedError."""
        headers = exchange.headers
        access = self._access
        if access.hosts is not None and _host_of(headers.get("host", "")) not in access.hosts:
            raise RefusedError(403, "host_not_allowed", "this server is not called by that name (--allow-host)")
        origin = headers.get("origin")
        if origin is not None and origin not in access.origins and not _is_same(origin, headers.get("host")):
            raise RefusedError(403, "origin_not_allowed", "pages of that site may not ask this server (--cors-origin)")
        if access.api_key is not None and exchange.path not in OPEN_PATHS:
            _check_key(headers, access.api_key, self._challenge(exchange))
        if self._stays(exchange) and self._staying > self._limits.max_queue:
            raise queue_full(self._retry_after_s())
        if exchange.scope["method"] == "POST":
            if self._open > self._limits.max_queue:
                raise queue_full(self._retry_after_s())
            length = headers.get("content-length", "0")
            if length.isdecimal():
                self._check_size(int(length))

    def _challenge(self, exchange: _Exchange) -> str:
        """Return how to ask for the key: browsers that want the page know only a form for a name and a password."""
        wants_page = self._streams is not None and "text/html" in exchange.headers.get("accept", "")
        return 'Basic realm="ullava", charset="UTF-8"' if wants_page else "Bearer"

    def _check_size(self, size: int) -> None:
        if size > self._limits.max_body_mib * MIB:
            raise too_large(f"the body has more than {self._limits.max_body_mib} MiB")
        if self._bytes > self._limits.max_bodies_mib * MIB:
            raise queue_full(self._retry_after_s())


class _Exchange:
    """A request and what was sent in answer to it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.path: str = scope["path"]
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.status: int | None = None
        self._send = send
        self._events = False
        self._ended = False
        wanted = self.headers.get("x-request-id", "")
        self.request_id = wanted if _REQUEST_ID.fullmatch(wanted) else uuid.uuid4().hex

    @property
    def route(self) -> str:
        """The route that took it, for counting: paths that nobody serves are one."""
        return str(getattr(self.scope.get("route"), "path", "none"))

    async def send(self, message: Message) -> None:
        """Send a message on, with the id of the request."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
            self._events = any(value.startswith(b"text/event-stream") for _, value in headers)
            message = {**message, "headers": headers}
        self._ended = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def refuse(self, refusal: RefusedError) -> None:
        """Send a refusal; where events have begun, as the last of them."""
        if self._ended:
            return
        body = json.dumps(body_of(refusal, self.path)).encode()
        if self.status is None:
            headers = {"content-type": "application/json", "content-length": str(len(body)), **refusal.headers()}
            coded = [(name.encode(), value.encode()) for name, value in headers.items()]
            await self.send({"type": "http.response.start", "status": refusal.status, "headers": coded})
            await self.send({"type": "http.response.body", "body": body})
        elif self._events:
            await self.send({"type": "http.response.body", "body": b"data: " + body + b"\n\n"})


def body_of(refusal: RefusedError, path: str) -> dict[str, Any]:
    """Return the body of a refusal as the clients of ``path`` know it."""
    known = path == "/v1/predict" or path.startswith("/x-anylabeling/")
    return {"success": False, **refusal.body()} if known else refusal.body()


def _is_same(origin: str, host: str | None) -> bool:
    """Whether an Origin header names the very host and port that a request came to."""
    try:
        named = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(named) and named == host


def _host_of(header: str) -> str:
    """Return the name in a Host header, without its port."""
    try:
        return (urlsplit(f"//{header}").hostname or "").lower()
    except ValueError:
        return ""


def _check_key(headers: MutableMapping[str, str], api_key: str, challenge: str) -> None:
    """Compare ``Authorization: Bearer KEY`` (or X-AnyLabeling's ``Token: KEY``, or a browser's password).

    Raises RefusedError.
    """
    scheme, _, given = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "basic":
        given = _password(given)
    elif scheme.lower() != "bearer":
        given = headers.get("token", "")
    if not hmac.compare_digest(given.strip().encode(), api_key.encode()):
        said = "the API key is missing or wrong: send 'Authorization: Bearer KEY'"
        raise RefusedError(401, "invalid_api_key", said, challenge=challenge)


def _password(coded: str) -> str:
    """Return the password in ``NAME:PASSWORD`` as base64; '' where it cannot be read."""
    try:
        return base64.b64decode(coded.strip(), validate=True).decode("utf-8").partition(":")[2]
    except ValueError:  # no base64, no ASCII, or no UTF-8 in it
        return ""


def allowed_hosts(host: str, more: Sequence[str]) -> tuple[str, ...] | None:
    """Return the names that requests may use for a server that listens on ``host``; None for any."""
    if is_loopback(host):
        return ("localhost", "127.0.0.1", "::1", host.lower(), *(name.lower() for name in more))
    return tuple(name.lower() for name in more) or None
