"""``/v1/predictions`` on the real small model, and what its answers are equal to."""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from ullava.geometry import mask_iou, rle_decode
from ullava.media.images import decode_image_rgb_u8
from ullava.text.wording import question_of


@pytest.mark.parametrize(
    ("query", "task", "question"),
    [
        ("red circle", "segmentation", "Segment the red circle."),
        (" the red circle ", "segmentation", "Segment the red circle."),
        ("all circles", "segmentation", "Segment all circles."),
        ("red circle", "detection", "Draw a box around the red circle."),
        ("What is red?", "detection", "What is red?"),
        ("what is red", "question", "what is red"),
        ("Segment the cat.", "segmentation", "Segment the cat."),
        ("  ", "segmentation", ""),
    ],
)
def test_a_query_becomes_a_question(query: str, task: Any, question: str) -> None:
    assert question_of(query, task) == question


def test_a_thing_is_found_in_falcons_shape_with_phrase_span_and_times(serve: Any, tiny: Any, png: str) -> None:
    from ullava.serving.predictions import PredictionReply

    with serve({"tiny": tiny}) as served:
        response = served.post("/v1/predictions", {"image": {"url": png}, "query": "the red circle"})
        told = response.json()
        assert response.status_code == 200 and response.headers["x-request-id"]
        PredictionReply.model_validate(told, strict=True, extra="forbid")
        data = base64.b64decode(png.partition(",")[2])
        form = {"query": "the red circle", "task": "segmentation"}
        uploaded = served.client.post("/v1/predictions/upload", data=form, files={"image": ("a.png", data)}).json()
        bare = served.post("/v1/predictions", {"image": {"base64": png.partition(",")[2]}, "query": "the red circle"})
    direct = tiny.answer(decode_image_rgb_u8(data, "it"), "Segment the red circle.")
    (mask,) = told["masks"]
    assert told["text"] == direct.text and told["query"] == "the red circle" and told["finished"] is True
    assert mask["label"] == mask["phrase"] == "red circle"
    assert told["text"][slice(*mask["span"])].startswith("[tag]red circle[/tag]")
    assert np.array_equal(rle_decode(mask["rle"]), direct.objects[0].mask)
    assert np.allclose(mask["bbox"], direct.objects[0].box_xyxy_px, atol=0.01)
    assert (told["image_width"], told["image_height"], mask["width"], mask["height"]) == (96, 96, 96, 96)
    parts = told["prefill_time_ms"] + told["decode_time_ms"] + told["finalize_time_ms"]
    assert parts == pytest.approx(told["inference_time_ms"], abs=0.01) and told["prefill_time_ms"] > 0
    assert told["total_time_ms"] >= told["inference_time_ms"] + told["queue_ms"]
    assert told["input_tokens"] > 64 and told["output_tokens"] == direct.new_tokens
    for other in (uploaded, bare.json()):
        assert other["masks"] == told["masks"] and other["text"] == told["text"]


def test_many_at_once_share_batches_and_are_answered_as_one_by_one(serve: Any, tiny: Any) -> None:
    from ullava.inference.export import png_bytes

    rng = np.random.default_rng(0)
    images = []
    for color in ((220, 30, 30), (30, 30, 220), (30, 160, 60)):
        image = np.full((96, 128, 3), 128, np.uint8) + rng.integers(0, 8, (96, 128, 1), dtype=np.uint8)
        image[20:60, 30:80] = color
        images.append(image)
    queries = ["the red square", "the largest shape", "How many shapes are there?", "the green object"]
    asked = [(image, query) for image in images for query in queries]
    bodies = [
        {"image": {"base64": base64.b64encode(png_bytes(image)).decode()}, "query": query, "max_tokens": 48}
        for image, query in asked
    ]
    seen: list[int] = []
    encode = tiny.model.generate_grounded

    def counted(inputs: Any, **options: Any) -> Any:
        seen.append(len(next(iter(inputs.images.views.values()))))
        return encode(inputs, **options)

    with serve({"tiny": tiny}, limits={"max_batch": 12, "max_wait_ms": 3000}) as served:
        tiny.model.generate_grounded = counted
        try:
            with ThreadPoolExecutor(12) as pool:
                replies = [
                    reply.json() for reply in pool.map(lambda body: served.post("/v1/predictions", body), bodies)
                ]
        finally:
            del tiny.model.generate_grounded
        metrics = served.client.get("/metrics").text
    assert [reply["batch_size"] for reply in replies] == [12] * 12
    assert seen == [3], "twelve questions about three images: each is encoded once"
    assert 'ullava_batch_rows_count{model="tiny"} 1.0' in metrics
    for (image, query), reply in zip(asked, replies, strict=True):
        single = tiny.answer(image, question_of(query, "segmentation"), max_new_tokens=48)
        assert reply["text"] == single.text
        assert len(reply["masks"]) == len(single.objects)
        for mask, item in zip(reply["masks"], single.objects, strict=True):
            assert mask["score"] == pytest.approx(item.score, abs=1e-3)
            if item.mask is not None and item.mask.any():
                assert mask_iou(rle_decode(mask["rle"]), item.mask) > 0.999


