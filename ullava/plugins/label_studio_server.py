"""The HTTP side of Label Studio's machine-learning backend: ``/predict``, ``/setup``, ``/health`` and the rest.

Label Studio shows annotators nothing of an error but its status, so what went wrong is logged here as well.
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import secrets
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ullava.errors import UserError, one_line
from ullava.listening import is_loopback, listen
from ullava.plugins.label_studio import Backend
from ullava.plugins.label_studio_images import ImageSource

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route
except ImportError as error:
    raise UserError("the Label Studio backend needs the extra: pip install 'ullava[serve]'") from error

_log = logging.getLogger(__name__)
_MOST_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Settings:
    """What ``ullava label-studio`` was told. ``url``, ``token``, ``image_hosts``: of ImageSource; ``login``: user and
    password that Label Studio has to give (basic authentication), None = nobody is asked.
    """

    model: str
    url: str | None = None
    token: str | None = None
    image_hosts: Sequence[str] = ()
    host: str = "127.0.0.1"
    port: int = 9090
    login: tuple[str, str] | None = None
    without_login: bool = False
    device: str = "auto"
    min_score: float = 0.0


def create_app(backend: Backend, login: tuple[str, str] | None = None) -> Starlette:
    """Return the ASGI app; ``login``: user and password that every request but those for health has to give."""

    async def predict(request: Request) -> Response:
        results, problems = await run_in_threadpool(backend.predict, await _body(request))
        for problem in problems:
            _log.warning("%s", one_line(problem))
        return JSONResponse({"results": results, "model_version": backend.model_version})

    async def setup(request: Request) -> Response:
        await _body(request)
        return JSONResponse({"model_version": backend.model_version})

    async def versions(request: Request) -> Response:
        return JSONResponse({"versions": [backend.model_version]})

    async def webhook(request: Request) -> Response:
        await _body(request)  # annotations were made or changed: nothing is trained here
        return JSONResponse({}, 201)

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "UP", "model_class": "ullava"})

    def asked(handler: Any) -> Any:
        async def answer(request: Request) -> Response:
            if login is not None and not _knows(request.headers.get("authorization", ""), login):
                return JSONResponse({"error": "user and password are wrong"}, 401, {"WWW-Authenticate": "Basic"})
            try:
                response: Response = await handler(request)
            except UserError as error:
                told = "; ".join(one_line(problem) for problem in error.problems)
                _log.warning("%s: %s", request.url.path, told)
                return JSONResponse({"error": told}, 400)
            return response

        return answer

    return Starlette(
        routes=[
            Route("/", health),
            Route("/health", health),
            Route("/predict", asked(predict), methods=["POST"]),
            Route("/setup", asked(setup), methods=["POST"]),
            Route("/webhook", asked(webhook), methods=["POST"]),
            Route("/versions", asked(versions)),
        ],
        exception_handlers={500: _defect},
    )


def serve(settings: Settings) -> int:
    """Serve until told to end. Returns the exit code.

    Raises UserError: a model that is not there, an address that is taken, or open to the network without a login.
    """
    if not is_loopback(settings.host) and settings.login is None and not settings.without_login:
        raise UserError(
            f"--host {settings.host} is open to the network: set BASIC_AUTH_USER and BASIC_AUTH_PASS, or give "
            "--without-login where something else decides who may ask"
        )
    images = ImageSource(settings.url, settings.token, settings.image_hosts)
    listening = listen(settings.host, settings.port)
    from ullava.inference.load import load

    backend = Backend(load(settings.model, device=settings.device), images, settings.min_score)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    app = create_app(backend, settings.login)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, ws="none"))
    where = f"http://{settings.host}:{listening.getsockname()[1]}"
    print(f"a backend for Label Studio on {where}", file=sys.stderr, flush=True)
    server.run(sockets=[listening])
    return 0 if server.started else 1


async def _body(request: Request) -> Any:
    """Return a request's JSON; None for an empty one. Raises UserError for what is none, or too large."""
    data = bytearray()
    async for piece in request.stream():
        data += piece
        if len(data) > _MOST_BYTES:
            raise UserError(f"the request has more than {_MOST_BYTES} bytes")
    try:
        return json.loads(bytes(data)) if data else None
    except (ValueError, RecursionError) as error:
        raise UserError("the request is not JSON") from error


async def _defect(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "the backend has failed; its log says why"}, 500)


def _knows(header: str, login: tuple[str, str]) -> bool:
    """Whether an Authorization header holds the login."""
    kind, _, code = header.partition(" ")
    try:
        given = base64.b64decode(code, validate=True) if kind.lower() == "basic" else b""
    except (binascii.Error, ValueError):
        return False
    return secrets.compare_digest(given, ":".join(login).encode())
