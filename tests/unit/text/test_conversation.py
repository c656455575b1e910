from __future__ import annotations

from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from ullava.structures import Turn
from ullava.text.conversation import (
    CHAT_TEMPLATES,
    images_first,
    question_content,
    released_style,
    to_messages,
)

TURNS = (Turn("<image>What is it?", "A cup."), Turn("Sure?", "Yes."))


def render(name: str, turns: tuple[Turn, ...], prompt_only: bool = False, system: str = "") -> tuple[str, list[str]]:
    rendered, spans = render_jinja_template(
        conversations=[to_messages(turns, system, prompt_only)],
        chat_template=CHAT_TEMPLATES[name],
        return_assistant_tokens_mask=True,
        add_generation_prompt=prompt_only,
        eos_token="</s>",
        bos_token="<s>",
    )
    return rendered[0], [rendered[0][begin:end] for begin, end in spans[0]]


ENDS = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "phi3": "<|end|>", "plain": "\n"}


@pytest.mark.parametrize("name", sorted(set(CHAT_TEMPLATES) - {"conv_simple"}))
def test_supervised_words_are_the_answers_and_their_end(name: str) -> None:
    _, supervised = render(name, TURNS)
    end = ENDS.get(name, "</s>")
    assert [words.removesuffix(end).strip() for words in supervised] == ["A cup.", "Yes."]
    assert all(words.endswith(end) for words in supervised)


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
def test_the_prompt_is_the_beginning_of_the_training_text(name: str) -> None:
    whole, _ = render(name, TURNS, system="Be brief.")
    prompt, _ = render(name, TURNS, prompt_only=True, system="Be brief.")
    assert whole.startswith(prompt)
    assert "Yes." not in prompt and ("Be brief." in prompt) == (name != "plain")


def test_vicuna_wording() -> None:
    whole, _ = render("vicuna_v1", TURNS)
    block = "<img_beg><image_patch></img_end>\n"
    assert whole == f"<s>USER: {block}What is it? ASSISTANT: A cup.</s> USER: Sure? ASSISTANT: Yes.</s>"


def test_images_keep_their_places() -> None:
    parts: list[dict[str, Any]] = question_content("<image>Left one, <image> right one?")
    assert [part["type"] for part in parts] == ["image", "text", "image", "text"]
    assert parts[1]["text"] == "Left one," and parts[3]["text"] == "right one?"


def test_the_simple_released_style_supervises_the_signs_of_its_turns() -> None:
    whole, supervised = render("conv_simple", TURNS)
    assert whole.startswith("\n\n###Human: <img_beg>")
    answers = ["###", "###Assistant: A cup.\n", "###", "###Assistant: Yes.\n", "###"]
    assert "".join(supervised) == "".join(answers)


def test_released_styles_are_known_by_their_template() -> None:
    assert released_style(CHAT_TEMPLATES["conv_sep2"]) == "conv_sep2"
    assert released_style(CHAT_TEMPLATES["vicuna_v1"]) is None
    assert released_style(None) is None


def test_images_first() -> None:
    assert images_first("Look at <image> and name it") == "<image>Look at  and name it"
    assert images_first("Nothing to see") == "Nothing to see"
