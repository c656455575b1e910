"""Seeded damage to trees (JSON, YAML), to their text, to bytes, and to paths."""

from __future__ import annotations

import copy
import gzip
import json
import math
import os
from pathlib import Path
from random import Random
from typing import Any

DEEP = "@@DEEP@@"
"""Stands for a list in a list in a list ..., which no JSON writer would write."""
WORDS = [
    "", " ", "\t\n", "a\u2028b", "\ufeff", "\ud800", "\x00", "\x1b[31mred", "é", "e\u0301", "名前", "\U0001f600" * 3,
    "<image>", "<image><image>", "<video>", "[SEG]", "[LOC]", "<p>a</p>", "</s>", "<s>", "[PAD]", "ASSISTANT:", "null",
    "true", "1", "1e5", "nan", "../../outside.png", "/etc/passwd", "C:\\x\\y.png", "a/../b", ".", "..", "~", "-",
    "--out", "a" * 300, "word " * 20_000, "%s %d {0}", "line\nline", "<class>", "a\rb", "\u202eabc", "\ue000",
]  # fmt: skip
NUMBERS: list[Any] = [
    0, -1, 1, 2, 255, 256, 65_536, 2**31, 2**32, 2**63, -(2**63) - 1, 10**30, 10**400, 0.5, -0.0, 1e-30, 1e30, 1e308,
    math.nan, math.inf, -math.inf,
]  # fmt: skip
OTHERS: list[Any] = [None, True, False, [], {}, [[]], [None], {"": None}, [1, "a", None], DEEP, {"a": {"b": {"c": []}}}]


def odd_value(rng: Random) -> Any:
    """A value that hardly anybody expects."""
    return copy.deepcopy(rng.choice(rng.choice([WORDS, NUMBERS, OTHERS])))


def odd_word(rng: Random) -> str:
    """A text that hardly anybody expects."""
    return rng.choice(WORDS)


def mutate_tree(rng: Random, tree: Any, most: int = 2) -> tuple[Any, str]:
    """Return a changed copy of ``tree`` and what was changed."""
    tree = copy.deepcopy(tree)
    notes = []
    for _ in range(rng.randint(1, most)):
        holder = [tree]
        notes.append(_change(rng, holder))
        tree = holder[0]
    return tree, "; ".join(notes)


def _change(rng: Random, holder: list[Any]) -> str:
    parent, key, path = _somewhere(rng, holder)
    value = parent[key]
    where = ".".join(map(str, path)) or "top"
    ways = ["odd", "odd", "odd", "near", "wrap"]
    if len(path) > 0:
        ways += ["delete", "delete", "swap"]
        ways += ["rename", "unknown"] if isinstance(parent, dict) else ["repeat", "repeat"]
    way = rng.choice(ways)
    if way == "odd":
        parent[key] = odd_value(rng)
    elif way == "near":
        parent[key] = _near(rng, value)
    elif way == "wrap":
        parent[key] = rng.choice([[value], {"a": value}, value[0] if isinstance(value, list) and value else [value]])
    elif way == "delete":
        del parent[key]
    elif way == "repeat":
        parent.insert(key, copy.deepcopy(value))
    elif way == "rename":
        name = str(key)
        parent[rng.choice([name + "s", name.upper(), name[:-1], f" {name}", name + "\u200b"])] = parent.pop(key)
    elif way == "unknown":
        parent[rng.choice(["extra", "__class__", "segmentaton", "Image", "", "0"])] = odd_value(rng)
    else:
        keys = list(parent) if isinstance(parent, dict) else list(range(len(parent)))
        other = rng.choice(keys)
        parent[key], parent[other] = parent[other], parent[key]
        where += f" with {other}"
    made = repr(parent[key])[:60] if way in ("odd", "near") else ""
    return f"{way} {where[:80]} {made}".strip()


def _somewhere(rng: Random, holder: list[Any]) -> tuple[Any, Any, list[Any]]:
    """Walk from the top to some place: its container, its key there, and the path."""
    parent: Any = holder
    key: Any = 0
    path: list[Any] = []
    while True:
        value = parent[key]
        keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
        if not keys or rng.random() < (0.05 if not path else 0.2):
            return parent, key, path
        parent, key = value, rng.choice(keys)
        path.append(key)


