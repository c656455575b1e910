"""Conversations of a language model with itself: what is kept of what it says, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from ullava.cli.main import main
from ullava.errors import UserError
from ullava.inference.self_text import END, SelfText, _Speaker, write_self_text


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model of random weights that speaks in letters, with the marks of ChatML."""
    folder = tmp_path_factory.mktemp("language")
    words = ["a", "b", ".", "?", "user", "assistant", "\n", " "]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate([*words, "[UNK]"])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END, bos_token="<|im_start|>")
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(fast), **sizes)).save_pretrained(folder)
    return folder


def test_whole_sentences_are_kept_and_a_seed_says_the_same_again(language: Path, tmp_path: Path) -> None:
    settings = SelfText(count=12, seed=3, question_tokens=12, answer_tokens=20, batch_size=16)
    told = write_self_text(language, tmp_path / "a.json", settings, progress=False)
    assert told["kept"] == 12 <= told["drawn"]
    records = json.loads((tmp_path / "a.json").read_text())
    asked = [record["conversations"][0]["value"] for record in records]
    assert len(set(asked)) == 12
    for record in records:
        question, answer = record["conversations"]
        assert (question["from"], answer["from"]) == ("human", "gpt")
        for turn in (question, answer):
            assert turn["value"] and END not in turn["value"] and turn["value"] == turn["value"].strip()
    write_self_text(language, tmp_path / "b.json", settings, progress=False)
    assert (tmp_path / "b.json").read_text() == (tmp_path / "a.json").read_text()


def test_a_model_that_says_no_sentence_is_given_up(language: Path, tmp_path: Path) -> None:
    settings = SelfText(count=40, question_tokens=1, answer_tokens=1, batch_size=8)
    with pytest.raises(UserError, match="hold a sentence; allow more tokens"):
        write_self_text(language, tmp_path / "a.json", settings, progress=False)
    assert not (tmp_path / "a.json").exists()


def test_an_interrupted_run_goes_on_where_it_was(
    language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SelfText(count=30, seed=1, question_tokens=12, answer_tokens=20, batch_size=8)
    write_self_text(language, tmp_path / "whole.json", settings, progress=False)
    drawn: list[int] = []
    real = _Speaker.conversations

    def interrupted(self: _Speaker, number: int) -> list[tuple[str, str]]:
        drawn.append(number)
        if drawn.count(2) == 1 and number == 2:
            raise KeyboardInterrupt
        return real(self, number)

    monkeypatch.setattr(_Speaker, "conversations", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_self_text(language, tmp_path / "a.json", settings, progress=False)
    part = tmp_path / "a.json.part"
    part.write_bytes(part.read_bytes() + b'[["cut off')
    with pytest.raises(UserError, match="begun with other settings"):
        write_self_text(language, tmp_path / "a.json", replace(settings, seed=2), progress=False)
    write_self_text(language, tmp_path / "a.json", settings, progress=False)
    assert drawn[:4] == [0, 1, 2, 2]
    assert (tmp_path / "a.json").read_text() == (tmp_path / "whole.json").read_text() and not part.exists()


@pytest.mark.parametrize("wrong", [{"count": 0}, {"temperature": 0.0}, {"top_p": 1.5}])
def test_settings_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        SelfText(**({"count": 3} | wrong))  # type: ignore[arg-type]


def test_the_command_refuses_by_name(language: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "self-text", "--language", str(tmp_path / "no"), "--out", str(tmp_path / "a.json")]) == 2
    assert "no such folder with a config.json" in capsys.readouterr().err
    (tmp_path / "there.json").write_text("[]")
    assert main(["data", "self-text", "--language", str(language), "--out", str(tmp_path / "there.json")]) == 2
    assert "there.json" in capsys.readouterr().err
