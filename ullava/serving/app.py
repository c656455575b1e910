"""The app: routes around a service, every error in one shape, the guard around it all."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from ullava import __version__
from ullava.serving import annotation_tools, chat, predictions
from ullava.serving.engine import Engine
from ullava.serving.fetch import Fetcher
from ullava.serving.guard import Access, App, Guard, Streams, body_of
from ullava.serving.json_bodies import json_reply, refusal_of
from ullava.serving.limits import Limits
from ullava.serving.metrics import Metrics
from ullava.serving.predictions import REFUSALS, ServiceOf
from ullava.serving.refusals import RefusedError, internal
from ullava.serving.registry import ModelRegistry
from ullava.serving.service import Service

_log = logging.getLogger(__name__)
_DESCRIPTION = "Words, masks and boxes about images and videos. The examples run as they stand."
_METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE"]


@dataclass(frozen=True, slots=True)
class Page:
    """A web page for all paths that the API does not have, behind the same guard.

    ``mount`` puts it into the app; it asks the service. ``streams``: what its visitors read for as long as they stay.
    """

    mount: Callable[[FastAPI, Service], None]
    streams: Streams


def create_app(
    registry: ModelRegistry[Engine],
    limits: Limits | None = None,
    access: Access | None = None,
    *,
    metrics: Metrics | None = None,
    fetcher: Fetcher | None = None,
    default_tokens: int = 128,
    page: Page | None = None,
) -> App:
    """Return the ASGI app that serves the models of ``registry``.

    ``fetcher`` None: urls are refused. ``default_tokens``: length of an answer where a request says nothing.
    ``page``: what people see in a browser, behind the same key and limits; None = no page.
    """
    limits, access, metrics = limits or Limits(), access or Access(), metrics or Metrics()
    service = Service(registry, limits, metrics, fetcher, default_tokens)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(title="ullava", version=__version__, description=_DESCRIPTION, lifespan=life)
    app.state.service = service
    for module in (predictions, chat, annotation_tools):
        app.include_router(module.router)
    _add_models(app)
    _add_handlers(app)
    if page is not None:
        for path in ("/v1/{rest:path}", "/api/{rest:path}", "/x-anylabeling/{rest:path}"):
            app.add_api_route(path, _nothing_here, methods=_METHODS, include_in_schema=False)
        page.mount(app, service)
    streams = None if page is None else page.streams
    guarded: App = Guard(app, access, limits, metrics, service.retry_after_s, streams)
    if not access.origins:
        return guarded
    exposed = ["x-request-id", "retry-after"]
    return CORSMiddleware(
        guarded, allow_origins=access.origins, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed
    )


async def _nothing_here(rest: str) -> Response:
    """Keep paths of the API that do not exist from the page, which has another way to say so."""
    raise HTTPException(404)


def _add_models(app: FastAPI) -> None:
    begun = int(time.time())

    @app.get("/v1/models", tags=["models"], responses=REFUSALS)
    async def models(service: ServiceOf) -> Response:
        """List the models in OpenAI's shape; ``loaded`` says which are in memory."""
        loaded = service.registry.engines()
        data = [
            {"id": name, "object": "model", "created": begun, "owned_by": "ullava", "loaded": name in loaded}
            for name in service.registry.names
        ]
        return json_reply({"object": "list", "data": data})

    @app.get("/v1/models/{name:path}", tags=["models"], responses=REFUSALS)
    async def model(name: str, service: ServiceOf) -> Response:
        """Tell about one model."""
        found = service.registry.check(name)
        told = {"id": found, "object": "model", "created": begun, "owned_by": "ullava"}
        return json_reply({**told, "loaded": found in service.registry.engines()})

    @app.post("/v1/models/{name:path}/unload", tags=["models"], responses=REFUSALS)
    async def unload(name: str, service: ServiceOf) -> Response:
        """Take a model out of memory when its requests are answered; the next request loads it again."""
        return json_reply({"id": name, "object": "model", "unloaded": await service.registry.unload(name)})

    @app.get("/health", tags=["health"])
    @app.get("/v1/health", include_in_schema=False)
    async def health(service: ServiceOf) -> Response:
        """Tell that the server answers; no key is needed."""
        return json_reply({"status": "ready", "models_loaded": len(service.registry.engines())})

    @app.get("/metrics", tags=["health"])
    async def metrics(service: ServiceOf) -> Response:
        """Tell Prometheus the counters."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def path_of(request: Request) -> str:
    """Return the path that was asked for; ``request.url`` would read the Host header, which may be no host at all."""
    return str(request.scope["path"])


def _add_handlers(app: FastAPI) -> None:
    def refused(request: Request, refusal: RefusedError) -> Response:
        return json_reply(body_of(refusal, path_of(request)), refusal.status, refusal.headers())

    @app.exception_handler(RefusedError)
    async def on_refusal(request: Request, error: RefusedError) -> Response:
        return refused(request, error)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, error: RequestValidationError) -> Response:
        return refused(request, refusal_of(error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http(request: Request, error: HTTPException) -> Response:
        codes = {404: "not_found", 405: "method_not_allowed"}
        said = {404: f"nothing is served at {path_of(request)[:200]}", 405: f"{request.method} is not served here"}
        message = said.get(error.status_code, str(error.detail))
        refusal = RefusedError(error.status_code, codes.get(error.status_code, "invalid_request"), message)
        response = refused(request, refusal)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def on_defect(request: Request, error: Exception) -> Response:
        _log.error("a request to %s failed", path_of(request))
        return refused(request, internal())
