"""Keys, origins, room, size, time, and senders who have gone."""

from __future__ import annotations

import asyncio
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

BODY = {"messages": [{"role": "user", "content": "Hello?"}]}
CHAT = "/v1/chat/completions"
KEY = "a-key-of-some-length"


def access(**given: Any) -> Any:
    from ullava.serving.guard import Access

    return Access(**given)


def wait_for(what: Any, seconds: float = 60) -> None:
    ends = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < ends
        time.sleep(0.01)


def send_raw(url: str, text: str) -> socket.socket:
    """Send a request by hand and leave the connection open."""
    host, port = url.removeprefix("http://").split(":")
    made = socket.create_connection((host, int(port)), 10)
    made.sendall(text.encode())
    return made


def raw_chat(url: str) -> socket.socket:
    content = '{"messages": [{"role": "user", "content": "Gone?"}]}'
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return send_raw(url, f"{head}Content-Length: {len(content)}\r\n\r\n{content}")


def test_with_a_key_everything_but_health_asks_for_it(serve: Any, fake: Any) -> None:
    with serve({"fake": fake}, access=access(api_key=KEY)) as served:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {KEY}"}, {"token": "wrong"}):
            for path in (CHAT, "/v1/models/fake/unload", "/nowhere"):
                response = served.post(path, BODY, headers=headers)
                assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
                assert response.json()["error"]["type"] == "authentication_error"
            assert served.client.get("/metrics", headers=headers).status_code == 401
            assert served.client.get("/openapi.json", headers=headers).status_code == 401
        assert served.client.get("/health").json()["status"] == "ready"
        for headers in ({"authorization": f"Bearer {KEY}"}, {"authorization": f"bearer  {KEY}"}, {"token": KEY}):
            assert served.post(CHAT, BODY, headers=headers).status_code == 200
    assert len(fake.batches) == 3


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch, serve: Any, fake: Any) -> None:
    from ullava.serving import guard

    compared: list[bytes] = []

    def compare(given: bytes, wanted: bytes) -> bool:
        compared.append(given)
        return False

    monkeypatch.setattr(guard.hmac, "compare_digest", compare)
    with serve({"fake": fake}, access=access(api_key=KEY)) as served:
        assert served.post(CHAT, BODY, headers={"authorization": b"Bearer \xe4\xf6"}).status_code == 401
    assert len(compared) == 1


def test_pages_of_other_sites_and_foreign_names_are_refused(serve: Any, fake: Any) -> None:
    with serve({"fake": fake}, access=access(origins=("https://friend.test",))) as served:
        for headers, code in (
            ({"host": "evil.test"}, "host_not_allowed"),
            ({"host": "evil.test:80"}, "host_not_allowed"),
            ({"host": "["}, "host_not_allowed"),
            ({"origin": "https://evil.test"}, "origin_not_allowed"),
            ({"origin": "null"}, "origin_not_allowed"),
        ):
            response = served.post(CHAT, BODY, headers=headers)
            assert response.status_code == 403 and response.json()["error"]["code"] == code
        assert served.post(CHAT, BODY, headers={"host": "localhost:1234"}).status_code == 200
        assert served.post(CHAT, BODY, headers={"origin": served.url}).status_code == 200
        friend = served.post(CHAT, BODY, headers={"origin": "https://friend.test"})
        assert friend.headers["access-control-allow-origin"] == "https://friend.test"
        asked = {"origin": "https://friend.test", "access-control-request-method": "POST"}
        assert served.client.options(CHAT, headers=asked).status_code == 200
    with serve({"fake": fake}) as served:
        response = served.client.options(CHAT, headers={**asked, "host": "localhost"})
        assert response.status_code == 403 and "access-control-allow-origin" not in response.headers


def test_bodies_above_the_limit_are_refused_said_or_not(serve: Any, fake: Any) -> None:
    def pieces() -> Any:
        for _ in range(20):
            yield b"x" * 100_000

    with serve({"fake": fake}, limits={"max_body_mib": 1}) as served:
        said = served.client.post(CHAT, content=b"x" * 1_100_000)
        unsaid = served.client.post(CHAT, content=pieces())
    for response in (said, unsaid):
        assert response.status_code == 413 and response.json()["error"]["code"] == "too_large"


