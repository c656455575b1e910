"""``ullava serve``: what it refuses, what its page says, how it ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from ullava.cli import main as cli
from ullava.serving.limits import Limits, flag_of


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--model", "tyni"], "no model 'tyni'"),
        (["--model", "tiny", "--model", "tiny"], "'tiny' is served already"),
        (["--model", "=tiny"], "expected MODEL or NAME=MODEL"),
        (["--host", "0.0.0.0"], "is open to the network: give --api-key"),
        (["--host", "::"], "is open to the network: give --api-key"),
        (["--api-key", "short"], "at least 16 characters"),
        (["--cors-origin", "*"], "expected a site such as"),
        (["--port", "70000"], "expected a port from 0 to 65535"),
        (["--max-queue", "0"], "--max-queue: expected a whole number of 1 or more, not 0"),
        (["--max-wait-ms", "-1"], "--max-wait-ms: expected a whole number of 0 or more"),
        (["--max-que", "3"], "did you mean '--max-queue'?"),
        (["--host", "192.0.2.7", "--without-key"], "cannot be listened on"),
    ],
)
def test_wrong_settings_are_refused_before_a_model_is_loaded(
    argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == "" and said in err and err.count("\n") == 1


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for name in [name for name in sys.modules if name.startswith(("ullava.serving.", "uvicorn"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert cli.main(["serve"]) == 2
    assert "install the extra: pip install 'ullava[serve]'" in capsys.readouterr().err


def test_the_signal_to_end_is_passed_on_at_once() -> None:
    import uvicorn

    from ullava.serving.server import _Server

    told: list[bool] = []
    server = _Server(uvicorn.Config(lambda: None), lambda: told.append(True))
    server.handle_exit(signal.SIGTERM, None)
    assert told == [True] and server.should_exit


def test_every_limit_is_a_flag_and_is_in_the_document_with_its_default(root: Path) -> None:
    rows = dict(re.findall(r"^\| `(--[\w-]+)` \| (\d+) \|", (root / "docs/serving.md").read_text(), re.M))
    assert rows == {flag_of(item.name): str(item.default) for item in fields(Limits)}
    parser = cli.build_parser("serve")
    for item in fields(Limits):
        assert getattr(parser.parse_args([flag_of(item.name), "7"]), item.name) == 7


def test_the_examples_of_the_api_page_run(serve: Any, tiny: Any) -> None:
    with serve({"tiny": tiny}) as served:
        page = served.client.get("/openapi.json").json()
        schemas = page["components"]["schemas"]
        ran = []
        for path, methods in page["paths"].items():
            reference = str(methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json"))
            found = re.search(r"schemas/(\w+)", reference)
            for example in schemas[found[1]].get("examples", []) if found else []:
                response = served.post(path, example)
                assert response.status_code == 200, (path, response.text)
                ran.append(path)
    assert ran == ["/v1/predictions", "/v1/chat/completions", "/v1/predict", "/api/generate"]


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The real command on a free port, and its address."""
    command = [sys.executable, "-m", "ullava", "serve", "--port", "0", "--device", "cpu"]
    command += ["--timeout-s", "300", "--max-batch", "8", "--max-wait-ms", "15000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if "serving on" in line:
                break
        address = re.search(r"http://127\.0\.0\.1:\d+", line)
        assert address is not None, line
        yield started, address[0]
        started.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.exhaustive)])
def test_a_signal_ends_it_when_what_was_accepted_is_answered(
    process: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    import httpx

    from ullava.serving.examples import PREDICTION

    server, url = process
    answers: list[Any] = []

    def ask() -> None:
        answers.append(httpx.post(f"{url}/v1/predictions", json=PREDICTION, timeout=300, trust_env=False))

    assert httpx.get(f"{url}/health", timeout=300, trust_env=False).json()["models_loaded"] == 1
    threads = [threading.Thread(target=ask) for _ in range(5)]  # a batch that waits for more
    for thread in threads:
        thread.start()
    while "ullava_open_requests 5.0" not in httpx.get(f"{url}/metrics", timeout=300, trust_env=False).text:
        assert not answers, "the questions are answered before all of them are there"
    server.send_signal(number)
    for thread in threads:
        thread.join(300)
    assert [answer.status_code for answer in answers] == [200] * 5
    assert all(json.loads(answer.content)["masks"] for answer in answers)
    assert server.wait(300) == 0
    assert server.stderr is not None and "Traceback" not in server.stderr.read()
