"""Boxes that a visitor of the page clicks for the next question, without a browser."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.serving.test_page import page_in

HW = (30, 40)


@pytest.fixture
def picture(tmp_path: Path, extra: None) -> Path:
    """An image file."""
    import cv2

    path = tmp_path / "photo.png"
    cv2.imwrite(str(path), np.full((*HW, 3), 90, np.uint8))
    return path


@pytest.fixture
def dialog(picture: Path) -> Any:
    """One question about the image and its answer."""
    from ullava.serving.page.dialog import Ask, Dialog, Exchange

    record = {"text": "Here.", "plain_text": "Here.", "finished": True, "new_tokens": 3, "objects": []}
    return Dialog((picture,), (), (Exchange(Ask("Where?", "<image>Where?", (picture,)), "fake", record, 1),))


@pytest.fixture
def service(fake: Any) -> Iterator[Any]:
    """A service whose model takes no regions."""
    from ullava.serving.engine import Engine
    from ullava.serving.limits import Limits
    from ullava.serving.metrics import Metrics
    from ullava.serving.registry import ModelRegistry
    from ullava.serving.service import Service

    limits = Limits(timeout_s=5)
    registry = ModelRegistry({"one": "one"}, lambda name, where: Engine(name, fake, limits), 1)
    yield Service(registry, limits, Metrics())


def test_two_clicks_are_a_box_and_a_question_takes_its_boxes_along(dialog: Any, picture: Path) -> None:
    pytest.importorskip("gradio", reason="the page needs the extra: pip install 'ullava[page]'")
    from ullava.serving.page.dialog import record_line
    from ullava.serving.page.pointing import Pointed, with_boxes
    from ullava.serving.refusals import RefusedError
    from ullava.structures import RegionPrompt

    pointed = Pointed(picture, 0).clicked(29, 14)
    assert pointed.corner == (29, 14) and pointed.regions == () and "opposite corner" in pointed.told()
    whole = pointed.clicked(10, 5)
    box = RegionPrompt((10.0, 5.0, 30.0, 15.0), None, 0)
    assert whole.regions == (box,) and whole.corner is None and "1. <region> is 10, 5, 30, 15" in whole.told()
    image = np.zeros((*HW, 3), np.uint8)
    drawn = with_boxes(image, [box.box_xyxy_px], (2, 2))
    assert drawn[5, 10].any() and drawn[14, 29].any() and drawn[2, 2].any() and not drawn[10, 20].any()
    assert not image.any(), "a copy"

    ask = dialog.asking("What is <region>?", [], whole.regions)
    query = dialog.query(ask, "one", 16)
    assert query.regions == (box,) and query.prompt == "What is <region>?"
    with pytest.raises(RefusedError, match="0 <region> markers for 1 boxes"):
        dialog.asking("What is it?", [], whole.regions)
    later = replace_last(dialog, ask).query(dialog.asking("And <region>?", [], whole.regions), "one", 16)
    assert later.regions == (box, box), "those of earlier questions too"
    line = json.loads(record_line(replace_last(dialog, ask).exchanges[-1], 1, ["photo.png"]))
    assert line["regions"] == [{"box": [10.0, 5.0, 30.0, 15.0], "image": 0}]


def replace_last(dialog: Any, ask: Any) -> Any:
    """The dialog with ``ask`` in the place of its last question."""
    from dataclasses import replace

    return replace(dialog, exchanges=(replace(dialog.exchanges[-1], ask=ask),))


def test_the_tab_shows_the_newest_image_and_says_who_takes_no_regions(
    service: Any, dialog: Any, tmp_path: Path
) -> None:
    page_in(tmp_path)
    import gradio as gr

    from ullava.serving.page.dialog import Dialog
    from ullava.serving.page.pointing import Pointed, Pointing
    from ullava.structures import RegionPrompt

    handlers = Pointing(service, tmp_path)
    message = {"text": "What is", "files": []}

    async def run() -> None:
        drawn, state, words = await handlers.show(message, dialog, Pointed(), "one")
        assert drawn.shape == (*HW, 3) and state.place == 0 and words.startswith("Click two")
        with pytest.raises(gr.Error, match="drop an image"):
            await handlers.show(message, Dialog(), Pointed(), "one")
        with pytest.raises(gr.Error, match="drop an image"):
            await handlers.show({"files": ["/etc/hosts.png"]}, Dialog(), Pointed(), "one")
        click = gr.SelectData(None, {"index": [10, 5], "value": ""})
        told, _, state, _ = await handlers.click(message, state, click)
        assert told["text"] == "What is" and state.corner == (10, 5)
        told, _, state, _ = await handlers.click(message, state, gr.SelectData(None, {"index": [29, 14], "value": ""}))
        assert told["text"] == "What is <region>" and state.regions == (RegionPrompt((10.0, 5.0, 30.0, 15.0), None, 0),)
        assert handlers.asked(state, dialog)[1] is not Pointed(), "not asked yet"
        after = replace_last(dialog, dialog.asking("What is <region>?", [], state.regions))
        assert handlers.asked(state, after)[1] == Pointed()
        async with service.registry.lease("one"):
            with pytest.raises(gr.Error, match="one takes no regions: ask it in words"):
                await handlers.show(message, dialog, Pointed(), "one")
        await service.close()

    asyncio.run(run())
