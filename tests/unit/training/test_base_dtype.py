"""``base_dtype``: the frozen base of a LoRA run in bfloat16."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.unit.modeling.conftest import batch_of, grounded_sample
from tests.unit.modeling.small_sam2 import build_sam2

from ullava.config.load import load_config
from ullava.config.schema import TrainRecipe
from ullava.inference.load import weights_folder
from ullava.modeling.construction import quantized
from ullava.training.optim.base_dtype import check_base_dtype, hold_frozen

LORA = ("stage=ground", "lora={r: 2, dropout: 0.0}", "training.bf16=true", "training.max_steps=2")
HALF = "base_dtype=bfloat16"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((*LORA, "init=x", "training.bf16=false"), "needs training.bf16: true"),
        ((*LORA, "init=x", "lora=null"), "give lora, or leave it out"),
        (LORA, "init: scratch names no base"),
        ((*LORA, "init=x", "training.deepspeed=a.json"), "DeepSpeed chooses the type"),
        ((*LORA, "init=x", "sharding=fsdp2"), "whose groups hold weights of one type"),
    ],
)
def test_it_is_refused_where_it_makes_no_sense(recipe_file: Path, settings: tuple[str, ...], words: str) -> None:
    recipe = load_config(TrainRecipe, recipe_file, [*settings, HALF])
    (problem,) = check_base_dtype(recipe, recipe.training, recipe_file)
    assert "base_dtype: bfloat16" in problem and words in problem
    plain = load_config(TrainRecipe, recipe_file, settings)
    assert check_base_dtype(plain, plain.training, recipe_file) == []


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_fewer_bits_need_their_package(recipe_file: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    recipe = load_config(TrainRecipe, recipe_file, [*LORA, "init=x", f"base_dtype={kind}"])
    (problem,) = check_base_dtype(recipe, recipe.training, recipe_file)
    assert problem.endswith(f"base_dtype: {kind} on cpu needs bitsandbytes: pip install 'ullava[quantize]'")


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_a_base_of_fewer_bits_is_trained_on(
    command: Callable[..., tuple[int, str, str]], recipe_file: Path, tmp_path: Path, kind: str
) -> None:
    """QLoRA on the CPU: losses near those of the whole base, a run that is resumed, and a model of the whole base."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra quantize) is not installed")
    settings = (*LORA, "model=tiny", "init=tiny", "training.max_steps=3", "training.save_steps=2", "loss=null")

    def run(name: str, *more: str) -> Path:
        code, _, err = command("train", str(recipe_file), *settings, *more, "--out", str(tmp_path / name))
        assert code == 0, err
        return tmp_path / name

    def losses(folder: Path) -> list[float]:
        lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    whole, few = run("whole"), run("few", f"base_dtype={kind}")
    assert len(losses(few)) == 3 and losses(few) == pytest.approx(losses(whole), rel={"int8": 0.15, "nf4": 0.5}[kind])
    assert losses(few) != losses(whole)
    before = load_file(weights_folder("tiny") / "model.safetensors")
    after = load_file(few / "model" / "model.safetensors")
    name = "language_model.model.layers.0.self_attn.{}.weight"
    assert torch.equal(after[name.format("k_proj")], before[name.format("k_proj")].float())
    assert not torch.equal(after[name.format("q_proj")], before[name.format("q_proj")].float())
    first = load_file(few / "adapter" / "adapter_model.safetensors")
    for lost in ("model", "adapter", "checkpoints/checkpoint-3"):
        shutil.rmtree(few / lost)
    (few / "metrics.json").unlink()
    run("few", f"base_dtype={kind}", "--resume")
    again = load_file(few / "adapter" / "adapter_model.safetensors")
    assert all(torch.equal(value, again[key]) for key, value in first.items())


def test_heads_on_the_tower_rest_in_half_precision_too() -> None:
    """Their convolutions run whole where they train; held in bfloat16 they run as the pass around them does."""
    model, processor = build_sam2("box={kind: mask, width: 8, frame: padsq}")
    inputs = batch_of(processor, [grounded_sample("1", 2)]).inputs
    model.requires_grad_(False)
    with torch.autocast("cpu", torch.bfloat16):
        whole = model(**inputs.as_kwargs())
        hold_frozen(model, "bfloat16")
        assert {model.mask_head.neck.lateral[0].weight.dtype, model.box_head.edges[0].weight.dtype} == {torch.bfloat16}
        half = model(**inputs.as_kwargs())
    for kept, given in ((half.seg.mask_logits_lowres, whole.seg.mask_logits_lowres),
                        (half.loc.boxes_xyxy_head, whole.loc.boxes_xyxy_head)):  # fmt: skip
        torch.testing.assert_close(kept.float(), given.float(), rtol=0.05, atol=0.05)


def test_a_run_loses_nothing_by_it(
    command: Callable[..., tuple[int, str, str]], recipe_file: Path, tmp_path: Path
) -> None:
    def run(name: str, *settings: str) -> Path:
        out = tmp_path / name
        code, _, err = command("train", str(recipe_file), "training.save_strategy=no", *settings, "--out", str(out))
        assert code == 0, err
        return out

    def losses(folder: Path) -> list[float]:
        lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    base = run("base", "training.max_steps=1") / "model"
    evaluation = ("eval_dataset={shapes_res: {limit: 2}}", "training.eval_strategy=steps", "training.eval_steps=2")
    whole = run("whole", *LORA, f"init={base}")
    half = run("half", *LORA, f"init={base}", HALF, *evaluation)
    assert len(losses(half)) == 2 and losses(half) == pytest.approx(losses(whole), rel=1e-2)
    assert list((half / "eval").glob("step-*"))

    before, after = load_file(base / "model.safetensors"), load_file(half / "model" / "model.safetensors")
    trained = load_file(half / "adapter" / "adapter_model.safetensors")
    trained |= load_file(half / "adapter" / "trained.safetensors")
    assert {value.dtype for value in (*after.values(), *trained.values())} == {torch.float32}
    frozen = [name for name in before if name.startswith(("vision.tower.", "mask_head.sam.vision_encoder."))]
    adapted = "language_model.model.layers.0.self_attn.q_proj.weight"
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    assert torch.equal(before[adapted.replace("q_proj", "k_proj")], after[adapted.replace("q_proj", "k_proj")])
    assert not torch.equal(before[adapted], after[adapted])
