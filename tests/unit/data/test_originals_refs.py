"""RefCOCO, RefCOCO+, RefCOCOg, RefCLEF and gRefCOCO from the files that their authors publish."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.originals import CORNER, H, W, as_json, as_pickle, instances, make_image, masks, ref

from ullava.config.schema import DatasetEntry
from ullava.data.converters.published.pickles import read_plain_pickle
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import locate
from ullava.errors import DataError, UserError

IMAGE = "COCO_train2014_000000000007.jpg"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A data root with RefCOCO as it is published."""
    folder = tmp_path / "refer_seg" / "refcoco"
    refs = [
        ref(1, 70, "train", "the dog", "brown one"),
        ref(2, 71, "train", "racket"),
        ref(3, 70, "testA", "left"),
    ]
    as_pickle(folder / "refs(unc).p", refs)
    as_json(folder / "instances.json", instances())
    make_image(tmp_path / "coco2014" / "train2014" / IMAGE)
    return tmp_path


def test_refcoco_is_read_from_its_pickle(published):
    dataset = build_dataset("refcoco", DatasetEntry(turns=0), published)
    assert (len(dataset), dataset.task) == (2, "res")
    sample = dataset.sample(0, np.random.default_rng(0))
    assert sample.images[0] == published / "coco2014" / "train2014" / IMAGE and sample.images[0].is_file()
    assert len(sample.turns) == 2 and sample.turns[0].regions[0].phrase == "dog"
    np.testing.assert_array_equal(sample.turns[0].regions[0].mask, masks()[0])
    assert [query.truth["expression"] for query in dataset.queries(1)] == ["racket"]
    assert len(build_dataset("refcoco", DatasetEntry(split="testA"), published)) == 1


def test_the_same_dataset_from_reworked_records_gives_the_same_samples(published):
    original = build_dataset("refcoco", DatasetEntry(), published).queries(0)
    record = {"image_path": f"train2014/{IMAGE}", "height": H, "width": W, "category": "dog"}
    record |= {"segmentation": instances()["annotations"][0]["segmentation"], "bbox": [5, 4, 10, 6]}
    as_json(published / "ullava" / "refcoco_train.json", [record | {"sentences": ["the dog", "brown one"]}])
    reworked = build_dataset("refcoco", DatasetEntry(), published)
    assert len(reworked) == 1, "reworked files come first where both are there"
    for ours, theirs in zip(reworked.queries(0), original, strict=True):
        assert (ours.images, ours.turns[0].question, ours.turns[0].answer) == (
            theirs.images,
            theirs.turns[0].question,
            theirs.turns[0].answer,
        )
        np.testing.assert_array_equal(ours.turns[0].regions[0].mask, theirs.turns[0].regions[0].mask)
    assert len(build_dataset("refcoco", DatasetEntry(form="original"), published)) == 2, "unless it is asked for"


def test_counts_of_objects_and_expressions_are_known(published):
    located = locate("refcoco", DatasetEntry(), published)
    assert (located.count, located.sentences) == (42404, 120624)
    facts = open_store(located).facts
    assert (facts["sentences"], facts["skipped"]) == (3, 0)
    assert open_store(located).facts == facts, "known again when the converted form is mapped"


def test_masks_that_are_lists_of_rle_are_read_as_in_refclef(tmp_path):
    from ullava.geometry import rle_encode

    value = instances("00/images/7.jpg")
    value["annotations"][0]["segmentation"] = [dict(rle_encode(masks()[0]))]
    folder = tmp_path / "refer_seg" / "refclef"
    as_json(folder / "instances.json", value)
    as_pickle(folder / "refs(unc).p", [ref(1, 70)], protocol=2)
    (tmp_path / "saiapr_tc-12").mkdir()
    sample = build_dataset("refclef", DatasetEntry(), tmp_path).sample(0, np.random.default_rng(0))
    np.testing.assert_array_equal(sample.turns[0].regions[0].mask, masks()[0])
    assert sample.images[0].as_posix().endswith("saiapr_tc-12/00/images/7.jpg")


def write_grefs(root: Path, refs: list) -> None:
    folder = root / "refer_seg" / "grefcoco"
    as_json(folder / "grefs(unc).json", refs)
    as_json(folder / "instances.json", instances())
    (root / "coco2014" / "train2014").mkdir(parents=True, exist_ok=True)


def test_grefcoco_has_several_targets_one_or_none(tmp_path):
    groups = [
        ref(1, [70, 71], "val", "all of it", no_target=False),
        ref(2, [71], "val", "the racket", no_target=False),
        ref(3, [-1], "val", "the red cow", no_target=True),
    ]
    write_grefs(tmp_path, groups)
    dataset = build_dataset("grefcoco", DatasetEntry(split="val"), tmp_path)
    both, one, none = (dataset.queries(index)[0].turns[0] for index in range(3))
    assert [region.phrase for region in both.regions] == ["tennis racket", "dog"]
    np.testing.assert_array_equal(both.regions[0].mask, masks()[1])
    assert len(one.regions) == 1
    assert (none.regions, none.answer) == ((), "No such object: the red cow.")


