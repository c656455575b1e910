"""``/v1/chat/completions``: OpenAI's shape, several turns, streams, what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ullava.geometry import rle_decode


def ask(text: str, png: str | None = None, **more: Any) -> dict[str, Any]:
    parts: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if png is not None:
        parts.append({"type": "image_url", "image_url": {"url": png, "detail": "high"}})
    return {"messages": [{"role": "user", "content": parts}], **more}


def events(response: Any) -> list[Any]:
    lines = [line for line in response.text.split("\n") if line]
    assert all(line.startswith("data: ") for line in lines)
    return [line[6:] if line == "data: [DONE]" else json.loads(line[6:]) for line in lines]


def test_an_answer_has_text_and_grounding_and_a_dialogue_goes_on(serve: Any, tiny: Any, png: str) -> None:
    from ullava.serving.examples import CHAT

    with serve({"tiny": tiny}) as served:
        told = served.post("/v1/chat/completions", CHAT).json()
        message = told["choices"][0]["message"]
        more = {
            "messages": [
                {"role": "system", "content": "Answer briefly."},
                *CHAT["messages"],
                {**message, "tool_calls": None, "annotations": []},
                {"role": "user", "content": "How many shapes are there?"},
            ],
            "max_completion_tokens": 32,
        }
        again = served.post("/v1/chat/completions", more)
        streamed = events(served.post("/v1/chat/completions", {**CHAT, "stream": True, "n": 2}))
    assert (told["object"], told["model"], told["choices"][0]["finish_reason"]) == ("chat.completion", "tiny", "stop")
    assert told["usage"]["prompt_tokens"] + told["usage"]["completion_tokens"] == told["usage"]["total_tokens"]
    (thing,) = message["grounding"]
    assert message["role"] == "assistant" and thing["phrase"] == "red circle" and thing["image"] == 0
    assert message["content"][slice(*thing["span"])].endswith("[LOC]") and message["plain_text"] == "Sure. red circle."
    assert rle_decode(thing["mask"]).shape == (96, 96) and len(thing["box_xyxy_px"]) == 4
    assert again.status_code == 200 and again.json()["choices"][0]["message"]["content"], again.text
    assert streamed.pop() == "[DONE]"
    for number in (0, 1):
        own = [event["choices"][0] for event in streamed if event["choices"][0]["index"] == number]
        assert own[0]["delta"] == {"role": "assistant", "content": ""} and own[-1]["finish_reason"] == "stop"
        assert len(own) > 4, "it comes in pieces"
        assert "".join(choice["delta"].get("content", "") for choice in own) == message["content"]
        assert own[-1]["delta"]["grounding"] == message["grounding"]


def test_streams_share_batches_with_each_other_and_count_tokens(serve: Any, fake: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    body = ask("one", stream=True, stream_options={"include_usage": True})
    with serve({"fake": fake}, limits={"max_batch": 3, "max_wait_ms": 3000}) as served:
        with ThreadPoolExecutor(3) as pool:
            texts = ("one", "two", "three")
            asked = [{**body, "messages": ask(text)["messages"], "stream": text != "two"} for text in texts]
            replies = list(pool.map(lambda one: served.post("/v1/chat/completions", one), asked))
    assert [sorted(batch) for batch in fake.batches] == [["one", "three", "two"]]
    assert replies[1].json()["choices"][0]["message"]["content"] == "thing of two"
    *_, usage, done = events(replies[0])
    assert done == "[DONE]" and usage["choices"] == [] and usage["usage"]["completion_tokens"] == 3


def test_a_video_is_watched(serve: Any, tiny: Any, tmp_path: Any) -> None:
    import base64

    import numpy as np
    from PIL import Image

    frames = []
    for step in range(6):
        frame = np.full((64, 64, 3), 128, np.uint8)
        frame[20:40, 4 + 6 * step : 24 + 6 * step] = (220, 30, 30)
        frames.append(Image.fromarray(frame))
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    url = "data:image/gif;base64," + base64.b64encode((tmp_path / "a.gif").read_bytes()).decode()
    parts = [{"type": "video_url", "video_url": {"url": url}}, {"type": "text", "text": "Which way does it move?"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_tokens": 40}
    with serve({"tiny": tiny}, limits={"max_frames": 6}) as served:
        told = served.post("/v1/chat/completions", body)
    with serve({"tiny": tiny}, limits={"max_frames": 5}) as served:
        long = served.post("/v1/chat/completions", body)
    direct = tiny.answer("Which way does it move?", video=tmp_path / "a.gif", max_new_tokens=40)
    assert told.json()["choices"][0]["message"]["content"] == direct.text, told.text
    assert long.status_code == 413 and "6 frames are more than the limit of 5" in long.json()["error"]["message"]


def test_drawn_answers_are_several_and_the_same_again_from_a_seed(serve: Any, tiny: Any, png: str) -> None:
    body = ask("Describe the image.", png, n=3, temperature=1.5, seed=4, max_tokens=20)
    with serve({"tiny": tiny}) as served:
        first, second = (served.post("/v1/chat/completions", body).json() for _ in range(2))
    texts = [[choice["message"]["content"] for choice in told["choices"]] for told in (first, second)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1


def test_fields_that_clients_send_anyway_are_taken(serve: Any, fake: Any, png: str) -> None:
    more = {
        "model": "fake", "n": 1, "temperature": 0, "top_p": 1, "seed": 3, "frequency_penalty": 0, "presence_penalty": 0,
        "logprobs": False, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "user": "me",
        "stop": None, "metadata": {}, "logit_bias": {}, "max_completion_tokens": 9,
    }  # fmt: skip
    with serve({"fake": fake}) as served:
        response = served.post("/v1/chat/completions", ask("What?", png, **more))
        alone = served.post("/v1/chat/completions", ask("What?", png, top_p=1))
    assert response.json()["choices"][0]["message"]["content"] == "thing of <image>What?", response.text
    assert alone.status_code == 200
    assert fake.batches == [["<image>What?"]] * 2


def test_images_stand_where_their_questions_mark_them(serve: Any, fake: Any, png: str) -> None:
    image = {"type": "image_url", "image_url": {"url": png}}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "A?"}]},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "Like <image> and <image>?"}, image, image]},
    ]
    with serve({"fake": fake}) as served:
        assert served.post("/v1/chat/completions", {"messages": messages}).status_code == 200
    assert fake.batches == [["Like <image> and <image>?"]]


USER = {"role": "user", "content": "Hello?"}


@pytest.mark.parametrize(
    ("body", "status", "param", "said"),
    [
        ({}, 400, "messages", "Field required"),
        ({"messages": []}, 400, "messages", "at least 1"),
        ({"messages": [USER, USER]}, 400, "messages[1].role", "two questions in a row"),
        ({"messages": [USER, {"role": "assistant", "content": "a"}]}, 400, "messages", "has to be a question"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages[0].role", "without a question"),
        ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages[0].role", "'assistant'"),
        ({"messages": [{"role": "user", "content": None}]}, 400, "messages[0].content", "valid string"),
        ({"messages": [{"role": "user", "content": " "}]}, 400, "messages[0].content", "is empty"),
        ({"messages": [{"role": "user", "content": "<image>?"}]}, 400, "messages[0].content", "1 <image> markers"),
        ({"messages": [{"role": "user", "content": [{"type": "a"}]}]}, 400, "messages[0].content[0]", "'image_url'"),
        ({"messages": [USER], "mesages": 1}, 400, "mesages", "did you mean 'messages'?"),
        ({"messages": [USER], "tools": [{}]}, 400, "tools", "at most 0"),
        ({"messages": [USER], "logprobs": True}, 400, "logprobs", "False"),
        ({"messages": [USER], "response_format": {"type": "json_object"}}, 400, "response_format.type", "'text'"),
        ({"messages": [USER], "n": 9}, 400, "n", "expected 1 to 8"),
        ({"messages": [USER], "n": 0, "stream": True}, 400, "n", "expected 1 to 8"),
        ({"messages": [USER], "max_tokens": 5000}, 400, "max_tokens", "1 to 1024"),
        ({"messages": [USER], "max_tokens": 5, "max_completion_tokens": 5}, 400, "max_tokens", "says it already"),
        ({"messages": [USER], "temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"messages": [USER], "stop": [""]}, 400, None, "stop"),
        ({"messages": [USER], "model": "none", "stream": True}, 404, "model", "no model 'none'"),
        ({"messages": [USER, {"role": "assistant", "content": ""}] * 33}, 400, "messages", "more than the limit of 64"),
        ({"messages": [{"role": "user", "content": "This will fail"}]}, 500, None, "its log says why"),
        ({"messages": [{"role": "user", "content": "This will fail"}], "stream": False}, 500, None, "its log says why"),
    ],
)  # fmt: skip
def test_what_cannot_be_answered_is_refused_as_openai_does(
    serve: Any, fake: Any, body: Any, status: int, param: str | None, said: str
) -> None:
    with serve({"fake": fake}) as served:
        response = served.post("/v1/chat/completions", body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (status, param), error
    assert said in error["message"] and error["type"] and error["code"]
    assert "secret" not in response.text and "Traceback" not in response.text


def test_a_stream_that_fails_ends_with_an_error_and_is_not_done(serve: Any, fake: Any) -> None:
    with serve({"fake": fake}) as served:
        response = served.post("/v1/chat/completions", ask("This will fail", stream=True))
    *_, last = events(response)
    assert response.status_code == 200 and last["error"]["code"] == "internal_error"
    assert "secret" not in response.text


def test_too_many_images_are_refused_at_the_first_too_many(serve: Any, fake: Any, png: str) -> None:
    parts = [{"type": "image_url", "image_url": {"url": png}}] * 3 + [{"type": "text", "text": "What?"}]
    with serve({"fake": fake}, limits={"max_images": 2}) as served:
        response = served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": parts}]})
    assert response.status_code == 413 and response.json()["error"]["param"] == "messages[0].content[2].image_url.url"
