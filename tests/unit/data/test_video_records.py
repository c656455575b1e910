"""Records with a video: where its marker goes, which frames are seen, and what is wrong with a record."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.config.schema import DatasetEntry
from ullava.data.loading.encode import encode_or_bad
from ullava.errors import SampleError
from ullava.examples import BadSample


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def talk(*messages: str, **fields: Any) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[k % 2], "value": message} for k, message in enumerate(messages)]
    return {"id": "1", "conversations": turns} | fields


def questions(dataset: Any) -> list[str]:
    return [query.turns[0].question for query in dataset.queries(0)]


def test_the_marker_of_a_video_moves_to_the_front(build, data_folder):
    dataset = build("llava_json", [talk("What moves?\n<video>", "A star.", "Where?", "Left.", video="clips/a.mp4")])
    sample = dataset.sample(0, rng())
    assert [turn.question for turn in sample.turns] == ["<video>What moves?", "Where?"]
    assert sample.images == () and [clip.path for clip in sample.videos] == [data_folder.root / "clips" / "a.mp4"]
    assert questions(dataset) == ["<video>What moves?", "<video>Where?"]


def test_tgif_as_u_llava_has_it_puts_the_video_last(build):
    records = [
        talk("What happens? ", "A panel slides in.", "Which colour?", "Red.", gif="a.gif"),
        talk("Hello.", "Hi."),
    ]
    dataset = build("llava_json", records)
    assert [turn.question for turn in dataset.sample(0, rng()).turns] == ["What happens?<video>", "Which colour?"]
    assert questions(dataset) == ["What happens?<video>", "Which colour?<video>"]
    assert dataset.sample(1, rng()).videos == ()


def test_a_template_of_images_asks_about_videos_too(build, write):
    path = write("ASK.json", '["<image>Describe it."]')
    dataset = build("llava_json", [talk("<video>", "A star.", video="a.gif")], template=str(path), task="caption")
    assert dataset.sample(0, rng()).turns[0].question == "<video>Describe it."
    assert questions(dataset) == ["<video>Describe it."]


def test_several_videos_and_images_stay_where_they_are_marked(build):
    record = talk("<video>then<image>then<video>: which?", "The last.", video=["a.gif", "b.gif"], image="c.png")
    sample = build("llava_json", [record]).sample(0, rng())
    assert sample.turns[0].question == "<video>then<image>then<video>: which?"
    assert [clip.path.name for clip in sample.videos] == ["a.gif", "b.gif"] and len(sample.images) == 1


def test_the_entry_says_how_training_chooses_frames(build):
    records = [talk("<video>What?", "That.", video="a.gif")]
    plain = build("llava_json", records)
    assert plain.sample(0, rng(1)).videos == plain.queries(0)[0].videos
    drawn = build("llava_json", records, DatasetEntry(frames="head_tail"))
    (first,), (second,) = (drawn.sample(0, rng(seed)).videos for seed in (1, 2))
    assert first.sampling == "head_tail" and first.seed != second.seed
    assert drawn.sample(0, rng(1)).videos == (first,)
    assert drawn.queries(0)[0].videos[0].sampling == "uniform"
    original = build("llava_json", records, DatasetEntry(frames="original_head_tail"))
    assert original.queries(0)[0].videos[0].sampling == "original_uniform"


@pytest.mark.parametrize(
    ("record", "complaint"),
    [
        (talk("<video>What?", "That."), "1 <video> markers in the questions, but 0 videos"),
        (talk("<video><video>?", "That.", video="a.gif"), "2 <video> markers in the questions, but 1 videos"),
        (talk("What?", "That.", "<video>And?", "So.", video="a.gif"), "<video> has to stand in the first question"),
        (talk("<video>", "That.", video="a.gif"), "the first question asks nothing"),
        (talk("What?", "That.", video="a.gif", gif="a.gif"), "has both 'video' and 'gif'"),
        (talk("What?", "That.", video="../a.gif"), "'video' has to be a path below the folder"),
        (talk("What?", "That.", gif=7), "'gif' has to be a string"),
        (talk("What?", "That.", video=[]), "'video' has to be a list of strings"),
    ],
)
def test_what_is_wrong_with_a_record_is_said(build, record, complaint):
    with pytest.raises(SampleError, match="notes.json:1: record 0") as caught:
        build("llava_json", [record]).sample(0, rng())
    assert complaint in caught.value.reason


def test_the_records_of_a_published_project_are_read(build, shared_dir):
    demo = shared_dir / "realdata" / "conversations" / "qwen3vl" / "qwen-vl-finetune" / "demo" / "video.json"
    if not demo.is_file():
        pytest.skip("no sample of conversations about videos is here")
    records = json.loads(demo.read_text(encoding="utf-8"))
    dataset = build("llava_json", records)
    assert len(dataset) == len(records) > 1
    for index, record in enumerate(records):
        sample = dataset.sample(index, rng())
        assert [clip.path.name for clip in sample.videos] == [Path(record["video"]).name]
        assert sample.turns[0].question.startswith("<video>")


class Recorder:
    """Stands in for the processor: keeps what it is given."""

    video_frames = 4

    def encode(self, sample, images, *, prompt_only=False, with_patches=False, videos=()):
        return sample, images, videos


def test_frames_are_decoded_for_the_model_and_a_broken_file_is_counted(build, data_folder):
    frames = [Image.fromarray(np.full((8, 8, 3), 30 * number, dtype=np.uint8)) for number in range(6)]
    frames[0].save(data_folder.root / "a.gif", save_all=True, append_images=frames[1:])
    (data_folder.root / "b.mp4").touch()
    records = [talk("<video>What?", "That.", video=name) for name in ("a.gif", "b.mp4", "c.gif")]
    dataset = build("llava_json", records)
    _, images, (film,) = encode_or_bad(lambda: dataset.sample(0, rng()), Recorder(), "position 0")
    assert images == [] and [int(frame[0, 0, 0]) for frame in film] == [0, 30, 90, 120]
    empty, missing = (encode_or_bad(lambda k=k: dataset.sample(k, rng()), Recorder(), "x") for k in (1, 2))
    assert isinstance(empty, BadSample) and empty.name == "tests/train/1"
    assert empty.reason == f"{data_folder.root / 'b.mp4'}: the file is empty"
    assert missing.reason == f"{Path(data_folder.root) / 'c.gif'}: no such video"
