"""Every conversation format, letter by letter, and the same formats in vocabularies of published language models."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, get_args

import pytest
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.utils.chat_template_utils import render_jinja_template

from ullava.config.schema import Template
from ullava.errors import UserError
from ullava.modeling.processing.tokenizing import tokenize
from ullava.structures import Turn
from ullava.text.conversation import CHAT_TEMPLATES, released_style, to_messages, turn_end_ids
from ullava.text.released_tokenizer import llama_tokenizer
from ullava.text.tokens import (
    IGNORE_LABEL,
    IMAGE_END,
    IMAGE_PATCH,
    IMAGE_START,
    VIDEO_END,
    VIDEO_PATCH,
    VIDEO_START,
    add_special_tokens,
)

IMAGE = "<img_beg><image_patch></img_end>"
TURNS = (Turn("<image>What is it?", "A cup."), Turn("Sure?", "Yes."))

SNAPSHOTS = {
    "vicuna_v1": f"<s>Be brief. USER: {IMAGE}\nWhat is it? ASSISTANT: A cup.</s> USER: Sure? ASSISTANT: Yes.</s>",
    "vicuna_lines": f"<s>Be brief.\nUSER: {IMAGE}\nWhat is it? ASSISTANT: A cup.</s>\nUSER: Sure? ASSISTANT: Yes.</s>",
    "llama2": f"<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{IMAGE}\nWhat is it? [/INST] A cup. </s>"
    "<s>[INST] Sure? [/INST] Yes. </s>",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    f"<|start_header_id|>user<|end_header_id|>\n\n{IMAGE}\nWhat is it?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nA cup.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nSure?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nYes.<|eot_id|>",
    "phi3": f"<s><|system|>Be brief.<|end|>\n<|user|>{IMAGE}\nWhat is it?<|end|>\n<|assistant|>\nA cup.<|end|>\n"
    "<|user|>Sure?<|end|>\n<|assistant|>\nYes.<|end|>",
    "chatml": f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{IMAGE}\nWhat is it?<|im_end|>\n"
    "<|im_start|>assistant\nA cup.<|im_end|>\n<|im_start|>user\nSure?<|im_end|>\n"
    "<|im_start|>assistant\nYes.<|im_end|>\n",
    "plain": f"<s>{IMAGE}A cup.\nYes.\n",
    "simple": f"<s>Be brief.\n###Human: {IMAGE}\nWhat is it?\n###Assistant: A cup.</s>\n"
    "###Human: Sure?\n###Assistant: Yes.</s>\n",
    "conv_simple": f"Be brief.\n\n###Human: {IMAGE}\nWhat is it?\n###Assistant: A cup.\n"
    "###Human: Sure?\n###Assistant: Yes.\n###",
    "conv_sep2": f"Be brief. USER: {IMAGE}\nWhat is it? ASSISTANT: A cup.</s>USER: Sure? ASSISTANT: Yes.</s>",
    "conv_llama2": f"[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{IMAGE}\nWhat is it? [/INST] A cup.</s>"
    "[INST] Sure? [/INST] Yes.</s>",
}


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
def test_wording(name: str) -> None:
    rendered, spans = render_jinja_template(
        conversations=[to_messages(TURNS, "Be brief.")],
        chat_template=CHAT_TEMPLATES[name],
        return_assistant_tokens_mask=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert rendered[0] == SNAPSHOTS[name]


class OfflineTikToken(TikTokenConverter):
    """Reads a file of ``base64 rank`` lines itself, where the package that does so is not installed."""

    @staticmethod
    def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
        rows = (line.split() for line in Path(tiktoken_url).read_bytes().splitlines() if line)
        return {base64.b64decode(piece): int(rank) for piece, rank in rows}


def llama3_tokenizer(model_file: Path) -> Any:
    signs = ["<|begin_of_text|>", "<|end_of_text|>", *(f"<|reserved_special_token_{n}|>" for n in range(4))]
    signs += ["<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"]
    backend = OfflineTikToken(vocab_file=str(model_file), extra_special_tokens=signs).converted()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=signs[0], eos_token=signs[1])


def sentencepiece_tokenizer(model_file: Path, *signs: str) -> Any:
    tokenizer = llama_tokenizer(model_file, (), pad="</s>")
    tokenizer.add_tokens([AddedToken(sign, normalized=False, special=True) for sign in signs], special_tokens=True)
    return tokenizer


def make_tokenizer(folder: Path, name: str) -> Any:
    """A published vocabulary with the signs that its family has."""
    if name == "llama3":
        tokenizer = llama3_tokenizer(folder / "llama3" / "tokenizer.model")
    elif name == "phi3":
        file = folder / "llama2_sp" / "tokenizer.model"  # Phi-3-mini's pieces are Llama 2's
        tokenizer = sentencepiece_tokenizer(file, "<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
    elif name == "chatml":
        file = folder / "mistral_v1_sp" / "tokenizer.model.v1"
        tokenizer = sentencepiece_tokenizer(file, "<|im_start|>", "<|im_end|>")
    else:
        tokenizer = sentencepiece_tokenizer(folder / "llama2_sp" / "tokenizer.model")
    add_special_tokens(tokenizer)
    return tokenizer


VOCABULARIES = ("llama2", "llama3", "phi3", "chatml")


@pytest.fixture(scope="module", params=VOCABULARIES)
def published(request: pytest.FixtureRequest, shared_dir: Path) -> tuple[str, Any]:
    folder = shared_dir / "realdata" / "tokenizers"
    if not folder.is_dir():
        pytest.skip("the folder ../shared/realdata/tokenizers with published vocabularies is not here")
    return request.param, make_tokenizer(folder, request.param)


def formats(vocabulary: str) -> list[str]:
    """The formats that a vocabulary can write: its own, and those without signs."""
    return [name for name in CHAT_TEMPLATES if name not in VOCABULARIES or name == vocabulary or name == "llama2"]


LONG = (
    Turn("<image>\nIs 3 < 4?\n\nSay  why.", "Yes: 3 + 1 = 4.\n- naïve proof\n- [SEG] 東京, 12345"),
    Turn("And you?", "The number is 7"),
)


def test_labels_are_the_answers_in_published_vocabularies(published: tuple[str, Any]) -> None:
    vocabulary, tokenizer = published
    for name in formats(vocabulary):
        if name == "conv_simple":
            continue  # supervises the signs of its turns too; tests/parity/ullava has it
        ids, labels = tokenize(tokenizer, CHAT_TEMPLATES[name], LONG, system="Be brief.", prompt_only=False)
        end = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "phi3": "<|end|>", "plain": "\n"}
        said = tokenizer.decode(labels[labels != IGNORE_LABEL], clean_up_tokenization_spaces=False)
        wanted = "".join(turn.answer + end.get(name, tokenizer.eos_token) for turn in LONG)
        assert "".join(said.split()) == "".join(wanted.split()), name
        assert (ids == tokenizer.get_vocab()["<image_patch>"]).sum() == 1, name
        assert set(turn_end_ids(tokenizer, CHAT_TEMPLATES[name])) & set(labels.tolist()) or name == "plain"


def test_the_prompt_is_the_beginning_of_the_training_row_in_published_vocabularies(published: tuple[str, Any]) -> None:
    vocabulary, tokenizer = published
    for name in formats(vocabulary):
        template = CHAT_TEMPLATES[name]
        whole, labels = tokenize(tokenizer, template, LONG, system="Be brief.", prompt_only=False)
        prompt, _ = tokenize(tokenizer, template, LONG, system="Be brief.", prompt_only=True)
        assert prompt.tolist() == whole[: len(prompt)].tolist(), name
        assert labels[len(prompt)] != IGNORE_LABEL, name


def test_public_numbers_of_llama3s_signs(published: tuple[str, Any]) -> None:
    vocabulary, tokenizer = published
    if vocabulary != "llama3":
        pytest.skip("numbers of Llama 3's vocabulary")
    turns = (Turn("Hi", "This is a test sentence."),)
    row = tokenize(tokenizer, CHAT_TEMPLATES["llama3"], turns, system="", prompt_only=False)[0].tolist()
    assert row[:5] == [128000, 128006, 882, 128007, 271]
    assert row[-8:] == [271, 2028, 374, 264, 1296, 11914, 13, 128009]
    assert turn_end_ids(tokenizer, CHAT_TEMPLATES["llama3"]) == [128001, 128009]


def test_a_format_whose_end_the_tokenizer_lacks_is_refused(published: tuple[str, Any]) -> None:
    vocabulary, tokenizer = published
    for name in set(VOCABULARIES) - {vocabulary, "llama2"}:
        with pytest.raises(UserError, match=f"text.template {name} ends an answer with <"):
            turn_end_ids(tokenizer, CHAT_TEMPLATES[name])
    assert turn_end_ids(tokenizer, CHAT_TEMPLATES["vicuna_v1"]) == [tokenizer.eos_token_id]
    assert turn_end_ids(tokenizer, None) == [tokenizer.eos_token_id]


def test_new_formats_are_no_released_styles() -> None:
    assert {released_style(template) for template in CHAT_TEMPLATES.values()} == {
        None, "conv_simple", "conv_sep2", "conv_llama2"
    }  # fmt: skip


DIGESTS = {
    "chatml": "55d95a38c4b5475b768b",
    "conv_llama2": "6769d8c974f938a12da8",
    "conv_sep2": "a9a27e7d2749f5593b59",
    "conv_simple": "c5855f480ffb922ffca8",
    "llama2": "be5cda9950aad6e88d5d",
    "llama3": "427c766218953b7a1924",
    "phi3": "e31c19f283d6f49d74ee",
    "plain": "aba188105fef65cc041c",
    "simple": "b28eaaf20ec4a0db2409",
    "vicuna_lines": "29e4d5e18d978978addb",
    "vicuna_v1": "99f310d5d1a20873f82e",
}
"""The first signs of SHA-256 of what saved models carry: they are known by the very text of their format."""


def test_the_files_give_the_text_that_saved_models_carry() -> None:
    made = {name: hashlib.sha256(text.encode()).hexdigest()[:20] for name, text in CHAT_TEMPLATES.items()}
    assert made == DIGESTS


def test_every_format_is_a_file_a_name_in_model_yaml_and_a_row_of_the_docs() -> None:
    assert set(CHAT_TEMPLATES) == set(get_args(Template)) and len(CHAT_TEMPLATES) >= 11
    docs = (Path(__file__).parents[3] / "docs" / "conversations.md").read_text(encoding="utf-8")
    assert [name for name in CHAT_TEMPLATES if f"`{name}`" not in docs] == []


@pytest.mark.parametrize("name", sorted(CHAT_TEMPLATES))
def test_every_format_says_all_and_marks_the_answer(name: str) -> None:
    """Images and videos are the tokens of ullava.text.tokens; no comment, include or line end of the file is left."""
    template = CHAT_TEMPLATES[name]
    assert "{#" not in template and "include" not in template and "\n" not in template
    for token in (IMAGE_START + IMAGE_PATCH + IMAGE_END, VIDEO_START + VIDEO_PATCH + VIDEO_END):
        assert template.count(token) == 1
    turns = [Turn("<image>one", "two"), Turn("<video>three", "four")]
    (text,), (spans,) = render_jinja_template(
        conversations=[to_messages(turns)],
        chat_template=template,
        return_assistant_tokens_mask=True,
        bos_token="<s>",
        eos_token="</s>",
    )
    marked = "".join(text[begin:stop] for begin, stop in spans)
    assert "two" in marked and "four" in marked and "one" not in marked and "three" not in marked
    assert (IMAGE_PATCH in text and VIDEO_PATCH in text) and ("three" in text or name == "plain")
