"""Metrics against the programs that papers use, where those are installed.

``pip install --no-deps pycocoevalcap pysodmetrics``; the first one's tokenizer runs Java, the second one imports
scikit-image and scikit-learn. What that tokenizer made of some captions is in ``caption_tokens.json``, so that the
tokens are compared without it, too.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ullava.evaluation.metrics.caption_words import caption_words
from ullava.evaluation.metrics.captions import Captions
from ullava.evaluation.metrics.salient import SalientMaps

CAPTIONS = "the program of published CIDEr and BLEU is not installed: pip install --no-deps pycocoevalcap"
MAPS = "the program of published salient figures is not installed: pip install pysodmetrics"
TOKENS: list[tuple[str, str]] = json.loads((Path(__file__).parent / "caption_tokens.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("caption", "tokens"), TOKENS)
def test_captions_are_cut_up_as_the_coco_programs_do(caption: str, tokens: str) -> None:
    assert " ".join(caption_words(caption)) == tokens


@pytest.fixture(scope="module")
def cut() -> Any:
    """The tokenizer of the COCO caption programs: texts to tokens."""
    tokenizer = pytest.importorskip("pycocoevalcap.tokenizer.ptbtokenizer", reason=CAPTIONS)
    if shutil.which("java") is None:
        pytest.skip("the tokenizer of pycocoevalcap runs Java")

    def run(texts: dict[int, list[str]]) -> dict[int, list[str]]:
        given = {number: [{"caption": text} for text in each] for number, each in texts.items()}
        found: dict[int, list[str]] = tokenizer.PTBTokenizer().tokenize(given)
        return found

    return run


def test_the_kept_tokens_are_those_of_the_program(cut: Any) -> None:
    found = cut({number: [caption] for number, (caption, _) in enumerate(TOKENS)})
    assert len(TOKENS) >= 80
    assert [found[number][0] for number in range(len(TOKENS))] == [tokens for _, tokens in TOKENS]


def test_caption_figures_are_those_of_the_program(cut: Any) -> None:
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason=CAPTIONS)
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason=CAPTIONS)
    rng = np.random.default_rng(0)
    openings = ["A man's dog", "Two (red) cats", "There isn't a bird,", "A black-and-white cow", "The U.S. flag"]
    places = ["on top of a car.", "next to the St. Mary sign", "at 3:45 p.m.!", "in a t-shirt, he's sitting"]

    def caption() -> str:
        return f"{openings[rng.integers(len(openings))]} and {places[rng.integers(len(places))]}"

    references = {number: [caption() for _ in range(int(rng.integers(1, 6)))] for number in range(25)}
    captions = {number: [each[0] if number % 3 == 0 else caption()] for number, each in references.items()}
    metric = Captions()
    for number in references:
        metric.update(captions[number][0], references[number])
    ours = metric.compute()
    truth, answers = cut(references), cut(captions)
    assert ours["CIDEr"] == pytest.approx(100.0 * cider.Cider().compute_score(truth, answers)[0], rel=1e-9)
    theirs = bleu.Bleu(4).compute_score(truth, answers, verbose=0)[0]
    assert ours["BLEU-4"] == pytest.approx(100.0 * theirs[3], rel=1e-6)


def test_caption_figures_are_those_of_the_program_without_its_tokenizer() -> None:
    """Random words that every tokenizer leaves as they are, so that nothing here needs Java."""
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu", reason=CAPTIONS)
    cider = pytest.importorskip("pycocoevalcap.cider.cider", reason=CAPTIONS)
    rng = np.random.default_rng(2)
    words = ["man", "dog", "red", "two", "cats", "bird", "cow", "flag", "car", "sign", "street", "sits"]

    def caption() -> str:
        return " ".join(words[place] for place in rng.integers(0, len(words), int(rng.integers(4, 12))))

    references = {number: [caption() for _ in range(int(rng.integers(1, 6)))] for number in range(40)}
    captions = {number: [each[0] if number % 2 else caption()] for number, each in references.items()}
    metric = Captions()
    for number in references:
        metric.update(captions[number][0], references[number])
    ours = metric.compute()
    theirs = bleu.Bleu(4).compute_score(references, captions, verbose=0)[0][3]
    assert 10 < ours["BLEU-4"] < 90
    assert ours["BLEU-4"] == pytest.approx(100.0 * theirs, rel=1e-6)
    assert ours["CIDEr"] == pytest.approx(100.0 * cider.Cider().compute_score(references, captions)[0], rel=1e-9)


def test_salient_figures_are_those_of_the_program() -> None:
    """Its E-measure divides by one pixel less; thresholds are hit by neither side, so rounding decides nothing."""
    program = pytest.importorskip("py_sod_metrics", reason=MAPS)
    rng = np.random.default_rng(1)
    side = 40
    y, x = np.mgrid[:side, :side]
    mae, structure, alignment = program.MAE(), program.Smeasure(), program.Emeasure()
    family = program.FmeasureV2({"f": program.FmeasureHandler(beta=0.3, with_dynamic=True, with_adaptive=False)})
    ours = SalientMaps()
    for _ in range(6):
        cy, cx, radius = rng.uniform(12, 28, 2).tolist() + [float(rng.uniform(5, 12))]
        truth = (y - cy) ** 2 + (x - cx) ** 2 < radius**2
        soft = np.clip(1.2 - np.hypot(y - cy + 2, x - cx - 1) / (1.5 * radius) + rng.normal(0, 0.1, (side, side)), 0, 1)
        saliency = np.minimum((np.floor(soft * 255) + 0.25) / 255, 1.0)
        ours.update(saliency, truth)
        for metric in (mae, structure, alignment, family):
            metric.step(pred=saliency, gt=truth, normalize=False)
    figures = ours.compute()
    scale = side * side / (side * side - 1)
    curve = alignment.get_results()["em"]["curve"]
    assert figures["MAE"] == pytest.approx(100.0 * float(mae.get_results()["mae"]), rel=1e-6)
    assert figures["S"] == pytest.approx(100.0 * float(structure.get_results()["sm"]), rel=1e-6)
    assert figures["maxE"] * scale == pytest.approx(100.0 * float(curve.max()), rel=1e-6)
    assert figures["meanE"] * scale == pytest.approx(100.0 * float(curve.mean()), rel=1e-6)
    assert figures["adpE"] * scale == pytest.approx(100.0 * float(alignment.get_results()["em"]["adp"]), rel=1e-6)
    dynamic = family.get_results()["f"]["dynamic"]
    assert figures["maxF"] == pytest.approx(100.0 * float(np.max(dynamic)), rel=1e-6)
