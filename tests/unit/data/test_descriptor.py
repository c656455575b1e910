from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_datasets, build_mixture
from ullava.data.loading.descriptor import KIND_LAYOUTS, load_descriptor, locate
from ullava.errors import ConfigError, DataError, UserError
from ullava.resources import folder, names
from ullava.synthetic.vocabulary import class_id
from ullava.synthetic.write import draw_world

SHAPES_SETS = sorted(name for name in names("datasets") if name.startswith("shapes_"))
VERIFIED = {"refcocos", *(name for name in names("datasets") if name.startswith("photo_"))}
"""Datasets that were at hand whole, and arrangements of photos that are anybody's."""
STILL_SETS = [name for name in SHAPES_SETS if not name.startswith("shapes_video")]
"""Those of a world that was drawn without clips."""


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world") / "w", 12, seed=3, progress=False, regions=True, grounded=True)


@pytest.mark.parametrize("name", names("datasets"))
def test_every_descriptor_can_be_read(name):
    own, config = load_descriptor(name)
    assert own == name and (config.splits or config.original) and config.license and config.source
    if not name.startswith("shapes_"):
        assert "ot verified" in config.notes or own in VERIFIED


def test_the_folder_holds_no_code():
    """An ``__init__.py`` here would hide the library ``datasets`` from whoever runs in the checkout."""
    assert not list(folder("datasets").rglob("*.py"))
    first = (folder("datasets") / "README.md").read_text(encoding="utf-8").splitlines()[0]
    assert first == "YAML and JSON only; the code is in ullava/data"


def test_class_lists_are_those_of_the_drawn_world():
    assert load_descriptor("shapes_res")[1].classes == []  # a category is a color and a shape: "red star"
    assert [class_id(name) for name in load_descriptor("shapes_semantic")[1].classes] == list(range(1, 9))


def test_u_llava_s_names_lead_to_its_files():
    located = locate("refcoco+", DatasetEntry(split="testA"), Path("data"))
    assert located.id == "refcoco_plus"
    assert located.annotations == Path("data/ullava/refcoco+_testA.json")
    assert located.image_root == Path("data/coco2014")


def test_the_split_is_train_or_the_only_one_or_asked_for(build, tmp_path):
    assert locate("refcoco", DatasetEntry(), Path(".")).split == "train"
    assert locate("ecssd", DatasetEntry(), Path(".")).split == "val"
    assert locate("ecssd", DatasetEntry(data_root="/elsewhere"), Path(".")).annotations.parts[1] == "elsewhere"


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("refcoco", {"split": "testa"}, "dataset refcoco: split: no split 'testa'; did you mean 'testA'"),
        ("refcoco", {"task": "vqa"}, "task: layout refer serves res, rec, not 'vqa'"),
        ("ecssd", {"group": "image"}, "group: 'image' is for the layouts refer, grefer; this is salient_png"),
        ("refcoco", {"turns": -1}, "turns: has to be 0"),
        ("refcoco", {"limit": 0}, "limit: has to be 1 or more"),
    ],
)
def test_entries_that_do_not_fit_are_refused(name, entry, message):
    with pytest.raises(ConfigError, match=message):
        locate(name, DatasetEntry(**entry), Path("."))


def test_unknown_datasets_come_with_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'refcoco'"):
        locate("refcocco", DatasetEntry(), Path("."))


def test_all_missing_files_are_named_at_once(tmp_path):
    entries = {"refcoco": DatasetEntry(), "shapes_res": DatasetEntry(), "nowhere": DatasetEntry()}
    with pytest.raises(DataError) as caught:
        build_datasets(entries, tmp_path)
    assert len(caught.value.problems) == 3
    missing = f"{tmp_path}/ullava/refcoco_train.json: no such annotation file, and neither is the original one"
    assert f"{missing}, {tmp_path}/refer_seg/refcoco/refs(unc).p" in caught.value.problems


