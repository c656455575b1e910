"""``--salient`` takes the masks that the reader of salient data takes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter
from tests.unit.data.originals import H, W, make_image, masks, opened, png, read_all, report

Command = Callable[..., tuple[int, str, str]]
MASK = masks()[0]
GRAY = np.where(MASK, 255, 0).astype(np.uint8)


def given(root: Path) -> list[str]:
    make_image(root / "images" / "a.jpg")
    (root / "drawn").mkdir()
    folders = ["--images", str(root / "images"), "--masks", str(root / "drawn"), "--out", str(root / "mine")]
    return ["data", "import", "masks", "--salient", *folders]


FORMS = {
    "hard.png": Image.fromarray(GRAY),
    "soft.png": Image.fromarray(GRAY).filter(ImageFilter.GaussianBlur(0.6)),
    "one_bit.png": Image.fromarray(MASK),
    "rgb.png": Image.fromarray(np.dstack([GRAY] * 3)),
    "pressed.jpg": Image.fromarray(GRAY),
    "pressed_rgb.jpeg": Image.fromarray(np.dstack([GRAY] * 3)),
    "old.bmp": Image.fromarray(GRAY),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("labels", [[], ["--labels", "255=object"]])
def test_what_is_white_is_the_object(command: Command, tmp_path: Path, form: str, labels: list[str]) -> None:
    line = given(tmp_path)
    FORMS[form].save(tmp_path / "drawn" / f"a{Path(form).suffix}")
    (tmp_path / "drawn" / "._a.png").write_bytes(b"\0\5\x16\7")
    code, _, err = command(*line, *labels)
    assert (code, err) == (0, "")
    dataset = opened(tmp_path / "mine")
    assert dataset.task == "salient" and read_all(dataset) == 1
    np.testing.assert_array_equal(dataset.queries(0)[0].turns[0].regions[0].mask, MASK)
    written = np.asarray(Image.open(tmp_path / "mine" / "masks" / "train" / "a.png"))
    assert sorted(np.unique(written).tolist()) == [0, 255]


def test_masks_that_are_none_are_named(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path)
    colored = np.zeros((H, W, 3), np.uint8)
    colored[4:10, 5:15] = (128, 0, 0)
    for name, array in (("a", GRAY), ("b", colored), ("c", GRAY[:-1]), ("d", np.where(MASK, 1, 0).astype(np.uint8))):
        png(tmp_path / "drawn" / f"{name}.png", array)
        make_image(tmp_path / "images" / f"{name}.jpg")
    make_image(tmp_path / "images" / "e.jpg")
    code, _, err = command(*line)
    assert code == 2 and len(err.splitlines()) == 4
    for message in (
        "b.png: a foreground image is gray, this one has colors",
        "c.png: has 30 x 19 pixels (width x height), but c.jpg has 30 x 20",
        "e.jpg: nothing of this name is in",
    ):
        assert message in err
    code, out, _ = command(*line, "--skip-bad")
    assert code == 0 and read_all(opened(tmp_path / "mine")) == 1
    (entry,) = report(tmp_path / "mine")["nothing_to_ask_about"]
    assert entry["reason"] == "no pixel is brighter than half: no object (stored as 1? say --labels 1=object)"


def test_other_values_are_still_taken_as_they_are_stored(command: Command, tmp_path: Path) -> None:
    line = given(tmp_path)
    png(tmp_path / "drawn" / "a.png", np.where(MASK, 1, 0).astype(np.uint8))
    assert command(*line, "--labels", "1=object")[0] == 0
    np.testing.assert_array_equal(opened(tmp_path / "mine").queries(0)[0].turns[0].regions[0].mask, MASK)


def test_without_labels_only_salient_masks_have_a_meaning(command: Command, tmp_path: Path) -> None:
    line = [part for part in given(tmp_path) if part != "--salient"]
    png(tmp_path / "drawn" / "a.png", GRAY)
    assert "--labels: name at least one value" in command(*line)[2]
    assert "--labels: 'a [SEG]' holds the special token [SEG]" in command(*line, "--labels", "255=a [SEG]")[2]
