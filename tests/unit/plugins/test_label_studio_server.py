"""The routes that Label Studio calls, and the command that serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.unit.plugins.test_label_studio import CONFIG

from ullava.plugins.label_studio_images import ImageSource

WHY = "the backend's server needs the extra: pip install 'ullava[serve]'"
for package in ("starlette", "uvicorn", "httpx"):
    pytest.importorskip(package, reason=WHY)

LOGIN = ("annotator", "päss:word")


class Answering:
    """A predictor without a model."""

    name = "fake"

    def answer(self, image: Any, prompt: str) -> Any:
        """Fail on request."""
        raise RuntimeError(prompt)


def client(login: tuple[str, str] | None = None) -> Any:
    from starlette.testclient import TestClient

    from ullava.plugins.label_studio import Backend
    from ullava.plugins.label_studio_server import create_app

    app = create_app(Backend(Answering(), ImageSource(None)), login)
    return TestClient(app, raise_server_exceptions=False)


def test_the_routes_answer_as_label_studio_expects() -> None:
    asked = client()
    assert asked.get("/").json() == asked.get("/health").json() == {"status": "UP", "model_class": "ullava"}
    assert asked.post("/setup", json={"project": "1.2"}).json() == {"model_version": "ullava-fake"}
    assert asked.get("/versions").json() == {"versions": ["ullava-fake"]}
    assert asked.post("/webhook", json={"action": "ANNOTATION_CREATED"}).status_code == 201
    body = {"tasks": [{"id": 1, "data": {"photo": "x"}}], "label_config": CONFIG, "params": {"context": None}}
    assert asked.post("/predict", json=body).json() == {"results": [[]], "model_version": "ullava-fake"}


def test_bad_requests_get_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = client()
    for sent, told in ((b"{", "not JSON"), (b"[" * 5000, "not JSON"), (b"{}", "tasks: expected a list")):
        reply = asked.post("/predict", content=sent)
        assert reply.status_code == 400 and told in reply.json()["error"]
    monkeypatch.setattr("ullava.plugins.label_studio_server._MOST_BYTES", 10)
    assert "more than 10 bytes" in asked.post("/predict", content=b" " * 11).json()["error"]
    assert asked.get("/predict").status_code == 405 and asked.get("/nothing").status_code == 404


def test_a_defect_is_no_traceback() -> None:
    pixel = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"
    context = {"result": [{"from_name": "prompt", "value": {"text": ["a cat"]}}]}
    body = {"tasks": [{"id": 1, "data": {"photo": pixel}}], "label_config": CONFIG, "params": {"context": context}}
    reply = client().post("/predict", json=body)
    assert reply.status_code == 500 and reply.json() == {"error": "the backend has failed; its log says why"}


def test_a_login_is_asked_for_but_for_health() -> None:
    asked = client(LOGIN)
    assert asked.get("/health").status_code == 200
    for login in (None, ("annotator", "wrong"), ("other", LOGIN[1])):
        assert asked.post("/setup", json={}, auth=login).status_code == 401
    assert asked.post("/setup", json={}, headers={"Authorization": "Basic ???"}).status_code == 401
    assert asked.post("/setup", json={}, auth=LOGIN).status_code == 200


def test_the_command_refuses_what_is_unsafe_or_wrong(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BASIC_AUTH_USER", "BASIC_AUTH_PASS", "LABEL_STUDIO_URL", "LABEL_STUDIO_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    for words, told in (
        (("--host", "0.0.0.0"), "open to the network"),
        (("--url", "localhost:8080"), "expected where Label Studio is"),
        (("--port", "x"), "expected a port"),
        (("--min-score", "2"), "expected a number from 0 to 1"),
        (("--model", "absent"), "absent"),
    ):
        code, _, error = command("label-studio", *words)
        assert code == 2 and told in error and len(error.splitlines()) == 1
    monkeypatch.setenv("BASIC_AUTH_USER", "me")
    assert "set both or none" in command("label-studio")[2]


def test_an_address_that_is_taken_is_told(command: Callable[..., tuple[int, str, str]]) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, _, error = command("label-studio", "--port", str(taken.getsockname()[1]))
    assert code == 2 and "cannot be listened on" in error and len(error.splitlines()) == 1
