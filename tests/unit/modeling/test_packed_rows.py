"""Several dialogues in a row: the states, losses and gradients that each has in a row of its own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image

from ullava.batching.collate import Collator
from ullava.config.schema import LossConfig
from ullava.errors import ConfigError, UserError
from ullava.examples import Batch
from ullava.modeling.cores.splice import ExpandedText, expand_markers, restarting_positions
from ullava.modeling.heads.read_heads import item_of_position
from ullava.structures import Sample, Turn
from ullava.text.tokens import IGNORE_LABEL
from ullava.training.loop.packing import check_packing, keeps_apart
from ullava.training.optim.objective import GroundingObjective

TOKENS = 120
"""Of a row, in which not all of the dialogues below find room."""


def samples() -> list[Sample]:
    """Masks in images, words about images, and words alone, of unlike lengths."""
    words = Sample(
        "9", "test", "text", (), (Turn("What is a teapot?", "A pot. " * 12), Turn("And a lamp?", "A light."))
    )
    seen = grounded_sample("2", 1)
    vqa = replace(seen, name="4", task="vqa", turns=(Turn("<image>How many?", "There are two of them."),))
    return [grounded_sample("1", 2), words, seen, vqa, replace(words, name="8", turns=words.turns[1:]),
            grounded_sample("3", 1)]  # fmt: skip


def batch_of(processor: Any, tokens: int | None) -> Batch:
    rows = [processor.encode(s, [make_image(int(s.name)) for _ in s.images]) for s in samples()]
    return Collator(processor.tokenizer.pad_token_id, tokens=tokens)(rows)


def judged(model: Any, processor: Any, batch: Batch) -> tuple[dict[str, float], dict[str, torch.Tensor], Any]:
    """Loss terms, gradients and the output of one step."""
    model.zero_grad(set_to_none=True)
    inputs, targets = batch.usable()
    output = model(**replace(inputs, supervised_only=True).as_kwargs())
    terms = GroundingObjective(LossConfig(iou_score=0.2), processor.masks)(output, targets)
    terms.total.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return {name: float(term.detach()) for name, term in terms.own.items()}, gradients, output


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_losses_and_gradients_are_those_of_a_row_each(attention: str) -> None:
    model, processor = build_small()
    model.core.language_model.set_attn_implementation(attention)
    plain = batch_of(processor, None)
    together = batch_of(processor, TOKENS)
    rows = together.usable()[0].input_ids.shape
    assert (
        1 < rows[0] < len(samples()) and sorted(together.names) == sorted(plain.names) and together.names != plain.names
    )
    wanted, wanted_gradients, alone = judged(model, processor, plain)
    found, gradients, shared = judged(model, processor, together)
    assert found == pytest.approx(wanted, rel=1e-4) and wanted["ce"] > 1 and wanted["dice"] > 0
    assert len(alone.targets) == len(shared.targets)
    assert gradients.keys() == wanted_gradients.keys()
    for name, value in wanted_gradients.items():
        torch.testing.assert_close(
            gradients[name], value, rtol=1e-3, atol=2e-5, msg=lambda told, n=name: f"{n}: {told}"
        )
    assert sum(float(value.abs().sum()) for value in wanted_gradients.values()) > 1


def test_without_the_borders_between_dialogues_the_losses_are_others() -> None:
    model, processor = build_small()
    together = batch_of(processor, TOKENS)
    right, _, _ = judged(model, processor, together)
    inputs, _ = together.usable()
    one = replace(together, inputs=replace(inputs, dialogues=None))
    wrong, _, _ = judged(model, processor, one)
    assert abs(right["ce"] - wrong["ce"]) > 1e-3


def test_a_dialogue_sees_the_images_of_its_own_alone() -> None:
    start = 7
    ids = torch.tensor([[7, 1, 2, 3, 7, 4, 7, 0], [5, 6, 7, 1, 1, 1, 1, 1]])
    dialogues = torch.tensor([[1, 1, 2, 2, 3, 3, 3, 0], [1, 1, 1, 2, 2, 3, 3, 3]])
    assert item_of_position(ids, start, dialogues).tolist() == [
        [0, 0, -1, -1, 1, 1, 2, -1],
        [-1, -1, 3, -1, -1, -1, -1, -1],
    ]
    assert restarting_positions(dialogues).tolist() == [[0, 1, 0, 1, 0, 1, 2, 0], [0, 1, 2, 0, 1, 0, 1, 2]]


def test_visual_tokens_that_the_network_settles_stay_in_their_dialogue() -> None:
    text = ExpandedText(
        torch.tensor([[5, 1, 6, 1, 7], [8, 9, 0, 0, 0]]),
        torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]),
        torch.full((2, 5), IGNORE_LABEL),
        torch.tensor([[1, 1, 2, 2, 2], [1, 2, 0, 0, 0]]),
    )
    made = expand_markers(text, [3, 1], patch_id=1, pad_id=0, left_pad=False, bounds=[(1, 4), (1, 4)])
    assert made.input_ids.tolist() == [[5, 1, 1, 1, 6, 1, 7], [8, 9, 0, 0, 0, 0, 0]]
    assert made.dialogues.tolist() == [[1, 1, 1, 1, 2, 2, 2], [1, 2, 0, 0, 0, 0, 0]]


def test_what_cannot_share_rows_is_refused_by_name() -> None:
    model, processor = build_small()
    check_packing("sdpa", model, processor)
    assert model.training is False and keeps_apart(model)
    with pytest.raises(ConfigError, match="packing: attn_implementation flash_attention_2 was not tried; use sdpa or"):
        check_packing("flash_attention_2", model, processor)
    inputs = batch_of(processor, TOKENS).usable()[0]
    with pytest.raises(UserError, match="several dialogues in a row are for training"):
        model(**replace(inputs, labels=None).as_kwargs())
    decode = model.core.decode
    model.core.decode = lambda prepared, **options: decode(replace(prepared, arguments={
        name: value for name, value in prepared.arguments.items() if name != "position_ids"}), **options)  # fmt: skip
    with pytest.raises(ConfigError, match="packing: the language model .llama. mixes what shares a row"):
        check_packing("sdpa", model, processor)
