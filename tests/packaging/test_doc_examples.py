"""The scripts of docs/examples run without arguments, in an empty folder, on what the repository ships."""

from __future__ import annotations

import ast
import importlib.util
import runpy
import sys
from pathlib import Path

import pytest

from ullava import resources

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "examples"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if not path.stem.startswith("_"))
QUICK = {"ask_clip", "ask_photo", "transformers_pipeline"}
"""Those that start no further process; the commands that the others call are tested for themselves too."""

WITHOUT_PHOTO = {"ask_clip"}
LEAVES = {  # what lies in the folder afterwards
    "ask_photo": "answer.png",
    "batch_to_coco": "people/coco/instances.json",
    "finetune_folder": "run/model/config.json",
    "to_supervision": "supervision.png",
    "transformers_pipeline": "mask.png",
}
PRINTS = {  # what only an answer has
    "ask_clip": "There is one shape",
    "ask_photo": "person: score 0.",
    "batch_to_coco": "000000343937.jpg ['person 0.",
    "finetune_folder": "person",
    "http_openai": "person: score 0.",
    "http_plain": "404 ",
    "to_supervision": "1: person, [",
    "transformers_pipeline": "person: score 0.",
}


def test_every_script_is_told_of_and_says_how_it_is_run() -> None:
    assert {path.stem for path in SCRIPTS} == PRINTS.keys()
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in SCRIPTS:
        assert f"]({path.name})" in told
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        assert f"python docs/examples/{path.name}" in docstring.split("\n\n")[1]
        assert len(path.read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[] if path.stem in QUICK else [pytest.mark.exhaustive]) for path in SCRIPTS],
    ids=lambda path: path.stem,
)
def test_it_runs_without_arguments(
    path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = resources.find("models", "photo").parent
    if path.stem not in WITHOUT_PHOTO and not (parts / "language").is_dir():
        pytest.skip("the pretrained parts of models/photo are not there (shells/setup.sh makes them)")
    if path.stem == "to_supervision" and importlib.util.find_spec("supervision") is None:
        pytest.skip("supervision is the extra 'supervision'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(path)])
    monkeypatch.syspath_prepend(str(FOLDER))  # as Python does with the folder of a script
    runpy.run_path(str(path), run_name="__main__")
    assert PRINTS[path.stem] in capfd.readouterr().out
    assert path.stem not in LEAVES or (tmp_path / LEAVES[path.stem]).stat().st_size > 0
