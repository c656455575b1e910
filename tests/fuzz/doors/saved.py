"""Folders of saved models, damaged, through ``ullava predict``."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from random import Random

from tests.fuzz.cases import Case, Printed
from tests.fuzz.doors.prompts import records
from tests.fuzz.material import copy_tree, pixels, read_json, shared, write_image
from tests.fuzz.mutations import damage_bytes, damage_path, damage_text, flip, json_text, mutate_tree

SHARE = 8


def prepare(base: Path) -> None:
    """One image; the shared saved model."""
    write_image(base / "one.png", pixels(1, 30, 40))


def make(rng: Random, folder: Path, base: Path) -> Case:
    """Damage one file of a saved model."""
    weights = copy_tree(shared(base, "weights"), folder / "weights")
    (folder / "one.png").write_bytes((base / "one.png").read_bytes())
    files = sorted(path for path in weights.iterdir() if path.is_file())
    named = [path for path in files if path.name in ("config.json", "model.safetensors", "processor_config.json")]
    file = rng.choice(named if rng.random() < 0.6 else files)
    way = rng.random()
    if way < 0.6 and file.suffix == ".json":
        tree, what = mutate_tree(rng, read_json(shared(base, "weights") / file.name))
        data, how = damage_text(rng, json_text(tree), 0.1)
        file.write_bytes(data)
        what = f"{what}; {how}" if how else what
    elif way < 0.7 and file.suffix == ".safetensors":
        data, what = _damaged_header(rng, file.read_bytes())
        file.write_bytes(data)
    elif way < 0.85:
        data, what = damage_bytes(rng, file.read_bytes())
        file.write_bytes(data)
    elif way < 0.92:
        what = damage_path(rng, file)
    elif way < 0.95:
        what = "more files"
        (weights / rng.choice(["pytorch_model.bin", "adapter_config.json", "modeling_x.py"])).write_bytes(b"{}")
    else:
        what = "gone"
        file.unlink()
    argv = ["predict", "--model", "weights", "--image", "one.png", "--prompt", "Segment the cat."]
    argv += ["--max-new-tokens", "2", "--json"]
    return Case(
        argv=argv,
        what=f"{file.name}: {what}",
        names=("weights",),
        check=lambda printed: check(printed),
    )


def _damaged_header(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Change the table at the beginning of a safetensors file: names, types, shapes or places."""
    (size,) = struct.unpack("<Q", data[:8])
    table = json.loads(data[8 : 8 + size])
    changed, what = mutate_tree(rng, table)
    if rng.random() < 0.2:
        return flip(rng, data[:8]) + data[8:], "length of the header"
    header = json_text(changed).encode()
    return struct.pack("<Q", len(header)) + header + data[8 + size :], f"header: {what}"


def check(printed: Printed) -> list[str]:
    """There is one answer."""
    found = len(records(printed.out))
    return [] if found == 1 else [f"{found} answers to one question"]
