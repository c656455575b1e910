"""PACO-LVIS, Pascal-Part and LVIS from the files that their authors publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat
from tests.unit.data.originals import CORNER, SQUARE, H, W, as_json, make_image, masks

from ullava.config.schema import DatasetEntry
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.converters.published.parts import part_name
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import load_descriptor, locate
from ullava.errors import DataError


def paco(**change: object) -> dict:
    value = {
        "images": [{"id": 1, "file_name": "train2017/1.jpg", "height": H, "width": W}],
        "annotations": [
            {"id": 10, "image_id": 1, "category_id": 5, "segmentation": [SQUARE], "bbox": [5, 4, 10, 6]},
            {"id": 11, "image_id": 1, "category_id": 6, "segmentation": [CORNER], "bbox": [1, 12, 3, 6]},
            {"id": 12, "image_id": 1, "category_id": 5, "segmentation": [CORNER], "iscrowd": 1},
        ],
        "categories": [{"id": 5, "name": "trash_can"}, {"id": 6, "name": "trash_can:rim"}],
    }
    value["annotations"][1] |= change
    return value


def write_paco(root: Path, value: dict) -> None:
    as_json(root / "paco" / "paco_lvis_v1_train.json", value)
    make_image(root / "coco2017" / "train2017" / "1.jpg")


def test_paco_asks_for_objects_and_parts_and_names_its_crowds(tmp_path):
    write_paco(tmp_path, paco())
    dataset = build_dataset("paco_lvis", DatasetEntry(), tmp_path)
    whole, part = dataset.queries(0)
    assert [query.truth["class"] for query in (whole, part)] == ["trash can", "trash can:rim"]
    assert whole.images[0].is_file()
    np.testing.assert_array_equal(part.turns[0].regions[0].mask, masks()[1])
    (line,) = skipped_lines(open_store(locate("paco_lvis", DatasetEntry(), tmp_path)).facts)
    assert line == "1 left out: a crowd region is nobody's instance (paco_lvis_v1_train.json: annotation 12)"


def test_paco_with_an_unknown_class_or_a_bad_outline_is_named(tmp_path):
    write_paco(tmp_path, paco(category_id=66))
    with pytest.raises(DataError, match=r"annotation 11: unknown category_id 66"):
        build_dataset("paco_lvis", DatasetEntry(), tmp_path)
    write_paco(tmp_path, paco(segmentation=[[1, 2, 3, 4]]))
    dataset = build_dataset("paco_lvis", DatasetEntry(), tmp_path)
    with pytest.raises(DataError, match=r"record 0: annotations\[1\]: segmentation: polygon 0 needs three points"):
        dataset.queries(0)


def part(name: str, mask: np.ndarray) -> dict:
    return {"part_name": name, "mask": mask.astype(np.uint8)}


def write_pascal(root: Path, *listed: str, parts: list[dict] | None = None) -> Path:
    square, corner = masks()
    voc = root / "VOCdevkit" / "VOC2010"
    (voc / "ImageSets" / "Main").mkdir(parents=True, exist_ok=True)
    (voc / "ImageSets" / "Main" / "train.txt").write_text("".join(f"{name}\n" for name in listed))
    path = root / "Annotations_Part" / "2008_000003.mat"
    path.parent.mkdir(exist_ok=True)
    dog = {"class": "dog", "class_ind": 12, "mask": (square | corner).astype(np.uint8)}
    dog["parts"] = np.array(parts or [part("lear", square), part("rear", corner), part("tail", square)], dtype=object)
    chair = {"class": "chair", "class_ind": 9, "mask": corner.astype(np.uint8), "parts": np.zeros((0, 0))}
    savemat(path, {"anno": {"imname": "2008_000003", "objects": np.array([dog, chair], dtype=object)}})
    make_image(voc / "JPEGImages" / "2008_000003.jpg")
    return path


def test_pascal_part_joins_left_and_right(tmp_path):
    write_pascal(tmp_path, "2008_000003", "2008_000009")
    dataset = build_dataset("pascal_part", DatasetEntry(), tmp_path)
    queries = {query.truth["class"]: query.turns[0].regions for query in dataset.queries(0)}
    assert {name: len(regions) for name, regions in queries.items()} == {
        "dog": 1,
        "dog:ear": 2,
        "dog:tail": 1,
        "chair": 1,
    }
    np.testing.assert_array_equal(queries["dog:ear"][0].mask, masks()[1])
    lines = skipped_lines(open_store(locate("pascal_part", DatasetEntry(), tmp_path)).facts)
    assert lines == ["1 left out: listed, but Annotations_Part has no annotation of it (2008_000009)"]


def test_pascal_part_leaves_out_by_name_what_it_cannot_read(tmp_path):
    path = write_pascal(tmp_path, "2008_000003", parts=[part("lflipper", masks()[0]), part("tail", masks()[0] & False)])
    names = [query.truth["class"] for query in build_dataset("pascal_part", DatasetEntry(), tmp_path).queries(0)]
    assert names == ["dog", "chair"]
    assert skipped_lines(open_store(locate("pascal_part", DatasetEntry(), tmp_path)).facts) == [
        "1 left out: a part code that is not known (2008_000003.mat dog:lflipper)",
        "1 left out: the mask has no pixel (2008_000003.mat dog:tail)",
    ]
    whole = path.read_bytes()
    for length in (0, 60, 200, len(whole) // 2):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"1 left out: .*\(2008_000003\.mat\)"):
            build_dataset("pascal_part", DatasetEntry(), tmp_path)
    write_pascal(tmp_path, "2008_000003")
    (tmp_path / "VOCdevkit" / "VOC2010" / "JPEGImages" / "2008_000003.jpg").unlink()
    with pytest.raises(DataError, match=r"1 left out: no image of this name \(2008_000003\.mat\)"):
        build_dataset("pascal_part", DatasetEntry(), tmp_path)


@pytest.mark.parametrize(
    ("code", "name"),
    [("lfuleg", "leg"), ("rbho", "hoof"), ("wheel_2", "wheel"), ("fwheel", "wheel"), ("bliplate", "license plate"),
     ("llarm", "arm"), ("lhand", "hand"), ("leye", "eye"), ("rlleg", "leg"), ("lebrow", "eyebrow"),
     ("hroofside_1", "roof"), ("leg", None), ("wheeel", None), ("", None)],
)  # fmt: skip
def test_part_codes_are_read(code, name):
    if name is None:
        with pytest.raises(ValueError, match="is not known"):
            part_name(code)
    else:
        assert part_name(code) == name


def test_names_of_parts_are_in_the_class_list():
    classes = set(load_descriptor("pascal_part")[1].classes)
    assert len(classes) > 100
    for kind, code in (("dog", "muzzle"), ("bus", "liplate"), ("horse", "rfho"), ("train", "croofside_3")):
        if code == "liplate":
            code = "fliplate"
        assert f"{kind}:{part_name(code)}" in classes


def test_lvis_images_are_named_by_their_address(tmp_path):
    value = {
        "images": [{"id": 1, "coco_url": "http://some.where/train2017/1.jpg", "height": H, "width": W}],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "segmentation": [SQUARE], "bbox": [5, 4, 10, 6]}],
        "categories": [{"id": 1, "name": "aerosol_can"}],
    }
    as_json(tmp_path / "lvis" / "lvis_v1_train.json", value)
    make_image(tmp_path / "coco2017" / "train2017" / "1.jpg")
    query = build_dataset("lvis_instances", DatasetEntry(), tmp_path).queries(0)[0]
    assert query.images[0].is_file() and query.truth["category"] == "aerosol_can"
