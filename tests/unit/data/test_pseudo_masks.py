"""Masks made from boxes: what is cut, dealt out, rejected and written; resuming, agreement, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.data.originals import as_json, png

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.pseudo import make
from ullava.data.pseudo.grab_cut import grab_cut
from ullava.data.pseudo.images import PseudoJob
from ullava.data.pseudo.objects import ClassBoxes, fault_of_mask, masks_of_boxes
from ullava.data.pseudo.settings import PseudoSettings
from ullava.errors import ConfigError, DataError
from ullava.geometry import mask_iou, rle_encode, segmentation_to_mask
from ullava.inference.class_masks import ClassMasks
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.mask_cut import MaskCut
from ullava.structures import Sample

Command = Callable[..., tuple[int, str, str]]
H, W = 60, 80
CATEGORIES = [{"id": 5, "name": "ball"}, {"id": 6, "name": "dog"}]


def disc(x: float, y: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:H, :W]
    return (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 <= radius**2


def box(x: float, y: float, radius: float) -> list[float]:
    return [x - radius, y - radius, 2 * radius, 2 * radius]


LEFT, RIGHT, SMALL = (20.0, 30.0, 12.0), (55.0, 28.0, 14.0), (76.0, 6.0, 2.0)


def photo(path: Path, *discs: tuple[float, float, float]) -> None:
    """Red discs on green noise."""
    rng = np.random.default_rng(3)
    image = rng.normal((60, 150, 60), 6, (H, W, 3))
    for one in discs:
        image[disc(*one)] = rng.normal((200, 40, 40), 6, (np.count_nonzero(disc(*one)), 3))
    png(path, image.clip(0, 255).astype(np.uint8))


def note(number: int, image: int, place: tuple[float, float, float], category: int = 5, **more: Any) -> dict[str, Any]:
    return {"id": number, "image_id": image, "category_id": category, "bbox": box(*place), "iscrowd": 0} | more


def coco(notes: list[dict[str, Any]], images: int) -> dict[str, Any]:
    shown = [{"id": n, "file_name": f"{n}.png", "height": H, "width": W, "license": "CC BY"} for n in range(images)]
    return {"images": shown, "annotations": notes, "categories": CATEGORIES}


@pytest.fixture
def job(tmp_path: Path) -> PseudoJob:
    """Three photos: two discs; one, with a small one in the corner; one that is said to be where nothing is."""
    notes = [note(1, 0, LEFT), note(2, 0, RIGHT), note(3, 1, LEFT), note(4, 1, SMALL), note(5, 2, RIGHT)]
    notes.append(note(6, 1, LEFT) | {"bbox": [9.0, 9.0, 7.0, 0.0]})  # rounded off
    for number, discs in enumerate([(LEFT, RIGHT), (LEFT, SMALL), (LEFT,)]):
        photo(tmp_path / "images" / f"{number}.png", *discs)
    boxes = as_json(tmp_path / "boxes.json", coco(notes, 3))
    settings = PseudoSettings(side=64, min_area=0.01)
    return PseudoJob(boxes=boxes, images=tmp_path / "images", out=tmp_path / "out" / "made.json", settings=settings)


def made(job: PseudoJob, **options: Any) -> tuple[dict[str, Any], dict[int, dict[str, Any]]]:
    job.out.parent.mkdir(exist_ok=True)
    info = make.make_pseudo_masks(job, progress=False, **options)
    value = json.loads(job.out.read_text())
    assert value["info"] == info
    return value, {entry["id"]: entry for entry in value["annotations"]}


def test_discs_are_cut_from_their_boxes(job: PseudoJob) -> None:
    value, notes = made(job)
    for number, place in ((1, LEFT), (2, RIGHT), (3, LEFT)):
        mask = segmentation_to_mask(notes[number]["segmentation"], H, W)
        assert mask_iou(mask, disc(*place)) > 0.9
        assert notes[number]["source"] == "grabcut" and notes[number]["area"] == np.count_nonzero(mask)
    assert "segmentation" not in notes[4] and notes[4]["rejected"] == "box below min_area"
    assert "segmentation" not in notes[5] and notes[5]["rejected"] in value["info"]["rejected"]
    info = value["info"]
    assert (info["masks"], info["images"], sum(info["rejected"].values())) == (3, 3, 3)
    assert notes[6] == {"rejected": "box below min_area", "image_id": 1} | note(6, 1, LEFT) | {"bbox": [9, 9, 7, 0]}
    assert (info["source"], info["side"], info["boxes"]) == ("grabcut", 64, "boxes.json") and "min_iou" not in info
    assert value["images"][0]["license"] == "CC BY" and value["categories"] == CATEGORIES
    assert not job.out.with_name("made.json.part").exists()


def test_the_file_is_asked_by_class_where_no_large_box_was_rejected(job: PseudoJob) -> None:
    made(job)
    entry = DatasetEntry(annotations=str(job.out), images=str(job.images), min_area=0.02)
    dataset = build_dataset("photo_coco", entry, Path("nowhere"))
    assert [dataset.queries(index)[0].images[0].name for index in range(len(dataset))] == ["0.png", "1.png"]


def test_the_number_of_processes_changes_nothing(job: PseudoJob) -> None:
    made(job)
    alone = job.out.read_bytes()
    job.out.unlink()
    made(job, workers=2)
    assert job.out.read_bytes() == alone


def test_an_interrupted_run_goes_on(job: PseudoJob, monkeypatch: pytest.MonkeyPatch) -> None:
    made(job)
    whole = job.out.read_bytes()
    job.out.unlink()
    cut: list[str] = []

    def interrupted(image: Any, groups: Any, settings: Any) -> Any:
        cut.append("image")
        if len(cut) == 2:
            raise KeyboardInterrupt
        return grab_cut(image, groups, settings)

    monkeypatch.setattr(make, "grab_cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        made(job)
    part = job.out.with_name("made.json.part")
    assert not job.out.exists() and part.read_bytes().count(b"\n") == 2
    with pytest.raises(ConfigError, match="was begun with other files or settings"):
        made(replace(job, settings=replace(job.settings, side=48)))
    part.write_bytes(part.read_bytes() + b'{"image": "1.p')
    made(job)
    assert job.out.read_bytes() == whole and len(cut) == 4, "the first image is not cut again"


def test_images_that_have_masks_are_left_out_and_measured(job: PseudoJob, tmp_path: Path) -> None:
    exact = dict(rle_encode(disc(*LEFT)))
    polygons = coco([note(70, 1, LEFT, segmentation=exact), note(71, 1, LEFT, iscrowd=1, segmentation=exact)], 2)
    polygons["images"] = polygons["images"][1:]
    truth = as_json(tmp_path / "truth.json", polygons)
    value, notes = made(replace(job, truth=truth, leave_out=(truth,)))
    assert set(notes) == {1, 2, 5} and [image["id"] for image in value["images"]] == [0, 2]
    assert (value["info"]["images"], value["info"]["masks"]) == (2, 2)
    agreement = value["info"]["agreement"]
    assert (agreement["objects"], agreement["classes"], agreement["truth"]) == (1, 1, "truth.json")
    assert agreement["object_mIoU"] > 90 and agreement["class_mIoU"] > 90
    with pytest.raises(DataError, match="no image is left"):
        made(replace(job, leave_out=(job.boxes,), out=tmp_path / "none.json"))


def test_masks_are_kept_where_two_sources_agree(job: PseudoJob, tmp_path: Path) -> None:
    first, _ = made(job)

    def shifted(path: Path, image: Any, groups: list[ClassBoxes]) -> list[np.ndarray]:
        """Finds the left disc where it is, the right one only half."""
        return [disc(*LEFT) | (disc(*RIGHT) & (np.arange(W) < RIGHT[0])) for _ in groups]

    settings = replace(job.settings, source="mine", min_box_iou=0.0)
    second = replace(job, out=tmp_path / "both.json", agree_with=job.out, settings=settings)
    value, notes = made(second, cut=shifted)
    assert notes[1]["source"] == "mine" and notes[1]["agreement"] > 0.9
    assert notes[2]["rejected"] == "agreement below min_iou" and 0.3 < notes[2]["agreement"] < 0.6
    assert notes[5]["rejected"] == "no mask to agree with"
    assert (
        value["info"]["min_iou"] == 0.7 and value["info"]["agree_with"] == "made.json" and "side" not in value["info"]
    )
    assert first["info"]["masks"] == 3 > value["info"]["masks"] == 2


def test_masks_and_crowds_that_are_there_stay(job: PseudoJob) -> None:
    exact = dict(rle_encode(disc(*RIGHT)))
    notes = [note(1, 0, LEFT), note(2, 0, RIGHT, segmentation=exact), note(3, 0, LEFT, iscrowd=1, segmentation=exact)]
    as_json(job.boxes, coco(notes, 1))
    _, kept = made(job)
    assert kept[2]["segmentation"] == exact and "source" not in kept[2]
    assert kept[3]["iscrowd"] == 1 and kept[1]["source"] == "grabcut"


# ---------------------------------------------------------------- dealing out and judging
def test_a_pixel_of_two_boxes_belongs_to_the_nearer_center() -> None:
    found = np.ones((10, 20), dtype=bool)
    left, right = masks_of_boxes(found, [(0, 0, 12, 10), (8, 0, 20, 10)])
    assert left[:, :10].all() and not left[:, 10:].any()
    assert right[:, 10:].all() and not right[:, :10].any()
    inner, outer = masks_of_boxes(found, [(8, 4, 12, 6), (0, 0, 20, 10)])
    assert inner[4:6, 9:11].all() and not (inner & outer).any() and (inner | outer).all()


@pytest.mark.parametrize(
    ("rows", "columns", "fault"),
    [
        ((0, 0), (0, 0), "nothing found in the box"),
        ((2, 3), (0, 10), "covers less than min_fill of its box"),
        ((0, 10), (0, 10), "covers more than max_fill of its box"),
        ((0, 10), (0, 5), "its own box is below min_box_iou"),
        ((0, 9), (0, 10), ""),
    ],
)
def test_masks_are_judged_by_their_box(rows: tuple[int, int], columns: tuple[int, int], fault: str) -> None:
    mask = np.zeros((20, 20), dtype=bool)
    mask[slice(*rows), slice(*columns)] = True
    settings = PseudoSettings(min_fill=0.2, max_fill=0.95, min_box_iou=0.7)
    assert fault_of_mask(mask, (0, 0, 10, 10), settings) == fault
    assert fault_of_mask(None, (0, 0, 10, 10), settings) == "nothing found in the box"


def test_a_box_that_fills_the_image_is_cut_all_the_same() -> None:
    image = np.full((40, 40, 3), (60, 150, 60), np.uint8)
    image[8:32, 8:32] = (200, 40, 40)
    group = ClassBoxes("ball", (1,), ((0, 0, 40, 40),))
    (mask,) = grab_cut(image, [group], PseudoSettings())
    truth = np.zeros((40, 40), dtype=bool)
    truth[8:32, 8:32] = True
    assert mask is not None and mask_iou(mask, truth) > 0.8
    assert grab_cut(np.zeros((2, 2, 3), np.uint8), [ClassBoxes("x", (1,), ((0, 0, 2, 2),))], PseudoSettings()) == [None]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"min_fill": 0.9, "max_fill": 0.5}, "min_fill 0.9 leaves nothing"),
        ({"min_iou": 1.5}, "min_iou has to be from 0 to 1"),
        ({"side": 8}, "side has to be from 32"),
        ({"iterations": 0}, "iterations has to be"),
        ({"seed": -1}, "seed has to be"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PseudoSettings(**wrong)


# ---------------------------------------------------------------- the model, and the command
class Fields:
    """A model that takes everything near the middle of the image for what it is asked for, sure of 30 pixels."""

    def __init__(self) -> None:
        self.model = self.processor = self
        self.config, self.masks = UllavaConfig(mask_rule="expected_iou", mask_threshold=2.0), self
        self.asked: list[Sample] = []

    def read_given(self, samples: Sequence[Sample], overrides: Any) -> tuple[Any, Any, Any]:
        assert self.config.mask_cut == MaskCut(), "logits are read as the head gives them"
        self.asked += samples
        rows, columns = np.mgrid[:H, :W]
        plane = torch.from_numpy(9.0 - np.hypot(columns + 0.5 - W / 2, rows + 0.5 - H / 2) ** 2)
        return None, SimpleNamespace(seg=SimpleNamespace(mask_logits_lowres=plane.expand(len(samples), H, W))), None

    def to_original(self, logits: torch.Tensor, size: Any) -> torch.Tensor:
        assert tuple(size) == (H, W)
        return logits


def test_a_model_looks_for_the_likeliest_pixels_of_every_box() -> None:
    middle, aside = (W / 2 - 10, H / 2 - 10, W / 2 + 10, H / 2 + 10), (0.0, 0.0, 10.0, 20.0)
    groups = [ClassBoxes("Ball", (1, 2), (middle, aside)), ClassBoxes("dog", (3,), (middle,))]
    fields = Fields()
    balls, dog = ClassMasks(fields, fill=0.6)(Path("a.png"), np.zeros((H, W, 3), np.uint8), groups)
    assert [sample.turns[0].question for sample in fields.asked] == [
        "<image>Segment the Ball.",
        "<image>Segment the dog.",
    ]
    assert fields.asked[0].turns[0].answer == "Sure. [tag]ball[/tag]: Mask [SEG]."
    assert balls is not None and dog is not None
    assert np.count_nonzero(dog) == pytest.approx(0.6 * 400, abs=4) and dog[H // 2, W // 2]
    assert np.count_nonzero(balls & ~dog) == pytest.approx(0.6 * 200, abs=4) and not balls[25:, :10].any()
    assert fields.config.mask_cut == MaskCut("expected_iou", 2.0)
    (narrow,) = ClassMasks(fields, fill=0.0)(Path("a.png"), np.zeros((H, W, 3), np.uint8), groups[1:])
    assert narrow is not None and 20 < np.count_nonzero(narrow) < 40, "what it is sure of"


def test_a_second_round_leaves_the_masks_that_are_there(job: PseudoJob) -> None:
    job.out.parent.mkdir()
    first = make.make_pseudo_masks(job, progress=False)
    again = replace(job, boxes=job.out, out=job.out.with_name("again.json"), settings=PseudoSettings(source="seen"))
    shown: list[int] = []

    def cut(path: Path, image: Any, groups: Sequence[ClassBoxes]) -> list[Any]:
        shown.extend(number for group in groups for number in group.numbers)
        return [np.ones(image.shape[:2], dtype=np.bool_) for _ in groups]

    second = make.make_pseudo_masks(again, cut=cut, progress=False)
    kept = {note["id"]: note for note in json.loads(again.out.read_text())["annotations"]}
    before = {note["id"]: note for note in json.loads(job.out.read_text())["annotations"]}
    masked = {number for number, found in before.items() if "source" in found}
    assert masked and not masked & set(shown) and all(kept[number] == before[number] for number in masked)
    assert second["sources"]["grabcut"] == first["sources"]["grabcut"] == len(masked)


def arguments(job: PseudoJob) -> list[str]:
    return ["data", "pseudo-masks", "--boxes", str(job.boxes), "--images", str(job.images), "--out", str(job.out),
            "--side", "64", "--min-area", "0.01"]  # fmt: skip


def test_the_command_tells_what_became_of_the_boxes(job: PseudoJob, command: Command) -> None:
    code, out, _ = command(*arguments(job), "--truth", str(job.boxes))
    assert code == 0 and "made.json: 3 masks in 3 images, 3 by grabcut" in out
    assert "rejected, box below min_area: 2" in out and "boxes.json: 0 objects" in out, "that file has no masks"
    code, _, told = command(*arguments(job))
    assert code == 2 and "made.json: exists already" in told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--min-fill", "2"], "min_fill has to be from 0 to 1, not 2.0"),
        (["--workers", "0"], "workers has to be 1 or more"),
        (["--model", "tiny", "--workers", "2"], "--workers: are of GrabCut"),
        (["--images", "nowhere"], "--images nowhere: no such folder"),
        (["--truth", "nowhere.json"], "nowhere.json"),
    ],
)
def test_the_command_refuses_what_it_cannot_do(job: PseudoJob, command: Command, more: list[str], message: str) -> None:
    code, _, told = command(*arguments(job), *more)
    assert code == 2 and message in told and not job.out.exists()


def test_an_image_that_is_wrong_is_named(job: PseudoJob, command: Command) -> None:
    png(job.images / "1.png", np.zeros((5, 5, 3), np.uint8))
    code, _, told = command(*arguments(job))
    assert code == 2 and "1.png has 5 x 5 pixels, the file says 80 x 60" in told
    (job.images / "1.png").unlink()
    code, _, told = command(*arguments(job))
    assert code == 2 and "1.png" in told and "no such" in told
