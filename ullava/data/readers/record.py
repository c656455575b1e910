"""One annotation record with checked fields: whatever is wrong becomes a SampleError with file, line and record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from ullava.data.annotations.json_stream import is_finite_number
from ullava.errors import DataError, SampleError, did_you_mean
from ullava.geometry import mask_to_box_xyxy_px, segmentation_to_mask
from ullava.geometry.boxes import BOX_SLACK_PX
from ullava.structures import BoxXYXY, MaskArray, Region
from ullava.text.phrases import expression_fault, name_fault


class Record:
    """``value`` is the record's dict, ``sample`` the name that errors carry, ``where`` tells its file and number.

    ``where`` is only called if something is wrong.
    """

    def __init__(self, value: dict[str, Any], sample: str, where: Callable[[], str]) -> None:
        self.value = value
        self.sample = sample
        self.where = where

    def fail(self, reason: str) -> NoReturn:
        """Raise a SampleError that says where this record is."""
        raise SampleError(self.sample, f"{self.where()}: {reason}")

    def part(self, value: Any, key: str) -> Record:
        """Return an object inside this record as a Record; its errors name ``key`` too."""
        if not isinstance(value, dict):
            self.fail(f"'{key}' has to be an object, not {_kind(value)}")
        return Record(value, self.sample, lambda: f"{self.where()}: {key}")

    def field(self, key: str) -> Any:
        """Return a field that has to be there."""
        try:
            return self.value[key]
        except KeyError:
            self.fail(f"no '{key}'{did_you_mean(key, self.value)}")

    def text(self, key: str) -> str:
        """Return a string that is not blank, without white space at its ends."""
        value = self.field(key)
        if not isinstance(value, str) or not value.strip():
            self.fail(f"'{key}' has to be a string with something in it, not {_kind(value)}")
        return value.strip()

    def integer(self, key: str) -> int:
        """Return a whole number."""
        value = self.field(key)
        if not isinstance(value, int) or isinstance(value, bool):
            self.fail(f"'{key}' has to be a whole number, not {_kind(value)}")
        return value

    def flag(self, key: str, default: bool) -> bool:
        """Return true or false."""
        value = self.value.get(key, default)
        if not isinstance(value, bool):
            self.fail(f"'{key}' has to be true or false, not {_kind(value)}")
        return value

    def items(self, key: str) -> list[Any]:
        """Return a list."""
        value = self.field(key)
        if not isinstance(value, list):
            self.fail(f"'{key}' has to be a list, not {_kind(value)}")
        return value

    def texts(self, key: str) -> list[str]:
        """Return a list of strings, at least one, none blank."""
        values = self.items(key)
        if not values or not all(isinstance(value, str) and value.strip() for value in values):
            self.fail(f"'{key}' has to be a list of strings, with at least one and none of them blank")
        return [value.strip() for value in values]

    def name(self, key: str) -> str:
        """Return the name of a class or thing, which goes into questions and answers."""
        return self._checked(self.text(key), key, name_fault)

    def expression(self, key: str) -> str:
        """Return words that say what is meant."""
        return self._checked(self.text(key), key, expression_fault)

    def names(self, key: str) -> list[str]:
        """Return a list of names, at least one."""
        return [self._checked(text, f"{key}[{place}]", name_fault) for place, text in enumerate(self.texts(key))]

    def expressions(self, key: str) -> list[str]:
        """Return a list of expressions, at least one."""
        return [self._checked(text, f"{key}[{place}]", expression_fault) for place, text in enumerate(self.texts(key))]

    def _checked(self, text: str, key: str, fault_of: Callable[[str], str]) -> str:
        fault = fault_of(text)
        if fault:
            self.fail(f"'{key}' {fault}")
        return text

    def parts(self, key: str) -> list[Record]:
        """Return a list of objects."""
        return [self.part(value, f"{key}[{place}]") for place, value in enumerate(self.items(key))]

    def size_hw(self) -> tuple[int, int]:
        """Return the image's (height, width)."""
        height, width = self.integer("height"), self.integer("width")
        if height < 1 or width < 1:
            self.fail(f"an image of {width} x {height} (width x height) pixels cannot be")
        return height, width

    def check_size(self, found_hw: tuple[int, ...], what: str) -> None:
        """Raise if the record states a size of the image and ``what`` has another one."""
        if "height" in self.value or "width" in self.value:
            height, width = self.size_hw()
            if found_hw != (height, width):
                found = f"{found_hw[1]} x {found_hw[0]}"
                self.fail(f"{what} has {found} pixels (width x height), but the record says {width} x {height}")

    def mask(self, size_hw: tuple[int, int], may_be_empty: bool = False) -> MaskArray:
        """Decode ``segmentation`` to bool [H, W]; a mask of another size is an error, and one without a pixel.

        ``may_be_empty``: for unions, to which an outline that is thinner than a pixel adds nothing.
        """
        try:
            mask = segmentation_to_mask(self.field("segmentation"), *size_hw)
        except DataError as error:
            self.fail(f"segmentation: {error}")
        if not may_be_empty and not mask.any():
            self.fail("the mask has no pixel")
        return mask

    def box_xyxy_px(self, size_hw: tuple[int, int]) -> BoxXYXY:
        """Return ``bbox`` (x, y, width, height in pixels) as xyxy; one that leaves the image is an error."""
        try:
            return box_inside(self.items("bbox"), size_hw)
        except DataError as error:
            self.fail(f"'bbox' {error}")

    def region(self, phrase: str, size_hw: tuple[int, int], mask_needed: bool = True) -> Region:
        """Return the grounded thing that ``segmentation`` and ``bbox`` describe; the box of the mask where no bbox is.

        ``mask_needed``: false where a box alone will do (referring comprehension).
        """
        mask = self.mask(size_hw) if mask_needed or "segmentation" in self.value else None
        if "bbox" in self.value or mask is None:
            return Region(phrase, mask, self.box_xyxy_px(size_hw))
        return Region(phrase, mask, mask_to_box_xyxy_px(mask))