def test_a_full_queue_is_429_with_a_time_and_what_was_accepted_is_answered(serve: Any, fake: Any) -> None:
    fake.gate.clear()
    with serve({"fake": fake}, limits={"max_queue": 4, "max_batch": 1}) as served, ThreadPoolExecutor(8) as pool:
        accepted = [pool.submit(served.post, CHAT, BODY) for _ in range(4)]
        wait_for(lambda: "ullava_open_requests 4.0" in served.client.get("/metrics").text)
        for path in (CHAT, "/v1/predictions", "/v1/predict"):
            refused = served.post(path, {})
            assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["code"] == "queue_full"
        assert served.client.get("/health").status_code == 200
        fake.gate.set()
        assert [future.result(120).status_code for future in accepted] == [200] * 4


def test_a_sender_who_has_gone_is_not_served(serve: Any, fake: Any) -> None:
    fake.gate.clear()
    with serve({"fake": fake}, limits={"max_batch": 1}) as served, ThreadPoolExecutor(2) as pool:
        first = pool.submit(served.post, CHAT, BODY)
        assert fake.begun.wait(60)
        waiting = raw_chat(served.url)
        wait_for(lambda: served.engines["fake"].batcher.waiting == 1)
        waiting.close()
        wait_for(lambda: served.engines["fake"].batcher.waiting == 0)
        fake.gate.set()
        assert first.result(120).status_code == 200
        metrics = served.client.get("/metrics").text
    assert fake.batches == [["Hello?"]], "it was dropped before it began"
    assert 'ullava_dropped_total{reason="gone"} 1.0' in metrics


def test_an_answer_that_nobody_waits_for_is_broken_off(serve: Any, fake: Any) -> None:
    fake.gate.clear()
    with serve({"fake": fake}) as served:
        leaving = raw_chat(served.url)
        assert fake.begun.wait(60)
        leaving.close()
        wait_for(lambda: fake.abandoned == 1)
        fake.gate.set()
        assert served.post(CHAT, BODY).status_code == 200


def test_what_takes_too_long_ends_with_504_or_an_event(serve: Any, fake: Any) -> None:
    fake.gate.clear()
    with serve({"fake": fake}, limits={"timeout_s": 1}) as served:
        plain = served.post(CHAT, BODY)
        streamed = served.post(CHAT, {**BODY, "stream": True})
        wait_for(lambda: fake.abandoned == 2)
    assert plain.status_code == 504 and plain.json()["error"] == {
        "message": "not answered within 1 s", "type": "server_error", "param": None, "code": "timeout",
    }  # fmt: skip
    assert streamed.text.endswith('"code": "timeout"}}\n\n') and "[DONE]" not in streamed.text


