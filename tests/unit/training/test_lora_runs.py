"""LoRA runs through the command line: merged, taken up again, and with their loss weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

Run = Callable[..., Path]
LORA = "lora={r: 2, alpha: 4, dropout: 0.0, target: [q_proj, v_proj]}"


@pytest.fixture
def run(command: Callable[..., tuple[int, str, str]], recipe_file: Path, tmp_path: Path) -> Run:
    """A function that trains as the recipe says with overrides, and returns the run folder."""

    def train(name: str, *settings: str, steps: int = 2) -> Path:
        out = tmp_path / name
        limits = (f"training.max_steps={steps}", "training.save_strategy=no")
        code, _, err = command("train", str(recipe_file), *limits, *settings, "--out", str(out))
        assert code == 0, err
        return out

    return train


def first_loss(folder: Path) -> dict[str, float]:
    line = json.loads((folder / "train_log.jsonl").read_text().splitlines()[0])
    return {name: value for name, value in line.items() if name.startswith("loss")}


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_lora_run_merges_alike_and_goes_on_where_it_was(
    run: Run, command: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    base = run("base", "loss.bce=3", steps=1)
    lora = (f"init={base / 'model'}", "stage=ground", LORA, "training.learning_rate=0.01", "loss={bce: 7, dice: 0.25}")
    first = run("lora", *lora)
    assert not any("tower" in name for name in load_file(first / "adapter" / "trained.safetensors"))

    out = tmp_path / "merged"
    code, shown, err = command("convert", "merge", "--from", str(first / "adapter"), "--out", str(out))
    assert code == 0, err
    assert "kind: merge" in shown
    ours, theirs = weights(out), weights(first / "model")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], msg=name)

    going_on = run("more", f"init={first / 'adapter'}", "stage=ground", LORA, "loss=null", steps=1)
    from_merged = run("from_merged", f"init={first / 'model'}", "stage=ground", "loss=null", steps=1)
    from_base = run("from_base", f"init={base / 'model'}", "stage=ground", "loss={bce: 7, dice: 0.25}", steps=1)
    assert first_loss(going_on) == pytest.approx(first_loss(from_merged), rel=1e-4)
    assert first_loss(going_on)["loss"] != pytest.approx(first_loss(from_base)["loss"], rel=1e-3)
    config = json.loads((going_on / "model" / "config.json").read_text())
    assert (config["loss_weights"]["bce"], config["loss_weights"]["dice"]) == (7, 0.25)
    assert config["trained_stage"] == "ground"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("lora={r: 4, alpha: 4, dropout: 0.0}",), "lora.r 2, not 4"),
        (("lora=null",), "has adapters; say so with lora:"),
        ((LORA, "reinit_heads=all"), "goes on with its own heads"),
    ],
)
def test_an_adapter_taken_up_otherwise_is_refused(
    run: Run, command: Any, recipe_file: Path, tmp_path: Path, settings: tuple[str, ...], words: str
) -> None:
    base = run("base", steps=1)
    adapter = run("lora", f"init={base / 'model'}", "stage=ground", LORA, steps=1) / "adapter"
    line = ("train", str(recipe_file), f"init={adapter}", "stage=ground", *settings, "--out", str(tmp_path / "no"))
    code, _, err = command(*line)
    assert code == 2 and words in err and "Traceback" not in err
    assert not (tmp_path / "no").exists()


def test_the_second_stage_makes_its_heads_afresh(run: Run, command: Any, recipe_file: Path, tmp_path: Path) -> None:
    core = run("core", "stage=align", "dataset={shapes_vqa: {}}", steps=1)
    heads = "reinit_heads={mask: {sam: {config: SAM}}, box: {width: 16, frame: padsq, sigmoid: false}, "
    heads += "image_aspect_ratio: crop}"
    sizes = "vision_config: {hidden_size: 32, output_channels: 32, num_hidden_layers: 1, num_attention_heads: 2, "
    sizes += "image_size: 64, patch_size: 8, mlp_dim: 48, window_size: 2, global_attn_indexes: [0], num_pos_feats: 16}"
    sizes += ", prompt_encoder_config: {hidden_size: 32, image_size: 64, patch_size: 8}"
    sizes += ", mask_decoder_config: {hidden_size: 32, mlp_dim: 48, num_attention_heads: 2, iou_head_hidden_dim: 32}"
    settings = (f"init={core / 'model'}", heads.replace("SAM", "{" + sizes + "}"), "stage=ground", LORA)
    ground = run("ground", *settings)
    config = json.loads((ground / "model" / "config.json").read_text())
    assert (config["box_frame"], config["box_sigmoid"], config["box_width"]) == ("padsq", False, 16)
    assert config["image_aspect_ratio"] == "crop"
    assert config["sam_config"]["vision_config"]["image_size"] == 64
    before, after = weights(core / "model"), weights(ground / "model")
    assert all(torch.equal(before[name], after[name]) for name in before if name.startswith("vision.tower."))
    out = tmp_path / "merged"
    assert command("convert", "merge", "--from", str(ground / "adapter"), "--out", str(out))[0] == 0
    merged = weights(out)
    assert all(torch.allclose(value, after[name], atol=1e-6) for name, value in merged.items())
    code, _, err = command(
        "train", str(recipe_file), f"init={ground / 'adapter'}", "stage=ground", LORA, "training.max_steps=1",
        "--out", str(tmp_path / "more"),
    )  # fmt: skip
    assert code == 0, err
