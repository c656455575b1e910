"""Recipes as u-LLaVA writes them: what they become, and that nothing wrong in them passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ullava.config.load import load_config
from ullava.config.old_form import BUILDERS, explain
from ullava.config.recipes import config_class
from ullava.config.schema import EvalRecipe, HeadsConfig, TrainRecipe
from ullava.errors import ConfigError

STAGE1 = """
model:
  arch: 'ullava_core'
  llm_path: 'zoo/vicuna'
  vision_encoder: 'zoo/clip'
  vision_hidden_layer: -2
  projector_from_scratch: true
  conv_type: 'conv_simple'
task: {type: image_text_pretrain, collator_type: 'image_video_collator'}
processor:
  clip_image: {path: 'zoo/clip', image_size: 224}
  gif_train: {n_frm: 8, image_size: 224}
dataset:
  llava_cc3m:
    data_type: 'image'
    image_token_len: 256
    build_info: {anno_dir: 'data/chat.json', image_dir: 'data/images', portion: 1.0}
    vis_processor: 'clip_image'
  tgif:
    data_type: 'gif'
    image_token_len: 256
    build_info: {anno_dir: 'data/tgif.json', image_dir: 'data/gifs', portion: 0.5}
    vis_processor: 'gif_train'
training:
  deepspeed: './configs/deepspeed/bf16_zero2.json'
  output_dir: './exp/stage1'
  learning_rate: 2e-3
  remove_unused_columns: false
  model_max_length: 1024
  tf32: false
  evaluation_strategy: 'no'
  warmup_ratio: 0.03
"""
STAGE2 = """
model:
  arch: 'ullava'
  llm_path: 'exp/stage1'
  sam_pretrained: 'zoo/sam_vit_h.pth'
  conv_type: 'conv_sep2'
  lora_r: 8
  lora_target_modules: 'q_proj, v_proj'
  bce_loss_weight: 3.0
task: {type: image_text_pretrain, collator_type: 'grounding_collator'}
processor:
  clip_image: {path: 'zoo/clip', image_size: 224, aspect_ratio: 'pad'}
dataset:
  refcoco+:
    data_type: 'image'
    image_token_len: 256
    build_info:
      anno_dir: 'data/refcoco+_train.json'
      image_dir: 'data/coco2014'
      template_root: './datasets/templates/SEG.json'
      portion: 2
    vis_processor: 'clip_image'
eval_dataset:
  refcoco_val:
    data_type: 'image'
    image_token_len: 256
    build_info: {anno_dir: 'data/refcoco_val.json', image_dir: 'data/coco2014', portion: 1.0}
    vis_processor: 'clip_image'