def test_detection_gives_boxes(serve: Any, tiny: Any, png: str) -> None:
    with serve({"tiny": tiny}) as served:
        body = {"image": {"url": png}, "query": "the red circle", "task": "detection"}
        told = served.post("/v1/predictions", body).json()
    assert told["masks"] and len(told["masks"][0]["bbox"]) == 4


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({}, 400, "image", "image: Field required"),
        ([], 400, None, "no JSON object"),
        ({"image": {}, "query": "a"}, 400, "image", "either url or base64"),
        ({"image": {"url": "PNG", "base64": "PNG"}, "query": "a"}, 400, "image", "either url or base64"),
        ({"image": {"url": "PNG"}, "query": " "}, 400, "query", "is empty"),
        ({"image": {"url": "PNG"}, "query": "a [SEG] b."}, 400, None, "the special token [SEG]"),
        ({"image": {"url": "PNG"}, "query": "a", "task": "segment"}, 400, "task", "'segmentation'"),
        ({"image": {"url": "PNG"}, "query": "a", "tsk": 1}, 400, "tsk", "unknown field 'tsk'; did you mean 'task'?"),
        ({"image": {"url": "PNG", "path": "x"}, "query": "a"}, 400, "image.path", "unknown field 'path'"),
        ({"image": {"url": "PNG"}, "query": "a", "max_tokens": 9999}, 400, "max_tokens", "1 to 1024"),
        ({"image": {"url": "PNG"}, "query": "a", "max_tokens": 1000}, 400, None, "512 places"),
        ({"image": {"url": "PNG"}, "query": "a", "max_tokens": 0}, 400, "max_tokens", "1 to 1024"),
        ({"image": {"url": "PNG"}, "query": "a", "temperature": -1}, 400, None, "temperature"),
        ({"image": {"url": "PNG"}, "query": "a", "seed": 1}, 400, None, "nothing is drawn"),
        ({"image": {"url": "PNG"}, "query": "a", "model": "tyni"}, 404, "model", "is served here; known: tiny"),
        ({"image": {"url": "PNG"}, "query": "a" * 30_000}, 413, None, "characters"),
        ({"image": {"url": "data:image/png;base64,aGVsbG8="}, "query": "a"}, 400, "image.url", "not an image"),
        ({"image": {"url": "http://example.com/a.png"}, "query": "a"}, 403, "image.url", "reads no urls"),
        ({"image": {"url": "file:///etc/passwd"}, "query": "a"}, 403, "image.url", "reads no urls"),
        ({"image": {"url": "/etc/passwd"}, "query": "a"}, 403, "image.url", "reads no urls"),
        ({"image": {"base64": "file:///etc/passwd"}, "query": "a"}, 403, "image.base64", "reads no urls"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_one_sentence(
    serve: Any, tiny: Any, png: str, body: Any, status: int, param: str | None, said: str
) -> None:
    if isinstance(body, dict) and (body.get("image") or {}).get("url") == "PNG":
        body = {**body, "image": {**body["image"], "url": png}}
    with serve({"tiny": tiny}) as served:
        response = served.post("/v1/predictions", body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert said in error["message"] and "\n" not in error["message"] and "Traceback" not in response.text
    assert set(response.json()) == {"error"} and set(error) == {"message", "type", "param", "code"}


def test_urls_are_fetched_where_they_are_allowed(serve: Any, fake: Any) -> None:
    from ullava.serving.fetch import Fetcher

    def resolve(host: str, port: int) -> list[str]:
        return ["10.0.0.1"]

    with serve({"fake": fake}, fetcher=Fetcher(1000, 5, 3, resolve)) as served:
        for url, code in (
            ("http://inside.test/a.png", "address_not_allowed"),
            ("file:///etc/passwd", "invalid_request"),
        ):
            response = served.post("/v1/predictions", {"image": {"url": url}, "query": "a"})
            assert response.json()["error"]["code"] == code and response.json()["error"]["param"] == "image.url"
    assert fake.batches == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"{", "json"), (b"\xff", "json"), (b"[" * 100_000, "json"), (b"a=b", "x-www-form-urlencoded")],
)
def test_bodies_that_are_no_json_are_refused(serve: Any, fake: Any, content: bytes, kind: str) -> None:
    with serve({"fake": fake}) as served:
        for path in ("/v1/predictions", "/v1/chat/completions", "/v1/predict", "/api/generate"):
            response = served.client.post(path, content=content, headers={"content-type": f"application/{kind}"})
            assert response.status_code == 400 and response.json()["error"]["message"], response.text


def test_a_form_without_its_parts_is_refused(serve: Any, fake: Any) -> None:
    with serve({"fake": fake}) as served:
        for options in ({"data": {"query": "a"}}, {"files": {"image": ("a", b"x")}}, {"content": b"x"}):
            response = served.client.post("/v1/predictions/upload", **options)
            assert response.status_code == 400 and response.json()["error"]["code"] == "invalid_request"
