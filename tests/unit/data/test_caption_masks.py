"""Masks for captions whose phrases have boxes: cut, judged, written, resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.data.test_pseudo_masks import LEFT, RIGHT, SMALL, H, W, box, disc, photo

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.pseudo import captions
from ullava.data.pseudo.captions import CaptionJob, make_caption_masks
from ullava.data.pseudo.settings import PseudoSettings
from ullava.errors import ConfigError, SampleError
from ullava.geometry import mask_iou

Command = Callable[..., tuple[int, str, str]]


def write(root: Path, *records: dict[str, Any]) -> Path:
    """A dataset of its own: a descriptor, one photo of three discs, and captions."""
    photo(root / "0.png", LEFT, RIGHT, SMALL)
    head = {"image_path": "0.png", "height": H, "width": W}
    balls = {"span": [0, 9], "annotations": [{"bbox": box(*place)} for place in (LEFT, RIGHT)]}
    dot = {"span": [14, 19], "annotations": [{"bbox": box(*SMALL)}]}
    first = head | {"caption": "Two balls and a dot.", "phrases": [balls, dot]}
    second = head | {"caption": "A dot.", "phrases": [dot | {"span": [0, 5]}]}
    (root / "notes.json").write_text(json.dumps(records or [first, second]))
    told = "name: x\nlayout: grounded_captions\ntask: gcg\nlicense: none\nsource: here\nroot: .\n"
    (root / "dataset.yaml").write_text(told + "splits: {train: {annotations: notes.json}}\n")
    return root / "dataset.yaml"


def job(root: Path, **settings: Any) -> CaptionJob:
    return CaptionJob(
        dataset=str(write(root)), entry=DatasetEntry(), data_root=root, out=root / "made.json",
        settings=PseudoSettings(min_area=0.01, **settings),
    )  # fmt: skip


def test_boxes_become_masks_and_weak_phrases_become_words(tmp_path: Path) -> None:
    made = job(tmp_path)
    assert make_caption_masks(made, progress=False) == {
        "captions": 1, "masks": 2, "rejected": {"box below min_area": 2},
    }  # fmt: skip
    entry = DatasetEntry(annotations=str(made.out), images=str(tmp_path))
    (query,) = build_dataset(made.dataset, entry, tmp_path).queries(0)
    assert query.turns[0].answer == "[tag]Two balls[/tag][SEG][SEG] and a dot."
    for region, place in zip(query.turns[0].regions, (LEFT, RIGHT), strict=True):
        assert region.mask is not None and mask_iou(region.mask, disc(*place)) > 0.9
    assert not made.out.with_name("made.json.part").exists()


def test_an_interrupted_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = job(tmp_path)
    make_caption_masks(made, progress=False)
    whole = made.out.read_bytes()
    made.out.unlink()
    cut, calls = captions.grab_cut, list[int]()

    def once(*args: Any) -> Any:
        calls.append(1)
        return cut(*args)

    monkeypatch.setattr(captions, "grab_cut", once)
    monkeypatch.setattr(captions, "whole", lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        make_caption_masks(made, progress=False)
    monkeypatch.undo()
    assert len(calls) == 1 and not made.out.exists()
    monkeypatch.setattr(captions, "grab_cut", once)
    make_caption_masks(made, progress=False)
    assert made.out.read_bytes() == whole and len(calls) == 1, "nothing is cut again"
    made.out.with_name("made.json.part").write_text("{}\n")
    with pytest.raises(ConfigError, match="begun with other files or settings"):
        make_caption_masks(replace(made, out=made.out), progress=False)


def test_what_cannot_be_cut_is_named(tmp_path: Path) -> None:
    made = job(tmp_path)
    record = json.loads((tmp_path / "notes.json").read_text())[0]
    write(tmp_path, record | {"height": H + 1})
    with pytest.raises(SampleError, match=f"0.png has another size than {W} x {H + 1} pixels"):
        make_caption_masks(made, progress=False)
    with pytest.raises(ConfigError, match="dataset shapes_caption: has no captions with boxes"):
        (tmp_path / "annotations").mkdir()
        turns = [{"from": "human", "value": "<image>?"}, {"from": "gpt", "value": "x"}]
        told = [{"id": "1", "image": "0.png", "conversations": turns}]
        (tmp_path / "annotations" / "caption.json").write_text(json.dumps(told))
        make_caption_masks(replace(made, dataset="shapes_caption"), progress=False)


def test_the_command_says_what_became_of_the_boxes(command: Command, tmp_path: Path) -> None:
    line = ["data", "caption-masks", "--dataset", str(write(tmp_path)), "--data-root", str(tmp_path)]
    out = tmp_path / "made.json"
    code, printed, err = command(*line, "--out", str(out), "--min-area", "0.01")
    assert code == 0, err
    assert f"{out}: 1 captions with 2 masks, by grabcut" in printed and "rejected, box below min_area: 2" in printed
    assert json.loads(out.read_text())[0]["phrases"][0]["annotations"][0]["segmentation"]["size"] == [H, W]
    code, _, err = command(*line, "--out", str(out))
    assert code == 2 and "exists already" in err
