"""What a person chooses about the files of a format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

LOCAL_FILES = "/data/local-files/?d="
"""How Label Studio addresses files of its own machine (its documentation, "Local storage")."""


@dataclass(frozen=True, slots=True)
class Settings:
    """``form``: one of the format's forms; ``link``: links to images instead of copies; ``ids``: a COCO file whose ids
    of images and categories are kept; ``image_url``: what stands before an image's name where a format wants URLs.
    """

    form: str = ""
    link: bool = False
    ids: Path | None = None
    image_url: str = LOCAL_FILES
