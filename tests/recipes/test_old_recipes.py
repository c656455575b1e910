"""Recipes as u-LLaVA writes them train, on small files of its schemas: stage I from parts, stage II with LoRA."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from tests.recipes.conftest import losses
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    SamConfig,
    SamModel,
)

from ullava.cli.main import main
from ullava.config.old_model import NO_HEADS

ROOT = Path(__file__).resolve().parents[2]
CHAT = ("llava_cc3m", "sqa")
GROUNDED = {
    "refcoco": "refcoco_train.json", "refcoco+": "refcoco+_train.jsonl", "refclef": "refclef_train.json",
    "ade20k": "ade20k.json", "pascal_part": "pascal_part.json", "msra_b": "msra_b.json", "llava_seg": "llava_seg.json",
}  # fmt: skip
HEAD = """
model:
MODEL
task: {type: image_text_pretrain, collator_type: 'grounding_collator'}
processor:
  clip_image: {path: 'ZOO/clip', image_size: 224, aspect_ratio: PAD}
CLIPSdataset:
"""
BLOCK = """
  NAME:
    data_type: 'image'
    image_token_len: 16
    build_info: {anno_dir: 'DATA/annotations/FILE', image_dir: 'DATA', TEMPLATE portion: 1.0}
    vis_processor: 'clip_image'
"""
CLIPS = "  gif_train: {n_frm: 4, image_size: 224}\n"
CLIP_BLOCK = """
  tgif:
    data_type: 'gif'
    image_token_len: 16
    build_info: {anno_dir: 'DATA/annotations/tgif.json', image_dir: 'DATA/gifs', portion: 2}
    vis_processor: 'gif_train'
"""
TAIL = """
training:
  output_dir: 'ZOO/../runs/STAGE'
  learning_rate: 2e-3
  remove_unused_columns: false
  model_max_length: 512
  fp16: false
  bf16: true
  tf32: false
  per_device_train_batch_size: 2
  evaluation_strategy: 'no'
  save_strategy: 'no'
  max_steps: 3
  warmup_ratio: 0.03
  lr_scheduler_type: 'cosine'
  logging_steps: 1
  use_cpu: true
  seed: 42
"""
CORE = """  arch: 'ullava_core'
  llm_path: 'ZOO/llama'
  vision_encoder: 'ZOO/clip'
  vision_hidden_layer: -2
  projector_from_scratch: true
  conv_type: 'conv_simple'"""
GROUND = """  arch: 'ullava'
  llm_path: 'ZOO/../runs/core/model'
  sam_pretrained: 'ZOO/sam.pth'
  conv_type: 'conv_sep2'
  lora_r: 4"""


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a tokenizer, a CLIP tower with 16 patches and a converted SAM, all very small."""
    folder = tmp_path_factory.mktemp("old") / "zoo"
    tokenizer = AutoTokenizer.from_pretrained(str(ROOT / "models" / "tiny" / "tokenizer"))
    tokenizer.save_pretrained(str(folder / "llama"))
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}
    words = LlamaConfig(
        **sizes, num_hidden_layers=1, num_key_value_heads=2, vocab_size=len(tokenizer), max_position_embeddings=512
    )
    LlamaForCausalLM(words).save_pretrained(str(folder / "llama"))
    tower = CLIPVisionConfig(**sizes, num_hidden_layers=2, image_size=28, patch_size=7)
    CLIPVisionModel(tower).save_pretrained(str(folder / "clip"))
    SamModel(SamConfig(**NO_HEADS)).save_pretrained(str(folder / "sam"))
    return folder


def write(zoo: Path, stage: str, head: str, data: Path, files: dict[str, str]) -> Path:
    text = HEAD.replace("MODEL", head).replace("PAD", "null" if stage == "core" else "pad")
    text = text.replace("CLIPS", CLIPS if stage == "core" else "")
    for name, file in files.items():
        template = {"msra_b": "SS", "llava_seg": ""}.get(name, "SEG") if stage != "core" else ""
        given = f"template_root: './datasets/templates/{template}.json'," if template else ""
        text += BLOCK.replace("NAME", name).replace("FILE", file).replace("TEMPLATE", given)
    text += (CLIP_BLOCK if stage == "core" else "") + TAIL.replace("STAGE", stage)
    path = zoo.parent / f"{stage}.yaml"
    path.write_text(text.replace("ZOO", str(zoo)).replace("DATA", str(data)), encoding="utf-8")
    return path


def test_both_stages_train(zoo: Path, shared_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real = shared_dir / "parity" / "ullava" / "datasets"
    if not real.is_dir():
        pytest.skip("the small files of every schema are not here")
    data = zoo.parent / "data"  # a folder of our own, because converted annotations are kept beside the lists
    data.mkdir()
    shutil.copytree(real / "annotations", data / "annotations", ignore=shutil.ignore_patterns("*-cache"))
    for name in ("images", "labels", "gifs"):
        (data / name).symlink_to(real / name)
    core = write(zoo, "core", CORE, data, {name: f"{name}.json" for name in CHAT})
    assert main(["train", str(core)]) == 0, capsys.readouterr().err
    told = capsys.readouterr().out
    assert "is written in u-LLaVA's form; as a recipe of ours it reads:" in told
    assert "stage align: what trains" in told and "tgif" in told
    assert "note: training.warmup_ratio: now warmup_steps" in told
    runs = zoo.parent / "runs"
    ground = write(zoo, "ground", GROUND, data, GROUNDED)
    # Some of the small files hold what a reader has to refuse; those samples are named, not trained on.
    assert main(["train", str(ground), "bad_sample_budget=20"]) == 0, capsys.readouterr().err
    for run in (runs / "core", runs / "ground"):
        assert len(losses(run)) == 3 and all(math.isfinite(loss) for loss in losses(run))
    assert json.loads((runs / "core" / "model" / "config.json").read_text())["video_frames"] == 4
    config = json.loads((runs / "ground" / "model" / "config.json").read_text())
    assert (config["image_aspect_ratio"], config["box_frame"], config["trained_stage"]) == ("pad", "padsq", "ground")
    assert (runs / "ground" / "adapter" / "trained.safetensors").is_file()


def test_a_wrong_token_count_stops_before_anything_is_read(
    zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(zoo, "core", CORE, tmp_path, {"sqa": "sqa.json"})
    path.write_text(path.read_text().replace("image_token_len: 16", "image_token_len: 256"))
    assert main(["train", str(path)]) == 2
    err = capsys.readouterr().err
    assert "dataset.sqa.image_token_len: 256 is wrong" in err and "28 x 28 pixels in patches of 7, so it is 16" in err
