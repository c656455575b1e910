"""Recipes of every kind, through ``ullava check``, ``show``, ``data stats`` and ``eval``."""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Any

import yaml
from tests.fuzz.cases import Case, Printed
from tests.fuzz.material import shared
from tests.fuzz.mutations import DEEP, damage_path, damage_text, mutate_tree, odd_word

SHARE = 10
PARTS = ("dataset", "training", "lora", "loss", "optimizer", "vision", "parts", "eval_dataset")


def prepare(base: Path) -> None:
    """Nothing: recipes name the shared world and model."""


def training_recipe(base: Path) -> dict[str, Any]:
    """A recipe for training of one step."""
    return {
        "model": str(shared(base, "model") / "model.yaml"),
        "init": "scratch",
        "stage": "scratch",
        "attn_implementation": "eager",
        "optimizer": {"kind": "adamw", "learning_rates": {}},
        "data_root": str(shared(base, "world")),
        "loss": {"ce": 1.0, "bce": 5.0, "mask_plane": "original"},
        "lora": {"r": 2, "alpha": 4, "dropout": 0.1, "target": ["q_proj"]},
        "dataset": {"shapes_res": {"weight": 1, "turns": 3, "group": "image"}, "shapes_vqa": {"weight": 2, "limit": 3}},
        "eval_dataset": {"shapes_res": {"limit": 2}},
        "eval_protocol": "teacher_forced",
        "bad_sample_budget": 2,
        "word_dropout": 0.1,
        "training": {
            "per_device_train_batch_size": 2,
            "max_steps": 1,
            "learning_rate": "4.0e-3",
            "lr_scheduler_type": "cosine",
            "warmup_steps": 1,
            "save_strategy": "no",
            "eval_strategy": "no",
            "logging_steps": 1,
            "seed": 1,
        },
    }


def evaluation_recipe(base: Path) -> dict[str, Any]:
    """A recipe for evaluation of a few questions."""
    return {
        "model": str(shared(base, "weights")),
        "data_root": str(shared(base, "world")),
        "protocol": "teacher_forced",
        "batch_size": 4,
        "max_new_tokens": 2,
        "bad_sample_budget": 5,
        "bootstrap": 2,
        "dataset": {"shapes_res": {"limit": 2}, "rec": {"dataset": "shapes_res", "task": "rec", "limit": 2}},
    }


def _others(base: Path) -> list[dict[str, Any]]:
    comparison = {
        "recipe": "shapes",
        "contenders": {"one": {"model": str(shared(base, "weights")), "overrides": {}, "runs": ["runs/x"]}},
        "data_root": str(shared(base, "world")),
        "images": 2,
    }
    old: dict[str, Any] = {
        "model": {"arch": "ullava_core", "llm_path": "llm", "vision_encoder": "zoo/clip", "vision_hidden_layer": -2},
        "task": {"type": "image_text_pretrain", "collator_type": "image_video_collator"},
        "processor": {"clip_image": {"path": "zoo/clip", "image_size": 224}},
        "dataset": {
            "llava_cc3m": {
                "data_type": "image", "image_token_len": 256, "vis_processor": "clip_image",
                "build_info": {"anno_dir": "data/chat.json", "image_dir": "data/images", "portion": 1.0},
            }
        },
        "training": {"output_dir": "x", "learning_rate": 2e-3, "model_max_length": 1024, "evaluation_strategy": "no"},
    }  # fmt: skip
    return [comparison, old]


