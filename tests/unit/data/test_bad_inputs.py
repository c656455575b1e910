"""The same faults for every annotation layout: each is an error that names file, line and record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, SQUARE, H, W, make_image, masks, png

from ullava.data.loading.encode import EncodedMixture
from ullava.errors import DataError, SampleError
from ullava.examples import BadSample
from ullava.geometry import rle_encode
from ullava.structures import Sample

SIZE = {"height": H, "width": W}
PART = {"segmentation": [SQUARE], "bbox": [5, 4, 10, 6], "category": "dog"}
CHAT = [{"from": "human", "value": "<image>What is it?"}, {"from": "gpt", "value": "A dog."}]
GOOD: dict[str, dict[str, Any]] = {
    "refer": {"image_path": "a.png", "sentences": ["it"]} | SIZE | PART,
    "grefer": {"image_path": "a.png", "sentences": ["it"], "annotations": [PART], "no_target": False} | SIZE,
    "regions": {"image_path": "a.png", "classes": ["dog"], "annotations": [PART | SIZE]},
    "label_png": {"image_path": "a.png", "label_path": "m.png", "classes": [{"class": "dog", "class_id": 255}]},
    "salient_png": {"image_path": "a.png", "label_path": "m.png"},
    "llava_json": {"id": "1", "image": "a.png", "conversations": CHAT},
    "grounded_captions": {"image_path": "a.png", "caption": "A dog runs."}
    | {"phrases": [{"span": [0, 5], "annotations": [PART]}]}
    | SIZE,
    "coco_instances": PART | {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0},
    "refer_video": {
        "video": "clip",
        "frames": ["a.jpg", "b.jpg"],
        "objects": {"1": {"size": [H, W], "counts": [rle_encode(masks()[0])["counts"], None]}},
        "expressions": [{"id": "0", "expression": "it", "objects": ["1"]}],
    }
    | SIZE,
}
SHOWN = {"refer_video": "clip/a.jpg"}
"""What the record of a layout shows, where that is not ``a.png``."""
LAYOUTS = sorted(GOOD)
WITH_OUTLINES = ["refer", "grefer", "regions", "coco_instances", "grounded_captions"]


def file_of(layout: str, record: dict[str, Any]) -> Any:
    """The content of an annotation file with this record alone."""
    if layout != "coco_instances":
        return [record]
    images = [{"id": 1, "file_name": record.pop("image_path", "a.png")} | SIZE]
    return {"images": images, "annotations": [record], "categories": [{"id": 3, "name": "dog"}]}


def changed(layout: str, **change: Any) -> dict[str, Any]:
    """The good record of a layout with another outline."""
    record: dict[str, Any] = json.loads(json.dumps(GOOD[layout]))
    holder = record["phrases"][0] if "phrases" in record else record
    part = holder["annotations"][0] if "annotations" in holder else holder
    part |= change
    return record


@pytest.fixture
def images(data_folder: Any) -> Path:
    """The folder of images: one photo and its mask."""
    make_image(data_folder.root / "a.png")
    for name in GOOD["refer_video"]["frames"]:
        make_image(data_folder.root / "clip" / name)
    png(data_folder.root / "m.png", masks()[0].astype(np.uint8) * 255)
    return data_folder.root


class Plain:
    """Stands for the processor: a sample whose images could be read comes back as it is."""

    video_frames = 2

    def encode(self, sample: Sample, images: Any, **_: Any) -> Sample:
        assert [image.shape for image in images] == [(H, W, 3)] * len(sample.images)
        return sample


class First:
    """Stands for a mixture of one dataset."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def sample(self, position: int) -> Sample:
        return self.dataset.sample(position, np.random.default_rng(position))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_good_record_is_good(build: Any, images: Path, layout: str) -> None:
    dataset = build(layout, file_of(layout, changed(layout)))
    assert isinstance(EncodedMixture(First(dataset), Plain())[0], Sample)
    assert dataset.queries(0)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.98])