def box_inside(values: Any, size_hw: tuple[int, int]) -> BoxXYXY:
    """Return x, y, width, height in pixels as xyxy, cut at the border of the image.

    Raises DataError for what is not four finite numbers, is empty, or leaves the image by more than ``BOX_SLACK_PX``.
    """
    if not are_numbers(values, 4):
        raise DataError("has to be four numbers: x, y, width, height")
    height, width = size_hw
    x0, y0, box_width, box_height = values
    x1, y1 = x0 + box_width, y0 + box_height
    if box_width <= 0 or box_height <= 0:
        raise DataError(f"{values} (x, y, width, height) is empty or inside out")
    if min(x0, y0) < -BOX_SLACK_PX or x1 > width + BOX_SLACK_PX or y1 > height + BOX_SLACK_PX:
        raise DataError(f"{values} (x, y, width, height) leaves the image of {width} x {height} pixels")
    inside = float(max(x0, 0)), float(max(y0, 0)), float(min(x1, width)), float(min(y1, height))
    if inside[0] >= inside[2] or inside[1] >= inside[3]:
        raise DataError(f"{values} (x, y, width, height) has nothing inside the image of {width} x {height} pixels")
    return inside


def are_numbers(values: Any, count: int) -> bool:
    """Whether ``values`` is a list of so many finite numbers."""
    return isinstance(values, list) and len(values) == count and all(map(is_finite_number, values))


def left_to_right(regions: Sequence[Region]) -> tuple[Region, ...]:
    """Order regions by the left, then the upper side of their boxes, so that an answer has one right order.

    A region without a box of its own has that of its mask.
    """

    def corner(region: Region) -> tuple[float, ...]:
        box = region.box_xyxy_px
        if box is None and region.mask is not None:
            box = mask_to_box_xyxy_px(region.mask)
        return (0.0, 0.0) if box is None else box[:2]

    return tuple(sorted(regions, key=corner))


def _kind(value: Any) -> str:
    if isinstance(value, str):
        return f"'{value}'" if len(value) <= 40 else "a string"
    return {type(None): "null", bool: "true/false", dict: "an object", list: "a list"}.get(type(value), "a number")
