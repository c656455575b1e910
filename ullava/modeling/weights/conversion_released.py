"""``ullava convert ullava`` and ``llava``: a released folder in, a folder for ``ullava.load`` out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPVisionConfig, ConvNextConfig, PreTrainedConfig, SamConfig, SamModel

from ullava.config.schema import LanguageConfig, MaskHeadConfig, ModelConfig, PartConfig, TextConfig, VisionConfig
from ullava.errors import UserError, WeightsError
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.construction.build import build_processor
from ullava.modeling.loading.pretrained import read_config, read_tokenizer
from ullava.modeling.loading.strict_loading import find_misfits, load_strict
from ullava.modeling.loading.weight_files import read_pickled_or_safe, read_state_dict, read_table
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.vision.strategies import word_ids
from ullava.modeling.weights.conversion import write_folder
from ullava.modeling.weights.llava import read_llava
from ullava.modeling.weights.mg_llava import is_mg_llava, read_mg_llava
from ullava.modeling.weights.released import (
    CORE,
    MARKER_KEYS,
    Released,
    core_table,
    grow_rows,
    read_released,
    start_missing_parts,
)
from ullava.modeling.weights.sam import DECODER_HEADS
from ullava.text.released_tokenizer import released_tokenizer
from ullava.text.rows_ullava_v1 import SYSTEM
from ullava.text.tokens import add_special_tokens, special_token_ids

Style = Literal["conv_simple", "conv_sep2", "conv_llama2"]
STAGE_TWO_STYLE: Style = "conv_sep2"
STAGE_ONE_STYLE: Style = "conv_simple"
MAX_LENGTH = {CORE: 1024}
STAGE_TWO_LENGTH = 512
LLAVA_WORDS = TextConfig(template="vicuna_v1", system=SYSTEM["conv_sep2"], max_length=2048)
MG_LENGTH = 1472 + 576 + 100
"""Words as in MG-LLaVA's training, tokens of the image, and of a hundred boxes (arXiv 2406.17770, released training
code).
"""


@dataclass(frozen=True, slots=True)
class ReleasedOptions:
    """What a released folder does not say.

    ``tokenizer``: its folder, by default the released one; ``sam``: folder of a converted SAM, for stage I and LLaVA;
    ``tower``: of a converted CLIP, for LLaVA; ``pyramid``: the ConvNeXt beside it, for MG-LLaVA; ``template``:
    conversation style, by default that of the stage; ``seed``: of the parts that the layout lacks.
    """

    tokenizer: Path | None = None
    sam: Path | None = None
    tower: Path | None = None
    pyramid: Path | None = None
    decoder_heads: int = DECODER_HEADS
    template: Style | None = None
    seed: int = 0


def convert_released(source: Path, out: Path, options: ReleasedOptions | None = None) -> Path:
    """Write a released checkpoint (stage I, stage II, or stage II without box head) as one of our model folders.

    Without a tokenizer the folder holds weights and config only.

    Raises:
        WeightsError: unsafe or unreadable files, another architecture, or any key missing, unexpected or mis-shaped.
        UserError: the tokenizer does not belong to the weights.
    """
    options = options or ReleasedOptions()
    table = read_table((source if source.is_dir() else source.parent) / "config.json")
    core = core_table(table)

    def write(folder: Path) -> dict[str, Any]:
        torch.manual_seed(options.seed)
        sam = None if options.sam is None else _read_sam(options.sam)
        found = read_released(table, read_pickled_or_safe(source), decoder_heads=options.decoder_heads, sam=sam)
        tokenizer, notes = _settle_tokens(found, core, source, options)
        model, fresh = _fill(found)
        style = options.template or (STAGE_ONE_STYLE if table["model_type"] == CORE else STAGE_TWO_STYLE)
        _settle_generation(model, found.config)
        model.save_pretrained(folder)
        if tokenizer is not None:
            length = MAX_LENGTH.get(table["model_type"], STAGE_TWO_LENGTH)
            text = TextConfig(template=style, system=SYSTEM[style], max_length=length, answer="name_last")
            build_processor(_words_only(text), found.config, tokenizer).save_pretrained(folder)
        return {
            "kind": "ullava",
            "layout": table["model_type"],
            "parameters": model.num_parameters(),
            "started at random": fresh,
            "left out": list(found.dropped),
            "notes": notes,
        }

    return write_folder(out, source, write)


def convert_llava(source: Path, out: Path, options: ReleasedOptions | None = None) -> Path:
    """Write a LLaVA checkpoint as one of our model folders, a start for training: heads and new words are fresh.

    Raises:
        WeightsError: as ``convert_released``; no SAM is named, or no tower where the checkpoint has none.
        UserError: no tokenizer, or one that does not belong to the weights.
    """
    options = options or ReleasedOptions()
    table = read_table((source if source.is_dir() else source.parent) / "config.json")
    if options.sam is None:
        raise WeightsError("a LLaVA checkpoint holds no SAM; name a converted one (`ullava convert sam`) with --sam")
    sam_folder = options.sam

    def write(folder: Path) -> dict[str, Any]:
        torch.manual_seed(options.seed)
        tower = None if options.tower is None else _read_tower(options.tower)
        state, sam = read_pickled_or_safe(source), _read_sam(sam_folder)
        if is_mg_llava(state):
            pyramid = None if options.pyramid is None else read_pickled_or_safe(options.pyramid)
            found = read_mg_llava(table, state, tower=tower, pyramid=pyramid, sam=sam)
        elif options.pyramid is not None:
            raise WeightsError("--pyramid is for MG-LLaVA's weights, which these are not")
        else:
            found = read_llava(table, state, tower=tower, sam=sam)
        tokenizer, notes = _add_words(found, options.tokenizer or source)
        model, fresh = _fill(found)
        _settle_generation(model, found.config)
        model.save_pretrained(folder)
        text = _words_of_mg(tokenizer) if is_mg_llava(state) else LLAVA_WORDS
        build_processor(_words_only(text), found.config, tokenizer).save_pretrained(folder)
        report = {"kind": "llava", "layout": table["model_type"], "parameters": model.num_parameters()}
        return report | {"started at random": fresh, "left out": list(found.dropped), "notes": notes}

    return write_folder(out, source, write)


def _words_of_mg(tokenizer: Any) -> TextConfig:
    """How MG-LLaVA writes dialogues, with the language model that this tokenizer belongs to: no system line."""
    llama3 = "<|eot_id|>" in tokenizer.get_vocab()
    return TextConfig(template="llama3" if llama3 else "vicuna_lines", max_length=MG_LENGTH)


def _add_words(found: Released, folder: Path) -> tuple[Any, list[str]]:
    """Load the tokenizer of a checkpoint that knows none of our tokens, add them and the rows that they need."""
    try:
        tokenizer = read_tokenizer(folder if folder.is_dir() else folder.parent)
    except UserError as error:
        raise UserError([*error.problems, f"{folder}: name the folder of the tokenizer with --tokenizer"]) from error
    rows = int(found.config.text_config.vocab_size)
    if len(tokenizer) > rows:
        raise UserError(f"{folder}: the tokenizer has {len(tokenizer)} entries, the weights only {rows} rows")
    before = set(tokenizer.get_vocab())
    add_special_tokens(tokenizer)
    new = sorted(set(tokenizer.get_vocab()) - before)
    if len(tokenizer) > rows:
        grow_rows(found, len(tokenizer))
    _write_ids(found.config, special_token_ids(tokenizer), tokenizer)
    found.config.vision_settings |= word_ids(found.config.strategy, found.config.vision_settings, tokenizer)
    return tokenizer, [f"tokens this layout lacks, new rows are the mean of the others: {', '.join(new)}"]


def _read_tower(folder: Path) -> tuple[PreTrainedConfig, dict[str, torch.Tensor]]:
    """A converted CLIP, or a ConvNeXt as transformers writes it."""
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: no converted tower is here (`ullava convert clip` makes one)")
    return read_config(folder, (CLIPVisionConfig, ConvNextConfig)), read_state_dict(folder)


def _settle_generation(model: UllavaForConditionalGeneration, config: UllavaConfig) -> None:
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(config, name))


def _words_only(text: TextConfig) -> ModelConfig:
    """A model.yaml of which only ``text`` counts: all else of a released model comes from its files."""
    none = PartConfig(path="none")
    return ModelConfig(
        name="released",
        language=LanguageConfig(path="none"),
        tokenizer="none",
        vision=VisionConfig(tower=none),
        mask=MaskHeadConfig(sam=none),
        text=text,
    )


def _fill(found: Released) -> tuple[UllavaForConditionalGeneration, list[str]]:
    with torch.device("meta"):
        model = UllavaForConditionalGeneration(found.config)
    fresh = start_missing_parts(model, found.tensors)
    problems = [f"unexpected: {key}, no part of this layout" for key in found.unknown]
    problems += find_misfits(model, found.tensors)
    if problems:
        raise WeightsError(problems)
    load_strict(model, found.tensors)
    return model.eval(), fresh


def _read_sam(folder: Path) -> tuple[SamConfig, dict[str, torch.Tensor]]:
    if not (folder / "config.json").is_file():
        raise WeightsError(f"{folder}: no converted SAM is here (`ullava convert sam` makes one)")
    config = read_config(folder, (SamConfig,))
    with torch.device("meta"):
        model = SamModel(config)
    tensors = read_state_dict(folder)
    shared = "shared_image_embedding.positional_embedding", "prompt_encoder.shared_embedding.positional_embedding"
    for one, other in (shared, shared[::-1]):
        if one in tensors:
            tensors.setdefault(other, tensors[one])
    load_strict(model, tensors)
    return config, dict(model.state_dict())


def _settle_tokens(found: Released, core: Any, source: Path, options: ReleasedOptions) -> tuple[Any | None, list[str]]:
    """Check the tokenizer against the config, add tokens that it lacks; return it (None: there is none) and notes."""
    folder = options.tokenizer or (source if source.is_dir() else source.parent)
    if options.tokenizer is None and not (folder / "tokenizer.model").is_file():
        return None, ["no tokenizer.model beside the weights: the result has no tokenizer and cannot be prompted"]
    tokenizer = released_tokenizer(folder)
    given = len(tokenizer)
    rows = int(found.config.text_config.vocab_size)
    if given != rows:
        raise UserError(f"{folder}: the tokenizer has {given} entries, the weights have {rows} rows")
    notes = []
    if add_special_tokens(tokenizer):
        new = [name for name, number in tokenizer.get_added_vocab().items() if number >= given]
        notes.append(f"tokens this layout lacks, each row the mean of the others: {', '.join(sorted(new))}")
        grow_rows(found, len(tokenizer))
    ids = special_token_ids(tokenizer)
    wrong = [
        f"{folder}: {key} of the config is {getattr(found.config, field)}, the tokenizer's is {ids[field]}"
        for key, field in MARKER_KEYS.items()
        if getattr(found.config, field) != ids[field]
    ]
    if wrong:
        raise UserError(wrong)
    for field in ("seg_id", "loc_id"):
        stated = getattr(found.config, field)
        if stated not in (ids[field], -1):
            notes.append(f"{field} is {ids[field]} by the tokenizer; the config says {stated} (a known slip)")
    _write_ids(found.config, ids, tokenizer)
    return tokenizer, notes


def _write_ids(config: UllavaConfig, ids: dict[str, int], tokenizer: Any) -> None:
    for field, number in ids.items():
        setattr(config, field, number)
    for part in (config, config.text_config):
        part.pad_token_id = tokenizer.pad_token_id
        part.bos_token_id = tokenizer.bos_token_id
        part.eos_token_id = tokenizer.eos_token_id
