"""What a sample will say, from its annotation alone: for every layout, kept beside it, never from an image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.config.schema import DatasetEntry
from ullava.data.annotations.store import AnnotationStore
from ullava.data.annotations.text_lengths import Kind
from ullava.data.loading.build import build_dataset
from ullava.data.readers.base import Origin
from ullava.data.readers.llava_json import LlavaJsonReader
from ullava.errors import DataError
from ullava.synthetic.write import draw_world


def dialogues(folder: Path, records: list[dict[str, Any]]) -> LlavaJsonReader:
    path = folder / "dialogues.json"
    path.write_text(json.dumps(records), encoding="utf-8")
    store = AnnotationStore.open(path)
    return LlavaJsonReader(Origin(id="talk", split="train", task="vqa", store=store, image_root=folder, turns=0))


def talk(*texts: str, **more: Any) -> dict[str, Any]:
    speakers = ("human", "gpt")
    return {"conversations": [{"from": speakers[n % 2], "value": text} for n, text in enumerate(texts)], **more}


def test_kinds_and_characters(tmp_path: Path) -> None:
    records = [
        talk("<image>Why?", "So.", image="there is no such file.jpg"),
        talk("<image><image>Which?", "One.", image=["a.jpg", "b.jpg"]),
        talk("What moves?", "It.", video="a.mp4"),
        talk("Why?", "Because.", "Really?", "Yes."),
        {"conversations": "not a list"},
    ]
    reader = dialogues(tmp_path, records)
    sizes = reader.text_lengths()
    assert sizes.kinds.tolist() == [Kind.IMAGES, Kind.IMAGES, Kind.VIDEOS, Kind.WORDS, Kind.WORDS]
    assert sizes.characters.tolist() == [14, 24, 14, 23, 0]


def test_they_are_kept_beside_the_annotations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = dialogues(tmp_path, [talk("Why?", "So."), talk("Who?", "You there.")])
    first = reader.text_lengths()
    monkeypatch.setattr(reader, "texts", lambda value: pytest.fail("counted again"))
    assert reader.text_lengths().characters.tolist() == first.characters.tolist() == [7, 14]
    kept = list(reader.origin.store.arrow.parent.glob("*.sizes.npy"))
    assert [path.name.split(".")[1] for path in kept] == ["LlavaJsonReader"]
    again = dialogues(tmp_path, [talk("Why on earth?", "So.")])
    assert again.text_lengths().characters.tolist() == [16]
    assert not kept[0].exists(), "those of the older annotations are gone"


def test_torn_sizes_are_counted_again(tmp_path: Path) -> None:
    reader = dialogues(tmp_path, [talk("Why?", "So.")])
    reader.text_lengths()
    (kept,) = reader.origin.store.arrow.parent.glob("*.sizes.npy")
    kept.write_bytes(kept.read_bytes()[:-3])
    assert reader.text_lengths().characters.tolist() == [7]


def test_no_room_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = dialogues(tmp_path, [talk("Why?", "So.")])

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(DataError, match="sizes.npy: the lengths of rows cannot be kept here .No space left"):
        reader.text_lengths()


@pytest.mark.parametrize("dataset", ("shapes_res", "shapes_gres", "shapes_semantic", "shapes_instances", "shapes_parts",
                                     "shapes_salient", "shapes_caption", "shapes_vqa", "shapes_text"))  # fmt: skip
def test_estimates_follow_the_words_of_samples(dataset: str, world: Path) -> None:
    """Over the synthetic world: as many sizes as samples, and more characters where there are more."""
    made = build_dataset(dataset, DatasetEntry(turns=0), world)
    sizes = made.text_lengths()
    assert len(sizes.kinds) == len(sizes.characters) == len(made)
    samples = [made.sample(index, np.random.default_rng(0)) for index in range(len(made))]
    assert sizes.kinds.tolist() == [int(Kind.IMAGES if sample.images else Kind.WORDS) for sample in samples]
    words = [sum(len(turn.question) + len(turn.answer) for turn in sample.turns) for sample in samples]
    assert (sizes.characters > 0).all()
    if np.std(words) > 10:
        assert np.corrcoef(words, sizes.characters)[0, 1] > 0.5


def test_questions_of_a_image_are_added_up(world: Path) -> None:
    single = build_dataset("shapes_res", DatasetEntry(turns=1), world)
    joined = build_dataset("shapes_res", DatasetEntry(turns=0, group="image"), world)
    assert joined.text_lengths().characters.sum() == pytest.approx(single.text_lengths().characters.sum(), rel=1e-5)
    assert len(joined.text_lengths().kinds) == len(joined) < len(single)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_world(tmp_path_factory.mktemp("world") / "shapes", 8, 5, "train", progress=False)
