"""Video files, damaged, through ``ullava predict --video``."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import av
import numpy as np
from PIL import Image
from tests.fuzz.cases import Case
from tests.fuzz.material import pixels, shared
from tests.fuzz.mutations import damage_bytes, damage_path

SHARE = 5
FILES = ("a.gif", "a.mp4", "a.avi")


def prepare(base: Path) -> None:
    """The same few frames in three formats."""
    frames = [np.roll(pixels(7, 32, 48), 4 * number, axis=1) for number in range(10)]
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(base / "a.gif", save_all=True, append_images=images[1:], duration=100)
    for name in FILES[1:]:
        with av.open(str(base / name), "w") as container:
            stream = container.add_stream("mpeg4", rate=10)
            stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damaged bytes, another name, or something else in its place."""
    name = rng.choice(FILES)
    file = folder / rng.choice([name, name, "a", "a.png", "ü.mp4", *FILES])
    data = (base / name).read_bytes()
    what = "sound"
    way = rng.random()
    if way < 0.8:
        data, what = damage_bytes(rng, data)
    file.write_bytes(data)
    if way > 0.9:
        what = damage_path(rng, file)
    argv = ["predict", "--model", str(shared(base, "weights")), "--video", file.name, "--prompt", "What moves?"]
    argv += ["--max-new-tokens", "2", "--out", "out"]
    expected = "accepted" if what == "sound" else "either"
    return Case(argv=argv, what=f"{name}: {what}", names=(file.name,), expected=expected, check=lambda _: check())


def check() -> list[str]:
    """There is an answer."""
    return [] if json.loads(Path("out/answer.json").read_text())["videos"] else ["the answer names no video"]
