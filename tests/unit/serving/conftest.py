"""A server in a thread, on a free port; a predictor that only takes its time; the real ``tiny``."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.serving.page_material import HW, ring, thing

from ullava.structures import Answer, GroundedObject

WHY = "the server needs the extra: pip install 'ullava[serve]'"
PACKAGES = ("fastapi", "uvicorn", "httpcore", "prometheus_client", "python_multipart", "httpx")


@pytest.fixture(autouse=True)
def extra() -> None:
    """Skip where the extra is not installed."""
    for package in PACKAGES:
        pytest.importorskip(package, reason=WHY)


class FakePredictor:
    """Answers every question with its own words after ``seconds``; remembers the batches.

    ``gate``: set = it may go on. A question that holds "fail" raises. Deaf to nothing: it tells its streamer each step.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds = seconds
        self.gate = threading.Event()
        self.gate.set()
        self.begun = threading.Event()
        self.batches: list[list[str]] = []
        self.abandoned = 0
        self.overrides: dict[str, Any] = {}
        self.processor = SimpleNamespace(
            video_frames=2, region_grid=None, encode=self._encode, decode_text=self._decode
        )

    def _encode(self, sample: Any, images: Sequence[Any], **options: Any) -> Any:
        return SimpleNamespace(input_ids=[1, 2, 3], text=sample.turns[-1].question, images=images, sample=sample)

    def _decode(self, ids: Sequence[int]) -> tuple[str, bool, int]:
        return " ".join(f"word{number}" for number in ids), True, len(ids)

    def check_length(self, max_new_tokens: int) -> None:
        """Take every length."""

    def answer_examples(self, rows: Sequence[Any], *, max_new_tokens: int, streamer: Any, **options: Any) -> list[Any]:
        """Take the time, one step after the other."""
        self.batches.append([row.text for row in rows])
        self.begun.set()
        try:
            streamer.put(np.zeros((len(rows), 3), int))
            for step in range(3):
                while not self.gate.wait(0.02):
                    streamer.put(np.full(len(rows), step))
                time.sleep(self.seconds / 3)
                streamer.put(np.full(len(rows), step))
            streamer.end()
        except Exception:
            self.abandoned += 1
            raise
        if any("fail" in row.text for row in rows):
            raise RuntimeError("secret of the server")
        mask = np.zeros((4, 6), bool)
        mask[1:3, 2:5] = True
        thing = GroundedObject("thing", (0, 5), mask, (2.0, 1.0, 5.0, 3.0), 0.9, 0.9, 0.8)
        return [Answer(f"thing of {row.text}", (thing,), True, 3) for row in rows]


class Served:
    """A running server: ``url``, and ``client``, which asks it."""

    def __init__(self, url: str, client: Any, engines: dict[str, Any]) -> None:
        self.url = url
        self.client = client
        self.engines = engines

    def post(self, path: str, body: Any, **options: Any) -> Any:
        return self.client.post(path, json=body, **options)


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture
def serve() -> Serve:
    """``serve({"name": predictor}, limits={...}, access=..., fetcher=...)``: a server while the context lasts."""

    @contextmanager
    def run(
        predictors: dict[str, Any], *, limits: dict[str, int] | None = None, access: Any = None, **options: Any
    ) -> Iterator[Served]:
        import httpx
        import uvicorn

        from ullava.serving.app import create_app
        from ullava.serving.engine import Engine
        from ullava.serving.limits import Limits
        from ullava.serving.metrics import Metrics
        from ullava.serving.registry import ModelRegistry
        from ullava.serving.server import listen

        bounds, metrics = Limits(**{"timeout_s": 300, **(limits or {})}), Metrics()
        engines: dict[str, Any] = {}

        def load(name: str, where: str) -> Engine:
            made = predictors[name]
            rows = deepcopy(made.processor) if hasattr(made, "model") else None
            engines[name] = Engine(name, made, bounds, metrics.batch, rows)
            return engines[name]

        registry = ModelRegistry({name: name for name in predictors}, load, bounds.max_loaded)
        app = create_app(registry, bounds, access, metrics=metrics, **options)
        listening = listen("127.0.0.1", 0)
        port = listening.getsockname()[1]
        config = uvicorn.Config(app, log_level="critical", lifespan="on", ws="none", timeout_graceful_shutdown=50)  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{port}"
        try:
            with httpx.Client(base_url=url, timeout=300, trust_env=False) as client:
                yield Served(url, client, engines)
        finally:
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()

    return run


@pytest.fixture
def fake() -> FakePredictor:
    return FakePredictor()


@pytest.fixture(scope="session")
def tiny() -> Any:
    """The model of the repository."""
    from ullava.inference.load import load

    return load("tiny", device="cpu")


@pytest.fixture(scope="session")
def png() -> str:
    """A small image as a data URI."""
    from ullava.serving.examples import CIRCLE_PNG

    return CIRCLE_PNG


@pytest.fixture
def picture(tmp_path: Path, extra: None) -> Path:
    import cv2

    path = tmp_path / "photo.png"
    image = np.full((*HW, 3), 90, np.uint8)
    image[5:15, 10:30] = (0, 0, 220)
    cv2.imwrite(str(path), image)
    return path


@pytest.fixture
def dialog(picture: Path) -> Any:
    """One answer: a ring, a box without a mask, something of low score."""
    from ullava.serving.page.dialog import Ask, Dialog, Exchange

    things = [thing(mask=ring()), thing("a box", 0.6, span=[0, 0]), thing("dust", 0.1, ring(), span=[0, 0])]
    record = {"text": "Sure, box [SEG].", "plain_text": "Sure, box.", "finished": True, "new_tokens": 3}
    exchange = Exchange(Ask("Where?", "<image>Where?", (picture,)), "fake", {**record, "objects": things}, 1)
    return Dialog((picture,), (), (exchange,))


@pytest.fixture
def service(fake: Any) -> Iterator[Any]:
    from ullava.serving.engine import Engine
    from ullava.serving.limits import Limits
    from ullava.serving.metrics import Metrics
    from ullava.serving.registry import ModelRegistry
    from ullava.serving.service import Service

    limits = Limits(timeout_s=5, max_characters=100)
    registry = ModelRegistry({"one": "one", "two": "two"}, lambda name, where: Engine(name, fake, limits), 2)
    yield Service(registry, limits, Metrics())
