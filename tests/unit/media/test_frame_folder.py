"""A folder of JPEG frames is a video like a GIF or an MP4; every video gives its frames one at a time too."""

from __future__ import annotations

from pathlib import Path
from types import GeneratorType

import numpy as np
import pytest
from PIL import Image
from tests.unit.media.test_video import film, numbers, write_container, write_gif

from ullava.errors import DataError
from ullava.media.frames import choose_frames
from ullava.media.video import (
    check_video,
    count_frames,
    iter_frames,
    iter_frames_backwards,
    read_clip,
    read_frames,
)
from ullava.structures import Clip


def write_folder(path: Path, frames: np.ndarray) -> Path:
    path.mkdir(parents=True)
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(path / f"{number:05d}.jpg", quality=95)
    return path


@pytest.mark.parametrize("length", [1, 5, 8, 11])
def test_a_folder_gives_the_frames_that_were_chosen(tmp_path: Path, length: int) -> None:
    path = write_folder(tmp_path / "clip", film(length))
    (path / ".DS_Store").write_bytes(b"x")
    assert numbers(read_clip(Clip(path), 8)) == choose_frames(length, 8)
    assert numbers(read_frames(path, range)) == list(range(length))
    check_video(path)


def test_a_clip_of_another_length_than_its_annotation_is_refused(tmp_path: Path) -> None:
    path = write_folder(tmp_path / "clip", film(3))
    assert read_clip(Clip(path, length=3), 3).shape[0] == 3
    with pytest.raises(DataError, match="clip: 3 frames, but its annotation speaks of 4"):
        read_clip(Clip(path, length=4), 3)


@pytest.mark.parametrize("kind", ["folder", "gif", "mp4"])
def test_frames_come_one_at_a_time(tmp_path: Path, kind: str) -> None:
    frames = film(7)
    write = {"folder": write_folder, "gif": write_gif, "mp4": write_container}[kind]
    path = write(tmp_path / (f"film.{kind}" if kind != "folder" else "film"), frames)
    found = iter_frames(path)
    assert isinstance(found, GeneratorType)
    for place, (number, frame) in enumerate(found):
        assert frame.shape == (48, 64, 3) and frame.dtype == np.uint8
        assert numbers(frame[None]) == [number] == [place]
    assert number == 6 and count_frames(path) == 7
    assert [number for number, _ in iter_frames(path, 2, 5)] == [2, 3, 4]
    assert [number for number, _ in iter_frames_backwards(path, 5, 2)] == [4, 3, 2, 1, 0]


def test_a_folder_that_is_no_clip_is_refused_by_name(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="empty: holds no frame"):
        read_frames(empty, range)
    mixed = write_folder(tmp_path / "mixed", film(2))
    (mixed / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"mixed: 'notes\.txt' is no JPEG frame"):
        read_frames(mixed, range)
    odd = write_folder(tmp_path / "odd", film(3))
    Image.new("RGB", (10, 12)).save(odd / "00002.jpg")
    for use in (lambda: read_frames(odd, lambda _: [0]), lambda: list(iter_frames(odd))):
        with pytest.raises(DataError, match=r"00002\.jpg: has 10 x 12 pixels, 00000\.jpg has 64 x 48"):
            use()
    cut = write_folder(tmp_path / "cut", film(3))
    whole = (cut / "00001.jpg").read_bytes()
    (cut / "00001.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"00001\.jpg: cannot be decoded"):
        list(iter_frames(cut))


def test_a_gif_of_frames_that_break_is_refused_where_it_breaks(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "film.gif", film(4))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"film\.gif: the file is cut off"):
        next(iter_frames(path))
