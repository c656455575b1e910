"""Grounded captions: the figures against a second, slower reading of GLaMM's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.config.schema import EvalRecipe
from ullava.errors import UserError
from ullava.evaluation.metrics import meteor
from ullava.evaluation.metrics.captions import Captions
from ullava.evaluation.metrics.grounded_captions import GroundedCaptions, GroundedPhrase, hits, mean_of_pairs
from ullava.evaluation.phrase_similarity import WordSimilarity, similarity_of
from ullava.evaluation.protocol import GIVEN_FIGURES
from ullava.evaluation.scorers import make_scorer
from ullava.evaluation.scoring import GroundedCaptionScorer
from ullava.structures import Answer, BoxXYXY, GroundedObject, MaskArray, Region, Sample, Turn
from ullava.text.answers import CaptionPhrase, grounded_caption

H, W = 12, 16
PHRASES = ("a dog", "the dog", "two red cups", "red cups", "grass", "a red cup on grass")


def box(x0: int, y0: int, x1: int, y1: int) -> MaskArray:
    mask = np.zeros((H, W), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def random_phrases(rng: np.random.Generator) -> list[GroundedPhrase]:
    def mask() -> MaskArray:
        x, y = (int(value) for value in rng.integers(0, 3, 2) * 4)
        return box(x, y, x + int(rng.integers(3, 7)), y + int(rng.integers(3, 6)))

    counts = rng.integers(1, 3, size=int(rng.integers(0, 5)))
    return [GroundedPhrase(str(rng.choice(PHRASES)), tuple(mask() for _ in range(count))) for count in counts]


def answered(rng: np.random.Generator, true: list[GroundedPhrase]) -> list[GroundedPhrase]:
    """Some of the truth, moved by a pixel or called otherwise, and something else."""
    kept = [phrase for phrase in true if rng.random() < 0.8]
    moved = [
        GroundedPhrase(
            phrase.words if rng.random() < 0.7 else str(rng.choice(PHRASES)),
            tuple(np.roll(mask, int(rng.integers(0, 2)), axis=1) for mask in phrase.masks),
        )
        for phrase in kept
    ]
    return moved + random_phrases(rng)[:1]


# ---------------------------------------------------------------- a second reading
def union_iou(one: GroundedPhrase, other: GroundedPhrase) -> float:
    pixels = [{(int(y), int(x)) for mask in phrase.masks for y, x in np.argwhere(mask)} for phrase in (one, other)]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


def slow_miou(images: Sequence[tuple[list[GroundedPhrase], list[GroundedPhrase]]]) -> float:
    means = []
    for true, said in images:
        pairs = [(union_iou(t, s), i, j) for i, t in enumerate(true) for j, s in enumerate(said)]
        chosen: list[float] = []
        while pairs:
            best = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
            if best[0] <= 0:
                break
            chosen.append(best[0])
            pairs = [pair for pair in pairs if pair[1] != best[1] and pair[2] != best[2]]
        means.append(float(np.mean(chosen)) if chosen else 0.0)
    return 100 * float(np.mean(means))


def slow_recall(images: Sequence[tuple[list[GroundedPhrase], list[GroundedPhrase]]]) -> float:
    found = 0
    for true, said in images:
        pairs = [(union_iou(t, s), i, j) for i, t in enumerate(true) for j, s in enumerate(said)]
        while pairs:
            iou, i, j = max(pairs, key=lambda pair: (pair[0], -pair[1], -pair[2]))
            sets = [set(phrase.words.split()) - {"a", "the"} for phrase in (true[i], said[j])]
            if iou < 0.5 or len(sets[0] & sets[1]) / len(sets[0] | sets[1]) < 0.5:
                break
            found += 1
            pairs = [pair for pair in pairs if pair[1] != i and pair[2] != j]
    return 100 * found / sum(len(true) for true, _ in images)


def slow_ap50(images: Sequence[tuple[list[GroundedPhrase], list[GroundedPhrase]]]) -> float:
    right: list[bool] = []
    for true, said in images:
        free = list(range(len(true)))
        for phrase in said:
            best = max(free, key=lambda i: (union_iou(true[i], phrase), i), default=None)
            met = best is not None and union_iou(true[best], phrase) >= 0.5
            right.append(met)
            if met:
                free.remove(best)
    total = sum(len(true) for true, _ in images)
    recall = np.cumsum(right) / total
    precision = np.cumsum(right) / np.arange(1, len(right) + 1)
    levels = [max((p for p, r in zip(precision, recall, strict=True) if r >= level), default=0.0)
              for level in np.linspace(0, 1, 101)]  # fmt: skip
    return 100 * float(np.mean(levels))


@pytest.mark.parametrize("seed", range(6))
def test_figures_agree_with_a_second_reading(seed: int) -> None:
    rng = np.random.default_rng(seed)
    images = [(true, answered(rng, true)) for true in (random_phrases(rng) for _ in range(12))]
    images.append(([GroundedPhrase("a dog", (box(0, 0, 4, 4),))], [GroundedPhrase("grass", (box(0, 0, 4, 4),))]))
    metric, alike = GroundedCaptions(), WordSimilarity()
    for true, said in images:
        similarity = alike([phrase.words for phrase in true], [phrase.words for phrase in said])
        metric.update("a dog on grass", ["a dog"], true, said, similarity, alike.name)
    figures = GroundedCaptions(metric.state()).compute()
    assert figures["mIoU"] == pytest.approx(slow_miou(images))
    assert figures["mask recall (words)"] == pytest.approx(slow_recall(images))
    assert figures["AP50"] == pytest.approx(slow_ap50(images))
    assert 0 < figures["mask recall (words)"] < 100 and 0 < figures["AP50"] < 100


def test_the_search_ends_at_the_first_pair_that_is_no_hit() -> None:
    ious = np.array([[0.9, 0.0], [0.0, 0.6]])
    assert hits(ious, np.ones((2, 2))) == [(0, 0), (1, 1)]
    assert hits(ious, np.array([[0.1, 1.0], [1.0, 1.0]])) == [], "the best-placed pair has other words"
    assert hits(ious * 0.8, np.ones((2, 2))) == [(0, 0)] and hits(np.zeros((0, 2)), np.zeros((0, 2))) == []
    assert mean_of_pairs(np.array([[0.9, 0.8], [0.8, 0.1]])) == pytest.approx(0.5)
    assert mean_of_pairs(np.zeros((2, 3))) == 0.0


def test_words_of_captions_are_judged_as_elsewhere() -> None:
    grounded, plain = GroundedCaptions(), Captions()
    for said, references in (
        ("A dog runs on grass.", ["A dog is running on the grass."]),
        ("Two cups.", ["Red cups."]),
    ):
        grounded.update(said, references, [], [], np.zeros((0, 0)), "words")
        plain.update(said, references)
    told = grounded.compute()
    assert {name: told[name] for name in ("CIDEr", "BLEU-4")} == plain.compute()
    with pytest.raises(ValueError, match="at least one reference"):
        grounded.update("x", [], [], [], np.zeros((0, 0)), "words")


# ---------------------------------------------------------------- METEOR
def test_meteor_by_hand() -> None:
    pytest.importorskip("nltk", reason="nltk is the extra 'meteor'")
    figures = meteor.meteor_figures(
        [["the", "red", "circles"], ["a", "dog"]], [[["a", "red", "circle"]], [["cat"], ["a", "dog"]]]
    )
    # Two of three words (one by its stem) in one chunk: F 2/3, less half of (1/2)^3; two of two: less half of (1/2)^3.
    assert figures[meteor.STEMS] == pytest.approx(100 * ((2 / 3) * (1 - 0.5 / 8) + (1 - 0.5 / 8)) / 2)
    assert {meteor.STEMS, meteor.SYNONYMS} <= set(GIVEN_FIGURES)


def test_without_nltk_meteor_is_left_out_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "find_spec", lambda name: None)
    metric = GroundedCaptions()
    metric.update("a dog", ["a dog"], [], [], np.zeros((0, 0)), "words")
    assert "METEOR" not in str(metric.compute()) and "ullava[meteor]" in metric.left_out()[meteor.STEMS]


# ---------------------------------------------------------------- phrases
def test_words_in_common() -> None:
    table = WordSimilarity()(["two red circles", "a"], ["red circles", "a blue circle", "the A.", "!"])
    assert table[0].tolist() == pytest.approx([2 / 3, 0, 0, 0]) and table[1].tolist() == [0, 0, 0.5, 0]
    assert WordSimilarity()([], ["x"]).shape == (0, 1)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from transformers import BertConfig, BertForMaskedLM, BertTokenizerFast

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("encoders") / "small-bert"
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "blue", "dog", "cup"]
    tokenizer = BertTokenizerFast(vocab={sign: number for number, sign in enumerate(signs)})
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertForMaskedLM(BertConfig(vocab_size=len(signs), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_encoder_compares_mean_states(encoder: Path) -> None:
    import torch
    from transformers import AutoTokenizer, BertModel

    alike = similarity_of(str(encoder))
    table = alike(["a red dog", "cup"], ["a blue dog"])
    model, tokenizer = BertModel.from_pretrained(encoder), AutoTokenizer.from_pretrained(encoder)
    with torch.no_grad():
        means = [model(**tokenizer(words, return_tensors="pt")).last_hidden_state[0].mean(0)
                 for words in ("a red dog", "cup", "a blue dog")]  # fmt: skip
    wanted = [float(torch.cosine_similarity(mean, means[2], dim=0)) for mean in means[:2]]
    assert table[:, 0].tolist() == pytest.approx(wanted, abs=1e-5) and alike.name == "small-bert"
    assert alike([], ["x"]).shape == (0, 1)
    with pytest.raises(UserError, match="phrase_similarity: no such file or folder: wrods"):
        similarity_of("wrods")


# ---------------------------------------------------------------- answers
CAPTION = "Two cups and a dog."
CUPS, DOG = (box(0, 0, 4, 4), box(6, 0, 10, 4)), (box(0, 6, 8, 12),)


def sample(boxes: bool = False) -> Sample:
    def region(words: str, mask: MaskArray) -> Region:
        rows, columns = np.argwhere(mask).min(0), np.argwhere(mask).max(0) + 1
        corners: BoxXYXY = (float(rows[1]), float(rows[0]), float(columns[1]), float(columns[0]))
        return Region(words, None, corners) if boxes else Region(words, mask)

    cups, dog = (tuple(region(words, mask) for mask in masks) for words, masks in (("Two cups", CUPS), ("a dog", DOG)))
    answer = grounded_caption(CAPTION, [CaptionPhrase((0, 8), cups), CaptionPhrase((13, 18), dog)])
    told = [{"words": "Two cups", "objects": 2}, {"words": "a dog", "objects": 1}]
    truth = {"height": H, "width": W, "references": [CAPTION], "phrases": told}
    return Sample("d/s/0/0", "d", "gcg", (Path("a.png"),), (Turn("<image>?", answer, cups + dog),), truth)


def answer(*things: tuple[str, MaskArray, int], **more: Any) -> Answer:
    objects = tuple(
        GroundedObject(words, (0, 1), mask, more.get("box"), 0.9, group=group) for words, mask, group in things
    )
    return Answer("[tag]Two cups[/tag][SEG][SEG] and [tag]a dog[/tag][SEG].", objects)


PERFECT = (("two cups", CUPS[1], 0), ("two cups", CUPS[0], 0), ("A dog", DOG[0], 1))


def scored(given: Answer, asked: Sample | None = None) -> dict[str, float]:
    scorer = GroundedCaptionScorer()
    scorer.score(asked or sample(), given)
    return scorer.metric.compute()


def test_objects_of_a_group_are_one_phrase() -> None:
    figures = scored(answer(*PERFECT))
    for name in ("AP50", "mIoU", "mask recall (words)", "phrases right", "captions right"):
        assert figures[name] == pytest.approx(100.0), name
    apart = scored(answer(*((words, mask, place) for place, (words, mask, _) in enumerate(PERFECT))))
    assert apart["phrases right"] == 50.0 and apart["captions right"] == 0.0
    assert scored(answer(*PERFECT, ("a cat", box(12, 8, 16, 12), 2)))["captions right"] == 0.0
    assert scored(Answer(CAPTION))["mIoU"] == 0.0 and scored(Answer(CAPTION))["phrases right"] == 0.0


def test_boxes_are_judged_where_the_truth_has_no_masks() -> None:
    figures = scored(answer(*PERFECT), sample(boxes=True))
    assert figures["box AP50"] == figures["box mIoU"] == figures["box recall (words)"] == pytest.approx(100.0)
    assert "AP50" not in figures and "mIoU" not in figures


def test_a_recipe_names_the_encoder(encoder: Path) -> None:
    scorer = make_scorer("gcg", EvalRecipe(dataset={}, phrase_similarity=str(encoder)))
    scorer.score(sample(), answer(*PERFECT))
    assert scorer.metric.compute()["mask recall (small-bert)"] == pytest.approx(100.0)
