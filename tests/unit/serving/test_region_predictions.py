"""``regions`` of ``/v1/predictions``: boxes and masks that a query points at."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest
from tests.unit.modeling.conftest import build_small

from ullava.geometry import rle_encode
from ullava.inference.predictor import Predictor
from ullava.media.images import decode_image_rgb_u8

ASKED = {"query": "Is <region> left of <region>?", "max_tokens": 5}


@pytest.fixture(scope="module")
def pointed() -> Predictor:
    """A small model that takes regions."""
    return Predictor(*build_small(("vision.regions={}",)), name="pointed")


def test_boxes_and_masks_are_what_a_query_points_at(serve: Any, pointed: Predictor, png: str) -> None:
    image = decode_image_rgb_u8(base64.b64decode(png.partition(",")[2]), "it")
    mask = np.zeros(image.shape[:2], dtype=bool)
    mask[10:30, 20:40] = True
    body = {"image": {"url": png}, **ASKED, "regions": [[1, 2, 30, 40], rle_encode(mask)]}
    with serve({"pointed": pointed}) as served:
        told = served.post("/v1/predictions", body).json()
        refused = {
            name: served.post("/v1/predictions", body | changes)
            for name, changes in {
                "fewer": {"regions": [[1, 2, 30, 40]]},
                "none": {"regions": []},
                "form": {"regions": [[1, 2, 30], [1, 2, 30, 40]]},
                "outside": {"regions": [[1, 2, 300, 40]] * 2},
                "large": {"regions": [{"size": [90_000, 90_000], "counts": ""}] * 2},
                "kind": {"regions": "1,2,3,4"},
            }.items()
        }
    direct = pointed.answer(image, ASKED["query"], regions=[[1, 2, 30, 40], mask], max_new_tokens=5)
    assert told["text"] == direct.text
    messages = {name: response.json()["error"]["message"] for name, response in refused.items()}
    assert {response.status_code for name, response in refused.items() if name != "large"} == {400}
    assert refused["large"].status_code == 413 and "100 million pixels together" in messages["large"]
    assert "2 <region> markers, 1 regions" in messages["fewer"]
    assert "says <region>, but no region is given" in messages["none"]
    assert "regions[0] is neither a box" in messages["form"]
    assert "regions[0] [1, 2, 300, 40] leaves the image of 96 x 96" in messages["outside"]
    assert refused["form"].json()["error"]["param"] == "regions"


def test_a_model_that_takes_none_says_so(serve: Any, tiny: Any, png: str) -> None:
    with serve({"tiny": tiny}) as served:
        response = served.post("/v1/predictions", {"image": {"url": png}, **ASKED, "regions": [[1, 2, 30, 40]] * 2})
    assert response.status_code == 400
    assert "this model takes no regions: its model.yaml has no vision.regions" in response.json()["error"]["message"]
