"""The same app in several processes: replicas of Ray Serve, each with its own models, queue and limits."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from ullava.errors import UserError
from ullava.listening import listen
from ullava.ray_cluster import Cluster, joined, places, tell
from ullava.serving.guard import App
from ullava.serving.server import Settings, check, loaded_app

_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")
"""The name and the namespace of the actor that Ray Serve is ruled by on a cluster."""
_TRIES = 3
_ROOM_FOR_SHORT = 32
"""Requests on top of a full queue that a replica is handed all the same: those for health and metrics, and those that
it is to refuse itself, with the words and the status that clients know."""


@dataclass(frozen=True, slots=True)
class Replicas:
    """How many processes answer: ``most`` while there is much to do, ``least`` otherwise."""

    least: int = 1
    most: int = 1


def serve_on_ray(settings: Settings, cluster: Cluster, replicas: Replicas) -> int:
    """Serve on a cluster until SIGTERM or Ctrl-C, at the settings' host and port of this machine. Returns 0.

    There is no web page: what its visitors do lies in one process. Raises UserError: as ``serve``, or the cluster has
    no room, or runs Ray Serve already.
    """
    check(settings)
    listening = listen(settings.host, settings.port)
    port = listening.getsockname()[1]
    listening.close()  # a process of Ray opens it again
    models = {
        name: os.path.abspath(where) if os.path.isdir(where) else where for name, where in settings.models.items()
    }
    settings = replace(settings, models=models, port=port, page=False)
    with joined(cluster, replicas.most) as ray:
        places(ray, cluster)
        _refuse_another(ray)
        from ray import serve

        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        try:
            serve.start(proxy_location="HeadOnly", http_options={"host": settings.host, "port": port})
            _run(serve, settings, cluster, replicas)
        finally:
            serve.shutdown()
    return 0


def _run(serve: Any, settings: Settings, cluster: Cluster, replicas: Replicas) -> None:
    with _Ending() as ending:
        try:
            serve.run(_deployment(serve, settings, cluster, replicas).bind(), name="ullava", route_prefix="/")
        except RuntimeError as error:
            raise UserError(f"no replica could begin: {' '.join(str(error).split())[:400]}") from error
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        tell(f"serving on http://{shown}:{settings.port} (its API: http://{shown}:{settings.port}/docs)")
        ending.wait()


def _deployment(serve: Any, settings: Settings, cluster: Cluster, replicas: Replicas) -> Any:
    """Return the deployment of Ray Serve whose replicas hold our app as it is, guard and all."""

    def build() -> App:
        return loaded_app(settings)

    limits = settings.limits
    many: dict[str, Any] = {"num_replicas": replicas.most}
    if replicas.least < replicas.most:
        many = {
            "autoscaling_config": {
                "min_replicas": replicas.least,
                "max_replicas": replicas.most,
                "target_ongoing_requests": limits.max_batch,
            }
        }
    return serve.deployment(
        serve.ingress(build)(),
        name="ullava",
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        max_ongoing_requests=limits.max_queue + _ROOM_FOR_SHORT,
        graceful_shutdown_timeout_s=limits.timeout_s + 5,
        max_constructor_retry_count=_TRIES,
        **many,
    )


def _refuse_another(ray: Any) -> None:
    """Raise UserError where the cluster runs Ray Serve: its address, perhaps open to a network, would be kept."""
    name, namespace = _CONTROLLER
    try:
        ray.get_actor(name, namespace=namespace)
    except ValueError:
        return
    raise UserError("the cluster runs Ray Serve already, at an address of its own; end it with 'serve shutdown'")


class _Ending:
    """Waits for SIGTERM or Ctrl-C, from the beginning on."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._before: dict[int, Any] = {}
        self.wait: Callable[[], object] = self._event.wait

    def __enter__(self) -> _Ending:
        def heard(number: int, frame: FrameType | None) -> None:
            self._event.set()

        self._before = {number: signal.signal(number, heard) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
