from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import SamModel

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig
from ullava.modeling.construction.build import build_model
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.modeling.weights.conversion import sha256_of
from ullava.run_lock import hold

MODEL = """
name: speck
language: {{config: {{model_type: llama, hidden_size: 16, intermediate_size: 16, num_hidden_layers: 1,
  num_attention_heads: 2, tie_word_embeddings: true}}}}
tokenizer: {tokenizer}
vision:
  tower: {{config: {{hidden_size: 16, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
    image_size: 16, patch_size: 8}}}}
mask:
  sam:
    config:
      vision_config: {{hidden_size: 16, output_channels: 16, num_hidden_layers: 1, num_attention_heads: 2,
        image_size: 16, patch_size: 8, mlp_dim: 16, window_size: 2, global_attn_indexes: [0], num_pos_feats: 8}}
      prompt_encoder_config: {{hidden_size: 16, image_size: 16, patch_size: 8}}
      mask_decoder_config: {{hidden_size: 16, mlp_dim: 16, num_attention_heads: 8, iou_head_hidden_dim: 16}}
"""


@pytest.fixture
def model_yaml(tmp_path: Path, root: Path) -> Path:
    folder = tmp_path / "models" / "speck"
    folder.mkdir(parents=True)
    path = folder / "model.yaml"
    path.write_text(MODEL.format(tokenizer=root / "models" / "tiny" / "tokenizer"))
    return path


@pytest.fixture
def state(model_yaml: Path) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    model, _ = build_model(load_config(ModelConfig, model_yaml), model_yaml.parent)
    return model.state_dict()


def test_pickled_checkpoint_becomes_a_model_folder(tmp_path, command, model_yaml, state):
    torch.save(state, tmp_path / "trained.pth")
    out = tmp_path / "made" / "speck"
    code, printed, _ = command(
        "convert", "checkpoint", "--from", str(tmp_path / "trained.pth"), "--model", str(model_yaml), "--out", str(out)
    )
    assert code == 0
    assert str(out) in printed
    written = read_state_dict(out)
    assert all(torch.equal(tensor, state[name]) for name, tensor in written.items())
    report = json.loads((out / "conversion.json").read_text())
    assert report["inputs"][0]["sha256"] == sha256_of(tmp_path / "trained.pth")
    assert report["model"] == "speck"
    assert [path.name for path in out.parent.iterdir()] == ["speck"]


def test_misfits_are_listed_and_nothing_is_left_behind(tmp_path, command, model_yaml, state):
    state["box_head.first.weigth"] = torch.zeros(3)
    del state["vision.tower.post_layernorm.bias"]
    torch.save(state, tmp_path / "trained.pth")
    out = tmp_path / "made"
    arguments = ("--from", str(tmp_path / "trained.pth"), "--model", str(model_yaml), "--out", str(out))
    code, _, errors = command("convert", "checkpoint", *arguments)
    lines = errors.splitlines()
    assert code == 2
    assert len(lines) == 2
    assert f"error: {tmp_path / 'trained.pth'}: missing: vision.tower.post_layernorm.bias" in lines[0]
    assert "unexpected: box_head.first.weigth" in lines[1]
    assert not list(tmp_path.glob("*made*"))


def test_a_filled_folder_is_not_touched(tmp_path, command, model_yaml, state):
    torch.save(state, tmp_path / "trained.pth")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep")
    arguments = ("--from", str(tmp_path / "trained.pth"), "--model", str(model_yaml), "--out", str(tmp_path / "mine"))
    code, _, errors = command("convert", "checkpoint", *arguments)
    assert code == 2
    assert "name a new folder" in errors
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_pickle_that_is_no_state_dict_exits_with_two(tmp_path, command, model_yaml):
    torch.save({"optimizer": slice(3)}, tmp_path / "trained.pth")
    arguments = ("--from", str(tmp_path / "trained.pth"), "--model", str(model_yaml), "--out", str(tmp_path / "out"))
    code, _, errors = command("convert", "checkpoint", *arguments)
    assert code == 2
    assert len(errors.splitlines()) == 1
    assert "trained.pth" in errors


def test_sam_file_becomes_a_sam_folder(tmp_path, command, shared_dir):
    source = shared_dir / "parity" / "ullava" / "stage2_forward" / "checkpoint"
    prefix = "visual_model."
    state = {k.removeprefix(prefix): v for k, v in read_state_dict(source).items() if k.startswith(prefix)}
    torch.save(state, tmp_path / "sam_vit_x.pth")
    code, _, _ = command("convert", "sam", "--from", str(tmp_path / "sam_vit_x.pth"), "--out", str(tmp_path / "sam"))
    assert code == 0
    model = SamModel.from_pretrained(tmp_path / "sam")
    assert torch.equal(model.mask_decoder.iou_token.weight, state["mask_decoder.iou_token.weight"])
    assert json.loads((tmp_path / "sam" / "conversion.json").read_text())["kind"] == "sam"


def test_a_conversion_for_which_there_is_no_room_leaves_nothing(tmp_path, command, model_yaml, state, full_disk):
    torch.save(state, tmp_path / "trained.pth")
    out = tmp_path / "made" / "speck"
    line = ["convert", "checkpoint", "--from", str(tmp_path / "trained.pth"), "--model", str(model_yaml)]
    with full_disk(20_000):
        code, _, err = command(*line, "--out", str(out))
    assert code == 2 and "Traceback" not in err
    assert f"error: {out}: cannot be written (File too large)" in err.splitlines()
    assert not out.parent.exists()
    with hold(out, beside=True):
        code, _, err = command(*line, "--out", str(out))
    assert code == 2 and "speck: in use by process" in err
