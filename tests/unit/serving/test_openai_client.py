"""OpenAI's own client against the server."""

from __future__ import annotations

from typing import Any

import pytest

openai = pytest.importorskip("openai", reason="OpenAI's client is not installed; it is in the extra 'dev'")


def test_openais_client_chats_streams_and_reads_errors(serve: Any, tiny: Any) -> None:
    from ullava.serving.examples import CHAT
    from ullava.serving.guard import Access

    key = "a-key-of-some-length"
    with serve({"tiny": tiny}, access=Access(api_key=key)) as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key=key, max_retries=0, timeout=300) as client:
            assert [model.id for model in client.models.list()] == ["tiny"]
            assert client.models.retrieve("tiny").id == "tiny"
            asked = {"model": "tiny", "messages": CHAT["messages"], "max_completion_tokens": 40}
            told = client.chat.completions.create(**asked, n=2)
            message = told.choices[0].message
            assert message.grounding[0]["phrase"] == "red circle" and message.grounding[0]["mask"]["size"] == [96, 96]
            assert told.choices[1].message.content == message.content and told.usage.total_tokens > 0

            chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
            words = [chunk.choices[0].delta for chunk in chunks if chunk.choices]
            assert "".join(delta.content or "" for delta in words) == message.content
            assert words[-1].grounding == message.grounding and chunks[-1].usage.completion_tokens > 0

            follow = [
                *CHAT["messages"],
                message.model_dump(),
                {"role": "user", "content": "How many shapes are there?"},
            ]
            assert client.chat.completions.create(model="tiny", messages=follow).choices[0].message.content

            with pytest.raises(openai.NotFoundError) as missing:
                client.chat.completions.create(**{**asked, "model": "gpt-4o"})
            assert missing.value.code == "model_not_found" and missing.value.param == "model"
            with pytest.raises(openai.BadRequestError, match="max_completion_tokens|new tokens"):
                client.chat.completions.create(**{**asked, "max_completion_tokens": 10_000})
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(openai.AuthenticationError):
                client.models.list()


def test_openais_client_comes_again_when_the_queue_was_full(serve: Any, fake: Any) -> None:
    from concurrent.futures import ThreadPoolExecutor

    fake.seconds = 0.2
    with serve({"fake": fake}, limits={"max_queue": 2, "max_batch": 1}) as served:
        with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=9, timeout=300) as client:

            def ask(number: int) -> str:
                messages: Any = [{"role": "user", "content": f"Question {number}?"}]
                return str(client.chat.completions.create(model="fake", messages=messages).choices[0].message.content)

            with ThreadPoolExecutor(4) as pool:
                assert list(pool.map(ask, range(4))) == [f"thing of Question {number}?" for number in range(4)]
            refused = served.client.get("/metrics").text
    assert 'status="429"' in refused
