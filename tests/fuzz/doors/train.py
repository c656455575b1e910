"""Recipes and run folders, through ``ullava train`` of one step."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import yaml
from tests.fuzz.cases import Case
from tests.fuzz.doors.recipes import odd_yaml_value, training_recipe
from tests.fuzz.material import copy_tree
from tests.fuzz.mutations import damage_bytes, damage_path, mutate_tree

SHARE = 6


def prepare(base: Path) -> None:
    """A run of two steps with a checkpoint after the first."""
    from ullava.cli.main import main

    tree = _recipe(base)
    (base / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main(["train", str(base / "recipe.yaml"), "--out", str(base / "run")]) == 0


def _recipe(base: Path) -> dict[str, object]:
    tree = training_recipe(base)
    for key in ("lora", "eval_dataset", "word_dropout"):
        del tree[key]
    tree["training"] |= {"max_steps": 2, "save_strategy": "steps", "save_steps": 1, "save_total_limit": 2}
    tree["training"]["use_cpu"] = True
    tree["dataset"] = {"shapes_res": {"turns": 1}}
    return tree


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Another recipe, or a damaged run folder that is to be resumed."""
    file = folder / "recipe.yaml"
    tree = _recipe(base)
    if rng.random() < 0.6:
        if rng.random() < 0.5:
            part = rng.choice(["training", "training", "dataset", "loss", "optimizer"])
            changed, what = mutate_tree(rng, {part: tree[part]}, 1)
            tree = tree | changed if isinstance(changed, dict) else tree
            given = []
        else:
            keys = [
                "per_device_train_batch_size", "gradient_accumulation_steps", "max_grad_norm", "weight_decay", "optim",
                "dataloader_num_workers", "warmup_ratio", "seed", "data_seed", "lr_scheduler_type", "bf16", "deepspeed",
                "num_train_epochs", "adam_beta1", "save_total_limit", "logging_steps", "learning_rate", "save_steps",
                "lr_scheduler_kwargs", "output_dir", "report_to", "torch_compile", "max_steps", "fsdp",
            ]  # fmt: skip
            given = [f"training.{rng.choice(keys)}={odd_yaml_value(rng)}"]
            given = [
                "training.torch_compile=text" if one == "training.torch_compile=true" else one for one in given
            ]  # minutes
            what = given[0]
        file.write_text(yaml.safe_dump(tree, sort_keys=False).replace("@@DEEP@@", "[[]]"))
        argv = ["train", "./recipe.yaml", *given, "--out", "run"]
        names = ("recipe.yaml", "command line", "training", "run", "dataset", "loss", "shapes_res")
        return Case(argv=argv, what=what, names=names, writes=("run",), check=lambda _: check())
    file.write_text((base / "recipe.yaml").read_text())
    copy_tree(base / "run", folder / "run")
    damaged = rng.choice(sorted(path for path in (folder / "run").rglob("*") if path.is_file()))
    if rng.random() < 0.5:
        import shutil

        # As if the run had been stopped behind its first step.
        for path in ("checkpoints/checkpoint-2", "model"):
            shutil.rmtree(folder / "run" / path)
        damaged = rng.choice(sorted(path for path in (folder / "run" / "checkpoints").rglob("*") if path.is_file()))
    way = rng.random()
    if way < 0.6:
        data, what = damage_bytes(rng, damaged.read_bytes())
        damaged.write_bytes(data)
    elif way < 0.8:
        what = damage_path(rng, damaged)
    else:
        what = "gone"
        damaged.unlink()
    argv = ["train", "./recipe.yaml", "--out", "run", "--resume"]
    what = f"resumed: {damaged.relative_to(folder / 'run')}: {what}"
    return Case(argv=argv, what=what, names=("run",), writes=("run",), check=lambda _: check())


def check() -> list[str]:
    """There is a model that can be loaded, with finite weights, and the log holds finite losses."""
    import torch

    from ullava.modeling.construction.auto import load_folder

    run = Path("run")
    model, _ = load_folder(run / "model", torch.float32)
    problems = [
        f"weight {name} is not finite" for name, value in model.named_parameters() if not value.isfinite().all()
    ]
    for line in (run / "train_log.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda word: problems.append(f"train_log.jsonl holds {word}"))
    return problems[:3]
