"""``ullava check --memory``: its arithmetic against counts, and against what training takes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.hub_cache import offline_cache, put_published
from tests.unit.training.conftest import MODEL, RECIPE, ROOT

from ullava.config.load import load_config
from ullava.config.schema import TrainRecipe
from ullava.errors import ConfigError
from ullava.training.memory.estimate import MemoryEstimate, estimate
from ullava.training.memory.settings import read_settings
from ullava.training.memory.table import table
from ullava.training.optim.stages import apply_stage

TOLERANCE = 0.1
"""Of what was measured."""
SMALL = """hidden_size: 32, intermediate_size: 48, num_hidden_layers: 1, num_attention_heads: 2,
           num_key_value_heads: 2"""
WIDER = """hidden_size: 512, intermediate_size: 1536, num_hidden_layers: 2, num_attention_heads: 4,
           num_key_value_heads: 4"""
LORA_24GB = (
    "base_dtype=bfloat16", "training.deepspeed=null", "training.optim=adamw_torch_fused",
    "training.per_device_train_batch_size=2",
)  # fmt: skip


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak of a process is read from Linux's /proc"
)
def test_what_is_computed_is_what_training_takes(write: Callable[[str, str], Path], tmp_path: Path) -> None:
    assert SMALL in MODEL
    model = write("wide/model.yaml", MODEL.replace(SMALL, WIDER).replace("max_length: 384", "max_length: 192"))
    recipe = write("recipe.yaml", RECIPE.replace("MODEL", str(model)).replace("WORLD", str(tmp_path)))
    settings = ("training.gradient_checkpointing=false", "training.gradient_checkpointing=true")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT), "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0",
        "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    script = str(Path(__file__).with_name("measured_memory.py"))
    done = subprocess.run(
        [sys.executable, script, str(recipe), *settings], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for setting in settings:
        assert found["told"][setting] == pytest.approx(found["measured"][setting], rel=TOLERANCE), found
    assert found["told"][settings[1]] < 0.9 * found["told"][settings[0]]


@pytest.fixture
def told(recipe_file: Path) -> Callable[..., MemoryEstimate]:
    def tell(*settings: str, processes: int = 1) -> MemoryEstimate:
        return estimate(load_config(TrainRecipe, recipe_file, settings), recipe_file, processes=processes)

    return tell


def test_weights_gradients_and_states_are_counted_exactly(
    told: Callable[..., MemoryEstimate], make_model: Callable[..., tuple[Any, Any]]
) -> None:
    found = told()
    model, _ = make_model()
    apply_stage(model, "scratch")
    numbers = sum(value.numel() for value in model.parameters())
    trained = sum(value.numel() for value in model.parameters() if value.requires_grad)
    assert sum(part.weights[torch.float32] for part in found.parts.values() if part.weights) == 4 * numbers
    assert sum(part.gradients for part in found.parts.values()) == 4 * trained
    assert sum(part.optimizer for part in found.parts.values()) == 8 * trained
    assert all(found.parts[name].activations > 0 for name in ("language model", "vision tower", "mask encoder"))
    assert (found.rows, found.length, found.activations_unknown) == (4, 384, "")


def test_the_base_of_adapters_in_half_precision(told: Callable[..., MemoryEstimate]) -> None:
    lora = ("stage=ground", "lora={r: 2}", "init=x", "training.bf16=true")
    whole, half = told(*lora), told(*lora, "base_dtype=bfloat16")
    before, after = (found.parts["language model"].weights for found in (whole, half))
    rounded = after[torch.bfloat16]
    assert rounded > 0 and before[torch.float32] == after[torch.float32] + 2 * rounded
    for part in ("LoRA adapters", "mask head"):
        assert half.parts[part].weights.get(torch.float32, 0) > 0
    assert half.parts["LoRA adapters"] == whole.parts["LoRA adapters"]
    assert half.total < whole.total


def test_the_base_of_adapters_in_8_bits(told: Callable[..., MemoryEstimate]) -> None:
    lora = ("stage=ground", "lora={r: 2}", "init=x", "training.bf16=true")
    half, eighth = told(*lora, "base_dtype=bfloat16"), told(*lora, "base_dtype=int8")
    before, after = (found.parts["language model"].weights for found in (half, eighth))
    assert before[torch.float32] == after[torch.float32]
    rows = 4 * 32 + 2 * 48 + 32  # of the layer's linear layers: each has a float32 scale
    assert after[torch.uint8] == before[torch.bfloat16] // 2 + 4 * rows
    assert eighth.parts["vision tower"] == half.parts["vision tower"]
    assert 0 < eighth.parts["language model"].activations


def test_processes_share_what_the_recipe_says(recipe_file: Path, tmp_path: Path) -> None:
    def shared(*settings: str) -> Any:
        return read_settings(load_config(TrainRecipe, recipe_file, settings), recipe_file, 4).sharing

    deepspeed = "training.deepspeed=configs/deepspeed/"
    counts = {
        name: (found.kind, found.weights, found.gradients, found.optimizer, found.whole_dtype)
        for name, found in {
            "ddp": shared(),
            "fsdp2": shared("sharding=fsdp2"),
            **{f"zero{stage}": shared(f"{deepspeed}zero{stage}.json") for stage in (1, 2, 3)},
            "half": shared(f"{deepspeed}zero2.json", "training.bf16=true"),
        }.items()
    }
    assert counts == {
        "ddp": ("DDP", 1, 1, 1, None),
        "fsdp2": ("FSDP2", 4, 4, 4, None),
        "zero1": ("ZeRO-1", 1, 1, 4, torch.float32),
        "zero2": ("ZeRO-2", 1, 4, 4, torch.float32),
        "zero3": ("ZeRO-3", 4, 4, 4, torch.float32),
        "half": ("ZeRO-2", 1, 4, 4, torch.bfloat16),
    }
    offload = tmp_path / "offload.json"
    offload.write_text('{"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}')
    assert shared(f"training.deepspeed={offload}").offloaded == {"optimizer"}
    with pytest.raises(ConfigError, match="no file gone"):
        shared("training.deepspeed=gone.json")


def test_a_table_of_deepspeed(told: Callable[..., MemoryEstimate]) -> None:
    found = told("training.deepspeed=configs/deepspeed/zero2.json", "training.bf16=true", processes=2)
    lines = table(found)
    assert "2 processes, shared by ZeRO-2" in lines[3] and "bfloat16, DeepSpeed's" in lines[2]
    assert "bfloat16" in lines[4] and "float32" not in lines[4]
    numbers = sum(size for part in found.parts.values() for size in part.weights.values()) // 2
    states = sum(part.optimizer for part in found.parts.values())
    assert states <= 12 * numbers // 2 and found.beside["buckets of DeepSpeed"] <= 2 * numbers


def test_the_command(command: Callable[..., tuple[int, str, str]], recipe_file: Path) -> None:
    code, out, err = command("check", "--memory", str(recipe_file), "--tokens", "200", "training.optim=rmsprop")
    assert (code, err) == (0, "")
    assert "4 rows of 200 tokens" in out and "training.optim rmsprop is counted as AdamW" in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  mask ")] == ["mask", "mask"]
    wrong = {
        ("check", "--memory"): "name the recipe of a training",
        ("check", "--memory", "eval_res"): "is no recipe of a training",
        ("check", "--memory", str(recipe_file), "--processes", "0"): "--processes: has to be 1 or more, not 0",
        ("check", "--memory", str(recipe_file), "--tokens", "9"): "tokens, not 9",
        ("check", "--memory", str(recipe_file), "training.bf17=true"): "not a TrainingArguments name",
    }
    for arguments, words in wrong.items():
        code, _, err = command(*arguments)
        assert code == 2 and words in err, arguments


@pytest.mark.slow
def test_the_table_of_the_documentation(root: Path, tmp_path: Path) -> None:
    put_published(tmp_path / "cache", tmp_path / "work")
    path = root / "configs" / "train" / "ullava_stage2_lora.yaml"
    with offline_cache(tmp_path / "cache"):
        found = estimate(load_config(TrainRecipe, path, LORA_24GB), path)
    written = (root / "docs" / "training.md").read_text(encoding="utf-8")
    assert "\n".join(table(found)) in written
    assert found.total < 24 * 2**30
