"""Sound material that several doors start from."""

from __future__ import annotations

import io
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
MODEL: dict[str, Any] = {
    "name": "small",
    "language": {
        "config": {
            "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 512,
        }
    },
    "tokenizer": str(ROOT / "models" / "tiny" / "tokenizer"),
    "vision": {
        "strategy": "clip_mlp",
        "tower": {
            "config": {
                "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
                "image_size": 32, "patch_size": 8,
            }
        },
        "vision_feature_layer": -1,
        "clip_mlp": {"frame_grid": 2},
    },
    "mask": {
        "sam": {
            "config": {
                "vision_config": {
                    "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "image_size": 64, "patch_size": 16, "mlp_dim": 32, "window_size": 2,
                    "global_attn_indexes": [0], "num_pos_feats": 8,
                },
                "prompt_encoder_config": {
                    "hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4,
                },
                "mask_decoder_config": {
                    "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                    "iou_head_hidden_dim": 16,
                },
            }
        }
    },
    "box": {"width": 16},
    "text": {"max_length": 384},
}  # fmt: skip
"""A model of ours at the smallest sizes."""


def shared(base: Path, name: str) -> Path:
    """A folder that several doors use, beside their own below ``base``'s parent."""
    return base.parent / "shared" / name


def prepare_shared(base: Path) -> None:
    """Draw a small world and two clips, and save the small random model."""
    from ullava.synthetic.write import draw_world
    from ullava.synthetic.write_clips import draw_video_world

    draw_world(base / "world", images=4, seed=3, split="seen", progress=False, grounded=True)
    draw_video_world(base / "clips", 2, 3, progress=False)
    model_yaml = base / "model" / "model.yaml"
    model_yaml.parent.mkdir()
    model_yaml.write_text(yaml.safe_dump(MODEL, sort_keys=False))
    model, processor = build(model_yaml)
    model.save_pretrained(base / "weights")
    processor.save_pretrained(base / "weights")


def build(model_yaml: Path) -> tuple[Any, Any]:
    """Model and processor of a model.yaml, seeded."""
    import torch

    from ullava.config.load import load_config
    from ullava.config.schema import ModelConfig
    from ullava.modeling.construction.build import build_model

    torch.manual_seed(0)
    return build_model(load_config(ModelConfig, model_yaml), model_yaml.parent)


def share_loaded_model(weights: Path) -> None:
    """Load the small model once; ``ullava.inference.load.load`` gives that one to whoever asks for its folder."""
    from ullava.inference import load as module

    fresh = module.load
    predictor = fresh(weights)

    usual = {"device": ("auto", "cpu"), "dtype": ("auto", "float32"), "quantize": (None,), "runtime": ("torch",)}

    def load(model: str | Path, **options: Any) -> Any:
        if str(model) == str(weights) and all(value in usual[name] for name, value in options.items()):
            return predictor
        return fresh(model, **options)

    module.load = load


def pixels(seed: int, height: int, width: int) -> np.ndarray:
    """A smooth image, uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 255, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def encoded(array: np.ndarray, kind: str = "PNG", **settings: Any) -> bytes:
    """An image file as bytes."""
    file = io.BytesIO()
    Image.fromarray(array).save(file, format=kind, **settings)
    return file.getvalue()


def write_image(path: Path, array: np.ndarray) -> Path:
    """Write a PNG or JPEG, by the name's end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(array, "PNG" if path.suffix == ".png" else "JPEG"))
    return path


@cache
def read_json(path: Path) -> Any:
    """A sound JSON file (do not change the value)."""
    return json.loads(path.read_text(encoding="utf-8"))


def copy_tree(source: Path, target: Path) -> Path:
    """Copy a folder of material into a case."""
    shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.ullava-cache"))
    return target


def lenient_json(path: Path) -> Any:
    """What a plain JSON reader makes of a file that our program accepted."""
    return json.loads(path.read_bytes().decode("utf-8-sig"))


def every_sample(dataset_yaml: Path) -> tuple[int, list[str]]:
    """Read every sample of every split of a dataset folder, images too: how many queries, and what cannot be read."""
    from ullava.config.schema import DatasetEntry
    from ullava.data.loading.build import build_dataset
    from ullava.data.loading.descriptor import load_descriptor
    from ullava.errors import UserError
    from ullava.media.images import read_image_rgb_u8

    _, config = load_descriptor(str(dataset_yaml))
    problems: list[str] = []
    queries = 0
    for split in config.splits:
        dataset = build_dataset(str(dataset_yaml), DatasetEntry(split=split), dataset_yaml.parent)
        for index in range(len(dataset)):
            try:
                for sample in dataset.queries(index):
                    queries += 1
                    for image in sample.images:
                        height, width = read_image_rgb_u8(image).shape[:2]
                        for region in sample.turns[0].regions:
                            problems += _region_problems(region, height, width, sample.name)
                dataset.sample(index, np.random.default_rng(0))
            except UserError as error:
                problems.append(f"sample that cannot be read: {error}")
    return queries, problems


def _region_problems(region: Any, height: int, width: int, name: str) -> list[str]:
    if region.mask is not None and (region.mask.shape != (height, width) or not region.mask.any()):
        return [f"{name}: mask of {region.mask.shape} on an image of {height} x {width}, or empty"]
    box = region.box_xyxy_px
    if box is not None and not (0 <= box[0] < box[2] <= width and 0 <= box[1] < box[3] <= height):
        return [f"{name}: box {box} on an image of {width} x {height}"]
    return []