class _Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_malicious_pickle_is_refused_and_runs_nothing(tmp_path, protocol):
    harm = tmp_path / "harm"
    path = as_pickle(tmp_path / "refs.p", [{"ref_id": _Harm(harm)}], protocol)
    with pytest.raises(DataError, match=r"refs\.p: refused: it names .*open; only lists, dicts"):
        read_plain_pickle(path)
    assert not harm.exists()


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_values_come_back_from_every_protocol(tmp_path, protocol):
    value = [{"a": 1, "b": [2.5, None, True, "é", 2**70], "c": (1, "x")}]
    assert read_plain_pickle(as_pickle(tmp_path / "x.p", value, protocol)) == value


def test_every_cut_of_a_pickle_is_an_error_that_names_the_file(tmp_path):
    whole = pickle.dumps([ref(1, 70, "train", "the dog")], protocol=0)
    path = tmp_path / "refs.p"
    for length in range(0, len(whole) - 1, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"refs\.p: "):
            read_plain_pickle(path)
    path.write_bytes(b"\x93\x00 not a pickle")
    with pytest.raises(DataError, match=r"refs\.p: "):
        read_plain_pickle(path)


def test_blank_expressions_are_left_out_by_name(published):
    refs = [ref(1, 70, "train", "the dog", " "), ref(2, 71, "train", ""), ref(3, 71, sentences=[])]
    as_pickle(published / "refer_seg" / "refcoco" / "refs(unc).p", refs)
    store = open_store(locate("refcoco", DatasetEntry(), published))
    assert (len(store), store.facts["sentences"]) == (1, 1)
    assert store.facts["skipped_by_reason"] == {"a blank expression": 2, "no expression": 2}
    assert ["ref_id 1", "a blank expression"] in store.facts["skipped_named"]


FAULTS = {
    "no list": ({"a": 1}, "a list of expressions is expected, not dict"),
    "no such split": ([ref(1, 70, "trian")], "no expressions of the split 'train'; did you mean 'trian'"),
    "no annotation of that id": ([ref(1, 99)], "entry 0: instances.json has no ann_id 99"),
    "no image of that id": ([ref(1, 70, image_id=9)], "entry 0: instances.json has no image_id 9"),
    "an object of another image": ([ref(1, 72)], "ann_id 72 of another image"),
    "no text": ([ref(1, 70, sentences=[{"sent": 7}])], "entry 0: 'sent' has to be text, not int"),
    "a misspelt field": ([ref(1, 70, sentences=[{"sents": "a"}])], "entry 0: no 'sent'"),
    "no whole number": ([ref(1, "70")], "'ann_id', 'image_id' and 'ref_id' have to be whole numbers"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_wrong_expressions_are_named_by_file_and_entry(published, fault):
    refs, message = FAULTS[fault]
    as_pickle(published / "refer_seg" / "refcoco" / "refs(unc).p", refs)
    with pytest.raises(UserError, match=message) as caught:
        build_dataset("refcoco", DatasetEntry(), published)
    assert "refs(unc).p" in str(caught.value)


def test_all_wrong_entries_are_named_at_once(published):
    as_pickle(published / "refer_seg" / "refcoco" / "refs(unc).p", [ref(n, 100 + n) for n in range(5)])
    with pytest.raises(DataError) as caught:
        build_dataset("refcoco", DatasetEntry(), published)
    assert len(caught.value.problems) == 5


def test_a_wrong_instances_file_is_named(published):
    path = published / "refer_seg" / "refcoco" / "instances.json"
    whole = path.read_text()
    path.write_text(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"instances\.json:1: .*not valid JSON.*ends inside this value"):
        build_dataset("refcoco", DatasetEntry(), published)
    value = instances()
    value["annotations"][0]["category_id"] = 33
    as_json(path, value)
    with pytest.raises(DataError, match=r"instances\.json:1: annotations\[0\]: unknown category_id 33"):
        build_dataset("refcoco", DatasetEntry(), published)
    path.unlink()
    with pytest.raises(DataError, match=r"instances\.json: no such file \(it belongs to .*refs\(unc\)\.p\)"):
        build_dataset("refcoco", DatasetEntry(), published)


def test_grefs_that_contradict_themselves_are_named(tmp_path):
    write_grefs(tmp_path, [ref(1, [70], "val", "it", no_target=True), ref(2, [-1], "val", "it", no_target=False)])
    with pytest.raises(DataError) as caught:
        build_dataset("grefcoco", DatasetEntry(split="val"), tmp_path)
    assert [problem.split(": ", 1)[1] for problem in caught.value.problems] == [
        "entry 0: 'no_target' is true, but 'ann_id' is [70]",
        "entry 1: 'no_target' is false, but 'ann_id' is [-1]",
    ]


def test_a_polygon_of_two_points_is_an_error_of_its_sample(published):
    value = instances()
    value["annotations"][1]["segmentation"] = [CORNER[:4]]
    as_json(published / "refer_seg" / "refcoco" / "instances.json", value)
    dataset = build_dataset("refcoco", DatasetEntry(), published)
    assert dataset.queries(0)
    with pytest.raises(DataError, match=r"refs\(unc\)\.p: record 1 \(coco2014/.*\): segmentation: polygon 0 needs"):
        dataset.queries(1)


def test_a_dataset_without_one_form_says_so(tmp_path):
    with pytest.raises(UserError, match="grefcoco has no reworked files; it has original ones"):
        build_dataset("grefcoco", DatasetEntry(form="reworked"), tmp_path)
