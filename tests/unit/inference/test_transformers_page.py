"""Every Python block of docs/transformers.md runs, one after the other."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from tests.unit.inference.test_ecosystem import ROOT, drawn


def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "transformers.md").read_text("utf-8"), re.DOTALL)
    assert len(blocks) == 5
    drawn().save(tmp_path / "circle.png")
    square = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(square).rectangle((16, 16, 48, 48), fill="blue")
    square.save(tmp_path / "square.png")
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/transformers.md", "exec"), found)
    assert found["said"].strip() and len(found["texts"]) == 2 and "[SEG]" in found["texts"][1]
    assert float(found["loss"]) > 0
    assert any(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in found["model"].parameters())
    assert found["answer"].objects and not found["short"].objects and found["drawn"].text
    assert [question for question, _ in found["chat"].history][1] == "Segment the circle."
    assert found["same"].text == found["second"].text
