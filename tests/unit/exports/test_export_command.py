"""``ullava export`` on the command line: what it writes, what it says, what it refuses."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.exports.answered import make_results, read_json, write_results

from ullava.exports.formats import FORMATS
from ullava.inference.batch import Question
from ullava.structures import Answer

Command = Callable[..., tuple[int, str, str]]
FILES = {
    "coco": "instances.json", "coco-results": "results.json", "labelme": "a.json", "yolo-seg": "data.yaml",
    "masks": "masks.json", "cvat": "annotations.xml", "label-studio": "tasks.json", "fiftyone": "samples.json",
    "jsonl": "predictions.jsonl",
}  # fmt: skip


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_results(tmp_path)


@pytest.mark.parametrize("to", FORMATS)
def test_every_format_is_written_beside_the_results(command: Command, results: Path, to: str) -> None:
    code, printed, errors = command("export", str(results), "--to", to)
    out = results.with_name(f"results-{to}")
    assert (code, errors) == (0, "")
    assert printed.splitlines()[0] == f"{out}: 3 images, 5 objects, 4 classes"
    assert "  left out: answers without an image: 1" in printed.splitlines()
    assert (out / FILES[to]).is_file()
    again = command("export", str(results), "--to", to)
    assert again[0] == 2 and "is there already; give another --out" in again[2]


def test_choices_are_taken(command: Command, results: Path, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("two parts\nred ring\n", encoding="utf-8")
    out = tmp_path / "chosen"
    out.mkdir()  # empty is as good as absent
    code, printed, _ = command(
        "export", str(results / "answers.jsonl"), "--to", "coco", "--form", "rle", "--classes", str(names),
        "--min-score", "0.75", "--out", str(out),
    )  # fmt: skip
    value = read_json(out / "instances.json")
    assert code == 0 and printed.startswith(f"{out}: 3 images, 1 object, 2 classes\n")
    assert [entry["name"] for entry in value["categories"]] == ["two parts", "red ring"]
    assert value["annotations"][0]["category_id"] == 2
    code, _, errors = command("export", str(results), "--to", "jsonl", "--single-class", "thing")
    lines = results.with_name("results-jsonl") / "predictions.jsonl"
    assert code == 0 and '"class": "thing"' in lines.read_text(), errors


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--to", "labelm"], "--to: unknown format 'labelm'; did you mean 'labelme'?"),
        ([], "the following arguments are required: --to"),
        (["--to", "coco", "--form", "polygon"], "coco has no form 'polygon'; did you mean 'polygons'?"),
        (["--to", "cvat", "--form", "rle"], "--form rle: cvat has one form only"),
        (["--to", "cvat", "--link"], "--link: has no meaning for cvat; it is for labelme and yolo-seg and fiftyone"),
        (["--to", "masks", "--ids", "x.json"], "--ids: has no meaning for masks; it is for coco and coco-results"),
        (["--to", "masks", "--image-url", "x"], "--image-url: has no meaning for masks; it is for label-studio"),
        (["--to", "coco", "--ids", "none.json"], "none.json: no such COCO file"),
        (["--to", "coco", "--min-score", "2"], "expected a number from 0 to 1, not '2'"),
        (["--to", "coco", "--min-score", "x"], "expected a number from 0 to 1, not 'x'"),
        (["--to", "coco", "--classes", "a,,b"], "--classes a,,b: a file with one name a line"),
        (["--to", "coco", "--single-class", " "], "--single-class: the name is empty"),
        (["--to", "coco", "--images", "nowhere"], "--images nowhere: no such folder"),
        (["--to", "coco", "--min-scor", "0"], "did you mean '--min-score'?"),
    ],
)
def test_wrong_options_are_one_line(command: Command, results: Path, options: list[str], message: str) -> None:
    code, printed, errors = command("export", str(results), *options)
    assert (code, printed) == (2, "") and message in errors and len(errors.splitlines()) == 1
    assert not list(results.parent.glob("results-*"))


def test_bad_results_are_named(command: Command, results: Path, tmp_path: Path) -> None:
    code, _, errors = command("export", str(tmp_path / "images"), "--to", "coco")
    assert code == 2 and "neither answer.json nor answers.jsonl" in errors
    with (results / "answers.jsonl").open("a") as file:
        file.write('{"id": "cut')
    code, _, errors = command("export", str(results), "--to", "coco")
    assert code == 2 and f"{results}/answers.jsonl:6: not JSON" in errors and len(errors.splitlines()) == 1
    words = write_results(tmp_path / "words", [(Question("q", (), "?"), Answer("Yes."))])
    code, _, errors = command("export", str(words), "--to", "coco")
    assert code == 2 and "none of the answers is about an image" in errors


def test_a_file_in_the_place_of_out_is_refused(command: Command, results: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        code, _, errors = command("export", str(results), "--to", "coco", "--out", str(out))
        assert code == 2 and len(errors.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "mine"


def test_answers_without_objects_make_files_of_images_alone(command: Command, results: Path, tmp_path: Path) -> None:
    image = tmp_path / "images" / "b.jpg"
    none = write_results(tmp_path / "none", [(Question("q", (image,), "?"), Answer("Nothing."))])
    for to in FORMATS:
        code, printed, errors = command("export", str(none), "--to", to)
        assert code == 0 and "1 image, 0 objects, 0 classes" in printed, errors


def test_neither_torch_nor_a_library_of_a_format_is_imported(results: Path) -> None:
    code = (
        "import sys; from ullava.cli.main import main\n"
        f"codes = [main(['export', {str(results)!r}, '--to', to]) for to in {list(FORMATS)!r}]\n"
        "foreign = {'torch', 'transformers', 'supervision', 'fiftyone', 'labelme', 'cvat_sdk', 'label_studio_sdk'}\n"
        "print(codes, sorted(foreign & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == f"{[0] * len(FORMATS)} []"
