"""CVAT for images 1.1: ``annotations.xml`` for an upload, ``labels.json`` for the label constructor of a task.

Form of the files: CVAT's documentation, "CVAT for image"; run lengths as ``cvat_sdk.masks.encode_mask`` makes them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ullava.atomic_write import write_json, write_whole
from ullava.exports.coco import run_lengths
from ullava.exports.collection import Collection, Thing
from ullava.exports.settings import Settings

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold."""
ATTRIBUTES = ("score", "prompt")


def write_cvat(collection: Collection, out: Path, settings: Settings) -> list[str]:
    """Write masks as ``<mask>`` (row by row within their box, the first run zeros), other objects as ``<box>``.

    Score and prompt are attributes of each shape, which CVAT keeps where the task's labels have them (``labels.json``).
    """
    top = ElementTree.Element("annotations")
    ElementTree.SubElement(top, "version").text = "1.1"
    task = ElementTree.SubElement(ElementTree.SubElement(top, "meta"), "task")
    labels = ElementTree.SubElement(task, "labels")
    for name in collection.classes:
        label = ElementTree.SubElement(labels, "label")
        ElementTree.SubElement(label, "name").text = _xml(name)
        attributes = ElementTree.SubElement(label, "attributes")
        for attribute in ATTRIBUTES:
            element = ElementTree.SubElement(attributes, "attribute")
            for key, value in (("name", attribute), ("mutable", "False"), ("input_type", "text"), ("values", "")):
                ElementTree.SubElement(element, key).text = value
    for number, image in enumerate(collection.images):
        element = ElementTree.SubElement(
            top, "image", id=str(number), name=_xml(image.name), width=str(image.width), height=str(image.height)
        )
        for place, thing in enumerate(image.things):
            shape = _shape(element, thing, collection.classes[thing.label], place)
            for attribute, text in zip(ATTRIBUTES, (f"{thing.score:.4f}", thing.prompt), strict=True):
                ElementTree.SubElement(shape, "attribute", name=attribute).text = _xml(text)
    ElementTree.indent(top)
    write_whole(out / "annotations.xml", ElementTree.tostring(top, encoding="utf-8", xml_declaration=True) + b"\n")
    write_json(out / "labels.json", [_label(name) for name in collection.classes])
    return ["the model's own box is lost where there is a mask: CVAT draws one shape for each object"]


def _shape(image: ElementTree.Element, thing: Thing, label: str, place: int) -> ElementTree.Element:
    common = {"label": _xml(label), "source": "auto", "occluded": "0", "z_order": str(place)}
    if thing.mask is None or thing.mask_box_xyxy_px is None:
        corners = zip(("xtl", "ytl", "xbr", "ybr"), thing.own_box_xyxy_px, strict=True)
        return ElementTree.SubElement(image, "box", common, **{key: f"{value:.2f}" for key, value in corners})
    x0, y0, x1, y1 = (int(value) for value in thing.mask_box_xyxy_px)
    runs = run_lengths(thing.bitmap()[y0:y1, x0:x1].ravel())
    place_of = {"left": x0, "top": y0, "width": x1 - x0, "height": y1 - y0}
    return ElementTree.SubElement(
        image, "mask", common, rle=", ".join(map(str, runs)), **{key: str(value) for key, value in place_of.items()}
    )


def _xml(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)


def _label(name: str) -> dict[str, Any]:
    attributes = [
        {"name": attribute, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        for attribute in ATTRIBUTES
    ]
    return {"name": name, "type": "any", "attributes": attributes}
