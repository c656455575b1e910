"""The Llama tokenizer as u-LLaVA's released weights were trained with it, read from ``tokenizer.model``.

Their library tokenized the old way: added tokens (and ``</s>``, ``<s>``, ``<unk>`` where they are written in a text)
are cut out first and swallow blanks and line ends on both sides; every stretch of text between them begins with a space
piece of its own, so ``[SEG];`` becomes ``[SEG]``, ``▁;`` (as in u-LLaVA's released code). Today's loaders do neither by
default.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ullava.errors import UserError

BOS, END, UNKNOWN = "<s>", "</s>", "<unk>"


def llama_tokenizer(model_file: Path, added: Sequence[str], *, pad: str, max_length: int | None = None) -> Any:
    """Build the tokenizer; ``added`` in the order of their ids, which follow the pieces of ``tokenizer.model``.

    Raises:
        UserError: the file is missing or no sentencepiece BPE model.
    """
    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, normalizers, processors
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import generate_merges

    try:
        pieces = sentencepiece.SentencePieceProcessor(model_file=str(model_file))
    except (OSError, RuntimeError) as error:
        raise UserError(f"{model_file}: cannot be read as a sentencepiece model") from error
    vocabulary = {pieces.id_to_piece(number): number for number in range(pieces.get_piece_size())}
    absent = [token for token in (BOS, END, UNKNOWN) if token not in vocabulary]
    if absent:
        raise UserError(f"{model_file}: has no {', '.join(absent)}; u-LLaVA's base models have Llama's tokenizer")
    scores = {piece: pieces.get_score(n) for piece, n in vocabulary.items() if not _is_no_text(pieces, n)}
    merges = generate_merges(vocabulary, scores)
    backend = Tokenizer(BPE(vocab=vocabulary, merges=merges, unk_token=UNKNOWN, fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    backend.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, vocabulary[BOS])])
    cut_out = [
        AddedToken(token, lstrip=True, rstrip=True, normalized=False, special=True)
        for token in (UNKNOWN, BOS, END, *added)
    ]
    backend.add_special_tokens(cut_out)
    by_name = {token.content: token for token in cut_out}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=by_name[BOS],
        eos_token=by_name[END],
        unk_token=by_name[UNKNOWN],
        pad_token=by_name[pad],
        clean_up_tokenization_spaces=False,
        **({} if max_length is None else {"model_max_length": max_length}),
    )


def released_tokenizer(folder: Path) -> Any:
    """The tokenizer of a released folder: ``tokenizer.model`` with the tokens of ``added_tokens.json`` in it.

    Raises:
        UserError: a file is missing or damaged, or the added ids do not follow the pieces without a gap.
    """
    table_file, model_file = folder / "added_tokens.json", folder / "tokenizer.model"
    try:
        table = json.loads(table_file.read_text(encoding="utf-8"))
        names = sorted(table, key=lambda name: int(table[name]))
    except (OSError, json.JSONDecodeError, UnicodeDecodeError, TypeError, ValueError) as error:
        raise UserError(f"{table_file}: cannot be read as a table of token ids") from error
    if not model_file.is_file():
        raise UserError(f"{model_file}: is not there")
    tokenizer = llama_tokenizer(model_file, names, pad=UNKNOWN)
    moved = [name for name in names if tokenizer.convert_tokens_to_ids(name) != table[name]]
    if moved:
        raise UserError([f"{table_file}: {name} is {table[name]}, which does not follow the pieces" for name in moved])
    return tokenizer


def _is_no_text(pieces: Any, number: int) -> bool:
    return bool(pieces.is_control(number) or pieces.is_unknown(number) or pieces.is_byte(number))
