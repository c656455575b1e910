"""The model for FiftyOne, on the library's own classes; no dataset, which would want its database."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.unit.inference.test_ecosystem import drawn

import ullava
from ullava.errors import UserError


@pytest.fixture(autouse=True)
def fo(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The library, which is asked not to tell its makers that it is used."""
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    return pytest.importorskip("fiftyone", reason="fiftyone is the extra 'fiftyone', in an environment of its own")


@pytest.fixture(scope="module")
def tiny() -> Any:
    return ullava.load("tiny", device="cpu")


def test_it_is_a_model_of_fiftyone(fo: Any, tiny: Any) -> None:
    from fiftyone.core.models import Model, SamplesMixin

    from ullava.plugins.fiftyone import UllavaModel

    model = UllavaModel(tiny, "red circle")
    assert isinstance(model, Model) and isinstance(model, SamplesMixin)
    assert model.media_type == "image" and model.transforms is None and model.ragged_batches is False
    assert model.needs_fields == {} and not model.has_logits and not model.has_embeddings
    model.preprocess = True
    with model as entered:
        assert entered is model and model.preprocess


def test_detections_hold_masks_cut_to_their_boxes(fo: Any, tiny: Any) -> None:
    from ullava.plugins.fiftyone import UllavaModel

    pixels = np.asarray(drawn())
    (item,) = tiny.answer(pixels, "Segment the red circle.").objects
    labels = UllavaModel(tiny, "red circle").predict(pixels)
    assert isinstance(labels, fo.Detections)
    (detection,) = labels.detections
    assert detection.label == "red circle" and detection["prompt"] == "red circle"
    assert detection.confidence == pytest.approx(item.score, abs=1e-5)
    x, y, width, height = detection.bounding_box
    left, top = round(x * 96), round(y * 80)
    again = np.zeros((80, 96), bool)
    again[top : top + round(height * 80), left : left + round(width * 96)] = detection.mask
    np.testing.assert_array_equal(again, item.mask)


def test_the_prompt_may_be_a_field_of_the_sample(fo: Any, tiny: Any) -> None:
    from ullava.plugins.fiftyone import UllavaModel

    model = UllavaModel(tiny, prompt_field="words")
    assert model.needs_fields == {"prompt_field": "words"}
    model.needs_fields = {"prompt_field": "other"}
    assert model.needs_fields == {"prompt_field": "other"}
    model.needs_fields = {}
    assert model.needs_fields == {"prompt_field": "words"}
    samples = [fo.Sample(filepath="a.png", words=words) for words in ("red circle", ["red circle", "circle"], None)]
    found = model.predict_all([np.asarray(drawn())] * 3, samples=samples)
    assert [len(labels.detections) for labels in found] == [1, 2, 0]
    assert [detection["prompt"] for detection in found[1].detections] == ["red circle", "circle"]
    with pytest.raises(UserError, match="no sample came"):
        model.predict(np.asarray(drawn()))
    with pytest.raises(UserError, match="expected a text or a list"):
        model.predict(np.asarray(drawn()), fo.Sample(filepath="a.png", words=3))


@pytest.mark.parametrize("options", [{}, {"prompt": "a", "prompt_field": "b"}, {"prompt": " "}])
def test_one_source_of_prompts(options: dict[str, Any]) -> None:
    from ullava.plugins.fiftyone import load_model

    with pytest.raises(UserError, match="either prompt= .* or prompt_field="):
        load_model("tiny", **options)