def test_a_missing_folder_of_images_is_named(tmp_path):
    (tmp_path / "ullava").mkdir()
    (tmp_path / "ullava" / "refcoco_train.json").write_text('[{"a": 1}]')
    with pytest.raises(DataError, match="coco2014: no such folder of images"):
        build_datasets({"refcoco": DatasetEntry()}, tmp_path)


def test_the_drawn_world_is_read_without_a_fault(world):
    grouped = {"shapes_res", "shapes_gres", "shapes_reasoning"}
    entries = {name: DatasetEntry(group="image" if name in grouped else "item", turns=0) for name in STILL_SETS}
    mixture = build_mixture(entries, world, seed=0)
    assert len(mixture.datasets) == len(STILL_SETS) == 16
    for position in range(mixture.positions_per_epoch):
        sample = mixture.sample(position)
        assert all(image.is_file() for image in sample.images)
        for turn in sample.turns:
            assert turn.answer.count("[SEG]") == sum(region.mask is not None for region in turn.regions)
            assert turn.answer.count("[LOC]") == sum(region.box_xyxy_px is not None for region in turn.regions)
        assert sum(turn.question.count("<image>") for turn in sample.turns) == len(sample.images)
    for dataset in mixture.datasets:
        queries = [query for index in range(len(dataset)) for query in dataset.queries(index)]
        assert len({query.name for query in queries}) == len(queries) > 0
        assert all(len(query.turns) == 1 for query in queries)
        assert dataset.sources(0).startswith(str(world))


def test_a_mixture_travels_to_spawned_workers(world):
    mixture = build_mixture({"shapes_res": DatasetEntry(group="image"), "shapes_instances": DatasetEntry()}, world, 1)
    message = pickle.dumps(mixture)
    assert len(message) < 10_000
    there = pickle.loads(message)
    for position in range(5):
        assert there.sample(position).name == mixture.sample(position).name
        assert there.sample(position).turns[0].question == mixture.sample(position).turns[0].question


def test_building_data_needs_neither_torch_nor_transformers():
    code = "import sys, ullava.data.loading.build; print([m for m in ('torch', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PUBLISHED = (
    "llava_cc3m llava_instruct llava_seg sqa alpaca sharegpt tgif refcoco refcoco+ refcocog refclef grefcoco reasonseg "
    "ade20k ade20k_full cocostuff pascal_part paco_lvis msra_10k msra_b dut_omron duts_tr duts_te ecssd coco_instances "
    "lvis_instances"
).split()
FROM_ORIGINAL_ALONE = {"grefcoco", "reasonseg", "alpaca", "sharegpt", "duts_tr", "ade20k_full"}
"""What u-LLaVA has no reworked file of."""
ORIGINAL_IS_READ_AS_IT_IS = {"llava_cc3m", "llava_instruct", "llava_seg", "coco_instances", "lvis_instances"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_datasets_are_described_in_every_form(name):
    own, config = load_descriptor(name)
    assert (config.original is None) == (own in ORIGINAL_IS_READ_AS_IT_IS)
    assert (config.splits == {}) == (own in FROM_ORIGINAL_ALONE)
    assert len(config.license) > 10 and len(config.source) > 30 and "Not verified on the full data" in config.notes
    counted = [split.count for split in config.splits.values() if split.count]
    if config.original:
        counted += [count for split in config.original.splits.values() for count in (split.count, split.sentences)]
    told = any(word in config.notes.lower() for word in ("no count", "left out and", "url still", "sorts its"))
    assert any(counted) or told, "counts are expected, or the notes say why none are"


def test_class_lists_of_published_datasets_are_whole():
    sizes = {"ade20k": 150, "cocostuff": 182, "coco_instances": 80, "paco_lvis": 75}
    for name, size in sizes.items():
        classes = load_descriptor(name)[1].classes
        assert (len(classes), len(set(classes))) == (size, size), name


def test_every_kind_of_original_files_is_converted_and_used():
    from ullava.data.converters.published.convert import CONVERSIONS

    used = {config.original.kind for name in names("datasets") if (config := load_descriptor(name)[1]).original}
    assert used == set(CONVERSIONS) == set(KIND_LAYOUTS)
