"""``ullava eval photo`` on photographs: every row of the recipe, a few questions each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ullava.cli.main import main
from ullava.config.load import load_config
from ullava.config.schema import EvalRecipe
from ullava.resources import find

PHOTOS = Path(__file__).resolve().parents[3] / "shared" / "realdata" / "photos"


def made_files(folder: Path) -> dict[str, Path]:
    """What commands make beside the photographs, of the first of them: expressions with masks and with boxes, words."""
    files = {}
    for row, name, flags in (("expressions", "instances", ()), ("expression_boxes", "boxes", ("--boxes",))):
        whole = json.loads((PHOTOS / "coco" / f"{name}_val.json").read_text())
        whole["images"] = whole["images"][:12]
        kept = {image["id"] for image in whole["images"]}
        whole["annotations"] = [note for note in whole["annotations"] if note["image_id"] in kept]
        first, files[row] = folder / f"{name}.json", folder / f"{row}.json"
        first.write_text(json.dumps(whole))
        images = str(PHOTOS / "coco" / "images")
        line = ["data", "expressions", "--instances", str(first), "--images", images, "--exhaustive", *flags]
        assert main([*line, "--out", str(files[row])]) == 0
    files["text"] = folder / "text.json"
    talk = [
        {"from": "human", "value": "What is the opposite of hot?"},
        {"from": "gpt", "value": "The opposite is cold."},
    ]
    files["text"].write_text(json.dumps([{"id": str(number), "conversations": talk} for number in range(2)]))
    return files


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photographs of ../shared, which are not here")
def test_every_row_of_the_recipe_is_measured(beginner: Path, tmp_path: Path) -> None:
    rows = load_config(EvalRecipe, find("configs", "eval/photo.yaml")).dataset
    roots = {"refcocos_res": "refcocos", "refcocos_rec": "refcocos", "pets": "pets_sample"}
    line = [
        "eval",
        "photo",
        f"data_root={PHOTOS}",
        "max_new_tokens=8",
        "--model",
        str(beginner),
        "--out",
        str(tmp_path / "out"),
    ]
    line += [f"dataset.{row}.limit=2" for row in rows]
    for row, file in made_files(tmp_path).items():
        line += [f"dataset.{row}.annotations={file}", f"dataset.{row}.images={PHOTOS / 'coco' / 'images'}"]
    line += [f"dataset.{row}.data_root={PHOTOS.parent / folder}" for row, folder in roots.items()]
    assert main(line) == 0
    results = json.loads((tmp_path / "out" / "metrics.json").read_text())["results"]
    assert {row["dataset"] for row in results} == set(rows)
    assert all(row["n"] >= 2 for row in results), {row["dataset"]: row["n"] for row in results}
    figures = {row["dataset"]: row["metrics"].keys() for row in results}
    assert {"cIoU", "gIoU", "P@0.5"} <= figures["coco_classes"] and {"N-acc", "T-acc"} <= figures["absent_classes"]
    assert "Acc@0.5" in figures["unique_box"] and "CIDEr" in figures["captions"]
    assert "Pr@F1" in figures["expression_boxes"] and "N-acc" in figures["expressions"]
    assert "perplexity" in figures["text"]
