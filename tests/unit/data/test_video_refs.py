"""Referring expressions of clips in the forms of MeViS, ReVOS, Refer-YouTube-VOS and Ref-DAVIS17."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.unit.data.originals import H, W, as_json, make_image, masks

from ullava.config.schema import DatasetEntry
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import locate
from ullava.errors import DataError, SampleError
from ullava.geometry import VideoMasks, rle_encode
from ullava.media.video import read_clip
from ullava.structures import Sample

FRAMES = ["00000", "00005", "00010"]
SQUARE, CORNER = (rle_encode(mask) for mask in masks())


def frames(folder: Path, names: list[str] = FRAMES, size_hw: tuple[int, int] = (H, W)) -> None:
    for name in names:
        make_image(folder / f"{name}.jpg", size_hw)


def mevis(root: Path, split: str = "valid_u", **change: Any) -> Path:
    """Two clips of MeViS: one object, both of them, none."""
    place = root / "mevis" / split
    said = {
        "0": {"exp": "the dog  that runs", "obj_id": [0], "anno_id": [7]},
        "1": {"exp": "both of them", "obj_id": [0, 1], "anno_id": [7, 8]},
        "2": {"exp": "the cat that flies", "obj_id": [], "anno_id": []},
    }
    clip = {"vid_id": 0, "expressions": said, "frames": FRAMES} | change
    meta = {"videos": {"ab12": clip, "cd34": {"vid_id": 1, "expressions": {"0": said["0"]}, "frames": FRAMES[:2]}}}
    meta["videos"]["cd34"]["expressions"] = {"0": {"exp": "the dog", "obj_id": [3], "anno_id": [9]}}
    frames(place / "JPEGImages" / "ab12")
    frames(place / "JPEGImages" / "cd34", FRAMES[:2])
    as_json(
        place / "mask_dict.json", {"7": [SQUARE, None, SQUARE], "8": [CORNER] * 3, "9": [None, None], "99": [SQUARE]}
    )
    return as_json(place / "meta_expressions.json", meta)


def queries(name: str, split: str, root: Path, index: int = 0) -> list[Sample]:
    return build_dataset(name, DatasetEntry(split=split), root).queries(index)


def test_mevis_is_read_as_it_is_unpacked(tmp_path: Path) -> None:
    mevis(tmp_path)
    dataset = build_dataset("mevis", DatasetEntry(split="valid_u"), tmp_path)
    assert (len(dataset), dataset.task) == (2, "rvos")
    one, both, none = dataset.queries(0)
    assert one.turns[0].question == "<video>Segment the dog that runs."
    assert one.turns[0].answer == "Sure. [tag]the dog that runs[/tag]: Mask [SEG]."
    square, corner = masks()
    truth = one.truth["masks"]
    assert [truth.area_px(frame) for frame in range(3)] == [square.sum(), 0, square.sum()] and not truth.unannotated
    assert np.array_equal(both.truth["masks"].mask(0), square | corner)
    assert np.array_equal(both.truth["masks"].mask(1), corner)
    assert none.truth["masks"].is_absent and none.turns[0].regions == ()
    assert none.turns[0].answer == "No such object: the cat that flies."
    assert (one.truth["video"], one.truth["expression_id"], one.truth["frames"]) == ("ab12", "0", tuple(FRAMES))
    (clip,) = one.videos
    assert clip.path == tmp_path / "mevis/valid_u/JPEGImages/ab12" and read_clip(clip, 3).shape == (3, H, W, 3)
    assert dataset.queries(1)[0].truth["masks"] == VideoMasks.absent((H, W), 2)
    sample = dataset.sample(0, np.random.default_rng(0))
    assert len(sample.turns) == 3 and [turn.question.count("<video>") for turn in sample.turns] == [1, 0, 0]


def test_a_split_without_published_truth_can_be_asked_and_not_learned(tmp_path: Path) -> None:
    meta = mevis(tmp_path, "valid")
    value = json.loads(meta.read_text())
    for clip in value["videos"].values():
        clip["expressions"] = {number: {"exp": one["exp"]} for number, one in clip["expressions"].items()}
    as_json(meta, value)
    dataset = build_dataset("mevis", DatasetEntry(split="valid"), tmp_path)
    query = dataset.queries(0)[0]
    assert query.truth["masks"] is None and query.turns[0].answer == ""
    with pytest.raises(SampleError, match="mevis/valid/0: .*record 0: expressions.*not published"):
        dataset.sample(0, np.random.default_rng(0))


def test_what_is_left_out_is_named(tmp_path: Path) -> None:
    meta = mevis(tmp_path)
    value = json.loads(meta.read_text())
    value["videos"]["ab12"]["expressions"]["1"]["exp"] = "two [SEG] dogs"
    value["videos"]["gone"] = value["videos"]["ab12"]
    as_json(meta, value)
    assert len(queries("mevis", "valid_u", tmp_path)) == 2
    facts = open_store(locate("mevis", DatasetEntry(split="valid_u"), tmp_path)).facts
    assert facts["sentences"] == 3
    assert skipped_lines(facts) == [
        "1 left out: an expression that holds the special token [SEG] (ab12/1)",
        "1 left out: no folder of frames (gone)",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": ["00005", "00000"]}, r"meta_expressions\.json:1: videos\.ab12\.frames: have to be in the order"),
        ({"frames": []}, r"videos\.ab12\.frames: has to be a list of names"),
        ({"names": {"7": ""}}, r"videos\.ab12\.names: has to be an object of texts"),
        ({"frames": FRAMES[:2]}, r"ab12 has 1 frames that the list does not name, the first is '00010'"),
        ({"frames": [*FRAMES, "00015"]}, r"ab12\.frames: .*ab12 has no '00015'; did you mean '00010'"),
        ({"expressions": []}, r"videos\.ab12\.expressions: has to be an object, not list"),
        ({"expressions": {"0": {"exp": 3}}}, r"videos\.ab12\.expressions\.0: 'anno_id' has to be a list"),
        ({"expressions": {"0": {"exp": 3, "anno_id": [7]}}}, r"expressions\.0: 'exp' has to be text, not int"),
        ({"expressions": {"0": {"exps": "a", "anno_id": [7]}}}, r"expressions\.0: 'exp' .*did you mean 'exps'"),
        ({"expressions": {"0": {"exp": "a", "anno_id": [77]}}}, r"anno_id 77 is not in .*mask_dict\.json; did you"),
    ],
)
def test_faults_of_the_list_name_file_clip_and_field(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    mevis(tmp_path, **change)
    with pytest.raises(DataError, match=message):
        queries("mevis", "valid_u", tmp_path)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([SQUARE, None, {"size": [H, W], "counts": "0"}], r"mask_dict\.json:1: '7': frame 2: RLE runs add up to 0"),
        ([SQUARE, None, {"size": [W, H], "counts": SQUARE["counts"]}], r"'7': frame 2: RLE is 20x30 \(WxH\)"),
        ({"0": SQUARE}, r"'7': has to be a list with a run-length code or null for each frame"),
        ([{"size": "x", "counts": "0"}], r"'7': RLE size must be"),
        ([SQUARE, SQUARE], r"videos\.ab12: object 7 has 2 masks of 30 x 20 pixels, the clip 3 frames of 30 x 20"),
    ],
)
def test_faults_of_masks_name_file_object_and_frame(tmp_path: Path, codes: Any, message: str) -> None:
    meta = mevis(tmp_path)
    as_json(meta.with_name("mask_dict.json"), {"7": codes, "8": [CORNER] * 3, "9": [None] * 2})
    with pytest.raises(DataError, match=message):
        queries("mevis", "valid_u", tmp_path)


def test_a_missing_mask_file_and_one_that_is_cut_off_are_named(tmp_path: Path) -> None:
    meta = mevis(tmp_path)
    path = meta.with_name("mask_dict.json")
    path.write_text(path.read_text()[:90])
    with pytest.raises(DataError, match=r"mask_dict\.json:1: "):
        queries("mevis", "valid_u", tmp_path)
    path.unlink()
    with pytest.raises(DataError, match=r"mask_dict\.json: no such file"):
        queries("mevis", "valid_u", tmp_path)


def test_revos_says_which_kind_an_expression_is(tmp_path: Path) -> None:
    root = tmp_path / "ReVOS"
    said = {str(kind): {"exp": "it", "obj_id": [0], "anno_id": [7], "type_id": kind} for kind in (0, 1, 2)}
    frames(root / "JPEGImages" / "OVIS" / "ab")
    as_json(root / "mask_dict.json", {"7": [SQUARE] * 3})
    meta = as_json(
        root / "meta_expressions_valid_.json", {"videos": {"OVIS/ab": {"expressions": said, "frames": FRAMES}}}
    )
    found = queries("revos", "valid", tmp_path)
    assert [query.truth["groups"] for query in found] == [("referring",), ("reasoning",), ("type 2",)]
    assert [query.truth.get("average_over") for query in found] == ["referring", "reasoning", None]
    assert found[0].truth["video"] == "OVIS/ab"
    del said["0"]["type_id"]
    as_json(meta, {"videos": {"OVIS/ab": {"expressions": said, "frames": FRAMES}}})
    with pytest.raises(DataError, match="'type_id' has to be a whole number, not None"):
        queries("revos", "valid", tmp_path)


def palettes(folder: Path, void: bool = False) -> None:
    """Mask images of the first two frames: the square is 1, the corner 3, of the second frame alone."""
    folder.mkdir(parents=True)
    square, corner = masks()
    for number, name in enumerate(FRAMES[:2]):
        labels = square.astype(np.uint8) + 3 * (corner & bool(number)).astype(np.uint8)
        labels[0, :4] = 255 if void else 0
        image = Image.fromarray(labels, mode="P")
        image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0, 0, 0, 200] + [0] * 756)
        image.save(folder / f"{name}.png")


def youtube(root: Path, expressions: dict[str, Any], name: str = "ref-youtube-vos", void: bool = False) -> None:
    frames(root / name / "train/JPEGImages/ab12")
    palettes(root / name / "train/Annotations/ab12", void)
    meta = {"videos": {"ab12": {"expressions": expressions, "frames": FRAMES}}}
    as_json(root / name / "meta_expressions/train/meta_expressions.json", meta)


def test_refer_youtube_vos_leaves_frames_without_a_mask_image_open(tmp_path: Path) -> None:
    youtube(
        tmp_path, {"0": {"exp": "a", "obj_id": "1"}, "1": {"exp": "b", "obj_id": "3"}, "2": {"exp": "c", "obj_id": 2}}
    )
    square, corner = masks()
    first, second = queries("ref_youtube_vos", "train", tmp_path)
    assert first.truth["masks"].unannotated == {2} and first.truth["ignore_masks"] is None
    assert np.array_equal(first.truth["masks"].mask(1), square)
    assert second.truth["masks"].counts[0] is None and np.array_equal(second.truth["masks"].mask(1), corner)
    facts = open_store(locate("ref_youtube_vos", DatasetEntry(split="train"), tmp_path)).facts
    assert skipped_lines(facts) == ["1 left out: its object is in no mask image (ab12/2)"]


@pytest.mark.parametrize("given", [None, "0", "x", True])
def test_an_object_that_is_no_number_is_refused(tmp_path: Path, given: Any) -> None:
    youtube(tmp_path, {"0": {"exp": "a", "obj_id": given}})
    with pytest.raises(DataError, match=r"videos\.ab12\.expressions\.0: 'obj_id' has to be a number from 1 on"):
        queries("ref_youtube_vos", "train", tmp_path)


def test_mask_images_of_two_sizes_or_none_at_all_are_refused(tmp_path: Path) -> None:
    youtube(tmp_path, {"0": {"exp": "a", "obj_id": "1"}})
    folder = tmp_path / "ref-youtube-vos/train/Annotations/ab12"
    Image.new("P", (W - 1, H)).save(folder / "00005.png")
    with pytest.raises(DataError, match=r"00005\.png: has 29 x 20 pixels, the ones before it have 30 x 20"):
        queries("ref_youtube_vos", "train", tmp_path)
    for path in folder.iterdir():
        path.unlink()
    with pytest.raises(DataError, match="ab12: has no mask image of any of the 3 frames"):
        queries("ref_youtube_vos", "train", tmp_path)


def test_ref_davis_has_annotators_and_pixels_that_nobody_decided(tmp_path: Path) -> None:
    said = {str(number): {"exp": f"words {number}", "obj_id": str(1 + 2 * (number // 4))} for number in range(8)}
    youtube(tmp_path, said, "ref-davis", void=True)
    found = queries("ref_davis17", "train", tmp_path)
    assert [query.truth["average_over"] for query in found] == [f"annotator {k % 4}" for k in range(8)]
    assert found[0].truth["ignore_masks"].area_px(0) == 4


def test_drawn_clips_name_what_they_show_and_each_thing_is_answered_by_its_name(tmp_path: Path) -> None:
    mevis(tmp_path, names={"7": "brown dog", "8": "Cat"})
    one, both, neither = queries("mevis", "valid_u", tmp_path)
    assert one.turns[0].answer == "Sure. [tag]brown dog[/tag]: Mask [SEG]."
    assert both.turns[0].answer == "Sure. [tag]brown dog[/tag]: Mask [SEG]. [tag]cat[/tag]: Mask [SEG]."
    assert [region.video_masks.area_px(1) for region in both.turns[0].regions] == [0, both.truth["masks"].area_px(1)]
    assert neither.turns[0].answer == "No such object: the cat that flies." and not neither.turns[0].regions


def test_where_one_has_no_name_the_words_of_the_expression_name_all(tmp_path: Path) -> None:
    mevis(tmp_path, names={"7": "brown dog"})
    one, both, _ = queries("mevis", "valid_u", tmp_path)
    assert one.turns[0].answer == "Sure. [tag]brown dog[/tag]: Mask [SEG]."
    assert both.turns[0].answer == "Sure. [tag]both of them[/tag]: Mask [SEG]."


def test_records_of_ones_own_are_checked(build: Any, data_folder: Any) -> None:
    frames(data_folder.root / "clip", FRAMES)
    one = VideoMasks.from_rles([SQUARE, None, SQUARE], (H, W)).to_json()
    record = {
        "video": "clip",
        "frames": [f"{name}.jpg" for name in FRAMES],
        "height": H,
        "width": W,
        "objects": {"1": one},
        "expressions": [{"id": "a", "expression": "it", "objects": ["1"]}],
    }
    assert build("refer_video", [record]).queries(0)[0].truth["video"] == "clip"
    for change, message in [
        (
            {"objects": {"1": one | {"counts": one["counts"][:2]}}},
            "objects: '1': 2 masks of 30 x 20 pixels, the clip has 3",
        ),
        ({"objects": {"1": one | {"counts": ["0", None, None]}}}, "objects: '1': frame 0: RLE runs add up to 0"),
        (
            {"expressions": [{"id": "a", "expression": "it", "objects": ["2"]}]},
            r"expressions\[0\]: 'objects' names '2'",
        ),
        ({"expressions": []}, "no expression"),
        ({"names": ["dog"]}, "'names' has to be an object"),
        ({"names": {"1": 3}}, "'1' has to be a string"),
        ({"video": "../clip"}, "leads out"),
    ]:
        with pytest.raises(SampleError, match=rf"notes\.json:1: record 0: .*{message}|record 0: {message}"):
            build("refer_video", [record | change]).queries(0)
