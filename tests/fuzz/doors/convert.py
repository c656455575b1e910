"""Foreign weights, damaged, through ``ullava convert``."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random
from typing import Any

from tests.fuzz.cases import Case
from tests.fuzz.doors.refs import Trap
from tests.fuzz.material import ROOT, build, copy_tree, shared
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, json_text, mutate_tree

SHARE = 7
KINDS = ("checkpoint", "checkpoint", "clip", "convnext", "llama2c", "sam", "grounding_dino", "ullava", "llava", "merge",
         "box_head", "vision_encoder")  # fmt: skip


def prepare(base: Path) -> None:
    """A state dict of the small model, small towers in transformers' own form, a llama2.c file."""
    import torch
    from transformers import CLIPVisionConfig, CLIPVisionModel, ConvNextConfig, ConvNextModel

    model, _ = build(shared(base, "model") / "model.yaml")
    torch.save(model.state_dict(), base / "checkpoint.pth")
    torch.save(
        {f"image_encoder.{name}": value for name, value in list(model.state_dict().items())[:30]}, base / "sam.pth"
    )
    torch.save({"model": {"module.x": torch.zeros(2)}}, base / "grounding_dino.pth")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    CLIPVisionModel(CLIPVisionConfig(image_size=32, patch_size=8, **sizes)).save_pretrained(base / "clip")
    ConvNextModel(ConvNextConfig(hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1])).save_pretrained(base / "convnext")
    numbers = [8, 16, 1, 2, 2, 16, 4]
    count = 16 * 8 + 8 + 4 * 8 * 8 + 8 + 3 * 16 * 8 + 8 + 2 * (4 * 4 // 2)
    (base / "llama2c.bin").write_bytes(struct.pack("<7i", *numbers) + struct.pack(f"<{count}f", *[0.1] * count))
    for kind in ("ullava", "llava"):
        (base / kind).mkdir()
        torch.save(model.state_dict(), base / kind / "pytorch_model.bin")
        config = {"model_type": "llava" if kind == "llava" else "ullava", "hidden_size": 16, "vocab_size": 300}
        (base / kind / "config.json").write_text(json.dumps(config))
    (base / "merge").mkdir()
    (base / "merge" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    (base / "merge" / "adapter_model.safetensors").write_bytes(b"x" * 40)


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage tensors, their names, bytes, or the config beside them."""
    kind = rng.choice(KINDS)
    own = shared(base, "weights") if kind in ("box_head", "vision_encoder") else base / kind
    if own.is_dir():
        source = copy_tree(own, folder / kind)
        file = rng.choice(sorted(path for path in source.iterdir() if path.is_file()))
    else:
        file = next(path for path in base.iterdir() if path.stem == kind)
        source = folder / file.name
        source.write_bytes(file.read_bytes())
        file = source
    way = rng.random()
    what = "as it is"
    if way < 0.5 and file.suffix in (".pth", ".bin") and kind != "llama2c":
        what = _damaged_state(rng, file)
    elif way < 0.5 and file.suffix == ".json":
        tree, what = mutate_tree(rng, json.loads(file.read_text()))
        file.write_bytes(damage_text(rng, json_text(tree), 0.2)[0])
    elif way < 0.85:
        data, what = damage_bytes(rng, file.read_bytes())
        file.write_bytes(data)
    elif way < 0.93:
        what = damage_path(rng, file)
    argv = ["convert", kind, "--from", source.name, "--out", "made"]
    if kind in ("checkpoint", "box_head", "vision_encoder"):
        argv += ["--model", str(shared(base, "model") / "model.yaml")]
    if kind in ("ullava", "llava"):
        argv += ["--tokenizer", str(ROOT / "models" / "tiny" / "tokenizer")]
    expected = "accepted" if what == "as it is" and kind in ("checkpoint", "clip", "convnext", "llama2c") else "either"
    if what == "a pickle that calls":
        expected = "refused"
    return Case(
        argv=argv,
        what=f"{kind}: {file.name}: {what}",
        names=(source.name,),
        expected=expected,
        check=lambda _: check(kind, base),
    )


def _damaged_state(rng: Random, file: Path) -> str:
    """Save another state dict in the place of a sound one."""
    import torch

    state: Any = torch.load(file, weights_only=True)
    state = dict(state)
    name = rng.choice(list(state))
    way = rng.choice(
        ["drop", "rename", "more", "shape", "type", "nan", "list", "none", "nested", "wrapped", "calls", "key"]
    )
    if way == "drop":
        del state[name]
    elif way == "rename":
        state[rng.choice([name + "x", name.upper(), "module." + name, name.replace(".", "/")])] = state.pop(name)
    elif way == "more":
        state["more.weight"] = torch.zeros(rng.choice([0, 1, 5]))
    elif way == "shape" and hasattr(state[name], "shape"):
        state[name] = rng.choice([state[name][None], state[name].flatten(), state[name][..., :0]])
    elif way == "type" and hasattr(state[name], "to"):
        state[name] = state[name].to(rng.choice([torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn]))
    elif way == "nan" and hasattr(state[name], "to"):
        state[name] = torch.full_like(state[name], float(rng.choice(["nan", "inf"])))
    elif way == "list":
        state = list(state.values())
    elif way == "none":
        state[name] = rng.choice([None, 5, "text", [1, 2], {}])
    elif way == "nested":
        state = {"a": {"b": {"c": state}}}
    elif way == "wrapped":
        state = {rng.choice(["state_dict", "model", "module"]): rng.choice([state, None, [], {}])}
    elif way == "calls":
        torch.save([Trap()], file)
        return "a pickle that calls"
    elif way == "key":
        state[rng.choice([5, None, ("a",), ""])] = state.pop(name)
    torch.save(state, file)
    return f"{way} {name}"


def check(kind: str, base: Path) -> list[str]:
    """What was made can be loaded, with finite numbers."""
    from ullava.modeling.loading.weight_files import read_state_dict

    problems = ["the pickle called something"] if Path("sprung").exists() else []
    state = read_state_dict(Path("made"))
    if kind == "checkpoint":
        import torch

        from ullava.modeling.construction.auto import load_folder

        load_folder(Path("made"), torch.float32)
    bad = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    return problems + [f"weight {name} is not finite" for name in bad[:1]]
