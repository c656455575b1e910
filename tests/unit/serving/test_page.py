"""The web page without a browser: dialogs, scenes, words as they come, what visitors take along, what is refused."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
import zipfile
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.errors import UserError
from ullava.geometry import rle_decode, rle_encode

KEY = "a-key-of-some-length"
HW = (30, 40)


@pytest.fixture
def picture(tmp_path: Path, extra: None) -> Path:
    import cv2

    path = tmp_path / "photo.png"
    image = np.full((*HW, 3), 90, np.uint8)
    image[5:15, 10:30] = (0, 0, 220)
    cv2.imwrite(str(path), image)
    return path


def ring() -> Any:
    mask = np.zeros(HW, bool)
    mask[5:15, 10:30] = True
    mask[8:10, 15:20] = False
    return mask


def thing(phrase: str = "red box", score: float = 0.8, mask: Any = None, **more: Any) -> dict[str, Any]:
    given = {"phrase": phrase, "span": [6, 9], "image": 0, "score": score, "mask_score": score, "box_score": None}
    return {**given, "box_xyxy_px": [10.0, 5.0, 30.0, 15.0], "mask": None if mask is None else rle_encode(mask), **more}


@pytest.fixture
def dialog(picture: Path) -> Any:
    """One answer: a ring, a box without a mask, something of low score."""
    from ullava.serving.page.dialog import Ask, Dialog, Exchange

    things = [thing(mask=ring()), thing("a box", 0.6, span=[0, 0]), thing("dust", 0.1, ring(), span=[0, 0])]
    record = {"text": "Sure, box [SEG].", "plain_text": "Sure, box.", "finished": True, "new_tokens": 3}
    exchange = Exchange(Ask("Where?", "<image>Where?", (picture,)), "fake", {**record, "objects": things}, 1)
    return Dialog((picture,), (), (exchange,))


@pytest.fixture
def service(fake: Any) -> Iterator[Any]:
    from ullava.serving.engine import Engine
    from ullava.serving.limits import Limits
    from ullava.serving.metrics import Metrics
    from ullava.serving.registry import ModelRegistry
    from ullava.serving.service import Service

    limits = Limits(timeout_s=5, max_characters=100)
    registry = ModelRegistry({"one": "one", "two": "two"}, lambda name, where: Engine(name, fake, limits), 2)
    yield Service(registry, limits, Metrics())


# ---------------------------------------------------------------- scenes
def test_a_layer_is_the_mask_to_the_pixel_and_words_are_marked(dialog: Any) -> None:
    from ullava.serving.page.scene import scene_html

    page = scene_html([np.zeros((*HW, 3), np.uint8)], dialog.exchanges[0], "fake: 1.00 s")
    paths = re.findall(r'<path class="ul-mask" fill-rule="evenodd" d="([^"]+)"', page)
    assert len(paths) == 2
    drawn = 0.0
    for loop in paths[0].strip("MZ").split("ZM"):
        x, y = np.array([[int(part) for part in point.split()] for point in loop.split("L")]).T
        drawn += 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))
    assert drawn == ring().sum(), "holes count against the area"
    assert '<mark data-object="0" data-score="0.8000"' in page and ">box</mark>" in page and "[SEG]" not in page
    assert page.count('class="ul-layer"') == 3 == page.count("<li ") and "red box 0.80" in page


def test_what_a_model_says_is_not_taken_for_html(dialog: Any) -> None:
    from dataclasses import replace

    from ullava.serving.page.scene import scene_html

    nasty = '<img src=x onerror="alert(1)">'
    record = {"text": f"{nasty} {nasty}", "objects": [thing(nasty, span=[0, 8])], "not_found": [nasty]}
    page = scene_html([np.zeros((*HW, 3), np.uint8)], replace(dialog.exchanges[0], record=record), nasty)
    assert "<img" not in page and page.count("&lt;img") >= 5


def test_large_images_are_made_smaller_and_specks_stay_visible() -> None:
    from ullava.serving.page.dialog import Ask, Exchange
    from ullava.serving.page.scene import SHOWN_SIDE, scene_html

    mask = np.zeros((3000, 2000), bool)
    mask[2999, 1999] = True
    record = {"text": "", "objects": [thing(mask=mask, box_xyxy_px=None)]}
    page = scene_html([np.zeros((3000, 2000, 3), np.uint8)], Exchange(Ask("", "", ()), "", record, 1))
    width = round(2000 * SHOWN_SIDE / 3000)
    assert f'viewBox="0 0 {width} {SHOWN_SIDE}"' in page and f"{width} {SHOWN_SIDE}" in page.split(' d="')[1]


# ---------------------------------------------------------------- dialogs
def test_a_dialog_asks_with_all_that_was_said_and_shown(dialog: Any, picture: Path, tmp_path: Path) -> None:
    from ullava.serving.refusals import RefusedError

    clip = tmp_path / "clip.gif"
    clip.write_bytes(b"GIF89a")
    ask = dialog.asking("And now?", [clip])
    query = dialog.query(ask, "one", 16)
    assert query.prompt == "<video>And now?" and query.history == (("<image>Where?", "Sure, box [SEG]."),)
    assert [source.given for source in query.images] == [picture.read_bytes()] and len(query.videos) == 1
    for words, files, said in (("  ", [], "type a question"), ("<image>?", [], "1 <image> markers for 0 new files")):
        with pytest.raises(RefusedError, match=said):
            dialog.asking(words, files)
    picture.unlink()
    with pytest.raises(RefusedError, match=r"photo.png is no longer here; begin a new chat"):
        dialog.query(ask, "one", 16)


def test_words_come_as_they_are_written_and_refusals_beside_answers(service: Any, fake: Any) -> None:
    from ullava.serving.page.following import follow
    from ullava.serving.service import Query

    async def run() -> list[Any]:
        queries = [Query("Hello?", "one"), Query("x" * 200, "two"), Query("fail", "two")]
        async with aclosing(follow(service, queries, 5)) as steps:
            seen = [step async for step in steps]
        await service.close()
        return seen

    fake.seconds = 0.6
    steps = asyncio.run(run())
    texts = [step[0].text for step in steps]
    assert len(set(texts)) >= 3 and any("word" in text for text in texts), "nothing was told on the way"
    answered, long, failed = steps[-1]
    assert answered.reply.answers[0].text == answered.text == "thing of <image>Hello?".replace("<image>", "")
    assert long.refusal == "200 characters are more than the limit of 100"
    assert failed.refusal == "the server failed to answer; its log says why"


def test_a_visitor_who_leaves_gives_the_question_up_and_so_does_time(service: Any, fake: Any) -> None:
    from ullava.serving.page.following import follow
    from ullava.serving.service import Query

    async def run() -> str:
        fake.gate.clear()
        steps = follow(service, [Query("slow", "one")], 0.5)
        said = [step async for step in steps][-1][0].refusal
        left = follow(service, [Query("slow", "two")], 60)
        waiting = asyncio.ensure_future(anext(left))
        while len(fake.batches) < 2:
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await left.aclose()
        await service.close()
        return said

    assert asyncio.run(run()) == "not answered within 0 s"
    assert fake.abandoned == 2


# ---------------------------------------------------------------- what visitors take along
def test_every_format_is_packed_and_low_scores_are_left_out(dialog: Any, tmp_path: Path) -> None:
    from ullava.serving.page.saving import KINDS, PICTURES, save

    assert {"coco", "labelme", "yolo-seg", "label-studio", PICTURES} <= set(KINDS)
    for kind in KINDS:
        saved = save(dialog, kind, 0.5, tmp_path)
        with zipfile.ZipFile(saved.path) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        assert files and all(files.values()), kind
        if kind == "jsonl":
            (line,) = files["predictions.jsonl"].decode().splitlines()
            told = json.loads(line)
            assert [found["phrase"] for found in told["objects"]] == ["red box", "a box"]
            assert np.array_equal(rle_decode(told["mask"]), ring())
            assert any("below the score 0.5: 1" in note for note in saved.notes)


def test_edits_use_what_is_picked_and_say_what_is_missing(dialog: Any, picture: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from ullava.serving.page.dialog import Dialog
    from ullava.serving.page.saving import CUT, EDITS, ERASE, edit, save

    assert edit(dialog, [0], CUT, 0, 0.0).shape == (10, 20, 4)
    for how in EDITS:
        assert edit(dialog, [], how, 8, 0.5).dtype == np.uint8
    with pytest.raises(UserError, match="no thing with a mask is picked"):
        edit(dialog, [1], ERASE, 8, 0.0)
    with pytest.raises(UserError, match="nothing to edit"):
        edit(Dialog(), [], ERASE, 8, 0.0)
    other = {**dialog.exchanges[0].record, "objects": [thing(mask=ring()), thing(mask=ring(), image=1)]}
    two = replace(dialog, exchanges=(replace(dialog.exchanges[0], record=other),))
    with pytest.raises(UserError, match="on different images"):
        edit(two, [0, 1], CUT, 0, 0.0)
    with pytest.raises(UserError, match="ask about an image first"):
        save(Dialog(), "coco", 0, tmp_path)
    picture.unlink()
    for run in (lambda: edit(dialog, [0], CUT, 0, 0.0), lambda: save(dialog, "coco", 0, tmp_path)):
        with pytest.raises(UserError, match=r"photo.png is no longer here"):
            run()


# ---------------------------------------------------------------- with gradio
def page_in(folder: Path) -> Any:
    pytest.importorskip("gradio", reason="the page needs the extra: pip install 'ullava[page]'")
    from ullava.serving.app import Page
    from ullava.serving.guard import Streams
    from ullava.serving.page.blocks import IDLE_STREAMS, STREAMS, mount_page

    return Page(lambda app, service: mount_page(app, service, folder), Streams(STREAMS, IDLE_STREAMS))


def call(served: Any, name: str, *values: Any) -> tuple[str, Any]:
    """Call one of the page's functions as gradio's clients do; return the last event and its data."""
    event = served.client.post(f"/gradio_api/call/{name}", json={"data": list(values)}).json()["event_id"]
    said = served.client.get(f"/gradio_api/call/{name}/{event}").text
    kinds = re.findall(r"event: (\w+)\ndata: (.*)", said)
    return kinds[-1][0], json.loads(kinds[-1][1])


def test_files_elsewhere_are_not_read_and_colors_are_understood(service: Any, tmp_path: Path) -> None:
    page_in(tmp_path)
    import gradio as gr

    from ullava.serving.page.dialog import Dialog
    from ullava.serving.page.handlers import NOBODY, Handlers, _rgb
    from ullava.serving.page.pointing import Pointed

    handlers = Handlers(service, tmp_path / "own")
    message = {"text": "What?", "files": [str(tmp_path / "own" / ".." / "secret.png")]}

    async def ask() -> None:
        async for _ in handlers.ask(message, Dialog(), Dialog(), "one", NOBODY, "left", 16, Pointed()):
            pass

    with pytest.raises(gr.Error, match="was not sent to this page"):
        asyncio.run(ask())
    assert _rgb("#ff8001") == (255, 128, 1) and _rgb("rgba(12.4, 0, 300, 1)") == (12, 0, 255)
    with pytest.raises(UserError, match="is no color"):
        _rgb("url(x)")


def test_the_page_its_functions_and_the_api_are_one_server(
    serve: Any, tiny: Any, png: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    with serve({"tiny": tiny}, page=page_in(tmp_path)) as served:
        assert "window.ullava" in served.client.get("/").text
        config = served.client.get("/config").json()
        assert config["title"] == "ullava"
        assert not config["analytics_enabled"] and config["footer_links"] == []
        public = [one["api_name"] for one in config["dependencies"] if one["api_visibility"] == "public"]
        assert public == ["segment", "locate", "ask"]
        ended, (told,) = call(served, "segment", png, "the red circle", "")
        by_api = served.post("/v1/predictions", {"image": {"url": png}, "query": "the red circle"}).json()
        assert ended == "complete" and told["objects"][0]["mask"] == by_api["masks"][0]["rle"]
        assert told["objects"][0]["area_px"] == rle_decode(told["objects"][0]["mask"]).sum() > 500
        ended, (told,) = call(served, "locate", png.partition(",")[2], "red circle", "tiny")
        assert ended == "complete" and len(told["objects"][0]["box_xyxy_px"]) == 4
        ended, (told,) = call(served, "ask", png, "Segment the red circle.", "")
        assert ended == "complete" and told["text"]
        for values in ((png, "the red circle", "none"), ("~", "the red circle", ""), (png, " ", "")):
            assert call(served, "segment", *values)[0] == "error"
        secret = tmp_path.parent / "secret.txt"
        secret.write_text("secret")
        assert served.client.get(f"/gradio_api/file={secret}").status_code in (403, 404)
        assert served.client.get("/v1/nothing").json()["error"]["code"] == "not_found"


def test_a_page_that_is_closed_gives_its_question_up(
    serve: Any, fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    fake.gate.clear()
    with serve({"one": fake}, page=page_in(tmp_path)) as served:
        functions = served.client.get("/config").json()["dependencies"]
        (asking,) = [one["id"] for one in functions if "submit" in [kind for _, kind in one["targets"]]]
        values = [{"text": "Hello?", "files": []}, None, None, "one", "nobody", "left", 16, None]
        body = {"data": values, "fn_index": asking, "session_hash": "visitor"}
        assert served.post("/gradio_api/queue/join", body).status_code == 200
        with served.client.stream("GET", "/gradio_api/queue/data", params={"session_hash": "visitor"}) as events:
            assert fake.begun.wait(30)
            assert "estimation" in next(events.iter_lines())
        ends = time.monotonic() + 30
        while not fake.abandoned:
            assert time.monotonic() < ends, "the model goes on for nobody"
            time.sleep(0.05)


def test_mcp_tools_answer_the_mcp_client(serve: Any, tiny: Any, png: str, tmp_path: Path) -> None:
    page = page_in(tmp_path)
    mcp = pytest.importorskip("mcp", reason="MCP needs the extra: pip install 'ullava[mcp]'")
    http = pytest.importorskip("mcp.client.streamable_http")

    async def run(url: str) -> tuple[list[str], Any]:
        async with http.streamablehttp_client(f"{url}/gradio_api/mcp/") as (read, write, _):
            async with mcp.ClientSession(read, write) as session:
                await session.initialize()
                names = [tool.name for tool in (await session.list_tools()).tools]
                return names, await session.call_tool(names[1], {"image": png, "what": "the red circle"})

    with serve({"tiny": tiny}, page=page) as served:
        names, result = asyncio.run(run(served.url))
    assert [name.split("_")[-1] for name in names] == ["segment", "locate", "ask"]
    assert not result.isError and "box_xyxy_px" in result.content[0].text


def test_without_gradio_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys
    from contextlib import ExitStack

    from ullava.serving.server import _page

    for name in [name for name in sys.modules if name.startswith("ullava.serving.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with ExitStack() as things:
        assert _page(things) is None
    assert capsys.readouterr().err == "no page: gradio is missing; install the extra: pip install 'ullava[page]'\n"


def test_examples_are_photographs_first(tmp_path: Path, root: Path) -> None:
    from ullava.serving.page.samples import samples

    found = samples(tmp_path)
    assert len(found) == 6 and all(path.is_file() for path, _ in found)
    assert found[0][0].suffix == ".jpg" and found[-1][0].name == "circle.png"
    assert base64.b64encode(found[-1][0].read_bytes()).startswith(b"iVBOR")
