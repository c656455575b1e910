"""Regions that a question points at: the same tokens in training and inference, for every vision encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, make_image
from tests.unit.modeling.test_matrix import VISION_ENCODERS

from ullava.batching.collate import Collator
from ullava.errors import SampleError, UserError
from ullava.examples import ModelInputs, RegionInputs
from ullava.inference.load import load
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.cores.core_contract import TAKES_NO_REGIONS
from ullava.modeling.processing.region_rows import region_examples
from ullava.modeling.vision.box_pooling import bin_weights, interval_weights
from ullava.modeling.vision.region_tokens import FIELDS, RegionTokens, fields_of, pool_regions
from ullava.structures import RegionPrompt, Sample, Turn
from ullava.training.optim.stages import apply_stage

IMAGE = make_image(0)
MASK = np.zeros(IMAGE.shape[:2], dtype=bool)
MASK[5:20, 8:30] = True
MASK[5:10, 8:15] = False
BOX = RegionPrompt((3.0, 4.0, 20.0, 30.0))
MASKED = RegionPrompt((8.0, 5.0, 30.0, 20.0), MASK)


def sample(question: str = "<image>Is <region> left of <region>?", prompts: Any = (BOX, MASKED), **more: Any) -> Sample:
    return Sample("it", "", "vqa", (Path("it.png"),), (Turn(question, "Yes.", prompts=tuple(prompts)),), **more)


@pytest.fixture(scope="module", params=sorted(VISION_ENCODERS))
def pointed(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A model that takes regions, of each vision encoder."""
    return build_small((*VISION_ENCODERS[request.param], "vision.regions={grid: 2}"))


@pytest.fixture(scope="module")
def plain() -> tuple[Any, Any]:
    """The plainest one, a token for each region."""
    return build_small(("vision.regions={}",))


def states(model: Any, processor: Any, rows: list[Any], side: Any = "right") -> list[torch.Tensor]:
    """What the language model reads of each row, padding left out."""
    inputs, _ = Collator(processor.tokenizer.pad_token_id, side)(rows).usable()
    prepared = model.core.prepare(inputs, left_pad=side == "left")
    return [
        row[kept.bool()] for row, kept in zip(prepared.arguments["inputs_embeds"], prepared.attention_mask, strict=True)
    ]


# ---------------------------------------------------------------- pooling
def test_bins_are_the_parts_of_the_interval() -> None:
    low, high = torch.tensor([0.3, 2.0, 5.1]), torch.tensor([7.9, 2.2, 9.5])
    parts = bin_weights(low, high, 9, 4)
    assert torch.allclose(parts.mean(dim=1), interval_weights(low, high, 9, 4), atol=1e-6)
    assert torch.allclose(parts[0].sum(dim=1), torch.ones(4))


def test_a_box_of_whole_cells_is_the_mean_of_a_smooth_map() -> None:
    """On a linear map, bilinear reading is exact: the mean over a box is the value at its middle."""
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(6.0), indexing="ij")
    plane = torch.stack([x + 0.5, y + 0.5])  # at their centers
    boxes = torch.tensor([[1 / 6, 2 / 8, 5 / 6, 6 / 8], [2 / 6, 1 / 8, 3 / 6, 2 / 8]])
    found = pool_regions(plane, boxes, None, 1)[:, 0]
    assert torch.allclose(found, torch.tensor([[3.0, 4.0], [2.5, 1.5]]), atol=1e-4)
    fields = pool_regions(plane, boxes[:1], None, 2)[0]
    assert torch.allclose(fields, torch.tensor([[2.0, 3.0], [4.0, 3.0], [2.0, 5.0], [4.0, 5.0]]), atol=1e-4)
    assert torch.equal(fields_of(boxes[:1], 1)[:, 0], boxes[:1])
    assert torch.allclose(fields_of(torch.tensor([[0.0, 0.0, 1.0, 0.5]]), 2)[0, 1], torch.tensor([0.5, 0.0, 1.0, 0.25]))


