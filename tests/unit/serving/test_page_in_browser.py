"""The web page as a visitor sees it: a headless Chromium uploads, asks, looks at pixels, edits and saves."""

from __future__ import annotations

import io
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.serving.test_page import page_in

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WAIT_MS = 120_000
BLANK = (128, 128, 128)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """The machine's own Chromium; none is downloaded. Its driver leaves a loop running, so it ends with this file."""
    driver = pytest.importorskip("playwright.sync_api", reason="no driver for a browser: pip install playwright")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no browser on this machine: apt-get install chromium")
    with driver.sync_playwright() as play:
        launched = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


def pixels(shot: bytes) -> Any:
    """A screenshot as [H, W, 3]."""
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def ask(page: Any, words: str, files: list[Path]) -> None:
    if files:
        page.set_input_files("#ul-message input[type=file]", [str(path) for path in files])
        page.locator("#ul-message .thumbnail-item").first.wait_for(timeout=WAIT_MS)
    page.fill("#ul-message textarea", words)
    page.click("#ul-ask")


def red_of(page: Any) -> int:
    """How many pixels of the scene are plain red: the circle without anything on it."""
    shown = pixels(page.locator("#ul-scene-left svg").screenshot())
    return int(((shown - (220, 30, 30)) ** 2).sum(axis=2).__lt__(900).sum())


@pytest.fixture
def circle(tmp_path: Path, png: str) -> Path:
    import base64

    path = tmp_path / "circle.png"
    path.write_bytes(base64.b64decode(png.partition(",")[2]))
    return path


@pytest.mark.slow
def test_a_visitor_asks_sees_the_mask_edits_and_saves(
    serve: Any, tiny: Any, circle: Path, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    with serve({"tiny": tiny}, page=page_in(folder)) as served:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        elsewhere: list[str] = []
        broken: list[str] = []
        page.on("request", lambda request: elsewhere.append(request.url))
        page.on("pageerror", lambda error: broken.append(str(error)))
        page.goto(served.url)
        page.locator("#ul-message textarea").wait_for(timeout=WAIT_MS)
        ask(page, "Segment the red circle.", [circle])
        layer = page.locator("#ul-scene-left .ul-layer")
        layer.wait_for(timeout=WAIT_MS)
        assert not page.get_by_role("button", name="Share").first.is_visible()
        assert "red circle" in page.inner_text("#ul-chat-left") and "red circle" in page.inner_text(".ul-legend")

        # The mask's pixels: without the layer the circle is red.
        page.mouse.move(1, 1)
        covered = red_of(page)
        page.evaluate("window.ullava.show(1.01)")
        bare = red_of(page)
        assert bare > 5000 and covered < 0.15 * bare
        page.evaluate("window.ullava.show(0)")
        page.locator(".ul-mask").hover()
        assert page.locator(".ul-tip").is_visible() and re.fullmatch(
            r"red circle [01]\.\d\d", page.inner_text(".ul-tip")
        )

        # The slider does the same; a click picks.
        page.evaluate("document.querySelectorAll('[data-score]').forEach((part) => { part.dataset.score = 0.4; })")
        slider = page.locator("#ul-least input[type=number]")
        for score, shown in (("0.5", False), ("0.4", True)):
            slider.fill(score)
            slider.press("Tab")
            page.locator(f".ul-layer{':not(.ul-off)' if shown else '.ul-off'}").wait_for(
                state="attached", timeout=WAIT_MS
            )
            assert layer.is_visible() is shown
        slider.fill("0")
        slider.press("Tab")
        page.locator(".ul-mask").click()
        page.locator("#ul-picks input:checked").wait_for(timeout=WAIT_MS)

        # Cut out, then save as COCO.
        page.get_by_label("take it away").check()
        page.click("#ul-edit")
        edited = page.locator("#ul-edited img")
        edited.wait_for(timeout=WAIT_MS)
        image = pixels(page.request.get(edited.get_attribute("src")).body())
        assert image.shape == (96, 96, 3) and (np.abs(image - BLANK) < 40).all(), "the circle is still there"
        page.get_by_role("tab", name="Save answers").click()
        page.click("#ul-save")
        link = page.locator("#ul-saved a[download]").first
        link.wait_for(timeout=WAIT_MS)
        with page.expect_download() as download:
            link.click()
        with zipfile.ZipFile(download.value.path()) as archive:
            assert archive.namelist() == ["turn-1-image-1.png"]

        # A second turn, about the same image; then a new chat.
        ask(page, "Where is the red circle?", [])
        page.get_by_text("Where is the red circle?").wait_for(timeout=WAIT_MS)
        page.locator(".ul-note:has-text('tokens')").wait_for(timeout=WAIT_MS)
        page.click("#ul-clear")
        page.get_by_text("Masks and boxes will be here.").first.wait_for(timeout=WAIT_MS)
        assert broken == [] and all(url.startswith((served.url, "data:", "blob:")) for url in elsewhere)
        page.close()


@pytest.mark.slow
def test_words_stream_on_a_dark_narrow_screen_and_two_models_stand_side_by_side(
    serve: Any, fake: Any, circle: Path, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
    fake.seconds = 3
    with serve({"one": fake, "two": fake}, page=page_in(folder), limits={"max_loaded": 2}) as served:
        page = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page.goto(served.url)
        page.locator("#ul-message textarea").wait_for(timeout=WAIT_MS)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, "it has to be moved sideways"
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in ground.strip("rgba()").split(",")[:3]) < 60
        page.click("#ul-right input")
        page.get_by_role("option", name="two").click()
        page.locator("#ul-side-right").wait_for(timeout=WAIT_MS)
        ask(page, "Hello?", [])
        page.get_by_text("word0", exact=False).first.wait_for(timeout=WAIT_MS)
        for side in ("left", "right"):
            page.locator(f"#ul-chat-{side}").get_by_text("thing of Hello?").wait_for(timeout=WAIT_MS)
        ask(page, "", [])
        page.get_by_text("type a question").first.wait_for(timeout=WAIT_MS)
        page.close()
