"""``ullava check``, ``list`` and ``show``."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Command = Callable[..., tuple[int, str, str]]
Write = Callable[[str, str], Path]

DATASET = """
name: Things
layout: refer
task: res
license: none
source: this test
splits:
  train: {annotations: things/train.json, images: things, count: 2}
  val: {annotations: things/val.json, images: things}
"""


@pytest.fixture
def data_root(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data root with one small dataset, and a descriptor and two recipes for it."""
    write("own/datasets/things/dataset.yaml", DATASET)
    monkeypatch.setenv("ULLAVA_RESOURCES", str(tmp_path / "own"))
    Path(tmp_path / "data/things").mkdir(parents=True)
    record = {
        "image_path": "one.png",
        "segmentation": [[2, 2, 20, 2, 20, 20, 2, 20]],
        "category": "square",
        "bbox": [2, 2, 18, 18],
        "sentences": ["the square"],
        "height": 32,
        "width": 32,
    }
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "data/things/one.png")
    write("data/things/train.json", json.dumps([record, record]))
    write("data/things/val.json", json.dumps([record | {"image_path": "missing.png"}]))
    return tmp_path / "data"


def test_check_without_arguments_validates_everything(command: Command) -> None:
    code, out, err = command("check")
    assert (code, err) == (0, "")
    assert "models" in out and "all valid" in out


def test_check_of_a_good_recipe_counts_its_data(command: Command, data_root: Path, write: Write) -> None:
    recipe = write("good.yaml", f"data_root: {data_root}\ndataset: {{things: {{split: train}}}}\n")
    code, out, err = command("check", str(recipe))
    assert (code, err) == (0, "")
    assert "dataset.things: 2 records" in out


def test_check_takes_overrides(command: Command, data_root: Path, write: Write) -> None:
    recipe = write("good.yaml", "dataset: {things: {split: train}}\n")
    assert command("check", str(recipe), f"data_root={data_root}")[0] == 0
    code, _, err = command("check", str(recipe), f"data_root={data_root}", "bach_size=3")
    assert code == 2
    assert err == "error: command line: bach_size: unknown key; did you mean 'batch_size'?\n"


def test_every_wrong_name_of_a_recipe_is_reported_with_its_line(
    command: Command, data_root: Path, write: Write
) -> None:
    recipe = write(
        "bad.yaml",
        """model: tinny
stage: scratch
dataset:
  thing: {}
  refcoco+x: {portion: 1}
  things:
    template: MISSING.json
eval_dataset:
  things: {split: vall}
""",
    )
    code, out, err = command("check", str(recipe))
    lines = err.splitlines()
    assert (code, out) == (2, "")
    assert any(line.startswith(f"error: {recipe}:1: model: no model 'tinny'; did you mean 'tiny'?") for line in lines)
    assert any(line.startswith(f"error: {recipe}:4: dataset.thing: ") and "'things'" in line for line in lines)
    assert any(line.startswith(f"error: {recipe}:5: dataset.refcoco+x: ") for line in lines)
    assert any(line.startswith(f"error: {recipe}:6: dataset.things: ") and "MISSING.json" in line for line in lines)
    assert any(
        line.startswith(f"error: {recipe}:9: eval_dataset.things: ") and "did you mean 'val'?" in line for line in lines
    )
    assert len(lines) == 5


def test_data_that_is_not_as_described_is_reported(command: Command, data_root: Path, write: Write) -> None:
    text = f"data_root: {data_root}\ndataset:\n  things: {{split: SPLIT}}\n"
    missing_image = write("val.yaml", text.replace("SPLIT", "val"))
    code, _, err = command("check", str(missing_image))
    assert code == 2
    assert f"{missing_image}:3: dataset.things: " in err
    assert "missing.png" in err

    miscounted = write("train.yaml", text.replace("SPLIT", "train"))
    records = json.loads((data_root / "things/train.json").read_text())
    write("data/things/train.json", json.dumps(records * 2))
    code, _, err = command("check", str(miscounted))
    assert code == 2
    assert "4 records, 2 expected in split train" in err

    (data_root / "things/train.json").unlink()
    code, _, err = command("check", str(miscounted))
    assert code == 2
    assert "no such annotation file" in err


def test_mixing_weights_and_portions_is_refused(command: Command, data_root: Path, write: Write) -> None:
    recipe = write("mixed.yaml", "dataset:\n  things: {split: train, weight: 1}\n  shapes_res: {portion: 1}\n")
    code, _, err = command("check", str(recipe))
    assert code == 2
    assert f"{recipe}:1: dataset: either all entries have a weight or none" in err


def test_checking_needs_no_torch(data_root: Path, write: Write) -> None:
    recipe = write("good.yaml", f"data_root: {data_root}\ndataset: {{things: {{split: train}}}}\n")
    code = (
        "import sys; from ullava.cli.main import main\n"
        f"assert main(['check', {str(recipe)!r}]) == 0 and main(['check']) == 0\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_list_prints_names(command: Command) -> None:
    assert "tiny" in command("list", "models")[1].split()
    assert "shapes_res" in command("list", "datasets")[1].split()
    assert "eval/eval_res" in command("list", "configs")[1].split()


def test_show_prints_the_path_and_all_settings(command: Command, root: Path) -> None:
    code, out, _ = command("show", "tiny")
    assert code == 0
    assert out.splitlines()[0] == f"# {root / 'models/tiny/model.yaml'}"
    assert "head_state:" in out
    code, out, _ = command("show", "eval_res", "batch_size=7")
    assert out.splitlines()[0] == f"# {root / 'configs/eval/eval_res.yaml'}"
    assert "\nbatch_size: 7\n" in out


def test_show_of_an_unknown_name_gives_the_nearest(command: Command) -> None:
    code, _, err = command("show", "shapes_rez")
    assert code == 2
    assert "did you mean 'shapes_res'?" in err


def test_original_files_are_counted_and_what_was_left_out_is_told(command: Command, tmp_path: Path) -> None:
    """Images of COCO-Stuff: one holds only a class that nobody asks for; the counts are far from the published."""
    for name, number in (("a", 17), ("b", 95)):
        for folder, array in (
            ("coco2017", np.zeros((8, 8, 3), np.uint8)),
            ("cocostuff", np.full((8, 8), number, np.uint8)),
        ):
            path = tmp_path / folder / "train2017" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"data_root: {tmp_path}\ndataset: {{cocostuff: {{}}}}\n")
    code, _, err = command("check", str(recipe))
    assert code == 2 and "1 records, 118287 expected in split train" in err
    from ullava.cli.check import _check_data
    from ullava.config.schema import DatasetEntry

    own = tmp_path / "own" / "dataset.yaml"
    text = (Path(__file__).resolve().parents[3] / "datasets" / "cocostuff" / "dataset.yaml").read_text()
    own.parent.mkdir()
    own.write_text(text.replace("count: 118287", "count: 1"))
    told = _check_data(str(own), DatasetEntry(), tmp_path)
    assert "1 records in" in told and "original files" in told
    assert "1 left out: no pixel of a class that is asked for (coco2017/train2017/b.png)" in told
