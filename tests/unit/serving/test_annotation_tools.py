"""The doors for X-AnyLabeling and osam's clients."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.geometry import mask_iou, polygons_to_mask

SHAPE_KEYS = {
    "label", "shape_type", "points", "score", "attributes", "description", "difficult", "direction", "flags",
    "group_id", "kie_linking",
}  # fmt: skip


def test_xanylabeling_gets_polygons_that_are_the_mask(serve: Any, tiny: Any, png: str) -> None:
    from ullava.media.images import decode_image_rgb_u8
    from ullava.serving.examples import ANYLABELING

    boxes = {"text_prompt": "red circle, the circle", "show_boxes": True, "show_masks": False, "iou_threshold": 0.5}
    with serve({"tiny": tiny}) as served:
        told = served.post("/v1/predict", ANYLABELING).json()
        rectangles = served.post("/x-anylabeling/v1/predict", {**ANYLABELING, "params": boxes}).json()
        models = served.client.get("/x-anylabeling/v1/models").json()
        info = served.client.get("/x-anylabeling/v1/models/tiny/info").json()
        assert served.client.get("/x-anylabeling/health").json()["status"] == "healthy"
    direct = tiny.answer(decode_image_rgb_u8(base64.b64decode(png.partition(",")[2]), "it"), "Segment the red circle.")
    (shape,) = told["data"]["shapes"]
    assert told["success"] is True and told["data"]["description"] == "Sure. red circle."
    assert set(shape) == SHAPE_KEYS and (shape["label"], shape["shape_type"]) == ("red circle", "polygon")
    assert shape["points"][0] == shape["points"][-1] and 3 < len(shape["points"]) < 60
    flat = [value for point in shape["points"] for value in point]
    assert mask_iou(polygons_to_mask([flat], 96, 96), direct.objects[0].mask) > 0.95
    assert [shape["shape_type"] for shape in rectangles["data"]["shapes"]] == ["rectangle"] * 2
    assert models["data"]["tiny"]["batch_processing_mode"] == "text_prompt" and info["data"]["model_id"] == "tiny"


def test_osams_clients_get_the_text_the_box_and_the_mask_within_it(serve: Any, fake: Any, png: str) -> None:
    prompt = {"texts": ["cat", "dog"], "score_threshold": 0.5, "iou_threshold": 0.5, "max_annotations": 100}
    body = {"model": "fake", "image": png.partition(",")[2], "prompt": prompt}
    with serve({"fake": fake}) as served:
        told = served.post("/api/generate", body).json()
        none = served.post("/api/generate", {**body, "prompt": {**prompt, "score_threshold": 0.95}}).json()
        one = served.post("/api/generate", {**body, "prompt": {**prompt, "max_annotations": 1}}).json()
    assert told["model"] == "fake" and [found["text"] for found in told["annotations"]] == ["cat", "dog"]
    for found in told["annotations"]:
        assert found["bounding_box"] == {"xmin": 2, "ymin": 1, "xmax": 5, "ymax": 3} and found["score"] == 0.9
        mask = np.asarray(Image.open(io.BytesIO(base64.b64decode(found["mask"]))))
        assert mask.shape == (2, 3) and np.unique(mask).tolist() == [255]
    assert none["annotations"] == [] and len(one["annotations"]) == 1


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/predict", {"image": "PNG", "params": {"text_prompt": " , "}}, "params.text_prompt"),
        ("/v1/predict", {"image": "PNG", "params": {}}, "params.text_prompt"),
        ("/v1/predict", {"image": "PNG", "params": {"text_prompt": "a", "marks": [{}]}}, "params.marks"),
        ("/v1/predict", {"image": "PNG", "params": {"text_prompt": ",".join("abcdefghi")}}, "params.text_prompt"),
        ("/v1/predict", {"image": "!", "params": {"text_prompt": "a"}}, "image"),
        ("/api/generate", {"image": "PNG", "prompt": {"points": [[1, 2]], "point_labels": [1]}}, "prompt.points"),
        ("/api/generate", {"image": "PNG", "prompt": {}}, "prompt.texts"),
        ("/api/generate", {"image": "PNG"}, "prompt"),
    ],
)  # fmt: skip
def test_what_a_model_that_is_asked_in_words_cannot_do_is_refused(
    serve: Any, fake: Any, png: str, path: str, body: dict[str, Any], param: str
) -> None:
    if body["image"] == "PNG":
        body = {**body, "image": png}
    with serve({"fake": fake}) as served:
        response = served.post(path, body)
    told = response.json()
    assert response.status_code == 400 and told["error"]["param"] == param, told
    assert told.get("success") is (False if path == "/v1/predict" else None)
    assert fake.batches == []
