"""Words for visual tokens: which word belongs to which patch, and how a token is held against it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small
from tests.unit.modeling.test_matrix import VISION_ENCODERS
from torch.nn import functional

from ullava.batching.collate import Collator
from ullava.errors import SampleError
from ullava.geometry import plan_view
from ullava.modeling.vision.patches import BACKGROUND, COMMON_WORDS, TEMPERATURE, patch_cross_entropy, patch_words
from ullava.structures import Region, Sample, Turn
from ullava.training.loop.batches import counts_of

WORDS = {"red": 1, "circle": 2, "bar": 3, BACKGROUND: 9}


def ids(words: str) -> Sequence[int]:
    return [WORDS[word] for word in words.split()]


def square(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((80, 80), dtype=np.bool_)
    mask[y0:y1, x0:x1] = True
    return mask


def test_the_thing_that_covers_most_of_a_patch_names_it() -> None:
    things = (Region("red circle", square(0, 0, 30, 20)), Region("bar", box_xyxy_px=(30, 0, 80, 20)))
    view = plan_view("pad_center", (80, 80), 40)
    table = patch_words(things, view, (4, 4), ids)
    assert table.shape == (16, 2)
    assert table[:4].tolist() == [[1, 2], [1, 2], [3, -100], [3, -100]]
    assert (table[4:] == [9, -100]).all()


def test_a_patch_hardly_touched_is_background() -> None:
    view = plan_view("pad_center", (80, 80), 40)
    narrow = patch_words((Region("bar", square(0, 0, 3, 20)),), view, (4, 4), ids)  # 3 of 20 columns
    wide = patch_words((Region("bar", square(0, 0, 4, 20)),), view, (4, 4), ids)
    assert narrow[0, 0] == WORDS[BACKGROUND]
    assert wide[0, 0] == WORDS["bar"]


def test_padding_counts_as_background_and_shifts_the_image() -> None:
    mask = np.ones((40, 80), dtype=np.bool_)
    table = patch_words((Region("bar", mask),), plan_view("pad_center", (80, 40), 80), (4, 4), ids)
    assert table[:, 0].reshape(4, 4)[:, 0].tolist() == [9, 3, 3, 9]


def test_nothing_in_the_image_is_background_everywhere() -> None:
    assert (patch_words((), plan_view("stretch", (80, 80), 40), (2, 3), ids) == 9).all()


def test_a_thing_without_a_place_is_refused() -> None:
    with pytest.raises(ValueError, match="'bar' has neither a mask nor a box"):
        patch_words((Region("bar"),), plan_view("stretch", (80, 80), 40), (2, 2), ids)


def test_cross_entropy_equals_the_formula_and_leaves_the_vocabulary_alone() -> None:
    torch.manual_seed(0)
    tokens, vocabulary = torch.randn(3, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    words = torch.tensor([[1, 2], [4, -100], [9, 9]])
    found = patch_cross_entropy(tokens, words, vocabulary)
    for place, wanted in enumerate(([1, 2], [4], [9, 9])):
        scores = [float(tokens[place] @ row / (tokens[place].norm() * row.norm())) / TEMPERATURE for row in vocabulary]
        norm = math.log(sum(math.exp(score) for score in scores))
        expected = -sum(scores[word] - norm for word in wanted) / len(wanted)
        assert found[place].item() == pytest.approx(expected, rel=1e-4)
    found.sum().backward()
    assert vocabulary.grad is None
    assert tokens.grad is not None and bool((tokens.grad.norm(dim=1) > 0).all())


def test_of_a_large_vocabulary_the_common_words_and_those_given_are_candidates() -> None:
    torch.manual_seed(0)
    vocabulary, tokens = torch.randn(COMMON_WORDS + 50, 8), torch.randn(3, 8)
    rare = COMMON_WORDS + 7
    words = torch.tensor([[1, rare], [rare + 30, -100], [4, 5]])
    kept = torch.cat([vocabulary[:COMMON_WORDS], vocabulary[[rare, rare + 30]]])
    same = torch.tensor([[1, COMMON_WORDS], [COMMON_WORDS + 1, -100], [4, 5]])
    cosines = functional.normalize(tokens, dim=-1) @ functional.normalize(kept, dim=-1).T
    told = (cosines / TEMPERATURE).log_softmax(dim=-1)
    expected = [-told[n, [word for word in row if word >= 0]].mean() for n, row in enumerate(same.tolist())]
    torch.testing.assert_close(patch_cross_entropy(tokens, words, vocabulary), torch.stack(expected))


def sample(path: Path, things: tuple[Region, ...]) -> Sample:
    return Sample("s/0", "s", "caption", (path,), (Turn("<image>What do you see?", "A bar."),), things=things)


def test_named_tokens_travel_from_the_sample_to_the_loss(small: tuple[Any, Any]) -> None:
    model, processor = small
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    named = sample(Path("a.png"), (Region("red circle", square(0, 0, 80, 40)),))
    rows = [
        processor.encode(replace(named, images=(Path("b.png"),), things=()), [image], with_patches=True),
        processor.encode(named, [image], with_patches=True),
        processor.encode(named, [image]),
    ]
    assert [row.patch_words is None for row in rows] == [True, False, True]
    batch = Collator(processor.tokenizer.pad_token_id)(rows)
    assert batch.inputs.patches.image.tolist() == [1]
    output = model(**batch.inputs.as_kwargs())
    visual = model.core.encode_images(batch.inputs)
    start, count = visual.counts[0], visual.counts[1]
    expected = patch_cross_entropy(
        visual.tokens[start : start + count],
        batch.inputs.patches.words[0],
        model.get_input_embeddings().weight,
    )
    assert output.patch_nll.shape == (count,)
    torch.testing.assert_close(output.patch_nll, expected, rtol=1e-4, atol=1e-5)


def test_images_of_different_grids_share_a_batch() -> None:
    """A vision encoder that keeps an image's shape gives one image more tokens than another."""
    model, processor = build_small(VISION_ENCODERS["conv"])
    things = (Region("red circle", square(0, 0, 30, 30)),)
    wide, tall = np.zeros((40, 80, 3), dtype=np.uint8), np.zeros((80, 80, 3), dtype=np.uint8)
    named = sample(Path("a.png"), things)
    small_thing = (Region("blue star", square(0, 0, 30, 30)[:40]),)
    rows = [
        processor.encode(named, [tall], with_patches=True),
        processor.encode(replace(named, images=(Path("b.png"),), things=small_thing), [wide], with_patches=True),
    ]
    lengths = [len(row.patch_words) for row in rows if row.patch_words is not None]
    assert len(set(lengths)) == 2
    batch = Collator(processor.tokenizer.pad_token_id)(rows)
    assert counts_of(batch).patches == sum(lengths)
    together = model(**batch.inputs.as_kwargs()).patch_nll
    alone = [model(**Collator(processor.tokenizer.pad_token_id)([row]).inputs.as_kwargs()).patch_nll for row in rows]
    torch.testing.assert_close(together, torch.cat(alone), rtol=1e-4, atol=1e-5)


def test_a_vision_encoder_without_a_grid_is_refused(small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, processor = small
    image = np.zeros((80, 80, 3), dtype=np.uint8)
    plain = processor.vision.preprocess

    def without_grid(image: np.ndarray, notes: Any) -> Any:
        return replace(plain(image, notes), grid_hw=None)

    monkeypatch.setattr(processor.vision, "preprocess", without_grid)
    with pytest.raises(SampleError, match="no grid"):
        processor.encode(sample(Path("a.png"), (Region("bar", square(0, 0, 9, 9)),)), [image], with_patches=True)
