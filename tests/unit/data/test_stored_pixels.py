"""Sideways photos: annotations of the upright image fit, those of the stored pixels are named or turned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.originals import as_json, opened

from ullava.errors import SampleError
from ullava.geometry import rle_encode
from ullava.media.images import read_image_rgb_u8
from ullava.modeling.processing.sample_rules import check_frame, targets_of
from ullava.orientation import TURNS, turn_plane, turn_points
from ullava.structures import Region, Sample, Turn

Command = Callable[..., tuple[int, str, str]]
BACK = {2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}
H, W = 30, 40
"""Of the upright image."""
THING = np.zeros((H, W), bool)
THING[4:15, 6:30] = True
THING[4:9, 20:30] = False


def photo(path: Path, orientation: int) -> Path:
    """A photo that shows ``THING`` in white when it is upright."""
    note = Image.Exif()
    note[0x0112] = orientation
    upright = Image.fromarray(np.where(THING[..., None], 255, 0).repeat(3, axis=2).astype(np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    (upright.transpose(TURNS[BACK[orientation]])).save(path, exif=note, quality=100, subsampling=0)
    return path


def stored(orientation: int) -> np.ndarray:
    return np.ascontiguousarray(turn_plane(THING, BACK[orientation]))


def outline(orientation: int) -> list[float]:
    """The corners of ``THING`` in stored pixels."""
    corners = [6, 4, 20, 4, 20, 9, 30, 9, 30, 15, 6, 15]
    return turn_points(corners, BACK[orientation], stored(orientation).shape)


@pytest.mark.parametrize("orientation", TURNS)
def test_a_plane_and_points_turn_as_the_image_does(tmp_path: Path, orientation: int) -> None:
    image = read_image_rgb_u8(photo(tmp_path / "a.jpg", orientation))
    np.testing.assert_array_equal(image[..., 0] > 127, THING)
    plane = stored(orientation)
    np.testing.assert_array_equal(turn_plane(plane, orientation), THING)
    assert np.asarray(Image.open(tmp_path / "a.jpg")).shape[:2] == plane.shape
    rows, columns = np.nonzero(plane)
    for x, y in zip(columns[::17], rows[::17], strict=True):  # the middle of a pixel stays in the middle of its pixel
        x_up, y_up = turn_points([x + 0.5, y + 0.5], orientation, (H, W))
        assert THING[int(y_up), int(x_up)] and x_up % 1 == y_up % 1 == 0.5


def coco(root: Path, orientation: int, segmentation: Any) -> list[str]:
    photo(root / "in" / "a.jpg", orientation)
    height, width = stored(orientation).shape
    rows, columns = np.nonzero(stored(orientation))
    box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
    value = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": height, "width": width}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": box, "segmentation": segmentation}
        ],
        "categories": [{"id": 1, "name": "cup"}],
    }
    as_json(root / "given.json", value)
    return ["data", "import", "coco", "--images", str(root / "in"), "--annotations", str(root / "given.json"), "--out",
            str(root / "mine")]  # fmt: skip


def region(folder: Path) -> Region:
    """The only thing of an imported folder."""
    (query,) = opened(folder).queries(0)
    (found,) = query.turns[0].regions
    check_frame(query, [read_image_rgb_u8(query.images[0])])
    return found


@pytest.mark.parametrize("orientation", TURNS)
@pytest.mark.parametrize("form", ["polygon", "rle"])
def test_coco_on_stored_pixels_is_turned_upright(command: Command, tmp_path: Path, orientation: int, form: str) -> None:
    given = [outline(orientation)] if form == "polygon" else dict(rle_encode(stored(orientation)))
    line = coco(tmp_path, orientation, given)
    code, _, err = command(*line)
    if orientation in (5, 6, 7, 8):
        assert (
            code == 2 and f"a.jpg has {W} x {H} pixels (width x height), but the file says {H} x {W}; its EXIF" in err
        )
        assert f"orientation is {orientation}, and this was annotated on the pixels as they are stored" in err
        assert "--stored-pixels turns the annotations upright too; 1 annotations go with it" in err
    code, _, err = command(*line[:-1], str(tmp_path / "turned"), "--stored-pixels")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "turned" / "annotations" / "train.json").read_text())
    assert (found["images"][0]["height"], found["images"][0]["width"]) == (H, W)
    assert found["annotations"][0]["bbox"] == [6, 4, 24, 11]
    np.testing.assert_array_equal(region(tmp_path / "turned").mask, THING)
    assert region(tmp_path / "turned").box_xyxy_px == (6, 4, 30, 15)


def test_upright_annotations_fit_and_the_option_is_refused_for_them(command: Command, tmp_path: Path) -> None:
    line = coco(tmp_path, 6, [[6, 4, 20, 4, 20, 9, 30, 9, 30, 15, 6, 15]])
    value = json.loads((tmp_path / "given.json").read_text())
    value["images"][0] |= {"height": H, "width": W}
    value["annotations"][0]["bbox"] = [6, 4, 24, 11]
    as_json(tmp_path / "given.json", value)
    code, _, err = command(*line, "--stored-pixels")
    assert code == 2 and "annotated on the upright image: import it without --stored-pixels" in err
    assert command(*line)[0] == 0
    np.testing.assert_array_equal(region(tmp_path / "mine").mask, THING)


def test_labelme_and_masks_on_stored_pixels(command: Command, tmp_path: Path) -> None:
    photo(tmp_path / "in" / "a.jpg", 6)
    points = np.reshape(outline(6), (-1, 2)).tolist()
    shape = {"label": "cup", "points": points, "shape_type": "polygon", "group_id": None}
    value = {"shapes": [shape], "imagePath": "a.jpg", "imageHeight": W, "imageWidth": H}
    as_json(tmp_path / "in" / "a.json", value)
    line = ["data", "import", "labelme", "--images", str(tmp_path / "in"), "--out", str(tmp_path / "mine")]
    code, _, err = command(*line)
    assert code == 2 and "its EXIF orientation is 6" in err and "--stored-pixels" in err
    assert command(*line, "--stored-pixels")[0] == 0
    np.testing.assert_array_equal(region(tmp_path / "mine").mask, THING)

    (tmp_path / "masks").mkdir()
    Image.fromarray(stored(6).astype(np.uint8)).save(tmp_path / "masks" / "a.png")
    line = ["data", "import", "masks", "--images", str(tmp_path / "in"), "--masks", str(tmp_path / "masks")]
    (tmp_path / "in" / "a.json").unlink()
    for number, more in enumerate((["--labels", "1=cup"], ["--labels", "1=cup", "--salient"])):
        out = ["--out", str(tmp_path / f"masks{number}")]
        code, _, err = command(*line, *more, *out)
        assert code == 2 and "its EXIF orientation is 6" in err and "--stored-pixels" in err
        assert command(*line, *more, *out, "--stored-pixels")[0] == 0
        (query,) = opened(tmp_path / f"masks{number}").queries(0)
        np.testing.assert_array_equal(query.turns[0].regions[0].mask, THING)


def test_a_sample_of_another_frame_than_its_image_is_named(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 6)
    image = read_image_rgb_u8(path)
    turn = Turn("<image>Where?", "[LOC]", (Region("cup", stored(6), (1.0, 2.0, 3.0, 4.0)),))
    sample = Sample("s", "d", "res", (path,), (turn,), {"height": W, "width": H})
    with pytest.raises(SampleError, match=r"a mask of 30x40 on an image that is 40x30; its EXIF orientation is 6"):
        targets_of(sample, [image], False)
    with pytest.raises(SampleError, match=r"40 x 30 pixels .*, but the record says 30 x 40; its EXIF orientation is 6"):
        check_frame(sample, [image])
    with pytest.raises(SampleError, match=r"an image is uint8 \[H, W, 3\], not float64 \[30, 40, 3\]"):
        check_frame(sample, [image / 255])


def test_reasonseg_reads_the_upright_size_and_leaves_out_what_is_of_another(tmp_path: Path) -> None:
    from ullava.data.converters.published.labelme import reasonseg_rows
    from ullava.data.converters.published.source import OriginalSource, Skipped

    photo(tmp_path / "a.jpg", 6)
    points = [[6, 4], [20, 4], [20, 9], [30, 9], [30, 15], [6, 15]]
    value: dict[str, Any] = {"text": ["what?"], "shapes": [{"label": "target", "points": points}]}
    as_json(tmp_path / "a.json", value)
    source = OriginalSource(kind="reasonseg", root=tmp_path, annotations=tmp_path)
    (found,) = reasonseg_rows(source, {}, lambda _: None)
    assert not isinstance(found, Skipped)
    record = json.loads(found.record)
    assert (record["height"], record["width"]) == (H, W)
    as_json(tmp_path / "a.json", value | {"imageHeight": W, "imageWidth": H})
    (skipped,) = reasonseg_rows(source, {}, lambda _: None)
    assert isinstance(skipped, Skipped) and "its EXIF orientation is 6" in skipped.reason
