"""docs/plugins.md runs as far as it needs no server, and the files that it names are right."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image, ImageDraw
from tests.unit.inference.test_ecosystem import ROOT, drawn

from ullava.cli.main import build_parser
from ullava.plugins.label_studio import Interface

FOLDER = ROOT / "shells" / "label_studio"
BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "plugins.md").read_text("utf-8"), re.DOTALL)


def test_the_blocks_for_transformers_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) == 4
    drawn().save(tmp_path / "circle.png")
    square = Image.new("RGB", (64, 64), "white")
    ImageDraw.Draw(square).rectangle((16, 16, 48, 48), fill="blue")
    square.save(tmp_path / "square.png")
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = {}
    for block in BLOCKS[:2]:
        exec(compile(block, "docs/plugins.md", "exec"), found)
    assert Image.open("mask.png").size == (96, 80)
    assert len(found["many"]) == len(found["asked"]) == 2
    assert found["row"]["masks"].shape == (1, 80, 96)


@pytest.mark.parametrize(("block", "package"), [(2, "cvat_sdk"), (3, "fiftyone")])
def test_what_the_other_blocks_import_is_there(block: int, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIFTYONE_DO_NOT_TRACK", "true")
    pytest.importorskip(package, reason=f"{package} is an extra (docs/plugins.md)")
    lines = [line for line in BLOCKS[block].splitlines() if line.startswith(("import ", "from "))]
    assert len(lines) >= 2
    exec("\n".join(lines), {})
    compile(BLOCKS[block], "docs/plugins.md", "exec")


def test_the_compose_file_starts_our_command_with_variables_that_are_read() -> None:
    services = yaml.safe_load((FOLDER / "docker-compose.yaml").read_text("utf-8"))["services"]
    ours = services["ullava"]
    assert ours["command"][0] == "ullava"
    args = build_parser(ours["command"][1]).parse_args(ours["command"][2:])
    assert args.host == "0.0.0.0" and f"{args.port}" in ours["expose"]
    source = (ROOT / "ullava" / "cli" / "label_studio.py").read_text("utf-8")
    assert set(ours["environment"]) and all(f'"{name}"' in source for name in ours["environment"])
    assert ours["environment"]["LABEL_STUDIO_URL"] == "http://label-studio:8080"
    assert (FOLDER / ours["build"]["context"]).resolve() == ROOT
    theirs = services["label-studio"]
    assert theirs["environment"]["ML_BLOCK_LOCAL_IP"] == theirs["environment"]["SSRF_PROTECTION_ENABLED"] == "false"
    assert all(port.startswith("127.0.0.1:") for port in theirs["ports"])


def test_the_labeling_interface_has_a_place_for_a_sentence() -> None:
    text = (FOLDER / "label_config.xml").read_text("utf-8")
    found = Interface.read(text)
    assert dict(found.texts) == {"prompt": ""} and found.brush is not None and found.box is not None
    interface = pytest.importorskip(
        "label_studio_sdk.label_interface", reason="label-studio-sdk is the extra 'formats'"
    )
    interface.LabelInterface(text).validate()
