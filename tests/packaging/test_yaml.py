"""Every YAML and template of the project is valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullava import resources
from ullava.cli.check import check_all, check_file

ROOT = Path(__file__).resolve().parents[2]
YAML = sorted(path for kind in resources.KINDS for path in (ROOT / kind).rglob("*.y*ml"))


@pytest.mark.parametrize("path", YAML, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_yaml_is_valid(path: Path) -> None:
    check_file(path)


def test_no_folder_is_empty() -> None:
    # Minimum counts: an enumerating test that finds nothing must not pass.
    counts = check_all()
    assert counts["models"] >= 1
    assert counts["datasets"] >= 9
    assert counts["configs"] >= 8
    assert len(list((ROOT / "datasets" / "templates").glob("*.json"))) >= 5


def test_yaml_files_end_in_yaml_and_are_all_found_by_name() -> None:
    named = {
        resources.find(kind, name if kind != "configs" else f"{name}.yaml")
        for kind in resources.KINDS
        for name in resources.names(kind)
    }
    assert sorted(path.relative_to(ROOT).as_posix() for path in set(YAML) - named) == []