def _near(rng: Random, value: Any) -> Any:
    """A value of the same type that is a little off."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        if not -1e300 < value < 1e300:
            return -value
        return rng.choice([value + 1, value - 1, -value, value * 1000, value + 0.5, str(value), float(value), [value]])
    if isinstance(value, str):
        return rng.choice(
            [value + " ", " " + value, value.upper(), value[:-1], value + "\u0301", value * 2, value + odd_word(rng)]
        )
    if isinstance(value, list):
        return rng.choice([value[:-1], value + value, value[::-1], value + [odd_value(rng)], tuple(value[:1])])
    return dict(reversed(value.items())) if isinstance(value, dict) else value


def json_text(value: Any, *, ascii_only: bool = True, indent: int | None = None) -> str:
    """JSON as a careless program writes it: NaN and halves of surrogate pairs included."""
    depth = 100_000
    return json.dumps(value, ensure_ascii=ascii_only, indent=indent).replace(f'"{DEEP}"', "[" * depth + "]" * depth)


def damage_text(rng: Random, text: str, odds: float = 0.3) -> tuple[bytes, str]:
    """Encode a text, one time in a few (``odds``) wrongly; return the bytes and what was done."""
    plain = text.encode("utf-8", "surrogatepass")
    if rng.random() >= odds:
        return plain, ""
    way = rng.choice(
        [
            "bom",
            "crlf",
            "cr",
            "utf16",
            "latin",
            "cut",
            "flip",
            "more",
            "empty",
            "zero",
            "twice",
            "comma",
            "gzip",
            "quote",
        ]
    )
    changed = {
        "bom": b"\xef\xbb\xbf" + plain,
        "crlf": plain.replace(b"\n", b"\r\n"),
        "cr": plain.replace(b"\n", b"\r"),
        "utf16": text.encode("utf-16", "surrogatepass"),
        "latin": ("é" + text).encode("latin-1", "replace"),
        "cut": plain[: rng.randrange(len(plain) + 1)],
        "flip": flip(rng, plain),
        "more": plain + rng.choice([b"]", b"}", b"x", b"\x00", b"\n\n\n", b"[]"]),
        "empty": b"",
        "zero": b"\x00" * len(plain),
        "twice": plain + plain,
        "comma": plain.replace(b"}", b",}", 1),
        "gzip": gzip.compress(plain, mtime=0),
        "quote": plain.replace(b'"', b"'"),
    }[way]
    return changed, f"text: {way}"


def flip(rng: Random, data: bytes) -> bytes:
    """Flip a few bits."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 8) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def damage_bytes(rng: Random, data: bytes) -> tuple[bytes, str]:
    """Damage a binary file; return it and what was done."""
    way = rng.choice(["cut", "cut", "flip", "flip", "head", "empty", "zero", "insert", "remove", "noise", "tail"])
    at = rng.randrange(len(data) + 1)
    size = rng.choice([1, 4, 64, 1000])
    changed = {
        "cut": data[:at],
        "flip": flip(rng, data),
        "head": flip(rng, data[:64]) + data[64:],
        "empty": b"",
        "zero": data[:at] + b"\x00" * len(data[at : at + size]) + data[at + size :],
        "insert": data[:at] + rng.randbytes(size) + data[at:],
        "remove": data[:at] + data[at + size :],
        "noise": rng.randbytes(len(data)),
        "tail": data + rng.randbytes(size),
    }[way]
    return changed, f"bytes: {way} at {at}"


def damage_path(rng: Random, path: Path) -> str:
    """Put something else in the place of a file; return what."""
    way = rng.choice(["folder", "pipe", "gone", "empty", "dangling", "loop", "device", "unreadable"])
    path.unlink()
    if way == "folder":
        path.mkdir()
    elif way == "pipe":
        os.mkfifo(path)
    elif way == "empty":
        path.touch()
    elif way == "dangling":
        path.symlink_to("nowhere")
    elif way == "loop":
        path.symlink_to(path.name)
    elif way == "device":
        path.symlink_to(rng.choice(["/dev/zero", "/dev/null", "/dev/full"]))
    elif way == "unreadable":
        path.symlink_to("/proc/self/mem")
    return f"path: {way} in the place of {path.name}"
