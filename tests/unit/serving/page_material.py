"""What the tests of the page are about: one small picture, and what a model may have found in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.geometry import rle_encode

HW = (30, 40)


def ring() -> Any:
    mask = np.zeros(HW, bool)
    mask[5:15, 10:30] = True
    mask[8:10, 15:20] = False
    return mask


def thing(phrase: str = "red box", score: float = 0.8, mask: Any = None, **more: Any) -> dict[str, Any]:
    given = {"phrase": phrase, "span": [6, 9], "image": 0, "score": score, "mask_score": score, "box_score": None}
    return {**given, "box_xyxy_px": [10.0, 5.0, 30.0, 15.0], "mask": None if mask is None else rle_encode(mask), **more}


def page_in(folder: Path) -> Any:
    pytest.importorskip("gradio", reason="the page needs the extra: pip install 'ullava[page]'")
    from ullava.serving.app import Page
    from ullava.serving.guard import Streams
    from ullava.serving.page.blocks import IDLE_STREAMS, STREAMS, mount_page

    return Page(lambda app, service: mount_page(app, service, folder), Streams(STREAMS, IDLE_STREAMS))