def test_annotations_that_are_cut_off_are_refused(build: Any, images: Path, layout: str, share: float) -> None:
    build(layout, file_of(layout, changed(layout)))
    path = images / "notes.json"
    whole = path.read_text()
    path.write_text(whole[: int(len(whole) * share)])
    from ullava.config.schema import DatasetEntry
    from ullava.data.loading.build import build_dataset

    with pytest.raises(DataError, match=r"notes\.json:1: "):
        build_dataset("tests", DatasetEntry(), images)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("fault", ["missing", "empty", "cut off"])
def test_a_image_that_cannot_be_read_is_a_bad_sample_by_name(build: Any, images: Path, layout: str, fault: str) -> None:
    dataset = build(layout, file_of(layout, changed(layout)))
    path = images / SHOWN.get(layout, "a.png")
    whole = path.read_bytes()
    path.unlink()
    if fault != "missing":
        path.write_bytes(b"" if fault == "empty" else whole[:50])
    bad = EncodedMixture(First(dataset), Plain())[0]
    assert isinstance(bad, BadSample)
    missed = "1 frames, but its annotation speaks of 2" if (layout, fault) == ("refer_video", "missing") else path.name
    assert bad.name == "tests/train/0" and str(path.parent) in bad.reason and missed in bad.reason


@pytest.mark.parametrize("layout", WITH_OUTLINES)
@pytest.mark.parametrize(
    ("outline", "message"),
    [
        ([[1, 1, 5, 5]], "polygon 0 needs three points or more"),
        (rle_encode(np.ones((H, W - 1), dtype=bool)), f"mask is {W - 1}x{H} .* but the image is {W}x{H}"),
        ({"size": [H, W], "counts": [H * W]}, "the mask has no pixel"),
        ({"size": [H, W], "counts": "0"}, "RLE"),
        (None, "segmentation must be"),
        ([CORNER, {"size": [H, W], "counts": [H * W]}], "mixes polygons and RLEs"),
    ],
)
def test_outlines_that_cannot_be_are_errors_of_their_sample(
    build: Any, images: Path, layout: str, outline: Any, message: str
) -> None:
    dataset = build(layout, file_of(layout, changed(layout, segmentation=outline)))
    for use in (lambda: dataset.sample(0, np.random.default_rng(0)), lambda: dataset.queries(0)):
        with pytest.raises(SampleError, match=rf"notes\.json:1: record 0: .*{message}|record 0: {message}"):
            use()


@pytest.mark.parametrize("layout", ["label_png", "salient_png"])
def test_a_mask_image_of_another_size_is_found_at_the_latest_beside_its_image(
    build: Any, images: Path, layout: str
) -> None:
    png(images / "m.png", np.full((H, W - 1), 255, np.uint8))
    dataset = build(layout, file_of(layout, changed(layout) | SIZE))
    with pytest.raises(SampleError, match=rf"record 0: .* has {W - 1} x {H} pixels"):
        dataset.queries(0)


@pytest.mark.parametrize("layout", WITH_OUTLINES)
def test_crowd_codes_are_masks_like_others(build: Any, images: Path, layout: str) -> None:
    """COCO writes crowd regions as runs, uncompressed; where no layout calls them a crowd they are read as they are."""
    runs = {"size": [H, W], "counts": [5 * H + 4, 6, H * W - 5 * H - 10]}
    (query,) = build(layout, file_of(layout, changed(layout, segmentation=runs, bbox=[5, 4, 1, 6]))).queries(0)
    assert int(query.turns[0].regions[0].mask.sum()) == 6


def test_a_image_with_crowds_alone_asks_nothing_and_is_counted(build: Any, images: Path) -> None:
    record = changed("coco_instances", iscrowd=1)
    with pytest.raises(DataError, match="holds no records"):
        build("coco_instances", file_of("coco_instances", record))
