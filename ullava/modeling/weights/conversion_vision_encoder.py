"""``ullava convert vision_encoder``: another vision encoder on trained weights, as a start for its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ullava.config.schema import ModelConfig
from ullava.errors import UserError, WeightsError
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.build import build_model
from ullava.modeling.loading.strict_loading import find_misfits
from ullava.modeling.weights.conversion import write_folder

VISION = "vision."
TOWER = f"{VISION}tower."


def convert_vision_encoder(source: Path, config: ModelConfig, model_folder: Path, out: Path, seed: int = 0) -> Path:
    """Build the model of ``config``, with the trained weights in ``source`` wherever they fit, and save it.

    Language model and heads have to fit; of the vision encoder, those weights are taken over that have the same name
    and shape (a tower of the same sizes, say), the others are those of a fresh model. The report names both by part.

    Args:
        source: folder written by training or by ``save_pretrained``.
        config: the model; relative paths in it start at ``model_folder``. Its tokenizer has to be that of ``source``.
        out: folder to make; must not hold anything yet.
        seed: of the weights that come from nowhere.

    Raises:
        UserError: ``source`` is no model of ours, or the tokenizers differ.
        WeightsError: a weight outside the vision encoder is missing, unexpected or of another shape.
    """

    def write(folder: Path) -> dict[str, Any]:
        trained, its_processor = load_folder(source, torch.float32)
        torch.manual_seed(seed)
        if config.core.kind != "spliced" or trained.core.kind != "spliced":
            raise UserError(f"{source}: only a core of kind spliced has a vision encoder to exchange")
        model, processor = build_model(config, model_folder)
        if processor.tokenizer.get_vocab() != its_processor.tokenizer.get_vocab():
            raise UserError(f"{model_folder / config.tokenizer}: another tokenizer than that of {source}")
        given, own = trained.state_dict(), model.state_dict()
        kept = {name: value for name, value in given.items() if name in own and value.shape == own[name].shape}
        if model.config.vision_config.model_type != trained.config.vision_config.model_type:
            kept = {name: value for name, value in kept.items() if not name.startswith(TOWER)}  # names alike by chance
        needed = {name: value for name, value in given.items() if name in kept or not name.startswith(VISION)}
        problems = find_misfits(model, needed, optional=[name for name in own if name.startswith(VISION)])
        if problems:
            raise WeightsError([f"{source}: {problem}" for problem in problems])
        model.load_state_dict({**own, **kept})
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        return {
            "kind": "vision_encoder",
            "strategy": config.vision.strategy,
            "parameters": model.num_parameters(),
            "vision_encoder_kept": _parts(model, set(kept)),
            "vision_encoder_fresh": _parts(model, set(own) - set(kept)),
        }

    return write_folder(out, source, write)


def _parts(model: Any, names: set[str]) -> list[str]:
    """The parts of the vision encoder that the weights ``names`` belong to, with their scalars."""
    totals: dict[str, int] = {}
    parts = [(part.name, tuple(f"{VISION}{prefix}" for prefix in part.prefixes)) for part in model.vision.parts()]
    for name, parameter in model.named_parameters():
        if name in names and name.startswith(VISION):
            part = next(part for part, prefixes in parts if name.startswith(prefixes))
            totals[part] = totals.get(part, 0) + parameter.numel()
    return [f"{part} ({size:,})" for part, size in totals.items()]
