"""The table of annotation layouts: every row through the same checks, and a new row by one class and one entry."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from tests.unit.data.originals import as_json, make_image, png
from tests.unit.data.test_bad_inputs import GOOD, SIZE, changed, file_of

from ullava.cli.main import main
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.loading.descriptor import KIND_LAYOUTS
from ullava.data.readers import layouts
from ullava.data.readers.base import Reader
from ullava.data.readers.layouts import LAYOUTS, layout_names
from ullava.data.readers.templates import Templates
from ullava.errors import ConfigError, SampleError
from ullava.resources import folder
from ullava.structures import Task

ROWS = pytest.mark.parametrize("reader", LAYOUTS, ids=layout_names())

DOTS = '''
"""A layout that ullava does not have: ``{"file": "a.png", "what": "dog", "xy": [5, 4], "side": 6}``."""

from ullava.data.readers.base import QAPair, Reader, query, training_turns
from ullava.structures import Region, Sample


class DotsReader(Reader):
    layout = "dots"
    tasks = ("rec",)
    default_template = "SEG.json"

    def texts(self, value):
        return [value["what"]]

    def sample(self, index, rng):
        name = self.name(index)
        image, ask = self._ask(index, name)
        return Sample(name, self.id, self.task, (image,), training_turns([ask], self.templates(), rng), ask.truth)

    def queries(self, index):
        name = self.name(index)
        return [query(self, f"{name}/0", *self._ask(index, name))]

    def _ask(self, index, name):
        record = self.record(index, name)
        height, width = record.size_hw()
        (x, y), side = record.value["xy"], record.integer("side")
        region = Region(record.expression("what"), None, (x, y, x + side, y + side))
        return self.image(record, "file"), QAPair(region.phrase, (region,), {"height": height, "width": width})
'''


def test_the_names_are_unique_and_every_kind_of_original_files_makes_one_of_them() -> None:
    assert len(set(layout_names())) == len(LAYOUTS) >= 7
    assert set(KIND_LAYOUTS.values()) <= set(layout_names())
    assert set(GOOD) == set(layout_names()), "a new layout needs a right record for the checks below"


@ROWS
def test_a_row_says_what_the_layout_serves(reader: type[Reader]) -> None:
    assert reader.tasks and set(reader.tasks) <= set(get_args(Task))
    if reader.default_template is not None:
        assert Templates.load(folder("datasets") / "templates" / reader.default_template, reader.has_phrase).texts


@ROWS
def test_every_task_of_a_row_is_served(build: Any, data_folder: Any, reader: type[Reader]) -> None:
    _images(data_folder.root)
    for task in reader.tasks:
        dataset = build(reader.layout, file_of(reader.layout, changed(reader.layout)), task=task)
        assert type(dataset) is reader and len(dataset) == 1
        assert dataset.sample(0, np.random.default_rng(0)).task == task == dataset.queries(0)[0].task
        assert len(dataset.text_lengths().characters) == 1


@ROWS
def test_a_wrong_record_is_named(build: Any, data_folder: Any, reader: type[Reader]) -> None:
    """Its image lies outside the folder of the images."""
    _images(data_folder.root)
    key = {"llava_json": "image", "refer_video": "video"}.get(reader.layout, "image_path")
    record = changed(reader.layout) | {key: "../b.png"}
    dataset = build(reader.layout, file_of(reader.layout, record))
    for use in (lambda: dataset.queries(0), lambda: dataset.sample(0, np.random.default_rng(0))):
        with pytest.raises(SampleError, match=r"tests/train/0.* .*notes\.json(:1)?: record 0.*\.\./b\.png"):
            use()


@ROWS
def test_questions_are_put_together_by_image_where_a_row_says_so(
    build: Any, data_folder: Any, reader: type[Reader]
) -> None:
    _images(data_folder.root)
    content = file_of(reader.layout, changed(reader.layout))
    if reader.grouped:
        content = content * 2
        assert len(build(reader.layout, content, DatasetEntry(group="image"))) == 1
    else:
        with pytest.raises(ConfigError, match=f"group: 'image' is for the layouts .*; this is {reader.layout}"):
            build(reader.layout, content, DatasetEntry(group="image"))


def test_a_name_outside_the_table_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "dataset.yaml"
    path.write_text("name: x\nlayout: reffer\ntask: res\nlicense: none\nsource: here\n")
    with pytest.raises(ConfigError, match=r"dataset\.yaml:2: layout: no layout 'reffer'; did you mean 'refer'\?"):
        build_dataset(str(path), DatasetEntry(), tmp_path)
    assert main(["check", str(path)]) == 2


@pytest.fixture
def dots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A descriptor of a dataset in a layout that a module of the test brings: one class, one entry in the table."""
    (tmp_path / "dots_layout.py").write_text(DOTS)
    monkeypatch.syspath_prepend(tmp_path)
    from dots_layout import DotsReader  # type: ignore[import-not-found]

    monkeypatch.setattr(layouts, "LAYOUTS", [*LAYOUTS, DotsReader])
    monkeypatch.delitem(sys.modules, "dots_layout")
    make_image(tmp_path / "images" / "a.png")
    good = {"file": "a.png", "what": "dog", "xy": [5, 4], "side": 6} | SIZE
    as_json(tmp_path / "train.json", [good, good | {"what": "cat"}])
    path = tmp_path / "dataset.yaml"
    split = "{train: {annotations: train.json, images: images, count: 2}}"
    path.write_text(f"name: x\nlayout: dots\ntask: rec\nroot: .\nlicense: none\nsource: us\nsplits: {split}\n")
    return path


def test_a_new_layout_is_one_class_and_one_entry(dots: Path, tmp_path: Path, capsys: Any) -> None:
    """Checked, counted, read, trained on."""
    assert main(["check", str(dots)]) == 0
    assert "2 records" in capsys.readouterr().out
    dataset = build_dataset(str(dots), DatasetEntry(), tmp_path)
    assert [dataset.queries(index)[0].turns[0].regions[0].phrase for index in range(2)] == ["dog", "cat"]
    assert "dog" in dataset.queries(0)[0].turns[0].question
    recipe = ["tiny_quick", f"dataset={{mine: {{dataset: {dots}}}}}", "eval_dataset={}"]
    assert main(["data", "stats", *recipe]) == 0
    assert "2 of 2 positions of an epoch were read" in capsys.readouterr().out
    short = [
        "training.max_steps=1",
        "training.logging_steps=1",
        "training.use_cpu=true",
        "training.per_device_train_batch_size=2",
    ]
    run = tmp_path / "run"
    assert main(["train", *recipe, *short, "training.eval_strategy=no", "--out", str(run)]) == 0
    assert '"loss_l1"' in (run / "train_log.jsonl").read_text()


def test_a_wrong_record_of_a_new_layout_is_named(dots: Path, tmp_path: Path) -> None:
    bad = {"file": "../out.png", "what": "dog", "xy": [5, 4], "side": 6} | SIZE
    as_json(tmp_path / "train.json", [bad])
    with pytest.raises(SampleError, match=r"train\.json:1: record 0: .*out\.png"):
        build_dataset(str(dots), DatasetEntry(), tmp_path).queries(0)


def _images(root: Path) -> None:
    make_image(root / "a.png")
    mask = np.zeros((SIZE["height"], SIZE["width"]), np.uint8)
    mask[4:10, 5:15] = 255
    png(root / "m.png", mask)
