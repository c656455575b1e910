"""Frame sampling and the pixels of clips against what the original program gave.

The pooled tokens of a video are compared in test_parity_stage1.py, in the model that they belong to.
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from golden_cases import folders, read
from safetensors.numpy import load_file

from ullava.media.frames import head_tail_frames, uniform_frames
from ullava.media.frames_ullava_v1 import original_head_tail_frames, original_uniform_frames
from ullava.media.video import read_clip
from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD, normalize_u8
from ullava.modeling.processing.rows_ullava_v1 import stretch_plain_u8
from ullava.modeling.vision.clip_mlp import ClipMlpPreprocessor
from ullava.structures import Clip

SAMPLING = pytest.mark.parametrize("folder", folders("video"))
DATASETS = pytest.mark.parametrize("folder", folders("datasets"))


def uniform_goldens(case: dict[str, Any]) -> list[tuple[int, int, list[int]]]:
    """(frames asked for, length, what the original took)."""
    found = [(case["n_frm"], int(length), indices) for length, indices in case["uniform"].items()]
    for count, lengths in case["uniform_other_counts"].items():
        found += [(int(count), int(length), indices) for length, indices in lengths.items()]
    return found


@SAMPLING
def test_the_parity_switch_takes_the_original_frames(folder: Path) -> None:
    case = read(folder)
    goldens = uniform_goldens(case)
    assert len(goldens) > 40
    for count, length, indices in goldens:
        assert original_uniform_frames(length, count) == indices, (count, length)
    drawn = [(int(length), draw) for length, draws in case["headtail"].items() for draw in draws]
    assert len(drawn) > 40
    for length, draw in drawn:
        chosen = original_head_tail_frames(length, case["n_frm"], Random(draw["seed"]))
        assert chosen == draw["indices"], (length, draw["seed"])


@SAMPLING
def test_the_default_is_what_was_intended(folder: Path) -> None:
    """Exactly as many as asked for, never past the end; the original's wherever those were right."""
    case = read(folder)
    same = 0
    for count, length, indices in uniform_goldens(case):
        chosen = uniform_frames(length, count)
        assert len(chosen) == count and chosen == sorted(chosen) and chosen[-1] < length
        same += chosen == indices
        if count & (count - 1) == 0 and length >= count:
            assert chosen == indices, (count, length)
    assert same > 40
    count = case["n_frm"]
    for text, draws in case["headtail"].items():
        for draw in draws:
            chosen = head_tail_frames(int(text), count, Random(draw["seed"]))
            assert len(chosen) == count and chosen == sorted(chosen) and chosen[-1] < int(text)
            if len(draw["indices"]) == count and count % 2 == 0:
                assert chosen == draw["indices"], (text, draw["seed"])


@DATASETS
def test_the_pixels_of_a_clip(folder: Path) -> None:
    """The one GIF whose frames and crop are certain; ours are as the original means them, without its wrap-around."""
    case, records = read(folder), read(folder, f"annotations/{read(folder)['builders']['tgif']['annotation']}")
    expected = load_file(folder / "expected" / "tensors.safetensors")["tgif.0.video_clamped"]
    frames = read_clip(Clip(folder / "gifs" / records[0]["gif"]), case["video"]["n_frm"])
    side = case["video"]["image_size"]
    views = (
        ClipMlpPreprocessor(side, side // 4, "pad")
        .preprocess_video(stretch_plain_u8(frames, side).transpose(0, 2, 3, 1))
        .views["base"]
    )
    found = normalize_u8(torch.from_numpy(views), CLIP_MEAN, CLIP_STD, torch.float32).permute(1, 0, 2, 3).numpy()
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= case["tolerances"]["video_atol"]
