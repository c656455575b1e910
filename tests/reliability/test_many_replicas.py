"""``ullava serve --engine ray`` with two replicas, one killed on the way, against the app in this process."""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

pytest.importorskip("ray", reason="ray (extra ray) is not installed")
httpx = pytest.importorskip("httpx", reason="httpx (extra dev) is not installed")
pytest.importorskip("fastapi", reason="fastapi (extra serve) is not installed")
pytestmark = pytest.mark.exhaustive

LIMIT_S = 600.0
KEY = "a key of enough letters"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process of a server with two replicas, and its address."""
    log = tmp_path_factory.mktemp("replicas") / "log"
    with log.open("wb") as file:
        flags = ["--replicas", "2", "--port", "0", "--max-body-mib", "1", "--device", "cpu"]
        process = subprocess.Popen(
            [sys.executable, "-m", "ullava", "serve", "--engine", "ray", *flags],
            stdout=file, stderr=file, env={**os.environ, "ULLAVA_API_KEY": KEY},
        )  # fmt: skip
    try:
        ends = time.monotonic() + LIMIT_S
        while (found := re.search(r"serving on (http://127\.0\.0\.1:\d+)", log.read_text())) is None:
            assert process.poll() is None and time.monotonic() < ends, log.read_text()
            time.sleep(0.2)
        yield process, found[1]
    finally:
        process.terminate()
        assert process.wait(LIMIT_S) == 0, log.read_text()


@pytest.fixture(scope="module")
def question(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A request about a drawn scene."""
    from ullava.cli.main import main

    folder = tmp_path_factory.mktemp("scene") / "world"
    assert main(["data", "synth", "--out", str(folder), "--images", "1", "--seed", "5"]) == 0
    (image,) = (folder / "images").iterdir()
    return {"image": {"base64": base64.b64encode(image.read_bytes()).decode()}, "query": "the blue square"}


def without_times(body: dict[str, Any]) -> dict[str, Any]:
    other = ("id", "created", "batch_size")
    told = {key: value for key, value in body.items() if not key.endswith("_ms") and key not in other}
    assert told["masks"] or told["text"]
    return told


def one_process(question: dict[str, Any]) -> dict[str, Any]:
    from fastapi.testclient import TestClient

    from ullava.serving.server import Settings, loaded_app

    with TestClient(
        loaded_app(Settings({"tiny": "tiny"}, loading={"device": "cpu"})), base_url="http://localhost"
    ) as client:
        body: dict[str, Any] = client.post("/v1/predictions", json=question).json()
        return body


def client_of(address: str, headers: dict[str, str] | None = None) -> Any:
    return httpx.Client(base_url=address, headers=headers, timeout=LIMIT_S, trust_env=False)


def replicas_of(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if "ServeReplica" in " ".join(child.cmdline())]


def test_two_replicas_answer_as_one_process_and_outlive_each_other(
    server: tuple[subprocess.Popen[bytes], str], question: dict[str, Any]
) -> None:
    process, address = server
    client = httpx.Client(
        base_url=address, headers={"authorization": f"Bearer {KEY}"}, timeout=LIMIT_S, trust_env=False
    )
    expected = without_times(one_process(question))
    assert len(replicas_of(process)) == 2
    for _ in range(4):
        assert without_times(client.post("/v1/predictions", json=question).json()) == expected

    replicas_of(process)[0].send_signal(signal.SIGKILL)
    answered = 0
    ends = time.monotonic() + LIMIT_S
    while answered < 4:
        assert time.monotonic() < ends
        reply = client.post("/v1/predictions", json=question)
        if reply.status_code == 200:
            assert without_times(reply.json()) == expected
            answered += 1
        else:  # what the killed one had, or was just given
            assert reply.status_code >= 500
            time.sleep(0.2)


def test_key_limits_and_streams_are_those_of_one_process(
    server: tuple[subprocess.Popen[bytes], str], question: dict[str, Any]
) -> None:
    _, address = server
    stranger = client_of(address)
    assert stranger.get("/health").json()["status"] == "ready"
    refused = stranger.post("/v1/predictions", json=question)
    assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    other_name = stranger.get("/health", headers={"host": "rebound.example"})
    assert (other_name.status_code, other_name.json()["error"]["code"]) == (403, "host_not_allowed")

    client = httpx.Client(
        base_url=address, headers={"authorization": f"Bearer {KEY}"}, timeout=LIMIT_S, trust_env=False
    )
    large = client.post("/v1/predictions", json={**question, "query": "x" * (1 << 20)})
    assert large.status_code == 413
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
    body = {"model": "tiny", "stream": True, "messages": [{"role": "user", "content": "What is 3 + 4?"}]}
    with client.stream("POST", "/v1/chat/completions", json=body) as stream:
        lines = [line for line in stream.iter_lines() if line]
    assert lines[-1] == "data: [DONE]" and len(lines) > 2
