"""Another vision encoder on a trained model: what is kept, what begins afresh, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import ROOT, SMALL, build_small

import ullava
from ullava.modeling.loading.weight_files import read_state_dict


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A saved model with the plain vision encoder; its weights are those of no fresh model."""
    model, processor = build_small(("vision.projector=linear",))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01
    model.save_pretrained(tmp_path / "trained")
    processor.save_pretrained(tmp_path / "trained")
    return tmp_path / "trained"


def other_vision_encoder(tmp_path: Path, *changes: tuple[str, str]) -> Path:
    """A model.yaml like the trained one, but with AVG-LLaVA's vision encoder."""
    text = SMALL.replace("tokenizer: models", f"tokenizer: {ROOT}/models")
    text = text.replace("vision:\n", "vision:\n  strategy: avg\n  projector: linear\n  avg: {heads: 4}\n")
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "model.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_all_that_fits_is_kept_and_the_rest_is_fresh(tmp_path, command, trained):
    yaml, out = (
        other_vision_encoder(tmp_path, ("max_position_embeddings: 512", "max_position_embeddings: 600")),
        tmp_path / "o",
    )
    line = ["convert", "vision_encoder", "--from", str(trained), "--model", str(yaml), "--out"]
    code, _, error = command(*line, str(out))
    assert code == 0, error
    before, after = read_state_dict(trained), read_state_dict(out)
    assert set(before) <= set(after) and all(torch.equal(before[name], after[name]) for name in before)
    fresh = set(after) - set(before)
    assert fresh and all(name.startswith(("vision.router.", "vision.newline.")) for name in fresh)
    report = json.loads((out / "conversion.json").read_text())
    assert [part.split(" (")[0] for part in report["vision_encoder_kept"]] == ["vision tower", "vision projector"]
    assert any(part.startswith("vision router (") for part in report["vision_encoder_fresh"])

    predictor = ullava.load(out, device="cpu")
    assert predictor.model.config.strategy == "avg"
    assert predictor.model.config.text_config.max_position_embeddings == 600
    Image.fromarray(np.full((40, 56, 3), 90, np.uint8)).save(tmp_path / "a.png")
    assert predictor.answer(str(tmp_path / "a.png"), "What is it?", max_new_tokens=2).new_tokens > 0

    code, _, error = command(*line, str(tmp_path / "again"), "--seed", "1")
    again = read_state_dict(tmp_path / "again")
    assert code == 0 and any(not torch.equal(after[name], again[name]) for name in fresh)


def test_language_model_and_heads_have_to_fit(tmp_path, command, trained):
    yaml = other_vision_encoder(tmp_path, ("box: {width: 32}", "box: {width: 16}"))
    out = tmp_path / "out"
    code, _, error = command(
        "convert", "vision_encoder", "--from", str(trained), "--model", str(yaml), "--out", str(out)
    )
    assert code == 2 and "shape: box_head." in error and "16] in the file" in error and not out.exists()


def test_a_tower_of_another_kind_begins_afresh_although_its_layers_are_called_alike(tmp_path, command, trained):
    kind = ("tower: {config: {", "tower: {config: {model_type: siglip_vision_model, ")
    yaml, out = other_vision_encoder(tmp_path, kind), tmp_path / "out"
    code, _, error = command(
        "convert", "vision_encoder", "--from", str(trained), "--model", str(yaml), "--out", str(out)
    )
    assert code == 0, error
    before, after = read_state_dict(trained), read_state_dict(out)
    name = "vision.tower.encoder.layers.0.self_attn.q_proj.weight"
    assert before[name].shape == after[name].shape and not torch.equal(before[name], after[name])
    report = json.loads((out / "conversion.json").read_text())
    assert [part.split(" (")[0] for part in report["vision_encoder_kept"]] == ["vision projector"]
    assert "vision tower" in [part.split(" (")[0] for part in report["vision_encoder_fresh"]]
