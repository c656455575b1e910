"""Files of found boxes: by image, with missing ones counted; the published files under their images."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from ullava.data.readers.boxes import BoxedDataset, BoxFile, boxes_of_instances, keyed_by_image, reader_of
from ullava.errors import DataError, SampleError
from ullava.structures import Clip, Sample, Turn

ENTRIES = [
    {"image": "b/2.jpg", "boxes": [[1, 2, 30, 40.5]], "scores": [0.5], "labels": ["cat"]},
    {"image": "a/1.jpg", "boxes": [[0, 0, 5, 5], [1, 1, 9, 9]]},
    {"image": "a/ü.jpg", "boxes": []},
    {"image": "v/1.mp4", "frames": [{"boxes": [[0, 0, 2, 2]], "labels": ["dog"]}, {"boxes": []}]},
    {"image": "z.jpg", "boxes": [[1, 2, 3]]},
    {"image": "y.jpg", "boxes": [[1, 2, 3, 4]], "scores": []},
]


@pytest.fixture
def file(write):
    return BoxFile(write("boxes.json", json.dumps(ENTRIES)))


def test_boxes_of_images(file):
    assert len(file) == 6
    two = file.of_image("b/2.jpg", "s")
    assert two.boxes_xyxy_px.tolist() == [[1, 2, 30, 40.5]] and two.scores.tolist() == [0.5] and two.labels == ("cat",)
    one = file.of_image("a/1.jpg", "s")
    assert one.scores.tolist() == [1, 1] and one.labels == ("", "")
    assert file.of_image("a/ü.jpg", "s").boxes_xyxy_px.shape == (0, 4)
    assert file.of_image("a/3.jpg", "s") is None and file.of_image("zz", "s") is None
    assert [len(frame.labels) for frame in file.of_video("v/1.mp4", "s")] == [1, 0]
    assert file.of_video("v/2.mp4", "s") == ()
    again = pickle.loads(pickle.dumps(file))
    assert again.of_image("b/2.jpg", "s").labels == ("cat",)


def test_wrong_records_are_named(file):
    with pytest.raises(SampleError, match=r"boxes\.json:1: record 4: a box has to be four numbers.*\[1, 2, 3\]"):
        file.of_image("z.jpg", "s")
    with pytest.raises(SampleError, match="1 boxes, 0 scores and 1 labels"):
        file.of_image("y.jpg", "s")


def test_files_keyed_by_annotation_are_refused(write):
    with pytest.raises(DataError, match=r"boxes\.json:1: record 0: no 'image'.*ullava data boxes"):
        BoxFile(write("boxes.json", json.dumps([{"id": "1", "boxes": []}])))
    with pytest.raises(DataError, match="no such annotation file"):
        BoxFile(Path("nowhere.json"))


class OneSample:
    id, split, task = "some", "train", "vqa"

    def __init__(self, *samples: Sample) -> None:
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def sample(self, index, rng):
        return self.samples[index]

    def queries(self, index):
        return [self.samples[index]]

    def sources(self, index):
        return f"here:{index}"


def test_samples_get_their_boxes_and_missing_ones_are_counted(file):
    turns = (Turn("what?", "that"),)
    root = Path("images")
    images = Sample("s0", "some", "vqa", (root / "b/2.jpg", root / "c/9.jpg"), turns)
    clips = tuple(Clip(root / "v/1.mp4", ways) for ways in ("uniform", "head_tail"))
    films = Sample("s1", "some", "vqa", (), turns, videos=clips)
    plain = OneSample(images, films)
    boxed = BoxedDataset(plain, file, root)
    found = boxed.sample(0, np.random.default_rng(0)).boxes
    assert found[0].labels == ("cat",) and found[1] is None and boxed.missing == {"c/9.jpg"}
    frames = boxed.queries(1)[0].frame_boxes
    assert len(frames[0]) == 2 and frames[1] == () and boxed.missing == {"c/9.jpg"}
    assert (len(boxed), boxed.id, boxed.task, boxed.sources(1)) == (2, "some", "vqa", "here:1")
    assert reader_of(boxed) is plain and reader_of(plain) is plain


def test_published_boxes_under_their_images(write, tmp_path):
    annotations = [
        {"id": "1", "image": "a.jpg"},
        {"id": 2, "image": "b.jpg"},
        {"id": "3"},
        {"id": "4", "image": "a.jpg"},
    ]
    published = [
        {"id": "2", "boxes": [[0, 0, 1, 1]], "scores": [0.3], "labels": ["cup"]},
        {"id": "4", "boxes": [[5, 5, 6, 6]], "scores": [0.9], "labels": ["cat"]},
        {"id": "1", "boxes": [], "scores": [], "labels": []},
        {"id": "9", "boxes": [], "scores": [], "labels": []},
    ]
    out = tmp_path / "by_image.json"
    found = keyed_by_image(write("p.json", json.dumps(published)), write("a.json", json.dumps(annotations)), out)
    assert found == (2, 0)
    file = BoxFile(out)
    assert file.of_image("b.jpg", "s").labels == ("cup",) and file.of_image("a.jpg", "s").labels == ("cat",)
    with pytest.raises(DataError, match="exists already"):
        keyed_by_image(out, out, out)
    with pytest.raises(DataError, match=r"bad\.json:1: record 0: 'id' has to be text or a number"):
        keyed_by_image(write("bad.json", '[{"id": [1]}]'), tmp_path / "a.json", tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()
    nothing = keyed_by_image(write("none.json", "[]"), tmp_path / "a.json", tmp_path / "y.json")
    assert nothing == (0, 2) and json.loads((tmp_path / "y.json").read_text()) == []


INSTANCES = {
    "images": [{"id": 4, "file_name": "images/4.png", "width": 40, "height": 30}],
    "categories": [{"id": 2, "name": "cup"}],
    "annotations": [
        {"id": 1, "image_id": 4, "category_id": 2, "bbox": [1, 2, 10, 20], "iscrowd": 0},
        {"id": 2, "image_id": 4, "category_id": 2, "bbox": [0, 0, 40, 30], "iscrowd": 1},
    ],
}


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"boxes": [[1, 2, 3]]}, "a box has to be four numbers"),
        ({"boxes": [[1, 2, 3, 4]], "scores": [[]]}, "'scores' have to be numbers"),
        ({"boxes": [[1, 2, 3, 4]], "labels": ["a", "b"]}, "1 boxes, 1 scores and 2 labels"),
        ({"scores": []}, "no 'boxes'"),
    ],
)
def test_wrong_published_boxes_are_named_and_nothing_is_written(write, tmp_path, wrong, complaint):
    published = write("p.json", json.dumps([{"id": 1} | wrong]))
    with pytest.raises(DataError, match=rf"p.json:1: record 0: .*{complaint}"):
        keyed_by_image(published, write("a.json", '[{"id": 1, "image": "a.jpg"}]'), tmp_path / "out.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "p.json"]


def test_true_boxes_and_the_command(write, tmp_path, command):
    instances = write("instances.json", json.dumps(INSTANCES))
    assert boxes_of_instances(instances, tmp_path / "true.json") == 1
    found = BoxFile(tmp_path / "true.json").of_image("images/4.png", "s")
    assert found.boxes_xyxy_px.tolist() == [[1, 2, 11, 22]] and found.labels == ("cup",)
    code, said, _ = command("data", "boxes", "--instances", str(instances), "--out", str(tmp_path / "new" / "b.json"))
    assert code == 0 and "boxes of 1 images" in said and (tmp_path / "new" / "b.json").is_file()
    for wrong, reason in (
        (["--instances", str(instances)], "exists already"),
        ([], "say where the boxes come from"),
        (["--published", "a.json"], "--published and --annotations go together"),
    ):
        code, _, error = command("data", "boxes", *wrong, "--out", str(tmp_path / "true.json"))
        assert code == 2 and reason in error


@pytest.mark.parametrize(
    "box", [["1", 2, 10, 20], None, [1, 2, 10], [1, 2, 0, 20], [35, 2, 10, 20], [10**400, 1, 2, 3]]
)
def test_true_boxes_that_cannot_be_are_named(write, tmp_path, command, box):
    wrong = INSTANCES | {"annotations": [INSTANCES["annotations"][0] | {"bbox": box}]}
    instances = write("instances.json", json.dumps(wrong))
    code, _, error = command("data", "boxes", "--instances", str(instances), "--out", str(tmp_path / "true.json"))
    assert code == 2 and "record 0: annotations[0]: 'bbox' " in error and not (tmp_path / "true.json").exists()