def test_a_body_that_never_ends_is_not_waited_for(serve: Any, fake: Any) -> None:
    with serve({"fake": fake}, limits={"timeout_s": 1}) as served:
        half = send_raw(served.url, f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{{")
        assert b"504" in half.recv(1000)
        half.close()


def test_errors_have_one_shape_everywhere(serve: Any, fake: Any) -> None:
    with serve({"fake": fake}) as served:
        for method, path, status in (
            ("GET", "/nowhere", 404), ("POST", "/", 404), ("GET", CHAT, 405), ("DELETE", "/health", 405),
            ("GET", "/v1/models/none", 404), ("POST", "/v1/models/none/unload", 404),
        ):  # fmt: skip
            response = served.client.request(method, path, headers={"x-request-id": "mine-1"})
            assert response.status_code == status and response.headers["x-request-id"] == "mine-1"
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert len(served.client.get("/health", headers={"x-request-id": "a b\tc"}).headers["x-request-id"]) == 32


def test_models_come_and_go_by_name(serve: Any) -> None:
    from tests.unit.serving.conftest import FakePredictor

    made = {name: FakePredictor() for name in ("one", "two")}
    with serve({"one": made["one"], "two": made["two"]}, limits={"max_loaded": 1}) as served:
        with ThreadPoolExecutor(6) as pool:
            names = ["one", "two"] * 3
            replies = list(pool.map(lambda name: served.post(CHAT, {**BODY, "model": name}), names))
        assert [(reply.status_code, reply.json()["model"]) for reply in replies] == [(200, name) for name in names]
        listed = served.client.get("/v1/models").json()
        assert [model["id"] for model in listed["data"]] == ["one", "two"] and listed["object"] == "list"
        (loaded,) = [model["id"] for model in listed["data"] if model["loaded"]]
        assert served.client.post(f"/v1/models/{loaded}/unload").json()["unloaded"] is True
        assert served.client.post(f"/v1/models/{loaded}/unload").json()["unloaded"] is False
        assert served.client.get("/health").json()["models_loaded"] == 0
        assert served.post(CHAT, BODY).json()["model"] == "one", "the first is the default"


def test_a_page_lies_under_what_the_api_does_not_have(serve: Any, fake: Any) -> None:
    from ullava.serving.app import Page
    from ullava.serving.guard import Streams

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"page " + scope["path"].encode()})

    mounted = Page(lambda app, service: app.mount("/", page), Streams(()))
    with serve({"fake": fake}, page=mounted, access=access(api_key=KEY)) as served:
        refused = served.client.get("/", headers={"accept": "text/html"})
        assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic realm=")
        assert served.client.get("/").headers["www-authenticate"] == "Bearer"
        assert served.client.get("/a/b", headers={"token": KEY}).text == "page /a/b"
        assert served.client.get("/a/b", auth=("anybody", KEY)).text == "page /a/b"
        for wrong in (("anybody", "wrong"), (KEY, "")):
            assert served.client.get("/a/b", auth=wrong).status_code == 401
        assert served.client.get("/a/b", headers={"authorization": "Basic ~"}).status_code == 401
        known = {"token": KEY}
        assert served.client.get("/v1/models", headers=known).json()["object"] == "list"
        nothing = served.client.get("/v1/nothing", headers=known)
        assert nothing.status_code == 404 and nothing.json()["error"]["code"] == "not_found"


def test_what_visitors_read_all_the_time_is_not_timed_and_ends_with_the_server(serve: Any, fake: Any) -> None:
    from ullava.serving.app import Page
    from ullava.serving.guard import Streams

    async def page(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"begun", "more_body": True})
        await asyncio.sleep(1.5 if scope["path"] == "/answers" else 1000)
        await send({"type": "http.response.body", "body": b" ended"})

    streams = Streams(("/answers", "/alive"), ("/alive",))
    mounted = Page(lambda app, service: app.mount("/", page), streams)
    with ThreadPoolExecutor(3) as pool, serve({"fake": fake}, limits={"timeout_s": 1}, page=mounted) as served:
        alive = pool.submit(served.client.get, "/alive")
        answers = pool.submit(served.client.get, "/answers")
        timed = pool.submit(served.client.get, "/else")
        assert answers.result(30).text == "begun ended"
        assert timed.exception(30) is not None and not alive.done()
        streams.ending.set()
        served.client.get("/health")  # wakes the loop, as uvicorn does ten times a second
        assert alive.exception(30) is not None, "it was cut off"


def test_the_server_ends_when_all_that_was_accepted_is_answered(serve: Any, fake: Any) -> None:
    import httpx

    fake.seconds = 0.3
    with ThreadPoolExecutor(6) as pool:
        with serve({"fake": fake}, limits={"max_batch": 2}) as served:
            url = served.url + CHAT
            futures = [pool.submit(httpx.post, url, json=BODY, timeout=60, trust_env=False) for _ in range(6)]
            wait_for(lambda: "ullava_open_requests 6.0" in served.client.get("/metrics").text)
        assert [future.result(120).status_code for future in futures] == [200] * 6
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json=BODY, trust_env=False)
