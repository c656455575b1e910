"""docs/your_data.md, word for word: its recipes are written, its commands run, on real photographs and few steps."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from ullava.cli.main import main

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "your_data.md"
SHORT = ["training.max_steps=2", "training.per_device_train_batch_size=2", "training.warmup_steps=1"]
FEWER = {
    "ullava train mine.yaml": [*SHORT, "eval_dataset.my_pets.limit=3"],
    "ullava train mine_photos.yaml": [*SHORT, "eval_dataset.my_photos.limit=2"],
    "ullava eval mine_eval.yaml --out": ["dataset.my_pets.limit=3", "max_new_tokens=40"],
    "ullava eval mine_eval.yaml 'dataset": ["max_new_tokens=40"],
}


def blocks(kind: str) -> list[str]:
    """The fenced blocks of the document."""
    return re.findall(rf"^```{kind}\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    return [line for block in blocks("bash") for line in block.splitlines()]


def recipes() -> dict[str, str]:
    return {block.split("\n", 1)[0].removeprefix("# "): block for block in blocks("yaml")}


def test_the_document_imports_trains_evaluates_and_predicts() -> None:
    lines = commands()
    for beginning in ("data import masks", "data import coco", "data import labelme", "data import refs", "check",
                      "data stats", "train", "eval", "predict"):  # fmt: skip
        assert any(line.startswith(f"ullava {beginning} ") for line in lines), beginning
    assert all(line.startswith("ullava ") for line in lines)
    assert set(recipes()) == {"mine.yaml", "mine_photos.yaml", "mine_eval.yaml"}
    assert all(any(line.startswith(beginning) for line in lines) for beginning in FEWER)


@pytest.fixture
def desk(tmp_path: Path, shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the data that the document speaks of, under the names that it uses."""
    real = shared_dir / "realdata"
    drawn = real / "labelme_voc" / "semantic_segmentation" / "data_annotated"
    for name, folder in (("pets", real / "pets_sample"), ("photos", real / "coco_tiny_liz"), ("drawn", drawn)):
        (tmp_path / name).symlink_to(folder)
    (tmp_path / "photo.jpg").symlink_to(next(iter(sorted((real / "pets_sample" / "images").glob("*.jpg")))))
    _write_expressions(tmp_path / "said", real)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _write_expressions(folder: Path, real: Path) -> None:
    """Two expressions of val, and one of train, in the form of refs(*).p, about objects of a real photograph."""
    value = json.loads((real / "coco_tiny_liz" / "annotations" / "instances_val2017.json").read_text())
    entries = [entry for entry in value["annotations"] if not entry["iscrowd"]][:2]
    refs = [
        {"ref_id": n, "ann_id": entry["id"], "image_id": entry["image_id"], "split": "val",
         "sentences": [{"sent": f"the thing number {n}"}]}
        for n, entry in enumerate(entries)
    ]  # fmt: skip
    refs.append(refs[0] | {"ref_id": len(refs), "split": "train"})  # so that the command has to choose
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(value))
    (folder / "refs.json").write_text(json.dumps(refs))


@pytest.mark.slow
def test_every_command_of_the_document_runs(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, text in recipes().items():
        (desk / name).write_text(text, encoding="utf-8")
    for line in commands():
        fewer = next((more for beginning, more in FEWER.items() if line.startswith(beginning)), [])
        code = main([*shlex.split(line)[1:], *fewer])
        assert code == 0, f"{line}\n{capsys.readouterr().err}"
    said = capsys.readouterr().out
    assert "40 records" in said and "20 records" in said
    for run in ("pets", "photos"):
        report = json.loads((desk / "runs" / run / "metrics.json").read_text())
        assert report["training"]["steps"] == 2
        assert [result["n"] > 0 for result in report["results"]] == [True]
    (pets,) = json.loads((desk / "runs" / "pets_eval" / "metrics.json").read_text())["results"]
    assert (pets["dataset"], pets["split"], pets["task"], pets["n"]) == ("my_pets", "val", "semantic", 3)
    (words,) = json.loads((desk / "runs" / "words_eval" / "metrics.json").read_text())["results"]
    assert (words["task"], words["n"]) == ("res", 2)
    assert {path.name for path in (desk / "runs" / "answer").iterdir()} >= {"answer.json", "overlay.png"}
