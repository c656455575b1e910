"""The mixes of the four other vision encoders: their published folders through the reader of LLaVA's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.data.loading.descriptor import load_descriptor, locate

Command = Callable[..., tuple[int, str, str]]

IMAGES = {
    "llava_pretrain": "00453/004539375.jpg",
    "llava_mix665k": "coco/train2017/000000033471.jpg",
    "allava_caption": "allava_laion/images/100277305.jpeg",
    "allava_instruct": "allava_vflan/images/images_191task_1k/one.png",
    "allava_text": None,
    "sharegpt4v": "sam/images/sa_545504.jpg",
    "sharegpt4v_pt": "llava/llava_pretrain/images/00000/000000010.jpg",
    "sharegpt4v_mix665k": "wikiart/images/one.jpg",
    "open_llava_next": "docvqa/train/documents/one.png",
    "vision_flan": "one.jpg",
    "vqa_collection": "images/one.png",
    "smr": "Geometry3K/7/img_diagram.png",
}
"""Where a record of each says its image is, as the authors' files do."""
SPLITS = [(name, split) for name in IMAGES for split in load_descriptor(name)[1].splits]


def write_part(root: Path, name: str, split: str, records: int = 1) -> None:
    """One part as it would lie below a data root, with an image and so many equal records."""
    located = locate(name, DatasetEntry(split=split), root)
    record = {"id": "0", "conversations": [{"from": "human", "value": "What is this?\n<image>"},
                                           {"from": "gpt", "value": "A cup."}]}  # fmt: skip
    if IMAGES[name] is None:
        record["conversations"][0]["value"] = "What is a cup?"
    else:
        record["image"] = IMAGES[name]
        image = located.image_root / str(IMAGES[name])
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(image)
    located.annotations.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record)] * records
    listed = "\n".join(lines) if located.annotations.suffix == ".jsonl" else f"[{', '.join(lines)}]"
    located.annotations.write_text(listed, encoding="utf-8")


@pytest.mark.parametrize(("name", "split"), SPLITS)
def test_every_part_is_read_from_the_published_folders(name: str, split: str, tmp_path: Path) -> None:
    write_part(tmp_path, name, split)
    dataset = build_dataset(name, DatasetEntry(split=split), tmp_path)
    sample = dataset.sample(0, np.random.default_rng(0))
    assert sample.turns[0].answer == "A cup." and all(image.is_file() for image in sample.images)
    assert len(sample.images) == (IMAGES[name] is not None)


def test_smr_is_one_published_file_or_its_eleven_parts() -> None:
    splits = load_descriptor("smr")[1].splits
    whole, parts = splits["all"], [split for name, split in splits.items() if name != "all"]
    assert len(parts) == 11 and whole.annotations == "smr/SMR.json"
    sized = sum(split.count or split.about or 0 for split in parts)
    assert whole.about and 76_000 < whole.about - sized < 84_000, "what remains is the 76K of GeoQA3 and GeoQA+"


@pytest.mark.parametrize(
    ("name", "split", "published"),
    [
        ("allava_caption", "laion", (505588, 489044, 468670)),
        ("allava_caption", "vflan", (202552, 194976)),
        ("allava_instruct", "laion", (505588, 489044, 468670)),
        ("allava_instruct", "vflan", (203065,)),
    ],
)
def test_every_release_of_allava_is_near_its_figure(name: str, split: str, published: tuple[int, ...]) -> None:
    about = load_descriptor(name)[1].splits[split].about
    assert about and all(abs(count - about) < about / 20 for count in published)


def test_check_tells_what_is_missing_from_a_data_root(command: Command, tmp_path: Path) -> None:
    recipe = tmp_path / "mix.yaml"
    entries = "llava_pretrain: {}, arxiv: {dataset: smr, split: arxivqa}, allava_text: {}"
    recipe.write_text(f"data_root: {tmp_path}\ndataset: {{{entries}}}\n", encoding="utf-8")
    write_part(tmp_path, "llava_pretrain", "train")
    write_part(tmp_path, "allava_text", "train")
    code, _, told = command("check", str(recipe))
    assert code == 2
    assert "1 records, 558128 expected in split train" in told
    assert "smr/arxivqa.json" in told and "no such annotation file" in told
    assert "1 records, about 143000 expected in split train" in told


@pytest.mark.parametrize(("records", "right"), [(18, True), (22, True), (17, False), (23, False)])
def test_a_rounded_figure_is_met_within_a_tenth(records: int, right: bool, command: Command, tmp_path: Path) -> None:
    own = tmp_path / "dataset.yaml"
    own.write_text("{name: T, layout: llava_json, task: text, license: none, source: here, root: ., "
                   "splits: {train: {annotations: t.json, about: 20}}}", encoding="utf-8")  # fmt: skip
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    (tmp_path / "t.json").write_text(json.dumps([{"conversations": turns}] * records), encoding="utf-8")
    code, _, told = command("check", str(own))
    assert (code == 0) == right and ("about 20 expected" in told) != right
