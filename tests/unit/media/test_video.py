"""Videos from disk: three formats, every length, and a line that names the file for whatever is wrong."""

from __future__ import annotations

import io
import os
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ullava.errors import DataError
from ullava.media import video
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


def film(length: int, height: int = 48, width: int = 64) -> np.ndarray:
    """Frames [T, H, W, 3] whose gray value is their number times ten, with a white corner at the upper left."""
    frames = np.zeros((length, height, width, 3), dtype=np.uint8)
    frames += (np.arange(length, dtype=np.uint8) * 10)[:, None, None, None]
    frames[:, : height // 3, : width // 3] = 255
    return frames


def write_gif(path: Path, frames: np.ndarray) -> Path:
    images = [Image.fromarray(frame) for frame in frames]
    images[0].save(path, format="GIF", save_all=True, append_images=images[1:], duration=100)
    return path


def write_container(path: Path, frames: np.ndarray, codec: str = "mpeg4") -> Path:
    av = pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def numbers(frames: np.ndarray) -> list[int]:
    """Which frames of ``film`` these are."""
    return [round(float(frame[-8:, -8:].mean()) / 10) for frame in frames]


@pytest.mark.parametrize("length", [1, 2, 5, 8, 11, 21])
def test_a_gif_of_any_length_gives_the_frames_that_were_chosen(tmp_path: Path, length: int) -> None:
    frames = film(length)
    path = write_gif(tmp_path / "film.gif", frames)
    seen = read_clip(Clip(path), 8)
    assert seen.shape == (8, 48, 64, 3) and seen.dtype == np.uint8
    assert np.array_equal(seen, frames[choose_frames(length, 8)])
    drawn = read_clip(Clip(path, "head_tail", seed=5), 8)
    assert numbers(drawn) == choose_frames(length, 8, "head_tail", 5)
    check_video(path)


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
@pytest.mark.parametrize("length", [1, 3, 12])
def test_containers_give_the_frames_that_were_chosen(tmp_path: Path, name: str, length: int) -> None:
    path = write_container(tmp_path / name, film(length))
    seen = read_clip(Clip(path), 8)
    assert numbers(seen) == choose_frames(length, 8)
    assert seen[0, 4:10, 4:14].mean() > 235 > seen[0, 20:, 30:].mean()


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "film.mp4", film(3))
    assert numbers(read_clip(Clip(path), 3)) == [0, 1, 2]


def test_a_video_filmed_upright_is_shown_upright(tmp_path: Path) -> None:
    """The track's matrix turns the frames by a quarter clockwise, so the white corner goes to the upper right."""
    path = write_container(tmp_path / "film.mp4", film(2))
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    one, zero = (65536).to_bytes(4, "big", signed=True), bytes(4)
    data[place : place + 20] = zero + one + zero + (-65536).to_bytes(4, "big", signed=True) + zero
    path.write_bytes(bytes(data))
    seen = read_clip(Clip(path), 1)
    assert seen.shape == (1, 64, 48, 3)
    assert seen[0, 2:12, -10:-2].mean() > 235 > seen[0, 2:12, 2:10].mean()


def test_transparent_frames_lie_on_white(tmp_path: Path) -> None:
    first = Image.new("RGBA", (20, 20), (0, 0, 0, 0))
    second = first.copy()
    first.paste((200, 0, 0, 255), (0, 0, 10, 10))
    second.paste((0, 0, 200, 255), (10, 10, 20, 20))
    first.save(tmp_path / "film.gif", save_all=True, append_images=[second], disposal=2)
    seen = read_clip(Clip(tmp_path / "film.gif"), 2)
    assert seen[0, 5, 5].tolist() == [200, 0, 0] and seen[0, 15, 15].tolist() == [255, 255, 255]
    assert seen[1, 15, 15].tolist() == [0, 0, 200] and seen[1, 5, 5].tolist() == [255, 255, 255]


