"""Trains a small byte-level BPE tokenizer on the words of LLaVA-style and RefCOCO-style annotation files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ullava.errors import DataError
from ullava.text.answers import ACKNOWLEDGEMENT, NO_TARGET
from ullava.text.tokens import IMAGE_MARKER, PAD

END = "</s>"
_FRAME_WORDS = ("USER:", "ASSISTANT:", ACKNOWLEDGEMENT, f"{NO_TARGET}:", "Mask", "Location", "nothing", ";", ".")


def words_of_annotations(paths: Sequence[Path]) -> Iterator[str]:
    """Yield every expression, question, answer, category and template sentence of annotation files.

    They are JSON lists, or of clips with masks ``{"videos": {name: {"expressions": {id: {"exp"}}}}}``.
    """
    for path in paths:
        try:
            records = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"{path}: cannot be read as JSON: {error}") from error
        if isinstance(records, dict):
            clips = records.get("videos", {}).values()
            records = [{"sentences": [one["exp"]]} for clip in clips for one in clip["expressions"].values()]
        for record in records if isinstance(records, list) else []:
            yield from _words(record)


def _words(record: Any) -> Iterator[str]:
    """Sentences as they stand after a word (with a blank before them) and at the start of a line or a tag (without)."""
    if isinstance(record, str):
        texts = [record.replace(IMAGE_MARKER, "").replace("<class>", "")]
    else:
        texts = [*record.get("sentences", []), *(turn["value"] for turn in record.get("conversations", []))]
        texts += [record["category"]] if "category" in record else []
        texts += list((record.get("gpt") or {}).values())
        texts += [entry["class"] for entry in record.get("classes", []) if isinstance(entry, dict)]
    for text in texts:
        plain = text.replace(IMAGE_MARKER, "").strip()
        yield plain
        yield " " + plain


def train_tokenizer(annotations: Sequence[Path], vocabulary: int, out: Path) -> int:
    """Train and save a tokenizer folder for transformers; return its size before our special tokens are added.

    Any text can be written: what is no word of the corpus falls back to bytes.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    frame = (" " + word if number else word for number, word in enumerate(_FRAME_WORDS * 1000))
    corpus = [*frame, *words_of_annotations(annotations)]
    tokenizer.train_from_iterator(corpus, trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)
    wrapped.save_pretrained(str(out))
    return int(tokenizer.get_vocab_size())