def yaml_text(rng: Random, tree: Any) -> tuple[str, str]:
    """YAML of a tree, some of the time with what a person would write wrongly."""
    text = yaml.safe_dump(tree, sort_keys=False, allow_unicode=rng.random() < 0.5).replace(DEEP, "[" * 100 + "]" * 100)
    odd = {
        "alias": "x: &a [1]\ny: *a\n",
        "bomb": "a: &a [x,x,x,x]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\n",
        "tag": "model: !!python/object/apply:os.mkdir [sprung]\n",
        "tab": "\tmodel: x\n",
        "merge": "<<: {model: x}\n",
        "two documents": "---\nmodel: y\n",
        "binary": "data: !!binary aGVsbG8=\n",
        "deep": "deep: " + "[" * 5000 + "]" * 5000 + "\n",
        "repeated": "model: again\n",
        "extends itself": "extends: recipe.yaml\n",
        "extends nothing": "extends: no.yaml\n",
        "extends a list": "extends: [a]\n",
        "question": "? [a, b]\n: c\n",
        "huge": "# " + "x" * (1 << 20) + "\n",
        "nan": "bad_sample_budget: .nan\n",
    }
    if rng.random() < 0.15:
        name = rng.choice(list(odd))
        return rng.choice([text + odd[name], odd[name] + text]), name
    return text, ""


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage the tree, its text, or the file."""
    kind = rng.choice(["train", "train", "train", "eval", "eval", "other"])
    sound = {"train": training_recipe, "eval": evaluation_recipe}.get(kind, lambda b: rng.choice(_others(b)))(base)
    what, tree = "sound", sound
    if rng.random() < 0.9:
        part = rng.choice(PARTS)
        if rng.random() < 0.5 and part in sound:
            changed, what = mutate_tree(rng, {part: sound[part]}, 1)
            tree = sound | changed if isinstance(changed, dict) else changed
        else:
            tree, what = mutate_tree(rng, sound)
    text, how = yaml_text(rng, tree)
    what = f"{kind}: {what}{'; ' * bool(how)}{how}"
    data, how = damage_text(rng, text, 0.1)
    file = folder / "recipe.yaml"
    file.write_bytes(data)
    if rng.random() < 0.04:
        how = damage_path(rng, file)
    what = f"{what}; {how}" if how else what
    argv = rng.choice([["check"], ["check"], ["show"], ["data", "stats"]]) + ["./recipe.yaml"]
    if kind == "eval" and rng.random() < 0.6:
        argv = ["eval", "./recipe.yaml", "--out", "out"]
    return Case(
        argv=argv,
        what=what,
        names=("recipe.yaml", "world", "weights", "shapes_", "dataset."),
        writes=("out",),
        check=lambda printed: check(file, argv, printed),
    )


def check(file: Path, argv: list[str], printed: Printed) -> list[str]:
    """The merged recipe reads back equal; what is shown is that."""
    from ullava.config.load import dump_config, load_config, parse_text
    from ullava.config.recipes import config_class
    from ullava.evaluation.result_store import read_lines

    problems = ["the file made something"] if Path("sprung").exists() else []
    cls = config_class(file)
    if cls is None:
        return problems
    config = load_config(cls, file)
    text = dump_config(config)
    if repr(parse_text(cls, text)) != repr(config):
        problems.append("what is shown does not read back as the same recipe")
    if argv[0] == "show" and printed.out.split("\n", 1)[1] != text:
        problems.append("'show' prints something else")
    if argv[0] == "eval" and not list(read_lines(Path("out/predictions.jsonl"))):
        problems.append("an evaluation of nothing")
    return problems


def odd_yaml_value(rng: Random) -> str:
    """A value as it is typed behind ``key=``."""
    typed = [
        "", "1e5", "1_000", "0x10", "0o7", "1:30", "yes", "off", "~", "null", ".inf", "nan", "[1, 2", "{a: 1}", "{",
        "'", '"x', "2026-11-29", "*a", "&a 1", "!!int x", "- 1", "a: b: c", "%x", "@x", "`x", "|", ">", "#", "-0",
        "[" * 50 + "]" * 50, "0.1.2", "true false", "{}", "[]", "[[]]", "9" * 5000, "../x", "0", "-1", "1", "x",
    ]  # fmt: skip
    return rng.choice(typed) if rng.random() < 0.7 else odd_word(rng).replace("\x00", "")
