"""The methods of an Answer: plain values, supervision, FiftyOne and Pillow."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.exports.answered import BOX, MASKS, H, W, make_images, plain, ring, thing

from ullava.errors import UserError
from ullava.geometry import rle_decode
from ullava.inference.export import answer_to_json
from ullava.inference.overlay import draw_overlay
from ullava.structures import Answer

MIXED = Answer("...", (thing("ring", ring(), BOX, 0.7), thing("dog", None, BOX, 0.4), thing("cow", plain(), None)))
BLANK = Answer("...", (thing("cat", np.zeros((H, W), bool)), thing("cow", None)))


def test_plain_values_go_through_json() -> None:
    value = json.loads(json.dumps(MIXED.to_dict()))
    assert value == answer_to_json(MIXED)
    np.testing.assert_array_equal(rle_decode(value["objects"][0]["mask"]), ring())
    assert Answer("none").to_dict()["objects"] == []


# ---------------------------------------------------------------- supervision
def supervision() -> Any:
    return pytest.importorskip("supervision", reason="supervision is the extra 'supervision'")


def test_supervision_gets_masks_boxes_scores_and_names() -> None:
    sv = supervision()
    found = Answer("", tuple(thing(name, mask) for name, mask in MASKS.items())).to_supervision()
    assert isinstance(found, sv.Detections) and len(found) == 3
    np.testing.assert_array_equal(found.mask, np.stack(list(MASKS.values())))
    np.testing.assert_array_equal(found.xyxy[0], [0, 0, 25, 12])
    assert list(found.data["class_name"]) == list(MASKS) and found.class_id.tolist() == [1, 0, 2]
    assert found.data["span"].tolist() == [[0, len(name)] for name in MASKS]
    canvas = np.zeros((H, W, 3), np.uint8)
    assert sv.MaskAnnotator().annotate(canvas.copy(), found)[ring()].any()


def test_supervision_gets_what_has_no_mask_too() -> None:
    supervision()
    found = MIXED.to_supervision()
    assert found.mask.any(axis=(1, 2)).tolist() == [True, False, True]
    np.testing.assert_allclose(found.xyxy, [BOX, BOX, [0, 0, 25, 12]])
    np.testing.assert_allclose(found.confidence, [0.7, 0.4, 0.9], rtol=1e-6)
    assert Answer("", MIXED.objects[1:2]).to_supervision().mask is None
    for empty in (Answer("none"), BLANK):
        assert len(empty.to_supervision()) == 0


# ---------------------------------------------------------------- FiftyOne
def test_fiftyone_gets_masks_cut_to_their_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    fo = pytest.importorskip("fiftyone", reason="fiftyone is the extra 'fiftyone'")
    found = Answer("", (MIXED.objects[0], MIXED.objects[2])).to_fiftyone()
    assert isinstance(found, fo.Detections)
    for detection, mask in zip(found.detections, (ring(), plain()), strict=True):
        again = fo.Detection.from_mask(mask, detection.label)  # the library's own way
        np.testing.assert_allclose(detection.bounding_box, again.bounding_box)
        np.testing.assert_array_equal(detection.mask, again.mask.astype(bool))
    assert found.detections[0].model_box == pytest.approx([BOX[0] / W, BOX[1] / H, 17.5 / W, 12.5 / H])
    boxed = Answer("", MIXED.objects[1:2])
    assert boxed.to_fiftyone(size_wh=(W, H)).detections[0].bounding_box == pytest.approx(
        [BOX[0] / W, BOX[1] / H, 17.5 / W, 12.5 / H]
    )
    known = Answer("", boxed.objects, images=(np.zeros((H, W, 3), np.uint8),))
    assert known.to_fiftyone().detections[0].mask is None and len(BLANK.to_fiftyone().detections) == 0
    with pytest.raises(UserError, match="give size_wh"):
        boxed.to_fiftyone()


@pytest.mark.parametrize("name", ["supervision", "fiftyone"])
def test_a_missing_library_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match=rf"to_{name}\(\) needs {name}; install the extra: pip install 'ullava\[{name}"):
        getattr(MIXED, f"to_{name}")()


# ---------------------------------------------------------------- Pillow
def test_pillow_draws_on_what_was_asked_about(tmp_path: Path) -> None:
    path = make_images(tmp_path)["b"]
    pixels = np.asarray(Image.open(path))
    answer = Answer("", MIXED.objects, images=(pixels,))
    drawn = answer.to_pil()
    np.testing.assert_array_equal(np.asarray(drawn), draw_overlay(pixels, MIXED.objects))
    for given in (path, str(path), Image.open(path), pixels):
        np.testing.assert_array_equal(np.asarray(MIXED.to_pil(given)), np.asarray(drawn))
    bare = np.asarray(Answer("", images=(path,)).to_pil(show_scores=False))
    np.testing.assert_array_equal(bare, draw_overlay(pixels, ()))


def test_one_of_several_images_is_chosen(tmp_path: Path) -> None:
    images = tuple(make_images(tmp_path).values())
    answer = Answer("", (thing("ring", ring(), image=0), thing("cow", plain(), image=2)), images=images)
    first = draw_overlay(np.asarray(Image.open(images[0])), answer.objects[:1])
    np.testing.assert_array_equal(np.asarray(answer.to_pil(0)), first)
    with pytest.raises(UserError, match=r"the objects are on the images \[0, 2\]"):
        answer.to_pil()
    with pytest.raises(UserError, match="the question had 3 images, from 0; there is no 3"):
        answer.to_pil(3)
    last = Answer("", answer.objects[1:], images=images).to_pil()
    np.testing.assert_array_equal(np.asarray(last), np.asarray(answer.to_pil(2)))


def test_an_answer_without_an_image_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not know its image"):
        MIXED.to_pil()
    with pytest.raises(UserError, match="no such image"):
        MIXED.to_pil(tmp_path / "none.png")
    with pytest.raises(ValueError, match="mask of 'ring'"):
        MIXED.to_pil(np.zeros((3, 4, 3), np.uint8))


def test_answers_of_a_model_know_their_images(tmp_path: Path) -> None:
    import ullava
    from ullava.inference.batch import Question

    path = make_images(tmp_path)["a"]
    predictor = ullava.load("tiny", device="cpu")
    options: dict[str, Any] = {"max_new_tokens": 4}
    asked = predictor.answer(path, "What is it?", **options)
    *_, streamed = predictor.stream(Image.open(path), "What is it?", **options)
    chat = predictor.chat(path, **options)
    told = [chat.ask("What is it?"), [*chat.stream("And now?")][-1]]
    for answer in (asked, streamed, *told):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(np.asarray(answer.images[0]), np.asarray(Image.open(path)))
        assert answer.to_pil().width >= W
    (batch,) = predictor.answer_samples([Question("q", (path,), "?").sample()], **options)
    assert batch.images == (path,) and predictor.answer("Hi", **options).images == ()
