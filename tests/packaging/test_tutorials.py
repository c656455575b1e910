"""The notebooks of docs/tutorials run from top to bottom, and are stored without what they printed."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ullava import resources

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PHOTO = {"1_predict", "2_finetune"}
"""Those that ask ``photo``, whose pretrained parts are not in the repository."""

LONG = {"2_finetune", "3_evaluate"}
"""Half a minute each and more; the command lines that they show are tested for themselves too."""


def test_all_are_listed_and_stored_clean() -> None:
    assert len(NOTEBOOKS) == 4
    told = (FOLDER / "README.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        assert f"]({path.name})" in told
        notebook = nbformat.read(path, as_version=4)
        nbformat.validate(notebook)
        for cell in notebook.cells:
            assert not cell.get("outputs") and cell.get("execution_count") is None, f"{path.name}: stored with outputs"


@pytest.mark.slow
@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.exhaustive] if path.stem in LONG else []) for path in NOTEBOOKS],
    ids=lambda path: path.stem,
)
def test_it_runs_from_top_to_bottom(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    parts = resources.find("models", "photo").parent
    if path.stem in PHOTO and not (parts / "language").is_dir():
        pytest.skip("the pretrained parts of models/photo are not there (shells/setup.sh makes them)")
    monkeypatch.setenv("TUTORIAL_STEPS", "2")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    notebook = nbformat.read(path, as_version=4)
    done = NotebookClient(notebook, timeout=240, kernel_name="python3").execute(cwd=str(tmp_path))
    last = [cell for cell in done.cells if cell.cell_type == "code"][-1]
    assert all(cell.execution_count for cell in done.cells if cell.cell_type == "code") and last.outputs
