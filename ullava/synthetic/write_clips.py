"""Writes a world of moving scenes: GIF clips, and annotation files in the form of the real video datasets."""

from __future__ import annotations

import io
import json
from functools import partial
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from ullava.structures import ImageArray
from ullava.synthetic.clips import clip_path, clip_records
from ullava.synthetic.motion import draw_clip, sample_moving_scene
from ullava.synthetic.vocabulary import VERSION, Split
from ullava.synthetic.write import DrawnFiles, check_order, drawn_in_order, make_world, write_drawn

VIDEO_ANNOTATIONS: tuple[str, ...] = ("video_caption", "video_qa")
FRAME_MS = 100
COLOURS_KEPT = 128


def draw_moving_scene(index: int, seed: int, split: Split) -> DrawnFiles:
    """Everything that moving scene ``index`` adds to the world (``split``, ``seed``); no files are touched."""
    scene = sample_moving_scene(split, seed, index)
    dumps = partial(json.dumps, separators=(",", ":"))
    records = {name: [dumps(record) for record in found] for name, found in clip_records(scene).items()}
    return DrawnFiles({clip_path(scene): gif_bytes(draw_clip(scene))}, records)


def gif_bytes(frames: ImageArray) -> bytes:
    """Encode frames, uint8 [T, H, W, 3], as a GIF with one palette of ``COLOURS_KEPT`` colours, without dithering."""
    length, height, width = frames.shape[:3]
    strip = Image.fromarray(frames.reshape(length * height, width, 3))
    reduced = strip.quantize(COLOURS_KEPT, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    images = [reduced.crop((0, number * height, width, (number + 1) * height)) for number in range(length)]
    out = io.BytesIO()
    images[0].save(out, "GIF", save_all=True, append_images=images[1:], duration=FRAME_MS, loop=0, optimize=False)
    return out.getvalue()


def draw_video_world(
    out: Path, videos: int, seed: int, split: str = "train", workers: int = 1, progress: bool = True
) -> Path:
    """Draw ``videos`` clips of the moving world (``split``, ``seed``) into the new folder ``out`` and return it.

    The same (split, seed) gives the same bytes, and fewer clips the beginning of more. Nothing is left behind when
    drawing is interrupted. Raises DataError where ``out`` holds something already, or an argument makes no sense.
    """
    known = check_order(out, "videos", videos, seed, split, workers)
    return make_world(out, lambda folder: _write(folder, videos, seed, known, workers, progress))


def _write(folder: Path, videos: int, seed: int, split: Split, workers: int, progress: bool) -> None:
    for name in ("videos", "annotations"):
        (folder / name).mkdir(parents=True)
    with drawn_in_order(partial(draw_moving_scene, seed=seed, split=split), videos, workers) as drawn:
        bar = tqdm(drawn, total=videos, desc=f"draw {split}", unit="clip", disable=not progress)
        write_drawn(folder, bar, VIDEO_ANNOTATIONS, "clips")
    about = {"world": "moving shapes", "version": VERSION, "seed": seed, "split": split, "videos": videos}
    (folder / "world.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