def test_a_mask_weighs_what_it_covers() -> None:
    plane = torch.zeros(1, 8, 8)
    plane[:, :, 4:] = 1.0
    box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    shares = torch.zeros(1, FIELDS, FIELDS)
    shares[:, :, : FIELDS // 4] = 1.0  # the left quarter, far from the edge of the map's two halves
    assert pool_regions(plane, box, None, 1).item() == pytest.approx(0.5, abs=1e-5)
    assert pool_regions(plane, box, shares, 1).item() == 0.0
    halved = torch.zeros(1, 2 * FIELDS, 2 * FIELDS)
    halved[:, : FIELDS // 2, : FIELDS // 2] = 1.0
    assert pool_regions(plane, box, halved, 2).flatten().tolist() == [0.0] * 4, "empty fields are told the whole's mean"


def test_a_region_may_be_as_small_as_a_pixel_and_lie_at_the_border() -> None:
    plane = torch.arange(16.0).view(1, 4, 4)
    boxes = torch.tensor([[0.999, 0.999, 1.0, 1.0], [0.0, 0.0, 0.001, 0.001]])
    found = pool_regions(plane, boxes, None, 3)
    assert torch.isfinite(found).all() and found[0].mean() > 14 and found[1].mean() < 3


def test_maps_of_different_sizes_and_both_kinds_of_projector_get_gradients() -> None:
    torch.manual_seed(0)
    tokens = RegionTokens(3, 5, 2)
    maps = (torch.randn(3, 4, 6), torch.randn(3, 7, 2, requires_grad=True))
    boxes = torch.tensor([[0.1, 0.1, 0.6, 0.5], [0.0, 0.0, 1.0, 1.0], [0.3, 0.2, 0.6, 0.9]])
    given = RegionInputs(boxes=boxes, image=torch.tensor([1, 0, 1]))
    made = tokens(maps, given)
    assert made.shape == (12, 5)
    alone = tokens(maps, RegionInputs(boxes=boxes[2:], image=torch.tensor([1])))
    assert torch.allclose(made[8:], alone, atol=1e-6), "a region does not depend on the others"
    made.sum().backward()
    assert maps[1].grad is not None and all(weight.grad is not None for weight in tokens.parameters())


def test_half_precision_around_it_and_of_it() -> None:
    torch.manual_seed(0)
    tokens = RegionTokens(3, 5, 1)
    given = RegionInputs(boxes=torch.tensor([[0.1, 0.1, 0.6, 0.5]]), image=torch.tensor([0]))
    plane = torch.randn(3, 4, 6)
    exact = tokens((plane,), given)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = tokens((plane,), given)
    half = tokens.to(torch.bfloat16)((plane.to(torch.bfloat16),), given)
    assert half.dtype == torch.bfloat16
    for rough in (mixed, half):
        assert torch.allclose(rough.float(), exact, atol=0.03)


# ---------------------------------------------------------------- rows
def test_the_prompt_is_the_beginning_of_the_training_row(pointed: tuple[Any, Any]) -> None:
    model, processor = pointed
    whole, asked = (processor.encode(sample(), [IMAGE], prompt_only=only) for only in (False, True))
    assert (whole.input_ids[: len(asked.input_ids)] == asked.input_ids).all()
    at = whole.input_ids == processor.token_ids["region_patch_id"]
    assert at.sum() == 8, "four for each"
    assert (whole.labels[at] == -100).all()
    trained, inferred = (states(model, processor, [row])[0] for row in (whole, asked))
    assert torch.allclose(trained[: len(inferred)], inferred, atol=1e-5)


def test_a_row_is_the_same_alone_and_in_a_batch_padded_left(pointed: tuple[Any, Any]) -> None:
    model, processor = pointed
    rows = [
        processor.encode(sample(), [IMAGE], prompt_only=True),
        processor.encode(sample("<image>Is it red, and why should it be?", ()), [IMAGE], prompt_only=True),
        processor.encode(replace(sample("<image>What is <region>?", [MASKED]), images=(Path("b.png"),)),
                         [make_image(1)], prompt_only=True),
    ]  # fmt: skip
    for row, alone in zip(states(model, processor, rows, "left"), rows, strict=True):
        assert torch.allclose(row, states(model, processor, [alone], "left")[0], atol=1e-5)


def test_another_region_is_another_question(pointed: tuple[Any, Any]) -> None:
    model, processor = pointed
    one, other, masked = (
        states(model, processor, [processor.encode(sample("<image>What is <region>?", [prompt]), [IMAGE])])[0]
        for prompt in (BOX, RegionPrompt((30.0, 4.0, 50.0, 30.0)), RegionPrompt(BOX.box_xyxy_px, MASK))
    )
    assert not torch.allclose(one, other) and not torch.allclose(one, masked)


def test_the_call_of_the_processor_makes_the_same_row(pointed: tuple[Any, Any]) -> None:
    processor = pointed[1]
    expected, _ = Collator(processor.tokenizer.pad_token_id, "left")(
        [processor.encode(sample(), [IMAGE], prompt_only=True)]
    ).usable()
    words = {"type": "text", "text": "Is <region> left of <region>?"}
    chat = [{"role": "user", "content": [{"type": "image", "image": IMAGE}, words]}]
    given = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, add_generation_prompt=True, regions=[[3, 4, 20, 30], MASK]
    )
    assert given["input_ids"].tolist() == expected.input_ids.tolist()
    for key, value in replace(expected, labels=None).as_kwargs().items():
        if key.startswith(("region", "instruction")):
            assert torch.equal(given[key], value), key


def test_a_region_on_each_of_several_images(plain: tuple[Any, Any]) -> None:
    model, processor = plain
    question = "<image><image>Is <region> the color of <region>?"
    prompts = (replace(BOX, image=0), BOX)
    several = replace(sample(question, prompts), images=(Path("a.png"), Path("b.png")))
    row = processor.encode(several, [IMAGE, make_image(1)], prompt_only=True)
    assert [region.image for region in row.regions] == [0, 1], "the last where nothing is said"
    text = processor(text=[question, "Hello."], images=[[IMAGE, make_image(1)], []],
                     regions=[[{"box": [3, 4, 20, 30], "image": 0}, [3, 4, 20, 30]], []])  # fmt: skip
    assert text["region_image"].tolist() == [0, 1]
    swapped = processor.encode(
        replace(several, turns=(replace(several.turns[0], prompts=prompts[::-1]),)), [IMAGE, make_image(1)]
    )
    assert [region.image for region in swapped.regions] == [1, 0]
    assert not torch.allclose(*(states(model, processor, [each])[0][-8:] for each in (row, swapped)))


def test_words_are_words_where_no_region_came(plain: tuple[Any, Any], small: tuple[Any, Any]) -> None:
    """Files of clouds and schemas hold ``<region>`` as a word."""
    for _, processor in (plain, small):
        row = processor.encode(sample("<image>What is s3.<region>.example?", ()), [IMAGE])
        assert not row.regions and "<region>" in processor.tokenizer.decode(row.input_ids)


BROKEN = [
    (sample("<image>What is it?", [BOX]), "0 <region> markers, 1 regions"),
    (sample(prompts=[BOX]), "2 <region> markers, 1 regions"),
    (sample("<image>What is <region>?", [RegionPrompt((3.0, 4.0, 70.0, 30.0))]), r"regions\[0\] \[3, 4, 70, 30\] leaves"
     " the image of 56 x 40 pixels"),
    (sample("<image>What is <region>?", [RegionPrompt((1.0, 1.0, 9.0, 9.0), MASK[:9])]), "mask of 56 x 9 pixels"),
    (sample("<image>What is <region>?", [replace(BOX, image=1)]), r"regions\[0\] is on image 1, the question has 1"),
    (sample("<image>What is <region_patch>?", ()), "holds the special token <region_patch>"),
    (replace(sample("What is <region>?", [BOX]), images=()), "a region lies on an image"),
]  # fmt: skip


@pytest.mark.parametrize(("broken", "message"), BROKEN)
def test_what_does_not_fit_is_refused_by_name(plain: tuple[Any, Any], broken: Sample, message: str) -> None:
    with pytest.raises(SampleError, match=message):
        plain[1].encode(broken, [IMAGE] if broken.images else [])


def test_calls_that_do_not_fit_are_refused(plain: tuple[Any, Any], small: tuple[Any, Any]) -> None:
    processor = plain[1]
    for given, message in (
        ({"regions": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "row 1: the text has 1 <region> markers, 2 regions are given"),
        ({}, "row 1: the text has 1 <region> markers, 0 regions are given"),
        ({"regions": [[1, 2, 3]]}, r"regions\[0\] is neither a box"),
        ({"regions": "1,2,3,4"}, "regions: a list of regions"),
    ):
        with pytest.raises(UserError, match=message):
            processor(text="<image>What is <region>?", images=IMAGE, **given)
    with pytest.raises(UserError, match=TAKES_NO_REGIONS):
        small[1](text="<image>What is <region>?", images=IMAGE, regions=[[1, 2, 30, 30]])
    with pytest.raises(SampleError, match=TAKES_NO_REGIONS):
        small[1].encode(sample(), [IMAGE])


def test_what_a_crop_leaves_out_is_no_region() -> None:
    model, processor = build_small(("vision.regions={}", "vision.image_aspect_ratio=crop"))
    wide = make_image(2, 40, 80)  # 20 pixels go on either side
    with pytest.raises(SampleError, match="does not see"):
        processor.encode(sample("<image>What is <region>?", [RegionPrompt((1.0, 1.0, 15.0, 30.0))]), [wide])
    mask = np.zeros((40, 80), dtype=bool)
    mask[:, 10:40] = True
    row = processor.encode(sample(prompts=[RegionPrompt((10.0, 0.0, 40.0, 40.0)),
                                           RegionPrompt((10.0, 0.0, 40.0, 40.0), mask)]), [wide])  # fmt: skip
    assert [region.box_xyxy_view.tolist() for region in row.regions] == [[0.0, 0.0, 0.5, 1.0]] * 2
    assert row.regions[1].shares is not None and (row.regions[1].shares == 1.0).all()
    assert torch.isfinite(model(**Collator(processor.tokenizer.pad_token_id)([row]).usable()[0].as_kwargs()).loss)


def test_a_small_mask_keeps_its_shape(plain: tuple[Any, Any]) -> None:
    mask = np.zeros((40, 56), dtype=bool)
    mask[3, 4] = mask[4, 5] = True
    view = plain[1].encode(sample("<image>What is <region>?", [BOX]), [IMAGE]).images
    (found,) = region_examples(sample(prompts=[RegionPrompt((4.0, 3.0, 6.0, 5.0), mask)]), [IMAGE], view, 1)
    assert found.shares is not None and found.shares[0, 0] == found.shares[-1, -1] == 1.0
    assert found.shares[0, -1] == 0.0 and found.shares.mean() == pytest.approx(0.5, abs=0.05)


# ---------------------------------------------------------------- the model
def test_it_answers_by_the_region_and_never_says_one(plain: tuple[Any, Any]) -> None:
    model, processor = plain
    inputs = processor(text="<image>What is <region>?", images=IMAGE, regions=[BOX])
    made = model.generate_grounded(inputs, max_new_tokens=6)
    assert made.new_ids.shape[0] == 1
    assert processor.token_ids["region_patch_id"] in model.core.placeholder_ids
    lacking = {key: value for key, value in inputs.items() if not key.startswith("region")}
    with pytest.raises(UserError, match="places for regions, the batch no regions"):
        model.generate(**lacking)
    none = ModelInputs.from_kwargs(inputs)
    with pytest.raises(UserError, match="no images"):
        model(**replace(none, images=None, mask_images=None, input_ids=none.regions.image[None] + 300).as_kwargs())


def test_a_model_without_regions_refuses_them(small: tuple[Any, Any], plain: tuple[Any, Any]) -> None:
    inputs = plain[1](text="<image>What is <region>?", images=IMAGE, regions=[BOX])
    with pytest.raises(UserError, match=TAKES_NO_REGIONS):
        small[0](**inputs)


def test_ranks_stay_in_step_where_a_batch_has_none(plain: tuple[Any, Any]) -> None:
    model, processor = plain
    row = processor.encode(sample("<image>Is it red?", ()), [IMAGE])
    inputs, _ = Collator(processor.tokenizer.pad_token_id)([row]).usable()
    model.train()
    try:
        output = model(**inputs.as_kwargs())
        (output.loss + output.idle).backward()
        assert all(weight.grad is not None for weight in model.regions.parameters())
    finally:
        model.eval()
        model.zero_grad()


def test_projector_stages_train_it(plain: tuple[Any, Any]) -> None:
    model, _ = build_small(("vision.regions={}",))
    apply_stage(model, "align")
    assert all(weight.requires_grad for weight in model.regions.parameters())
    assert any(part.name == "region projector" for part in model.core.parts())


def test_a_saved_model_answers_the_same(plain: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = plain
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, reader = load_folder(tmp_path, torch.float32)
    one, other = (
        states(*pair, [pair[1].encode(sample(), [IMAGE], prompt_only=True)])[0] for pair in (plain, (again, reader))
    )
    assert torch.allclose(one, other, atol=1e-6)
    answers = [load(tmp_path).answer(IMAGE, "What is <region>?", regions=[box]) for box in (BOX, [3, 4, 20, 30])]
    assert answers[0].text == answers[1].text
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"region_grid": 1', '"region_grid": 2'))
    with pytest.raises(UserError, match="region_grid: 1, but config.json says 2"):
        load_folder(tmp_path, torch.float32)
    config.write_text(config.read_text().replace('"region_grid": 2', '"region_grid": 0'))
    with pytest.raises(UserError, match="region_grid"):
        load_folder(tmp_path, torch.float32)


def test_a_vision_encoder_without_a_map_is_refused() -> None:
    slime = (*VISION_ENCODERS["slime"][:1], "vision.slime={local_side: 2, heads: 4, view: local}")
    with pytest.raises(UserError, match="no map of the whole image"):
        build_small((*slime, "vision.regions={}"))
