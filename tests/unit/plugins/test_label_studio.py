"""The backend of Label Studio: what it reads of a request, what it answers, where it fetches images."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from tests.unit.inference.test_ecosystem import drawn

import ullava
from ullava.errors import DataError, UserError
from ullava.plugins.label_studio import Backend, Interface, label_for, regions_of
from ullava.plugins.label_studio_images import ImageSource
from ullava.structures import Answer, GroundedObject

CONFIG = """
<View>
  <Image name="picture" value="$photo"/>
  <BrushLabels name="mask" toName="picture"><Label value="Circle"/><Label value="Square"/></BrushLabels>
  <RectangleLabels name="frame" toName="picture"><Label value="Circle"/></RectangleLabels>
  <TextArea name="prompt" toName="picture" value="$sentence"/>
</View>
"""
BOXES = CONFIG.replace("<BrushLabels", "<PolygonLabels").replace("</BrushLabels", "</PolygonLabels")


def png() -> bytes:
    file = io.BytesIO()
    drawn().save(file, "PNG")
    return file.getvalue()


class Studio(BaseHTTPRequestHandler):
    """A Label Studio that gives files to who brings a token, and leads to a bucket."""

    bucket = ""
    seen: list[tuple[str, str]] = []

    def log_message(self, *args: Any) -> None:
        """Stay silent."""

    def do_GET(self) -> None:  # noqa: N802
        """Give a file, lead to another host, or refuse."""
        header = self.headers.get("Authorization", "")
        self.seen.append((self.path, header))
        if self.path.startswith("/tasks/7/presign/"):
            return self._send(303, b"", {"Location": self.bucket})
        if header in ("Token legacy", "Bearer short-2") and self.path == "/data/upload/1/a.png":
            return self._send(200, png())
        self._send(401, b"")

    def do_POST(self) -> None:  # noqa: N802
        """Exchange a personal access token; each exchange gives another one."""
        self.seen.append((self.path, ""))
        count = sum(path == self.path for path, _ in self.seen)
        self._send(200, b'{"access": "short-%d"}' % count)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def studio() -> Iterator[str]:
    Studio.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Studio)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    Studio.bucket = f"http://localhost:{server.server_port}/data/upload/1/a.png"
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


# ---------------------------------------------------------------- requests
def typed(text: Any, name: str = "prompt") -> dict[str, Any]:
    return {"result": [{"from_name": name, "to_name": "picture", "type": "textarea", "value": {"text": text}}]}


def test_the_interface_is_read() -> None:
    found = Interface.read(CONFIG)
    assert (found.image, found.field) == ("picture", "photo") and dict(found.texts) == {"prompt": "sentence"}
    assert found.brush is not None and (found.brush.name, found.brush.labels) == ("mask", ("Circle", "Square"))
    assert found.box is not None and found.box.name == "frame"
    assert Interface.read(BOXES).brush is None


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (None, "not XML"),
        ("<View", "not XML"),
        ("<View><Text name='t' value='$t'/></View>", "no <Image>"),
        ("<View><Image name='i' value='$i'/><BrushLabels name='b' toName='other'/></View>", "neither <BrushLabels>"),
    ],
)
def test_an_interface_that_does_not_fit_is_told(config: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        Interface.read(config)


def test_the_sentence_is_what_was_typed_last_else_what_the_task_holds() -> None:
    interface = Interface.read(CONFIG)
    task = {"data": {"sentence": "the square"}}
    twice = {"result": [*typed(["first"])["result"], *typed([" the circle "])["result"]]}
    assert interface.prompt(twice, task) == "the circle"
    assert interface.prompt(typed("the circle"), {}) == "the circle"
    assert interface.prompt(None, task) == "the square"
    assert interface.prompt(typed(["a comment"], "remarks"), task) == ""
    assert interface.prompt({"result": []}, task) == "" and interface.prompt(None, {"data": {}}) == ""
    assert interface.prompt(None, {"data": "sentence"}) == interface.prompt(None, {"data": None}) == ""
    with pytest.raises(UserError, match="2001 characters"):
        interface.prompt(typed("x" * 2001), task)


def test_labels_follow_the_words() -> None:
    labels = ("cup", "red cup", "Dog")
    assert label_for("red cup", "", labels) == "red cup"
    assert label_for("animal", "the dog, left", labels) == "Dog"
    assert label_for("cups", "them", labels) == "cup"  # the first: no word fits
    assert label_for("dog", "", labels, "cup") == "cup"
    assert label_for("dog", "the dog", ()) == "dog"


# ---------------------------------------------------------------- answers
def test_masks_become_brushes_and_boxes_rectangles() -> None:
    brush = pytest.importorskip("label_studio_sdk.converter.brush", reason="label-studio-sdk is the extra 'formats'")
    from label_studio_sdk.label_interface.objects import PredictionValue

    mask = np.zeros((20, 30), bool)
    mask[3:9, 4:20] = True
    things = (
        GroundedObject("circle", (0, 1), mask, (4.0, 3.0, 20.0, 9.0), 0.9),
        GroundedObject("square", (0, 1), None, (15.0, 5.0, 30.0, 20.0), 0.8),
        GroundedObject("nothing", (0, 1), np.zeros((20, 30), bool), None, 0.7),
    )
    first, second = regions_of(Answer("", things), Interface.read(CONFIG), (30, 20), "the circle", None)
    assert first["type"] == "brushlabels" and first["value"]["brushlabels"] == ["Circle"]
    assert (first["from_name"], first["to_name"]) == ("mask", "picture") and isinstance(first["id"], str)
    assert first["meta"] == {"text": ["the circle"]}
    drawn_again = brush.decode_rle(first["value"]["rle"]).reshape(20, 30, 4)[:, :, 3] > 0
    np.testing.assert_array_equal(drawn_again, mask)
    assert second["type"] == "rectanglelabels" and second["from_name"] == "frame"
    assert [second["value"][key] for key in ("x", "y", "width", "height")] == [50.0, 25.0, 50.0, 75.0]
    PredictionValue(model_version="x", score=0.5, result=[first, second])
    boxes = regions_of(Answer("", things), Interface.read(BOXES), (30, 20), "the circle", None)
    assert [region["type"] for region in boxes] == ["rectanglelabels"] * 2


@pytest.fixture(scope="module")
def backend() -> Backend:
    return Backend(ullava.load("tiny", device="cpu"), ImageSource(None))


def data_uri() -> str:
    import base64

    return "data:image/png;base64," + base64.b64encode(png()).decode()


def request(context: Any, *data: dict[str, Any]) -> dict[str, Any]:
    tasks = [{"id": number, "data": entry} for number, entry in enumerate(data)]
    return {"tasks": tasks, "label_config": CONFIG, "project": "1.2", "params": {"context": context}}


def test_a_sentence_is_answered(backend: Backend) -> None:
    (found,), problems = backend.predict(request(typed(["Segment the red circle."]), {"photo": data_uri()}))
    assert not problems and found["model_version"] == "ullava-tiny" and 0 < found["score"] <= 1
    (region,) = found["result"]
    assert region["type"] == "brushlabels" and region["value"]["brushlabels"] == ["Circle"]
    assert (region["original_width"], region["original_height"]) == (96, 80)


def test_tasks_are_answered_beforehand_where_they_hold_the_sentence(backend: Backend) -> None:
    whole, bad = {"photo": data_uri(), "sentence": "red circle"}, {"photo": "data:image/png;base64,AAAA"}
    results, problems = backend.predict(request(None, whole, {"photo": data_uri()}, bad | {"sentence": "a cat"}))
    assert len(results[0]["result"]) == 1 and results[1:] == [[], []]
    assert len(problems) == 1 and problems[0].startswith("task 2: data:image/png")
    (empty,), _ = backend.predict(request({"result": []}, whole))
    assert empty["result"] == [] and empty["score"] == 0.0


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (None, "tasks: expected"),
        ({"tasks": [3], "label_config": CONFIG}, "tasks: expected"),
        (request(typed("a cat"), {}), "no image in its field 'photo'"),
        (request(typed("a cat"), {"photo": "/data/upload/1/a.png"}), "LABEL_STUDIO_URL"),
        (request(typed("a cat"), {"photo": "http://10.0.0.1/a.png"}), "not fetched from '10.0.0.1'"),
        (request(typed("a cat"), {"photo": "file:///etc/passwd"}), "LABEL_STUDIO_URL"),
        (request(typed("a cat"), {"photo": "data:image/png;base64,A"}), "not valid base64"),
        (request(typed("a cat"), {"photo": "http://a:99999/a.png"}), "not a valid url"),
        (request(typed("a cat"), {"photo": "http://[/a.png"}), "not a valid url"),
        (request(typed("a cat"), "sentence"), "no image in its field 'photo'"),
        ({"tasks": [{"id": 1, "data": {}}], "label_config": "<View>\ud800</View>"}, "label_config: not XML"),
    ],
)
def test_what_cannot_be_answered_is_told(backend: Backend, body: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        backend.predict(body)


# ---------------------------------------------------------------- images
def test_images_are_fetched_with_the_token(studio: str) -> None:
    source = ImageSource(studio, "legacy")
    for given in ("/data/upload/1/a.png", "upload/1/a.png", f"{studio}/data/upload/1/a.png"):
        np.testing.assert_array_equal(source.read(given), np.asarray(drawn()))
    with pytest.raises(DataError, match="status 401; is LABEL_STUDIO_API_KEY right"):
        ImageSource(studio, "wrong").read("/data/upload/1/a.png")
    with pytest.raises(DataError, match="of this kind"):
        source.read("file:///etc/passwd")


def test_a_personal_access_token_is_exchanged_and_renewed(studio: str) -> None:
    source = ImageSource(studio, "head.body.end")
    assert source.read("/data/upload/1/a.png").shape == (80, 96, 3)  # the first one had run out
    assert [header for path, header in Studio.seen if header] == ["Bearer short-1", "Bearer short-2"]
    source.read("/data/upload/1/a.png")
    assert Studio.seen[-1] == ("/data/upload/1/a.png", "Bearer short-2")


def test_the_token_does_not_follow_a_redirect_and_hosts_are_asked(studio: str) -> None:
    with pytest.raises(DataError, match="not fetched from 'localhost'"):
        ImageSource(studio, "legacy").read("s3://bucket/a.png", 7)
    assert [path for path, _ in Studio.seen] == ["/tasks/7/presign/?fileuri=czM6Ly9idWNrZXQvYS5wbmc="]
    with pytest.raises(DataError, match="status 401"):
        ImageSource(studio, "legacy", ["LOCALHOST"]).read("s3://bucket/a.png", 7)
    assert Studio.seen[-1] == ("/data/upload/1/a.png", "")


def test_a_label_studio_is_a_url() -> None:
    with pytest.raises(UserError, match="expected where Label Studio is"):
        ImageSource("localhost:8080")
    for url in ("http://[", "http://studio:99999", "http://", "ftp://studio"):
        with pytest.raises(UserError, match="expected where Label Studio is"):
            ImageSource(url)
