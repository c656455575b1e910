"""``ullava convert image_size``: a saved model that takes images at another size, with the same weights.

A convolutional tower has no table of positions, so its weights serve images of any size. Crops in training make things
larger than they are in whole images; asked at a larger size, the model sees them as it was taught (Touvron et al.,
"Fixing the train-test resolution discrepancy", arXiv 1906.06423).
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ullava.errors import UserError
from ullava.modeling.construction.language_base import rename_base
from ullava.modeling.construction.saved_folder import read_saved_config, read_saved_processor
from ullava.modeling.loading.weight_files import read_table, write_table
from ullava.modeling.towers.table import TOWERS, tower_class
from ullava.modeling.weights.conversion import REPORT, write_folder

CONFIG, PROCESSOR = "config.json", "processor_config.json"


def convert_image_size(source: Path, out: Path, side: int) -> Path:
    """Write the model of ``source`` to the new folder ``out``, for images of ``side`` pixels.

    ``source``: a saved model with one plain view of an image (``vision.strategy: clip_mlp``), its language model inside
    or beside it. A mask head on the tower's own maps gets its images at the same size.

    Raises UserError for a tower that has positions of its own, a strategy that chooses sizes itself, and a size that is
    no multiple of the tower's patches; and where ``out`` holds something already.
    """
    config = read_saved_config(source)
    tower = getattr(config.vision_config, "model_type", None)
    if config.core_kind != "spliced" or config.strategy != "clip_mlp":
        raise UserError(f"{source}: only the strategy clip_mlp shows every image at one size")
    if not tower_class(str(tower)).any_size:
        able = " or ".join(name for name, row in TOWERS.items() if row.any_size)
        raise UserError(f"{source}: the tower {tower} has positions for its own size; this takes {able}")
    patch = int(read_saved_processor(source, config).patch)
    if side < patch or side % patch:
        raise UserError(f"--image-size {side}: has to be a multiple of {patch}")

    def write(folder: Path) -> dict[str, Any]:
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(REPORT))
        table = read_table(folder / CONFIG)
        before = table["vision_config"]["image_size"]
        table["vision_config"]["image_size"] = side
        write_table(folder / CONFIG, table)
        table = read_table(folder / PROCESSOR)
        table["image_side"] = side
        if config.mask_encoder == "vision":
            table["sam_side"] = side
        write_table(folder / PROCESSOR, table)
        rename_base(folder, source, out)
        read_saved_processor(folder, read_saved_config(folder))
        return {"kind": "image_size", "image_size": side, "before": before}

    return write_folder(out, source, write, sorted(source.rglob("*.safetensors")))
