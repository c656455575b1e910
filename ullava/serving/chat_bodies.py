"""What ``/v1/chat/completions`` is sent: OpenAI's request, as far as these models can answer it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from ullava.serving.examples import CHAT
from ullava.serving.json_bodies import Body
from ullava.serving.refusals import invalid
from ullava.serving.service import Query
from ullava.serving.sources import Source
from ullava.text.tokens import IMAGE_MARKER, VIDEO_MARKER, mark_places


class TextPart(Body):
    """Words."""

    type: Literal["text"]
    text: str


class ImageUrl(Body):
    """``url``: http, https or a data URI. ``detail`` is taken and means nothing here: a model has a size of its own."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Body):
    """An image."""

    type: Literal["image_url"]
    image_url: ImageUrl


class VideoUrl(Body):
    """``url``: http, https or a data URI."""

    url: str


class VideoPart(Body):
    """A video; the model sees as many of its frames as it was made for."""

    type: Literal["video_url"]
    video_url: VideoUrl


Part = Annotated[TextPart | ImagePart | VideoPart, Field(discriminator="type")]
Content = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[list[Part], Tag("<parts>")],
    Discriminator(lambda value: "<parts>" if isinstance(value, list) else "<text>"),
]


class Message(Body):
    """One message. What an answer of ours held besides is taken when it is sent back as history."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Content
    name: str | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    tool_calls: Annotated[list[Any], Field(max_length=0)] | None = None
    annotations: Any = None
    grounding: Any = None
    plain_text: str | None = None


class StreamOptions(Body):
    """``include_usage``: one more event at the end that counts tokens."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class TextFormat(Body):
    """Free text is all there is."""

    type: Literal["text"]


class ChatRequest(Body):
    """OpenAI's request. Fields that would change the answer in a way that these models cannot are refused.

    Greedy unless ``temperature``, ``top_p`` (below 1) or ``top_k`` is given.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    model: str | None = None
    n: int | None = 1
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    stop: str | Annotated[list[str], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    # These may be given with the only value that means what happens anyway.
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    response_format: TextFormat | None = None
    modalities: Annotated[list[Literal["text"]], Field(max_length=1)] | None = None
    # These say nothing about the answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    parallel_tool_calls: bool | None = None

    model_config = Body.model_config | {"json_schema_extra": {"examples": [CHAT]}}

    def query(self, max_turns: int) -> Query:
        """Return it as a question. Raises RefusedError for messages that are no dialogue."""
        if len(self.messages) > max_turns:
            raise invalid(f"messages: {len(self.messages)} are more than the limit of {max_turns}", "messages")
        images: list[Source] = []
        videos: list[Source] = []
        asked: list[str] = []
        said: list[str] = []
        system: list[str] = []
        for number, message in enumerate(self.messages):
            where = f"messages[{number}]"
            text = _text(message.content)
            if message.role in ("system", "developer"):
                if asked:
                    raise invalid(f"{where}.role: '{message.role}' belongs in front of the first question", where)
                system.append(text)
            elif message.role == "user":
                if len(asked) > len(said):
                    raise invalid(f"{where}.role: expected 'assistant': two questions in a row", f"{where}.role")
                asked.append(_placed(message.content, text, where, images, videos))
            else:
                if len(asked) == len(said):
                    raise invalid(f"{where}.role: expected 'user': an answer without a question", f"{where}.role")
                said.append(text)
        if len(asked) == len(said):
            raise invalid("messages: the last one has to be a question (role 'user')", "messages")
        if system:
            asked[0] = "\n".join((*system, asked[0]))
        if self.max_completion_tokens is not None and self.max_tokens is not None:
            raise invalid("max_tokens: max_completion_tokens says it already", "max_tokens")
        return Query(
            prompt=asked[-1],
            model=self.model,
            history=tuple(zip(asked[:-1], said, strict=True)),
            images=tuple(images),
            videos=tuple(videos),
            max_new_tokens=self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens,
            generation=self._generation(),
            answers=1 if self.n is None else self.n,
            tokens_param="max_tokens" if self.max_completion_tokens is None else "max_completion_tokens",
        )

    def _generation(self) -> dict[str, Any]:
        given: dict[str, Any] = {"temperature": self.temperature, "top_k": self.top_k}
        # Clients send these with every request; alone they ask for nothing.
        given["top_p"] = None if self.top_p == 1 and self.temperature is None else self.top_p
        draws = self.temperature != 0 and any(value is not None for value in given.values())
        given["seed"] = self.seed if draws else None
        if self.stop:
            given["stop"] = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        return {key: value for key, value in given.items() if value is not None}


def _text(content: str | Sequence[TextPart | ImagePart | VideoPart]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part.text for part in content if isinstance(part, TextPart))


def _placed(
    content: str | Sequence[TextPart | ImagePart | VideoPart],
    text: str,
    where: str,
    images: list[Source],
    videos: list[Source],
) -> str:
    """Return the words of a question with a marker for each image and video; note these."""
    before = len(images), len(videos)
    if not isinstance(content, str):
        for place, part in enumerate(content):
            if isinstance(part, ImagePart):
                images.append(Source(part.image_url.url, f"{where}.content[{place}].image_url.url"))
            elif isinstance(part, VideoPart):
                videos.append(Source(part.video_url.url, f"{where}.content[{place}].video_url.url"))
    new = len(images) - before[0], len(videos) - before[1]
    if not text.strip():
        raise invalid(f"{where}.content: the question is empty", f"{where}.content")
    for marker, things, count in ((IMAGE_MARKER, "images", new[0]), (VIDEO_MARKER, "videos", new[1])):
        if text.count(marker) not in (0, count):
            raise invalid(
                f"{where}.content: {text.count(marker)} {marker} markers for {count} {things}", f"{where}.content"
            )
    return mark_places(text, *new)
