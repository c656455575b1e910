"""Which template and which expression a training sample gets: by lot, anew in every epoch, the same on every run."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tests.unit.data.originals import SQUARE, H, W, make_image

from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_mixture
from ullava.data.readers.templates import find_templates
from ullava.data.sampling.mixture import Mixture

RECORDS, EPOCHS = 40, 25


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefCOCO in its reworked form: 40 objects, one expression each."""
    folder = tmp_path_factory.mktemp("draws")
    make_image(folder / "coco2014" / "a.jpg")
    record = {"image_path": "a.jpg", "height": H, "width": W, "category": "dog", "bbox": [5, 4, 10, 6]}
    records = [record | {"segmentation": [SQUARE], "sentences": [f"dog {n}"]} for n in range(RECORDS)]
    (folder / "ullava").mkdir()
    (folder / "ullava" / "refcoco_train.json").write_text(json.dumps(records))
    return folder


def mixture(root: Path, seed: int = 5) -> Mixture:
    return build_mixture({"refcoco": DatasetEntry()}, root, seed)


def questions(mixed: Mixture, epoch: int) -> dict[str, str]:
    """The template of each object in an epoch: its question without the number."""
    asked: dict[str, str] = {}
    for position in range(epoch * RECORDS, (epoch + 1) * RECORDS):
        sample = mixed.sample(position)
        number = sample.name.rsplit("/", 1)[1]
        asked[number] = sample.turns[0].question.replace(f"dog {number}", "<class>")
    return asked


def test_every_epoch_draws_anew_and_every_run_the_same(root: Path) -> None:
    first, again = mixture(root), mixture(root)
    epochs = [questions(first, epoch) for epoch in range(4)]
    assert epochs == [questions(again, epoch) for epoch in range(4)]
    choices = len(find_templates("SEG.json", with_phrase=True).texts)
    for before, after in zip(epochs, epochs[1:], strict=False):
        same = sum(before[number] == after[number] for number in before)
        assert same < RECORDS * 3 / choices, "an epoch repeats the templates of the one before"
    assert epochs[0] != questions(mixture(root, seed=6), 0)


def test_all_templates_are_drawn_about_equally_often(root: Path) -> None:
    """1000 draws over the templates: chi-square below the one-in-a-thousand bound for up to nine of them (27.9)."""
    mixed = mixture(root)
    counts = Counter(text for epoch in range(EPOCHS) for text in questions(mixed, epoch).values())
    texts = find_templates("SEG.json", with_phrase=True).texts
    assert set(counts) == set(texts) and len(texts) <= 10
    expected = RECORDS * EPOCHS / len(texts)
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27.9


def test_neighbors_in_an_epoch_do_not_share_their_draws(root: Path) -> None:
    mixed = mixture(root)
    texts = [mixed.sample(position).turns[0].question.rsplit("dog", 1)[0] for position in range(RECORDS * EPOCHS)]
    kinds = Counter(texts)
    expected = sum((count / len(texts)) ** 2 for count in kinds.values())
    alike = sum(one == other for one, other in zip(texts, texts[1:], strict=False)) / (len(texts) - 1)
    assert abs(alike - expected) < 0.05


def test_workers_draw_what_one_process_draws(root: Path) -> None:
    """Two loader workers, two epochs: the questions of one process, and no worker repeats another's draws."""
    data = pytest.importorskip("torch.utils.data")
    from ullava.data.sampling.mixture import MixtureSampler

    mixed = mixture(root)

    class Questions(data.Dataset):  # type: ignore[misc, name-defined]
        def __getitem__(self, position: int) -> str:
            return mixed.sample(position).turns[0].question

    orders = []
    for workers in (0, 2):
        asked: list[str] = []
        sampler = MixtureSampler(mixed)
        loader = data.DataLoader(Questions(), batch_size=4, sampler=sampler, num_workers=workers)
        for epoch in range(2):
            sampler.set_epoch(epoch)
            asked += [text for batch in loader for text in batch]
        orders.append(asked)
    assert orders[0] == orders[1]
    heads = [text.rsplit("dog", 1)[0] for text in orders[1]]
    assert heads[:4] * 10 != heads[:RECORDS], "batches are not copies of each other"
