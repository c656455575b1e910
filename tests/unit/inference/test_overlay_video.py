"""Masks through a clip drawn on it: an MP4 or a GIF that the readers of videos read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.media.test_frame_folder import write_folder
from tests.unit.media.test_video import write_gif

from ullava.errors import UserError
from ullava.geometry import VideoMasks
from ullava.inference import overlay_video
from ullava.inference.answer_files import write_overlays
from ullava.inference.overlay import PALETTE
from ullava.inference.overlay_video import write_overlay_video
from ullava.media.video import read_frames
from ullava.structures import Answer, GroundedObject, MasksOverTime

LENGTH, HEIGHT, WIDTH = 5, 61, 480
SUFFIXES = [pytest.param(".gif"), pytest.param(".mp4")]


def clip() -> np.ndarray:
    """Gray frames, no two alike: Pillow would make one of those."""
    return np.full((LENGTH, HEIGHT, WIDTH, 3), 88, np.uint8) + np.arange(LENGTH, dtype=np.uint8)[:, None, None, None]


def thing(columns: list[int | None], phrase: str = "", video: int = 0) -> GroundedObject:
    """A square that is in another column in each frame, None where it is not there."""
    masks = []
    for column in columns:
        mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
        if column is not None:
            mask[10:50, column : column + 40] = True
        masks.append(mask)
    through = VideoMasks.from_masks(masks, (HEIGHT, WIDTH))
    told = (1.0,) * len(columns)
    return GroundedObject(phrase or "it", (0, 0), None, None, 1.0, over_time=MasksOverTime(through, told, told, video))


def tinted(frame: np.ndarray, column: int, color: tuple[int, int, int]) -> bool:
    """Whether the middle of a square looks like the clip with some of a color over it."""
    middle = frame[24:36, column + 12 : column + 28].reshape(-1, 3).astype(float).mean(axis=0)
    toward = np.array(color) - 90.0
    return float(np.dot(middle - 90, toward)) > 0.15 * float(np.dot(toward, toward))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_each_frame_shows_what_is_there_in_its_own_color(tmp_path: Path, suffix: str) -> None:
    if suffix == ".mp4":
        pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    path = write_folder(tmp_path / "clip", clip())
    first, second = thing([250, None, 250, None, 250]), thing([100, 150, 200, 250, None])
    write_overlay_video(path, [first, second], tmp_path / f"out{suffix}")
    frames = read_frames(tmp_path / f"out{suffix}", range)
    assert len(frames) == LENGTH and frames.shape[1] in (HEIGHT, HEIGHT + 1)
    assert tinted(frames[0], 250, PALETTE[0]) and not tinted(frames[1], 250, PALETTE[0])
    assert [tinted(frames[number], column, PALETTE[1]) for number, column in enumerate((100, 150, 200, 250))] == [
        True
    ] * 4
    assert abs(frames[4][24:36, 400:440].astype(float).mean() - 90) < 6
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_frames_are_decoded_and_drawn_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_folder(tmp_path / "clip", clip())
    events: list[str] = []
    real = overlay_video.iter_frames

    def told(given: Path) -> Any:
        for number, frame in real(given):
            events.append(f"read {number}")
            yield number, frame

    drawn = overlay_video.screen_overlay
    monkeypatch.setattr(overlay_video, "iter_frames", told)
    monkeypatch.setattr(
        overlay_video, "screen_overlay", lambda *given, **more: events.append("drawn") or drawn(*given, **more)
    )
    write_overlay_video(path, [thing([10] * LENGTH)], tmp_path / "out.gif")
    assert events == [event for number in range(LENGTH) for event in (f"read {number}", "drawn")]


def test_what_does_not_fit_is_refused_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_gif(tmp_path / "clip.gif", clip())
    masks = VideoMasks.absent((3, 3), LENGTH)
    shown = VideoMasks.from_masks([np.ones((3, 3), dtype=bool)] * LENGTH, (3, 3))
    of_size = [
        GroundedObject("it", (0, 0), None, None, 1.0, over_time=MasksOverTime(m, (1.0,) * LENGTH, (1.0,) * LENGTH))
        for m in (masks, shown)
    ]
    out = tmp_path / "out.gif"
    for objects, name, rate, message in [
        ([thing([10])], "out.gif", 10.0, r"clip\.gif: has 5 frames, the masks of 'it' 1"),
        ([of_size[1]], "out.gif", 10.0, r"frames have 480 x 61 pixels, the masks of 'it' 3 x 3"),
        ([], "out.avi", 10.0, r"out\.avi: an overlay of a clip is \.mp4 or \.gif"),
        ([], "out.gif", 0.0, "frames_per_second: has to be above 0"),
    ]:
        with pytest.raises(UserError, match=message):
            write_overlay_video(path, objects, tmp_path / name, frames_per_second=rate)
    monkeypatch.setattr(overlay_video, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"out\.mp4: MP4 needs PyAV"):
        write_overlay_video(path, [], tmp_path / "out.mp4")
    assert not out.exists() and {file.name for file in tmp_path.iterdir()} == {"clip.gif"}
    write_overlay_video(path, [of_size[0]], out)
    assert len(read_frames(out, range)) == LENGTH


def test_answers_about_videos_get_an_overlay_of_each_clip_that_they_mask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlay_video, "find_spec", lambda name: None)
    clips = [write_gif(tmp_path / f"{name}.gif", clip()) for name in "ab"]
    out = tmp_path / "out"
    out.mkdir()
    write_overlays((), Answer("", (thing([10] * LENGTH, video=1),)), out, "overlay", clips)
    assert [path.name for path in out.iterdir()] == ["overlay-2.gif"]
    write_overlays((), Answer("words"), out, "words", clips)
    assert len(list(out.iterdir())) == 1
    assert len(read_frames(out / "overlay-2.gif", range)) == LENGTH
