"""What programs send that no person would type: every door answers with a status, a code and one sentence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

KEY = "a-key-of-some-length"
CHAT, PREDICT, UPLOAD = "/v1/chat/completions", "/v1/predictions", "/v1/predictions/upload"
LABELING, OSAM = "/v1/predict", "/api/generate"
USER = {"role": "user", "content": "Hello?"}
HUGE = 10**400
HALF = "\ud800"


@pytest.fixture
def served(serve: Any, fake: Any) -> Iterator[Any]:
    with serve({"fake": fake}) as running:
        yield running


def refused(response: Any, status: int) -> dict[str, Any]:
    """The error of a response that is whole, in the one shape, and says nothing of the inside."""
    assert response.status_code == status, response.text
    told: dict[str, Any] = response.json()
    assert told.keys() - {"success"} == {"error"} and told["error"].keys() == {"message", "type", "param", "code"}
    assert "\n" not in told["error"]["message"] and "Traceback" not in response.text
    return told["error"]


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        (PREDICT, {"query": 7}, "query"),
        (PREDICT, {"query": "a", "temperature": float("nan")}, "temperature"),
        (PREDICT, {"query": "a", "temperature": HUGE}, None),
        (PREDICT, {"query": "a", "temperature": 1, "seed": HUGE}, None),
        (PREDICT, {"query": "a", "max_tokens": HUGE}, "max_tokens"),
        (PREDICT, {"query": "a", HALF: 1}, "?"),
        (PREDICT, {"query": "a", "image": "photo.jpg"}, "image"),
        (PREDICT, {"query": "a", "image": {"base64": 5}}, "image.base64"),
        (CHAT, {"messages": "Hello?"}, "messages"),
        (CHAT, {"messages": [None]}, "messages[0]"),
        (CHAT, {"messages": [USER], "n": HUGE}, "n"),
        (CHAT, {"messages": [USER], "seed": HUGE}, "seed"),
        (CHAT, {"messages": [USER], "top_p": float("inf")}, "top_p"),
        (CHAT, {"messages": [USER], "stop": ["a", 5]}, "stop"),
        (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": 5}]}]}, None),
        (LABELING, {"params": None}, "params"),
        (LABELING, {"params": {"text_prompt": ["a"]}}, "params.text_prompt"),
        (LABELING, {"params": {"text_prompt": "a", "conf_threshold": float("nan")}}, "params.conf_threshold"),
        (OSAM, {"prompt": {"texts": "a"}}, "prompt.texts"),
        (OSAM, {"prompt": {"texts": ["a"], "score_threshold": float("nan")}}, "prompt.score_threshold"),
        (OSAM, {"prompt": {"texts": ["a"], "max_annotations": -1}}, "prompt.max_annotations"),
    ],
)  # fmt: skip
def test_values_of_any_kind_are_refused_by_their_field(
    served: Any, png: str, path: str, change: dict[str, Any], param: str | None
) -> None:
    image = {} if path == CHAT else {"image": {"url": png} if path == PREDICT else png.partition(",")[2]}
    body = json.dumps({**image, **change}).encode()
    error = refused(served.client.post(path, content=body, headers={"content-type": "application/json"}), 400)
    assert param is None or str(error["param"]).startswith(param), error


def test_a_form_with_fields_that_it_does_not_have_is_refused(served: Any) -> None:
    file = {"image": ("a.png", b"x")}
    error = refused(served.client.post(UPLOAD, files=file, data={"query": "a", "tsk": "detection"}), 400)
    assert (error["param"], error["message"]) == ("tsk", "unknown field 'tsk'; did you mean 'task'?")
    for data in ({"query": "a", "max_tokens": "many"}, {"query": "a", "task": "segment"}, {"query": "", "task": ""}):
        refused(served.client.post(UPLOAD, files=file, data=data), 400)


@pytest.mark.parametrize(
    "content", [b"", b"GIF89a", b"%PDF-1.7 no image", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, b"PK\3\4" + b"\0" * 60]
)
def test_files_that_are_no_images_are_refused(served: Any, content: bytes) -> None:
    error = refused(served.client.post(UPLOAD, files={"image": ("a.png", content)}, data={"query": "a"}), 400)
    assert error["code"] in ("invalid_image", "invalid_request")


def test_a_form_that_is_none_is_refused(served: Any) -> None:
    for kind in ("multipart/form-data", "multipart/form-data; boundary=x", "text/plain", "application/json"):
        refused(served.client.post(UPLOAD, content=b"--y\r\nnothing", headers={"content-type": kind}), 400)


@pytest.mark.parametrize("path", ["/v1/models/%FF%00", "/v1/models/..%2F..%2Fetc", "/x-anylabeling/v1/models/%F0/info"])
def test_models_of_odd_names_are_not_there(served: Any, path: str) -> None:
    assert refused(served.client.get(path), 404)["code"] == "model_not_found"


def test_headers_that_are_none_are_refused(serve: Any, fake: Any) -> None:
    from ullava.serving.guard import Access

    with serve({"fake": fake}, access=Access(api_key=KEY, hosts=None)) as running:
        known = {"authorization": f"Bearer {KEY}"}
        for origin in ("http://[", "http://[::1", "null", "http://a]b"):
            error = refused(running.post(CHAT, {"messages": [USER]}, headers={**known, "origin": origin}), 403)
            assert error["code"] == "origin_not_allowed"
        for given in (b"Basic \xe9\xe9", b"Basic ====", b"Basic /w==", b"Bearer \xff"):
            refused(running.post(CHAT, {"messages": [USER]}, headers={"authorization": given}), 401)
        for host in ("[", "a:b:c", "[::1"):
            assert refused(running.client.get("/nowhere", headers={**known, "host": host}), 404)["code"] == "not_found"
            refused(running.post(PREDICT, {}, headers={**known, "host": host}), 400)
