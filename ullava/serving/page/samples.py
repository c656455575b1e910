"""Examples for the page: photographs first, then a drawn scene, each with a question."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

from ullava import resources
from ullava.serving.examples import CIRCLE_PNG

_PHOTOS = (
    ("000000343937.jpg", "Segment the person."),
    ("000000377575.jpg", "Segment the dog."),
    ("000000519208.jpg", "Segment the elephant."),
    ("000000168974.jpg", "Draw a box around the person."),
    ("000000403353.jpg", "Describe the image."),
)


def samples(folder: Path) -> list[tuple[Path, str]]:
    """Return images and questions; the images are copied into ``folder``, which the page may show."""
    found: list[tuple[Path, str]] = []
    photos = resources.folder("datasets") / "photo_examples" / "images"
    for name, question in _PHOTOS:
        if (photos / name).is_file():
            shutil.copyfile(photos / name, folder / name)
            found.append((folder / name, question))
    circle = folder / "circle.png"
    circle.write_bytes(base64.b64decode(CIRCLE_PNG.partition(",")[2]))
    return [*found, (circle, "Segment the red circle.")]
