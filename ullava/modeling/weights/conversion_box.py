"""``ullava convert box_head``: another box head on trained weights, e.g. one that needs no training of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ullava.config.schema import ModelConfig
from ullava.config.site import Site
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.fresh_heads import build_fresh_box
from ullava.modeling.weights.conversion import write_folder


def convert_box_head(source: Path, config: ModelConfig, model_folder: Path, out: Path, seed: int = 0) -> Path:
    """Put the box head of ``config`` on the trained model in ``source`` and save both for ``ullava.load``.

    Args:
        source: folder written by training or by ``save_pretrained``; of its weights all but the box head is kept.
        config: only its ``box`` is read; relative paths in it start at ``model_folder``.
        out: folder to make; must not hold anything yet.
        seed: of the weights of the head that come from nowhere.

    Raises:
        UserError: ``source`` is no model of ours, or the head's detector or tokenizer is not there or not whole.
    """

    def write(folder: Path) -> dict[str, Any]:
        torch.manual_seed(seed)
        site = Site(model_folder / "model.yaml", "box")
        model, processor = build_fresh_box(*load_folder(source, torch.float32), config.box, model_folder, site=site)
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        head = sum(parameter.numel() for parameter in model.box_head.parameters())
        return {
            "kind": "box_head",
            "box": config.box.kind,
            "parameters": model.num_parameters(),
            "box_parameters": head,
        }

    return write_folder(out, source, write)
