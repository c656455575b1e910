"""The images and annotations of the benchmark, in the public RefCOCO-style layout, drawn once and kept.

640 x 480 JPEGs of about 94 KB (smooth color, grain), each with one object: a polygon of 20 to 60 points and three
expressions. What is in them does not matter, only how long it takes to read them.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ullava.atomic_write import whole_folder
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_mixture
from ullava.data.sampling.mixture import Mixture
from ullava.errors import UserError
from ullava.run_lock import hold

VERSION = 2
WIDTH, HEIGHT = 640, 480
EXPRESSIONS = 3
POINTS = (20, 60)
JPEG_QUALITY = 90
GRAIN = 5.5
DRAWING_WAIT_S = 600.0
"""How long to wait for another process that draws the same images."""

DESCRIPTOR = """\
name: Benchmark images
layout: refer
task: res
splits: {drawn: {annotations: annotations.json, images: .}}
license: Apache-2.0 (drawn by this project)
source: drawn by `ullava bench`
"""
THINGS = ("bottle", "chair", "dog", "lamp", "parcel", "bicycle", "teapot", "ladder", "basket", "statue")
LOOKS = ("small red", "tall grey", "striped", "dark green", "shiny", "broken", "leaning", "wooden", "white")
PLACES = ("left of", "right of", "behind", "in front of", "close to", "just below", "half hidden by")


@dataclass(frozen=True, slots=True)
class Workload:
    """A folder of images with annotations; ``median_kb`` of the JPEG files, in units of 1000 bytes."""

    folder: Path
    images: int
    median_kb: float

    def mixture(self, turns: int = EXPRESSIONS) -> Mixture:
        """Open it through the public readers: one position for each image, ``turns`` questions in each."""
        return build_mixture({self.descriptor: DatasetEntry(turns=turns)}, self.folder, seed=0)

    @property
    def descriptor(self) -> str:
        """The path by which recipes would name this data set."""
        return str(self.folder / "dataset.yaml")

    @property
    def annotations(self) -> Path:
        """The annotation file."""
        return self.folder / "annotations.json"

    def stated(self) -> dict[str, Any]:
        """What the work consists of, for the output."""
        return {
            "images": self.images,
            "image_wh": [WIDTH, HEIGHT],
            "jpeg_median_kb": self.median_kb,
            "objects_per_image": 1,
            "polygon_points": list(POINTS),
            "expressions_per_image": EXPRESSIONS,
        }


def prepare(images: int, seed: int = 0) -> Workload:
    """Return the workload of so many images, drawing it if it was not drawn before.

    It is kept below ``$ULLAVA_CACHE`` or the user's cache folder. Raises UserError if that cannot be written.
    """
    root = Path(os.environ.get("ULLAVA_CACHE") or Path.home() / ".cache" / "ullava")
    folder = root / "bench" / f"v{VERSION}-{images}-{seed}"
    if not (folder / "dataset.yaml").is_file():
        try:
            with hold(folder, beside=True, wait_s=DRAWING_WAIT_S):
                if not (folder / "dataset.yaml").is_file():
                    _draw_into(folder, images, seed)
        except OSError as error:
            raise UserError(f"{folder}: cannot be written: {error.strerror} (set ULLAVA_CACHE)") from error
        except UserError as error:
            raise UserError(f"{error} (set ULLAVA_CACHE)") from error
    sizes = [path.stat().st_size for path in folder.glob("images/*.jpg")]
    return Workload(folder, len(sizes), round(float(np.median(sizes)) / 1000, 1))


def _draw_into(folder: Path, images: int, seed: int) -> None:
    with whole_folder(folder) as temporary:
        (temporary / "images").mkdir()
        records = [
            _record(temporary, number, np.random.default_rng([seed, number]))
            for number in tqdm(range(images), desc="drawing images", unit="image")
        ]
        (temporary / "annotations.json").write_text(json.dumps(records), encoding="utf-8")
        (temporary / "dataset.yaml").write_text(DESCRIPTOR, encoding="utf-8")


def _record(folder: Path, number: int, rng: np.random.Generator) -> dict[str, Any]:
    """Write one image and return its annotation."""
    name = f"images/{number:05d}.jpg"
    Image.fromarray(image_rgb_u8(rng)).save(folder / name, quality=JPEG_QUALITY)
    points = polygon(rng)
    (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
    thing = str(rng.choice(THINGS))
    return {
        "image_path": name,
        "segmentation": [[round(float(value), 2) for value in points.ravel()]],
        "category": thing,
        "bbox": [round(float(value), 2) for value in (left, top, right - left, bottom - top)],
        "sentences": [expression(thing, rng) for _ in range(EXPRESSIONS)],
        "height": HEIGHT,
        "width": WIDTH,
    }


def image_rgb_u8(rng: np.random.Generator) -> np.ndarray:
    """Draw uint8 [HEIGHT, WIDTH, 3]: a smooth field of color with grain, so that it packs like a photo."""
    coarse = Image.fromarray(rng.integers(20, 236, (12, 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC), dtype=np.float32)
    grain = rng.normal(0.0, GRAIN, (HEIGHT, WIDTH, 1)).astype(np.float32)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def polygon(rng: np.random.Generator) -> np.ndarray:
    """Draw the corners [n, 2] of a ragged closed shape that lies wholly inside the image."""
    count = int(rng.integers(POINTS[0], POINTS[1] + 1))
    angles = np.sort(rng.uniform(0, 2 * np.pi, count))
    radii = rng.uniform(0.6, 1.0, count) * rng.uniform(60, 180)
    center = np.array([rng.uniform(200, WIDTH - 200), rng.uniform(190, HEIGHT - 190)])
    return center + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def expression(thing: str, rng: np.random.Generator) -> str:
    """Make a phrase of about eight words for ``thing``."""
    look, other_look = rng.choice(LOOKS, 2, replace=False)
    return f"the {look} {thing} {rng.choice(PLACES)} the {other_look} {rng.choice(THINGS)}"