training: {model_max_length: 512, evaluation_strategy: 'epoch', learning_rate: 2e-4}
"""


@pytest.fixture
def zoo(write: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that are models as far as their config.json goes; the working folder is above them."""
    clip = {"model_type": "clip", "vision_config": {"image_size": 224, "patch_size": 14}}
    write("zoo/vicuna/config.json", json.dumps({"model_type": "llama"}))
    write("zoo/clip/config.json", json.dumps(clip))
    write("zoo/sam_vit_h/config.json", json.dumps({"model_type": "sam", "prompt_encoder_config": {"hidden_size": 256}}))
    stage1 = {
        "model_type": "ullava",
        "text_config": {},
        "vision_config": clip["vision_config"],
        "spatial_merge_size": 1,
    }
    write("exp/stage1/config.json", json.dumps({**stage1, "trained_stage": "align", "video_frames": 8}))
    write("exp/stage2/config.json", json.dumps({**stage1, "trained_stage": "ground"}))
    write("exp/released/config.json", json.dumps({"model_type": "ullava_core", "vision_hidden_layer": -2}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def problems_of(path: Path, kind: type = TrainRecipe) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(kind, path)
    return list(caught.value.problems)


def test_the_first_stage(zoo: Path, write: Callable[[str, str], Path]) -> None:
    path = write("stage1.yaml", STAGE1)
    recipe = load_config(TrainRecipe, path, ["training.deepspeed=null"])
    assert config_class(path) is TrainRecipe
    assert (recipe.stage, recipe.init, recipe.lora, recipe.output) == ("align", "scratch", None, "./exp/stage1")
    assert recipe.system is not None
    assert recipe.system.language.path == "zoo/vicuna" and recipe.system.tokenizer == "zoo/vicuna"
    vision = recipe.system.vision
    assert (vision.tower.path, vision.vision_feature_layer, vision.projector) == ("zoo/clip", -2, "linear")
    assert (vision.image_aspect_ratio, vision.video_frames) == ("crop", 8)
    assert (recipe.system.text.template, recipe.system.text.max_length) == ("simple", 1024)
    chat, clips = recipe.dataset["llava_cc3m"], recipe.dataset["tgif"]
    assert (chat.annotations, chat.images, chat.portion) == ("data/chat.json", "data/images", None)
    assert (clips.dataset, clips.portion) == ("tgif", 0.5)
    assert (clips.frames, chat.frames) == ("head_tail", "uniform")
    assert recipe.training == {
        "deepspeed": None, "learning_rate": 2e-3, "eval_strategy": "no", "warmup_steps": 0.03,
    }  # fmt: skip


def test_a_first_stage_that_trains_everything(zoo: Path, write: Callable[[str, str], Path]) -> None:
    path = write("all.yaml", STAGE1.replace("projector_from_scratch: true", "projector_from_scratch: false"))
    recipe = load_config(TrainRecipe, path)
    assert recipe.stage == "ground"
    assert recipe.parts == {"SAM mask decoder": False, "mask projector": False, "box head": False}


def test_the_second_stage(zoo: Path, write: Callable[[str, str], Path]) -> None:
    path = write("stage2.yaml", STAGE2)
    recipe = load_config(TrainRecipe, path)
    assert (recipe.stage, recipe.init, recipe.model) == ("ground", "exp/stage1", "exp/stage1")
    assert isinstance(recipe.reinit_heads, HeadsConfig)
    assert recipe.reinit_heads.mask.sam.path == "zoo/sam_vit_h"
    assert (recipe.reinit_heads.box.frame, recipe.reinit_heads.box.sigmoid, recipe.reinit_heads.box.width) == (
        "padsq",
        False,
        256,
    )
    assert (
        recipe.reinit_heads.image_aspect_ratio,
        recipe.reinit_heads.text.template,
        recipe.reinit_heads.text.max_length,
    ) == ("pad", "vicuna_v1", 512)
    assert recipe.reinit_heads.text.system.startswith("A chat between a curious human")
    assert recipe.lora is not None
    assert (recipe.lora.r, recipe.lora.alpha, recipe.lora.dropout) == (8, 16, 0.05)
    assert recipe.lora.target == ["q_proj", "v_proj"]
    assert recipe.parts == {"vision projector": False, "language head": True}
    assert recipe.loss is not None and (recipe.loss.bce, recipe.loss.dice, recipe.loss.ce) == (3.0, 0.5, 1.0)
    entry = recipe.dataset["refcoco+"]
    assert (entry.dataset, entry.split, entry.template, entry.portion) == ("refcoco+", "train", "SEG.json", None)
    assert (recipe.eval_dataset["refcoco_val"].dataset, recipe.eval_dataset["refcoco_val"].split) == ("refcoco", "val")
    assert recipe.eval_protocol == "teacher_forced"
    told = explain(path)
    assert told is not None
    assert any("portion: 2 is 1" in note for note in told)
    assert any("evaluation_strategy: now eval_strategy" in note for note in told)


def test_a_second_stage_goes_on_with_its_own_heads(zoo: Path, write: Callable[[str, str], Path]) -> None:
    recipe = load_config(TrainRecipe, write("more.yaml", STAGE2.replace("exp/stage1", "exp/stage2")))
    assert (recipe.init, recipe.reinit_heads) == ("exp/stage2", "none")


def test_an_evaluation(zoo: Path, write: Callable[[str, str], Path]) -> None:
    text = STAGE2.replace("image_text_pretrain", "image_text_evaluate").replace("exp/stage1", "exp/stage2")
    text = text.replace("  lora_r: 8", "  grounding_path: zoo/dino.pth")
    path = write("eval.yaml", text)
    assert config_class(path) is EvalRecipe
    recipe = load_config(EvalRecipe, path)
    assert (recipe.model, recipe.protocol, list(recipe.dataset)) == ("exp/stage2", "teacher_forced", ["refcoco_val"])
    assert any("model.grounding_path: not read" in note for note in explain(path) or ())
    assert problems_of(path) == [f"{path}:2: a recipe for ullava eval"]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("image_token_len: 256", "image_token_len: 576", "dataset.refcoco+.image_token_len: 576 is wrong; exp/stage1"
         " sees 224 x 224 pixels in patches of 14, so it is 256"),
        ("conv_type:", "conv_typ:", "model.conv_typ: unknown key; did you mean 'conv_type'?"),
        ("conv_sep2", "conv_sep", "model.conv_type: 'conv_sep' is unknown; did you mean 'conv_sep2'?"),
        ("  refcoco+:", "  refcocco:", "dataset.refcocco: unknown dataset; did you mean 'refcoco'?"),
        ("      anno_dir", "      anno_dri", "build_info.anno_dri: unknown key; did you mean 'anno_dir'?"),
        ("vis_processor: 'clip_image'", "vis_processor: 'clip_imag'", "'clip_imag' is unknown; did you mean 'clip_i"),
        ("  clip_image: {path", "  clip_imag: {path", "processor.clip_imag: unknown key; did you mean 'clip_image'?"),
        ("aspect_ratio: 'pad'", "aspect_ratio: 'pda'", "aspect_ratio: 'pda' is unknown; did you mean 'pad'?"),
        ("grounding_collator", "grounding", "task.collator_type: 'grounding' is unknown; did you mean"),
        ("'ullava'", "'ulava'", "model.arch: 'ulava' is unknown; did you mean 'ullava'?"),
        ("training:", "trainings:", "trainings: unknown key; did you mean 'training'?"),
        ("exp/stage1", "exp/stage7", "model.llm_path: no config.json in exp/stage7, and no model of that name"),
        ("exp/stage1", "exp/released", "ullava convert ullava --from exp/released --out FOLDER"),
        ("exp/stage1", "zoo/vicuna", "zoo/vicuna is a language model; arch ullava starts from stage I"),
        ("sam_vit_h.pth", "sam_vit_b.pth", "ullava convert sam --from zoo/sam_vit_b.pth --out zoo/sam_vit_b"),
        ("lora_r: 8", "out_dim: 128", "model.out_dim: 128 is wrong; the prompts of zoo/sam_vit_h are 256 wide"),
        ("portion: 1.0}", "portion: 0.5}", "eval_dataset.refcoco_val.build_info.portion: an evaluation is of all"),
        ("learning_rate", "warmup_steps: 3, warmup_ratio", "training.warmup_ratio: warmup_steps is there too"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_line(
    zoo: Path, write: Callable[[str, str], Path], before: str, after: str, message: str
) -> None:
    assert before in STAGE2
    path = write("wrong.yaml", STAGE2.replace(before, after))
    told = problems_of(path)
    assert all(problem.startswith(f"{path}:") for problem in told)
    assert any(message in problem for problem in told), told


def test_a_rank_in_words(zoo: Path, write: Callable[[str, str], Path]) -> None:
    path = write("wrong.yaml", STAGE2.replace("lora_r: 8", "lora_r: eight"))
    assert any("lora_r: expected a whole number, got 'eight'" in problem for problem in problems_of(path))


def test_frames_have_to_be_those_of_the_model(zoo: Path, write: Callable[[str, str], Path]) -> None:
    text = STAGE1.replace("'zoo/vicuna'", "'exp/stage1'").replace("n_frm: 8", "n_frm: 4")
    assert any("n_frm 4 is wrong; the model sees 8" in problem for problem in problems_of(write("w.yaml", text)))


def test_every_builder_is_a_dataset_of_ours() -> None:
    from ullava.data.loading.descriptor import load_descriptor

    assert len(BUILDERS) == 26
    for name, (dataset, split) in BUILDERS.items():
        _, config = load_descriptor(dataset)
        assert split in config.splits, name
