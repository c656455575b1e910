"""CVAT's auto-annotation function, driven by cvat_sdk's own mapper and loader."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tests.unit.inference.test_ecosystem import drawn

import ullava
from ullava.errors import UserError
from ullava.structures import Answer, GroundedObject

cvataa = pytest.importorskip("cvat_sdk.auto_annotation", reason="cvat-sdk is the extra 'cvat'")
from cvat_sdk.auto_annotation.driver import _AnnotationMapper  # noqa: E402
from cvat_sdk.masks import decode_mask  # noqa: E402

from ullava.plugins.cvat import DetectionFunction, create, labels_of  # noqa: E402

CONTEXT = SimpleNamespace(frame_name="a.png", conf_threshold=None, conv_mask_to_poly=False)
POLYGONS = SimpleNamespace(frame_name="a.png", conf_threshold=None, conv_mask_to_poly=True)


class Fixed:
    """A predictor that knows one mask of two parts, with a hole, and one box; it remembers what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.mask = np.zeros((30, 40), bool)
        self.mask[2:12, 3:13] = self.mask[20:26, 20:30] = True
        self.mask[5:8, 5:8] = False

    def answer(self, image: Any, prompt: str, *, max_new_tokens: int) -> Answer:
        """Give both for a circle, nothing else."""
        self.asked.append(prompt)
        if "circle" not in prompt:
            return Answer("")
        masked = GroundedObject("circle", (0, 1), self.mask, (3.0, 2.0, 30.0, 26.0), 0.9)
        boxed = GroundedObject("circle", (0, 1), None, (1.0, 1.0, 5.5, 6.0), 0.4)
        return Answer("", (masked, boxed))


def mapped(function: Any, shapes: list[Any], kind: str, polygons: bool = False) -> list[Any]:
    """What cvat_sdk would send to a server whose labels have a type; it refuses shapes that do not fit."""
    ids = {"circle": 70, "square": 71}
    labels = [SimpleNamespace(name=name, id=ids[name], type=kind, attributes=[], sublabels=[]) for name in ids]
    mapper = _AnnotationMapper(
        logging.getLogger(), function.spec.labels, labels, allow_unmatched_labels=True, conv_mask_to_poly=polygons
    )
    tags, remapped = mapper.validate_and_remap(shapes, 5)
    assert not tags and all(shape.frame == 5 for shape in remapped)
    return remapped


def test_masks_are_drawn_to_the_pixel() -> None:
    predictor = Fixed()
    function = DetectionFunction(predictor, {"square": "the blue square", "circle": "circle"})
    shapes = mapped(function, function.detect(CONTEXT, drawn()), "mask")
    assert predictor.asked == ["Segment the blue square.", "Segment the circle."]
    (shape,) = shapes
    assert shape.type.value == "mask" and shape.label_id == 70 and shape.score == pytest.approx(0.9)
    np.testing.assert_array_equal(decode_mask(shape.points, image_width=40, image_height=30), predictor.mask)


@pytest.mark.parametrize(("shape", "context"), [("polygon", CONTEXT), ("mask", POLYGONS)])
def test_parts_are_polygons_of_one_group(shape: str, context: Any) -> None:
    function = DetectionFunction(Fixed(), {"circle": "circle"}, shape=shape)
    shapes = mapped(function, function.detect(context, drawn()), "polygon", context.conv_mask_to_poly)
    assert [found.type.value for found in shapes] == ["polygon"] * 2
    assert {found.group for found in shapes} == {1}
    corners = {tuple(point) for point in np.reshape(shapes[0].points, (-1, 2)).tolist()}
    assert corners == {(3.0, 2.0), (13.0, 2.0), (13.0, 12.0), (3.0, 12.0)}


def test_rectangles_and_whatever_there_is() -> None:
    function = DetectionFunction(Fixed(), {"circle": "circle"}, shape="rectangle")
    boxes = mapped(function, function.detect(CONTEXT, drawn()), "rectangle")
    assert [found.points for found in boxes] == [[3.0, 2.0, 30.0, 26.0], [1.0, 1.0, 5.5, 6.0]]
    function = DetectionFunction(Fixed(), {"circle": "circle"}, shape="any")
    found = mapped(function, function.detect(CONTEXT, drawn()), "any")
    assert [shape.type.value for shape in found] == ["mask", "rectangle"]


def test_the_threshold_is_cvats_where_it_names_one() -> None:
    function = DetectionFunction(Fixed(), {"circle": "circle"}, shape="rectangle", threshold=0.5)
    assert len(function.detect(CONTEXT, drawn())) == 1
    assert len(function.detect(SimpleNamespace(conf_threshold=0.4, conv_mask_to_poly=False), drawn())) == 2
    assert function.detect(SimpleNamespace(conf_threshold=0.95, conv_mask_to_poly=False), drawn()) == []


def test_labels_are_names_or_names_with_questions() -> None:
    assert labels_of(" red circle; car = the car in front ;") == {"red circle": "red circle", "car": "the car in front"}
    assert labels_of(["a", "b=c"]) == {"a": "a", "b": "c"} and labels_of({"x": "y"}) == {"x": "y"}
    for given, told in (("", "expected the names"), ("a;a", "named twice"), ("a=", "NAME=WHAT"), ({"": "x"}, "NAME")):
        with pytest.raises(UserError, match=told):
            labels_of(given)
    with pytest.raises(UserError, match="did you mean 'polygon'"):
        DetectionFunction(Fixed(), {"a": "a"}, shape="polygons")


def test_the_module_is_what_cvats_command_line_loads() -> None:
    common = pytest.importorskip("cvat_cli._internal.common", reason="cvat-cli is the extra 'cvat'")
    parameters = {"model": "tiny", "labels": "red circle;blue square", "device": "cpu"}
    function = common.FunctionLoader("ullava.plugins.cvat", None, parameters).load()
    assert [label.name for label in function.spec.labels] == ["red circle", "blue square"]


def test_tiny_finds_its_circle() -> None:
    function = create("tiny", ["red circle"], device="cpu")
    (shape,) = function.detect(CONTEXT, drawn())
    (item,) = ullava.load("tiny", device="cpu").answer(drawn(), "Segment the red circle.").objects
    np.testing.assert_array_equal(decode_mask(shape.points, image_width=96, image_height=80), item.mask)
