"""Prompt strings, ids and labels of the three conversation styles, on the real Llama tokenizer."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from golden_cases import folders, read
from tests.released_tokens import stage_tokens

from ullava.errors import UserError
from ullava.modeling.processing.rows_ullava_v1 import tokenize_as_released
from ullava.modeling.processing.tokenizing import tokenize
from ullava.structures import Turn
from ullava.text.conversation import CHAT_TEMPLATES
from ullava.text.decoding_ullava_v1 import decode_released
from ullava.text.released_tokenizer import llama_tokenizer
from ullava.text.rows_ullava_v1 import (
    IGNORE_LABEL,
    STYLES,
    SYSTEM,
    open_text,
    released_row,
    training_text,
    with_image,
    with_video,
)

TEXT = folders("text")


@pytest.fixture(scope="session")
def model_file(shared_dir: Path) -> Path:
    return shared_dir / "realdata" / "tokenizers" / "llama2_sp" / "tokenizer.model"


@cache
def build(model_file: Path, stage: int, base_has_pad: bool, pad: str, length: int) -> Any:
    tokens = stage_tokens(stage=stage, base_has_pad=base_has_pad)
    return llama_tokenizer(model_file, tokens, pad=pad, max_length=length)


def tokenizer_of(folder: Path, model_file: Path, stage: int, base_has_pad: bool = False) -> Any:
    facts = read(folder)["tokenizer"]
    assert hashlib.sha256(model_file.read_bytes()).hexdigest() == facts["tokenizer_model_sha256"]
    table = facts[f"stage{stage}_if_base_has_pad" if base_has_pad else f"stage{stage}"]
    length = facts[f"stage{stage}"]["model_max_length"]
    return build(model_file, stage, base_has_pad, table["pad_token"], length)


def said_in(turns: list[dict[str, str]], image: bool, patches: int) -> list[tuple[str, str]]:
    said = [(turn["from"], turn["value"]) for turn in turns]
    return with_image(said, patches) if image else said


def stage_of(folder: Path, style: str) -> int:
    return int(read(folder)["which_tokenizer"][style].removeprefix("stage"))


@pytest.mark.parametrize("folder", TEXT)
@pytest.mark.parametrize("base_has_pad", [False, True])
@pytest.mark.parametrize("stage", [1, 2])
def test_added_ids(folder: Path, model_file: Path, stage: int, base_has_pad: bool) -> None:
    table = read(folder)["tokenizer"][f"stage{stage}_if_base_has_pad" if base_has_pad else f"stage{stage}"]
    tokenizer = tokenizer_of(folder, model_file, stage, base_has_pad)
    vocabulary = tokenizer.get_vocab()
    assert {token: vocabulary.get(token) for token in table["added_ids"]} == table["added_ids"]
    assert len(tokenizer) == table["length"]
    assert tokenizer.pad_token_id == table["pad_token_id"]


@pytest.mark.parametrize("folder", TEXT)
@pytest.mark.parametrize("stage", [1, 2])
def test_pieces_around_added_tokens(folder: Path, model_file: Path, stage: int) -> None:
    tokenizer = tokenizer_of(folder, model_file, stage)
    for probe in read(folder, read(folder)["probes"])[f"stage{stage}"]:
        ids = tokenizer(probe["text"])["input_ids"]
        assert ids == probe["input_ids"], probe["text"]
        assert tokenizer.convert_ids_to_tokens(ids[1:]) == probe["tokens"], probe["text"]


def check_rows(folder: Path, model_file: Path, entry: dict[str, Any], raw: dict[str, Any], base_has_pad: bool) -> int:
    checked = 0
    said = said_in(raw["turns"], raw["image"], raw["patches"])
    for key, expected in entry["expected"].items():
        style = key.removesuffix("_stage2_tokenizer")
        tokenizer = tokenizer_of(folder, model_file, stage_of(folder, key), base_has_pad)
        place = f"{raw['id']} {key}"
        if "prompt" in expected:
            assert training_text(said, style) == expected["prompt"], place
        if "error" in expected:
            with pytest.raises(UserError):
                released_row(tokenizer, said, style, tokenizer.model_max_length)
        else:
            row = released_row(tokenizer, said, style, tokenizer.model_max_length)
            assert row.input_ids == expected["input_ids"], place
            assert row.labels == expected["labels"], place
            assert sum(label != read(folder)["ignore_index"] for label in row.labels) == expected["supervised"], place
            lost = expected.get("ignored_because_of_length_mismatch")
            assert (None if row.mismatch is None else "{} vs. {}. (ignored)".format(*row.mismatch)) == lost, place
        checked += 1
    return checked


@pytest.mark.parametrize("folder", TEXT)
def test_training_rows(folder: Path, model_file: Path) -> None:
    dialogues = read(folder, read(folder)["conversations"])
    assert len(dialogues) == read(folder)["n_conversations"]
    assert sum(check_rows(folder, model_file, entry, entry, False) for entry in dialogues) >= len(dialogues)


@pytest.mark.parametrize("folder", TEXT)
def test_training_rows_on_a_base_that_has_a_pad_token(folder: Path, model_file: Path) -> None:
    raw = {entry["id"]: entry for entry in read(folder, read(folder)["conversations"])}
    for entry in read(folder, read(folder)["padded_base"])["conversations"]:
        assert check_rows(folder, model_file, entry, raw[entry["id"]], True)


@pytest.mark.parametrize("folder", TEXT)
def test_prompts_for_inference(folder: Path, model_file: Path) -> None:
    seen = 0
    for entry in read(folder, read(folder)["conversations"]):
        for style, expected in (entry.get("inference") or {}).items():
            if expected is None:
                continue
            turns = entry["turns"][:-1] if entry["turns"][-1]["from"] == "gpt" else entry["turns"]
            said = said_in(turns, entry["image"], entry["patches"])
            if "error" in expected:
                with pytest.raises(UserError):
                    open_text(said, style)
                continue
            stage = 1 if style == "conv_simple" else 2
            assert open_text(said, style) == expected["prompt"], f"{entry['id']} {style}"
            ids = tokenizer_of(folder, model_file, stage)(open_text(said, style))["input_ids"]
            assert ids == expected["input_ids"], f"{entry['id']} {style}"
            seen += 1
    assert seen


@pytest.mark.parametrize("folder", TEXT)
def test_decoding(folder: Path, model_file: Path) -> None:
    tokenizer = tokenizer_of(folder, model_file, 2)
    for entry in read(folder, read(folder)["decoding"])["entries"]:
        assert decode_released(tokenizer, entry["ids"]) == entry["keep_special"], entry["id"]
        assert decode_released(tokenizer, entry["ids"], keep_special=False) == entry["skip_special"], entry["id"]


def is_plain(said: list[tuple[str, str]]) -> bool:
    """Whether a dialogue has nothing in it that the original handles in a way of its own."""
    who = [speaker for speaker, _ in said]
    words = [text.replace("<image>", "") for _, text in said]
    first = words[0].strip()
    rest = all(text and text == text.strip() for text in words[1:])
    marks = ("</s>", "<s>", "<unk>", "<img_beg>", "###", "ASSISTANT:", "[/INST]", "[SEG][", "\n", "  ")
    special = any(mark in text for text in [first, *words[1:]] for mark in marks)
    questions = any("[SEG]" in text or "<image>" in text for _, text in said[2::2])
    return bool(first) and rest and not special and not questions and who == ["human", "gpt"] * (len(said) // 2)


@pytest.mark.parametrize("folder", TEXT)
@pytest.mark.parametrize("style", STYLES)
def test_our_templates_write_and_supervise_the_same(folder: Path, model_file: Path, style: str) -> None:
    """By default nothing is counted again: what the template marks as said by the model is what is supervised."""
    compared = 0
    for entry in read(folder, read(folder)["conversations"]):
        said = [(turn["from"], turn["value"]) for turn in entry["turns"]]
        expected = entry["expected"][style]
        if not is_plain(said) or len(expected.get("input_ids", ())) >= 512:
            continue
        turns = [Turn(question, answer) for (_, question), (_, answer) in zip(said[::2], said[1::2], strict=True)]
        tokenizer = tokenizer_of(folder, model_file, stage_of(folder, style))
        template = CHAT_TEMPLATES[style]
        ids, labels = tokenize(tokenizer, template, turns, system=SYSTEM[style], prompt_only=False)
        patch = tokenizer.convert_tokens_to_ids("<image_patch>")
        repeats = [entry["patches"] if token == patch else 1 for token in ids.tolist()]
        assert ids.repeat(repeats).tolist() == expected["input_ids"], entry["id"]
        assert labels.repeat(repeats).tolist() == expected["labels"], entry["id"]
        prompt, nothing = tokenize(tokenizer, template, turns, system=SYSTEM[style], prompt_only=True)
        assert ids[: len(prompt)].tolist() == prompt.tolist(), "a prompt is the beginning of the training text"
        assert set(nothing.tolist()) == {IGNORE_LABEL}
        compared += 1
    assert compared >= 12


@pytest.mark.parametrize("folder", TEXT)
@pytest.mark.parametrize("style", ["conv_sep2", "conv_llama2"])
def test_samples_that_the_original_loses_are_supervised_here(folder: Path, model_file: Path, style: str) -> None:
    lost = 0
    for entry in read(folder, read(folder)["conversations"]):
        if "ignored_because_of_length_mismatch" not in entry["expected"][style]:
            continue
        said = [(turn["from"], turn["value"]) for turn in entry["turns"]]
        turns = [Turn(question, answer) for (_, question), (_, answer) in zip(said[::2], said[1::2], strict=True)]
        tokenizer = tokenizer_of(folder, model_file, 2)
        ids, labels = tokenize(tokenizer, CHAT_TEMPLATES[style], turns, system=SYSTEM[style], prompt_only=False)
        supervised = ids[labels != IGNORE_LABEL].tolist()
        assert supervised[-1] == tokenizer.eos_token_id and len(supervised) > 2, entry["id"]
        _, none = tokenize_as_released(tokenizer, style, turns, prompt_only=False)
        assert set(none.tolist()) == {IGNORE_LABEL}, entry["id"]
        lost += 1
    assert lost


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize(
    "question",
    ["<image>", "<image> \n", "what? ", " what?", "what?\n", "what?  \n ", "  ", "<image>\nwhat? ", "what <image> is ",
     "<video>", "<video>what? ", "what <video> "],
)  # fmt: skip
def test_blanks_and_images_alone_are_written_as_in_the_original(model_file: Path, style: str, question: str) -> None:
    """Rows and prompts; a prompt is the beginning of the original's training text (see ``open_text`` for its own)."""
    stage = 1 if style == "conv_simple" else 2
    tokenizer = build(model_file, stage, False, "[PAD]" if stage == 1 else "<unk>", 1024)
    text = training_text(with_video(with_image([("human", question), ("gpt", "It is.")], 1), 1), style)
    turns = [Turn(question, "It is.")]
    ids, _ = tokenize(tokenizer, CHAT_TEMPLATES[style], turns, system=SYSTEM[style], prompt_only=False)
    assert ids.tolist() == tokenizer(text)["input_ids"]
    prompt, _ = tokenize(tokenizer, CHAT_TEMPLATES[style], turns, system=SYSTEM[style], prompt_only=True)
    assert prompt.tolist() == tokenizer(text.split(" It is.")[0])["input_ids"]
