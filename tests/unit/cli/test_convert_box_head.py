"""Another box head on a trained model, from the command line to a box in an answer."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import SMALL, build_small
from tests.unit.modeling.small_detectors import DETECTOR, box_override, wake, write_words
from transformers import AutoModelForZeroShotObjectDetection

import ullava
from ullava.modeling.heads.detector import detector_class
from ullava.modeling.loading.weight_files import read_state_dict


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A saved model that regresses its boxes."""
    model, processor = build_small()
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


@pytest.fixture
def phrase_yaml(tmp_path: Path) -> Path:
    """A model.yaml whose box head is a saved detector that reads words, its tokenizer in the same folder."""
    config = build_small((box_override("grounding_dino_query"),))[0].config.detector_config
    torch.manual_seed(1)
    detector = detector_class(config)(config)
    wake(detector)
    detector.save_pretrained(str(tmp_path / "dino"))
    write_words(tmp_path / "dino")
    assert DETECTOR["model_type"] == config.model_type
    lines = [line for line in SMALL.splitlines() if not line.startswith("box:")]
    path = tmp_path / "model.yaml"
    path.write_text("\n".join([*lines, "box: {kind: grounding_dino_phrase, short_side: 32, long_side: 48, "
                               "box_threshold: 0, text_threshold: 0, detector: {path: dino}}"]))  # fmt: skip
    return path


def test_a_trained_model_gets_another_box_head(tmp_path, command, trained, phrase_yaml):
    out = tmp_path / "with_dino"
    code, _, error = command(
        "convert", "box_head", "--from", str(trained), "--model", str(phrase_yaml), "--out", str(out)
    )
    assert code == 0, error
    before, after = read_state_dict(trained), read_state_dict(out)
    detector = AutoModelForZeroShotObjectDetection.from_pretrained(str(tmp_path / "dino")).state_dict()
    kept = {name for name in before if not name.startswith("box_head.")}
    assert kept == {name for name in after if not name.startswith("box_head.")}
    assert all(torch.equal(before[name], after[name]) for name in kept)
    written = {name.removeprefix("box_head.detector."): value for name, value in after.items() if name not in kept}
    assert all(torch.equal(value, detector[name]) for name, value in written.items())
    places = {detector[name].data_ptr() for name in written}
    assert all(value.data_ptr() in places for value in detector.values())  # what is not written is tied
    report = json.loads((out / "conversion.json").read_text())
    assert report["box"] == "grounding_dino_phrase" and report["box_parameters"] > 0

    Image.fromarray(np.full((40, 56, 3), 90, np.uint8)).save(tmp_path / "a.png")
    predictor = ullava.load(out, device="cpu")
    assert predictor.processor.boxes.tokenizer("red circle.")["input_ids"] == [101, 201, 202, 1012, 102]
    assert predictor.answer(str(tmp_path / "a.png"), "Segment it.", max_new_tokens=3).new_tokens > 0


def test_a_head_without_its_words_leaves_nothing_behind(tmp_path, command, trained, phrase_yaml):
    (tmp_path / "dino" / "tokenizer_config.json").unlink()
    out = tmp_path / "with_dino"
    code, _, error = command(
        "convert", "box_head", "--from", str(trained), "--model", str(phrase_yaml), "--out", str(out)
    )
    assert code == 2 and "there is no tokenizer in" in error and not out.exists()
