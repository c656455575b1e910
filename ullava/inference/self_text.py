"""Conversations that a language model has with itself: text to train on that costs its own words nothing.

A chat model that is shown the opening of a user's turn and nothing else goes on with a question of the kind it was
tuned on, and then answers it (Magpie, Xu et al., arXiv 2406.08464). Mixed into a training of other things, such text
keeps the model at its own way of speaking, and no text of anybody is needed.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from ullava.atomic_write import append, begin_lines, write_json
from ullava.errors import UserError
from ullava.json_lines import parse_line
from ullava.modeling.loading.pretrained import read_network, read_tokenizer
from ullava.modeling.loading.strict_loading import refuse_misfits

USER, ASSISTANT, END = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"
"""The marks of the template ``chatml``."""

SEED_STEP = 1_000_003
"""Between the random numbers of one seed and the next, so that no round of one is a round of the other."""

_SENTENCES = re.compile(r"(?s).*[.!?](?=\s|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfText:
    """How text is drawn. ``question_tokens`` and ``answer_tokens``: longer ones end with their last whole sentence."""

    count: int
    seed: int = 0
    temperature: float = 1.0
    top_p: float = 0.95
    question_tokens: int = 40
    answer_tokens: int = 96
    batch_size: int = 32
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        """Raise UserError for what cannot be."""
        for name in ("count", "question_tokens", "answer_tokens", "batch_size"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} has to be 1 or more, not {getattr(self, name)}")
        if self.temperature <= 0 or not 0 < self.top_p <= 1:
            raise UserError("temperature has to be above 0, top_p above 0 and at most 1")


def write_self_text(language: Path, out: Path, settings: SelfText, *, progress: bool = True) -> dict[str, int]:
    """Write ``count`` conversations of one question as LLaVA JSON, and return how many were drawn and left out.

    While it is made, ``OUT.part`` holds a line for each round of ``batch_size``; an interrupted run goes on with it.

    Args:
        language: folder of a causal language model with a tokenizer that has ChatML's marks.
        out: the file to write.
        settings: how text is drawn; the same ones give the same file on the same kind of machine.
        progress: whether a bar is shown.

    Raises UserError for a tokenizer without those marks, and where the model says hardly a whole sentence.
    """
    part = out.with_name(out.name + ".part")
    head = json.dumps({"language": str(language.resolve()), **asdict(settings)}, sort_keys=True)
    rounds = [[(asked, told) for asked, told in parse_line(line)] for line in begin_lines(part, head, "settings")]
    speaker = _Speaker(language, settings)
    with tqdm(total=settings.count, desc="talking", disable=None if progress else True) as bar:
        while len(found := {asked: told for drawn in rounds for asked, told in drawn}) < settings.count:
            bar.update(len(found) - bar.n)
            if len(rounds) * settings.batch_size >= 20 * settings.count + 10 * settings.batch_size:
                raise UserError(f"{language}: {len(found)} of many conversations hold a sentence; allow more tokens")
            rounds.append(speaker.conversations(len(rounds)))
            append(part, json.dumps(rounds[-1]) + "\n")
        bar.update(settings.count - bar.n)
    kept = list(found.items())[: settings.count]
    records = [
        {"id": f"{number:06d}", "conversations": [{"from": "human", "value": asked}, {"from": "gpt", "value": told}]}
        for number, (asked, told) in enumerate(kept)
    ]
    write_json(out, records)
    part.unlink()
    return {"drawn": len(rounds) * settings.batch_size, "kept": len(kept)}


class _Speaker:
    """Draws conversations a batch at a time."""

    def __init__(self, language: Path, settings: SelfText) -> None:
        self.settings = settings
        self.tokenizer = read_tokenizer(language)
        self.tokenizer.padding_side = "left"
        missing = [mark for mark in ("<|im_start|>", END) if mark not in self.tokenizer.get_vocab()]
        if missing:
            raise UserError(f"{language}: its tokenizer lacks {', '.join(missing)}, the marks of ChatML")
        dtype = getattr(torch, settings.dtype)
        self.model, told = read_network(AutoModelForCausalLM, language, dtype=dtype)
        refuse_misfits(told, language)
        self.model.eval()
        self.end = int(self.tokenizer.convert_tokens_to_ids(END))

    def conversations(self, number: int) -> list[tuple[str, str]]:
        """Questions with their answers, those of round ``number`` that both hold a sentence."""
        torch.manual_seed(self.settings.seed * SEED_STEP + number)
        asked = self._say([USER] * self.settings.batch_size, self.settings.question_tokens)
        questions = list(dict.fromkeys(text for text in asked if text))
        if not questions:
            return []
        told = self._say([f"{USER}{text}{ASSISTANT}" for text in questions], self.settings.answer_tokens)
        return [(question, answer) for question, answer in zip(questions, told, strict=True) if answer]

    @torch.no_grad()
    def _say(self, prompts: list[str], tokens: int) -> list[str | None]:
        """What follows each prompt, to its end or its last whole sentence; None where it holds none."""
        given = self.tokenizer(prompts, return_tensors="pt", padding=True, add_special_tokens=False)
        made = self.model.generate(
            **given,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=self.settings.temperature,
            top_p=self.settings.top_p,
            top_k=0,
            eos_token_id=self.end,
            pad_token_id=self.end,
        )
        said: list[str | None] = []
        for row in made[:, given["input_ids"].shape[1] :].tolist():
            ended = self.end in row
            text = self.tokenizer.decode(row[: row.index(self.end)] if ended else row, skip_special_tokens=True).strip()
            whole = text if ended else _SENTENCES.match(text)
            said.append(whole if whole is None or isinstance(whole, str) else whole[0])
        return said