def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def complaint(path: Path) -> str:
        with pytest.raises(DataError) as caught:
            read_clip(Clip(path), 8)
        assert caught.value.problems[0].startswith(f"{path}: ")
        return caught.value.problems[0]

    empty = tmp_path / "empty.mp4"
    empty.touch()
    assert "the file is empty" in complaint(empty)
    assert "no such video" in complaint(tmp_path / "none.mp4")
    assert "holds no frame (a folder is a clip of .jpg files" in complaint(tmp_path)
    (tmp_path / "playlist.mp4").write_text("#EXTM3U\nfile:///etc/hostname\n")
    assert "not a video of a known format (mp4, avi, gif)" in complaint(tmp_path / "playlist.mp4")
    gif = write_gif(tmp_path / "film.gif", film(6))
    whole = gif.read_bytes()
    for size in (14, 400, len(whole) // 2, len(whole) - 1):
        gif.write_bytes(whole[:size])
        assert "the file is cut off" in complaint(gif)
    gif.write_bytes(whole[:13] + b"\x99" + whole[13:] if not whole[10] & 0x80 else whole[:10] + b"\0" + whole[11:])
    assert "not a valid GIF" in complaint(gif)
    gif.write_bytes(b"GIF89a" + bytes(7) + b";")
    assert "holds no frame" in complaint(gif)
    monkeypatch.setattr(video, "MAX_PIXELS", 48 * 64 - 1)
    assert "64 x 48 pixels are more than the cap" in complaint(write_gif(tmp_path / "large.gif", film(2)))
    monkeypatch.setattr(video, "MAX_PIXELS", 10_000)
    monkeypatch.setattr(video, "MAX_FRAMES", 3)
    assert "more than 3 frames" in complaint(write_gif(tmp_path / "long.gif", film(4)))


@pytest.mark.parametrize("name", ["film.mp4", "film.avi"])
def test_a_container_that_was_cut_off_is_named(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    path = write_container(tmp_path / name, noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=f"{name}: (cannot be decoded|the file is cut off)"):
        read_clip(Clip(path), 8)


def test_a_film_without_images_is_named(tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16000
        container.mux([*stream.encode(frame), *stream.encode()])
    with pytest.raises(DataError, match="sound.mp4: has no video stream"):
        read_clip(Clip(path), 8)


def test_without_the_extra_gif_works_and_others_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mp4 = write_container(tmp_path / "film.mp4", film(2))
    gif = write_gif(tmp_path / "film.gif", film(2))
    monkeypatch.setitem(sys.modules, "av", None)
    assert len(read_clip(Clip(gif), 2)) == 2
    with pytest.raises(DataError, match=r"film.mp4: mp4 and avi need PyAV; install the extra: .*ullava\[video\]"):
        read_clip(Clip(mp4), 2)


def test_real_videos_of_three_formats(shared_dir: Path) -> None:
    pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    films = sorted((shared_dir / "realdata" / "video").glob("*.*"))
    assert {path.suffix for path in films} == {".mp4", ".avi", ".gif"}
    for path in films:
        frames = read_frames(path, lambda length: [0, length // 2])
        assert frames.ndim == 4 and frames.std() > 5, path


def test_every_real_video_can_be_read_to_its_last_frame(shared_dir: Path) -> None:
    pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    films = [p for p in sorted((shared_dir / "realdata").rglob("*")) if p.suffix in (".mp4", ".avi", ".gif")]
    assert len(films) >= 4
    for path in films:
        check_video(path)


def test_a_gif_has_the_same_pixels_in_both_decoders(shared_dir: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    path = shared_dir / "realdata" / "video" / "human_seg_results.gif"
    with av.open(str(path)) as container:
        theirs = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert np.array_equal(read_frames(path, range), theirs)


def gif_frame(width: int, height: int) -> bytes:
    """One frame of a GIF, without what stands in front of it."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "GIF")
    data = file.getvalue()
    return data[data.index(b",", 13 + (3 << ((data[10] & 7) + 1))) : -1]


def gif(width: int, height: int, *frames: bytes) -> bytes:
    """A GIF of two colors."""
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6) + b"".join(frames) + b";"


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        check_video(path)
    (line,) = caught.value.problems
    assert line.startswith(f"{path}: ") and "\n" not in line
    return line


def test_a_gif_whose_frames_grow_or_are_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "film.gif"
    path.write_bytes(gif(4, 4, gif_frame(4, 4), gif_frame(9, 8)))
    assert "frame 1 has 9 x 8 pixels, frame 0 has 4 x 4" in refusal(path)
    path.write_bytes(gif(4, 4, gif_frame(4, 4), gif_frame(4000, 4000)))
    assert "frames of 4000 x 4000 pixels are more than the cap of 10 million" in refusal(path)
    path.write_bytes(gif(3000, 3000, *[gif_frame(1, 1)] * 700))
    assert "700 frames of 3000 x 3000 pixels are more than the cap of 5 billion pixels together" in refusal(path)


def jpegs(path: Path, sides: Sequence[int]) -> Path:
    """An AVI of JPEG frames, each of its own size."""
    av = pytest.importorskip("av", reason="PyAV (the extra 'video') is not installed")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.height = stream.width = sides[0]
        stream.pix_fmt = "yuvj420p"
        for number, side in enumerate(sides):
            file = io.BytesIO()
            Image.new("RGB", (side, side), (90, 90, 90)).save(file, "JPEG")
            packet = av.Packet(file.getvalue())
            packet.stream, packet.pts, packet.dts, packet.is_keyframe = stream, number, number, True
            container.mux(packet)
    return path


def test_an_avi_whose_frames_grow_or_are_a_bomb_is_refused(tmp_path: Path) -> None:
    assert len(read_frames(jpegs(tmp_path / "fine.avi", [64, 64]), range)) == 2
    path = jpegs(tmp_path / "grows.avi", [64, 96])
    assert "frame 1 has 96 x 96 pixels, frame 0 has 64 x 64" in refusal(path)
    assert "bomb.avi: " in refusal(jpegs(tmp_path / "bomb.avi", [64, 6000]))


def test_an_mp4_that_says_millions_of_frames_is_refused_before_they_are_indexed(tmp_path: Path) -> None:
    path = write_container(tmp_path / "film.mp4", film(3))
    data = bytearray(path.read_bytes())
    sizes, chunks = data.index(b"stsz"), data.index(b"stsc")
    data[sizes + 8 : sizes + 16] = struct.pack(">II", 1, 30_000_000)
    data[chunks + 16 : chunks + 20] = struct.pack(">I", 30_000_000)
    path.write_bytes(data)
    assert refusal(path) == f"{path}: more than 200000 frames"
    fragment = struct.pack(">I4sI4sI4sII", 32, b"moof", 24, b"traf", 16, b"trun", 0, 2**31)
    path.write_bytes(write_container(tmp_path / "film.mp4", film(3)).read_bytes() + fragment)
    assert "its fragments say more than 4000000 samples" in refusal(path)


def test_a_codec_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    path = write_container(tmp_path / "film.avi", film(3))
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    assert "the codec of its video stream is not known" in refusal(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
@pytest.mark.parametrize("name", ["pipe.mp4", "pipe.gif"])
def test_a_named_pipe_is_refused_and_does_not_hang(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "is a named pipe, not a file" in refusal(tmp_path / name)


@pytest.mark.parametrize("name", ["film.gif", "film.mp4", "film.avi"])
def test_frames_come_one_after_the_other_both_ways(tmp_path: Path, name: str) -> None:
    write = write_gif if name.endswith("gif") else write_container
    path = write(tmp_path / name, film(9))
    whole = read_frames(path, range)
    assert count_frames(path) == 9
    streamed = list(iter_frames(path))
    assert [number for number, _ in streamed] == list(range(9))
    assert all(np.array_equal(frame, whole[number]) for number, frame in streamed)
    assert [number for number, _ in iter_frames(path, 2, 5)] == [2, 3, 4]
    for at_once in (1, 4, 100):
        back = list(iter_frames_backwards(path, 6, at_once))
        assert [number for number, _ in back] == [5, 4, 3, 2, 1, 0]
        assert all(np.array_equal(frame, whole[number]) for number, frame in back)
    assert list(iter_frames_backwards(path, 0, 4)) == []


def test_a_stream_ends_with_a_line_where_the_frames_change_their_size(tmp_path: Path) -> None:
    paths = [jpegs(tmp_path / "grows.avi", [64, 64, 96]), tmp_path / "grows.gif"]
    paths[1].write_bytes(gif(4, 4, gif_frame(4, 4), gif_frame(4, 4), gif_frame(9, 8)))
    for path in paths:
        frames = iter_frames(path)
        assert next(frames)[0] == 0 and next(frames)[0] == 1
        with pytest.raises(DataError, match=r"grows\....: frame 2 has 9.* x .+ pixels, frame 0 has"):
            next(frames)


def test_a_clip_of_another_length_than_its_annotation_is_refused(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "film.gif", film(5))
    assert len(read_clip(Clip(path, length=5), 3)) == 3
    with pytest.raises(DataError, match="film.gif: 5 frames, but its annotation speaks of 6"):
        read_clip(Clip(path, length=6), 3)
