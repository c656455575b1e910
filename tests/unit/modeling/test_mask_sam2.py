"""The mask head that reads the vision tower's maps: one pass of the tower, the same masks in training and answers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import batch_of, grounded_sample, make_image
from tests.unit.modeling.small_sam2 import CONVNEXT, TOWER, build_sam2
from torch.nn import functional

from ullava.batching.collate import Collator
from ullava.cli.predict import object_lines
from ullava.config.load import parse_text
from ullava.config.schema import LossConfig, MaskHeadConfig
from ullava.errors import ConfigError, UserError
from ullava.geometry import plan_view
from ullava.geometry.mask_resize import LONGEST_BY_MATRIX, covered_of_view, view_to_original
from ullava.inference.export import answer_to_json
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.heads.outputs import SegOutput
from ullava.modeling.heads.vision_view import VisionViewRules
from ullava.structures import Sample, Turn
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage, assign_parts, unread_names

TOWERS = {"efficientnet": TOWER, "convnext": CONVNEXT}


def counted(model: Any) -> list[int]:
    """How many images each pass of the tower saw."""
    seen: list[int] = []
    stem = model.vision.kind.stem(model.vision.tower)
    stem.register_forward_hook(lambda _module, given, _made: seen.append(len(given[0])))
    return seen


def words_alone(name: str) -> Sample:
    return Sample(name, "test", "text", (), (Turn("What is red?", "A colour."),))


@pytest.mark.parametrize("tower", TOWERS)
def test_it_trains_saves_and_sees_every_image_once(tower: str, tmp_path: Path) -> None:
    model, processor = build_sam2(tower=TOWERS[tower])
    given = [grounded_sample("1", 2), grounded_sample("2", 1), grounded_sample("1", 1)]
    batch = batch_of(processor, given)
    assert batch.inputs.mask_images is None
    seen = counted(model)
    with torch.no_grad():
        before = model(**batch.inputs.as_kwargs())
        alone = model(**batch_of(processor, given[1:2]).inputs.as_kwargs())
    assert seen == [2, 1], "two distinct images, each of them encoded once"
    assert before.seg.mask_logits_lowres.shape == (4, 16, 16) and before.seg.image.tolist() == [0, 0, 1, 0]
    for name in ("mask_logits_lowres", "iou_scores", "presence_logits"):
        torch.testing.assert_close(getattr(alone.seg, name)[0], getattr(before.seg, name)[2], rtol=1e-4, atol=1e-5)
    assert float(before.seg.presence_logits.min()) > 0, "at first, things are there"

    plan = apply_stage(model, "scratch")
    assert {"SAM quality head", "SAM presence head", "SAM mask decoder", "mask neck", "mask projector"} <= {
        row.part for row in plan.rows if row.trained
    }
    model.train()
    output = model(**batch.inputs.as_kwargs())
    objective = GroundingObjective(LossConfig(iou_score=0.2), processor.masks, model.vision.aux_terms)
    terms = objective(output, batch.targets)
    terms.total.backward()
    assert terms["presence"].item() > 0
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert reached == plan.trainable == set(assign_parts(model)) - unread_names(model)
    assert any(float(model.get_parameter(name).grad.abs().sum()) > 0 for name in reached if "vision.tower" in name)
    model.eval()

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    after = again(**batch_of(processor_again, given).inputs.as_kwargs())
    torch.testing.assert_close(after.seg.mask_logits_lowres, before.seg.mask_logits_lowres, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(after.seg.presence_logits, before.seg.presence_logits, rtol=1e-4, atol=1e-5)


def test_what_is_generated_has_the_masks_of_the_pass_that_is_given_its_words() -> None:
    model, processor = build_sam2()
    sample = grounded_sample("3", 2)
    batch = batch_of(processor, [sample])
    told = model(**batch.inputs.as_kwargs()).seg
    prompt = processor.encode(sample, [make_image(3, 40, 56)], prompt_only=True)
    row = processor.encode(sample, [make_image(3, 40, 56)])
    wanted = row.input_ids[len(prompt.input_ids) :].tolist()
    inputs, _ = Collator(processor.tokenizer.pad_token_id, "left")([prompt]).usable()
    place = iter(wanted)
    seen = counted(model)

    def say(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([next(place)]), 0.0)

    made = model.generate_grounded(inputs, max_new_tokens=len(wanted), logits_processor=[say], do_sample=False)
    assert seen == [1]
    for name in ("mask_logits_lowres", "iou_scores", "presence_logits"):
        torch.testing.assert_close(getattr(made.seg, name), getattr(told, name), rtol=1e-3, atol=1e-4)


def test_rows_without_masks_and_without_images_reach_all_that_trains() -> None:
    model, processor = build_sam2()
    apply_stage(model, "scratch")
    model.train()
    caption = replace(grounded_sample("4"), turns=(Turn("<image>What is there?", "A thing."),), task="caption")
    for given in ([caption], [words_alone("5")], [caption, words_alone("5")]):
        batch = batch_of(processor, given)
        objective = GroundingObjective(LossConfig(), processor.masks)
        objective(model(**batch.inputs.as_kwargs()), batch.targets).total.backward()
        missed = {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
        assert not missed
        model.zero_grad()


def test_an_image_that_was_prepared_for_heads_is_not_prepared_again() -> None:
    _, processor = build_sam2()
    image = make_image(6, 40, 56)
    first = processor.encode(grounded_sample("6"), [image])
    assert first.images[0].sam_u8 is None and first.images[0].for_heads
    again = processor.encode(grounded_sample("6"), [image], prepared=first.images)
    assert again.images[0] is first.images[0]


def test_an_empty_mask_teaches_presence_and_is_answered_by_none() -> None:
    model, processor = build_sam2()
    sample = grounded_sample("7", 2)
    regions = sample.turns[0].regions
    gone = replace(regions[1], mask=regions[1].mask & False, box_xyxy_px=regions[1].box_xyxy_px)
    sample = replace(sample, turns=(replace(sample.turns[0], regions=(regions[0], gone)),))
    batch = batch_of(processor, [sample])
    assert batch.targets.absent == frozenset({1})
    seg = SegOutput(
        mask_logits_lowres=torch.full((2, 4, 4), 3.0),
        iou_scores=torch.tensor([0.8, 0.8]),
        presence_logits=torch.tensor([2.0, -2.0]),
    )
    logits, scores = seg.judged()
    assert bool((logits[0] == 3.0).all()) and bool((logits[1] < -1000).all())
    torch.testing.assert_close(scores, 0.8 * torch.tensor([2.0, -2.0]).sigmoid())
    plain = replace(seg, presence_logits=None).judged()
    assert bool((plain[0] == 3.0).all()) and torch.equal(plain[1], seg.iou_scores)


def test_what_the_mask_head_finds_nowhere_is_named_and_is_no_object() -> None:
    _, processor = build_sam2()
    there, nowhere = torch.full((16, 16), 3.0), torch.full((16, 16), -3.0)
    text = "Sure. [tag]dog[/tag]: Mask [SEG]. [tag]cat[/tag]: Mask [SEG]."
    answer = processor.to_answer(text, original_hw=[(40, 60)], masks=[(nowhere, 0.1), (there, 0.9)], boxes=[])
    assert [item.phrase for item in answer.objects] == ["cat"] and answer.not_found == ("dog",)
    assert answer.objects[0].mask is not None and answer.objects[0].mask.all()
    record = answer_to_json(answer)
    assert record["not_found"] == ["dog"]
    assert object_lines(record, several=False)[-1] == "  not in the image: dog"
    boxed, box = text.replace("[SEG]", "[SEG]; Location [LOC]"), (np.array([0.1, 0.1, 0.5, 0.5]), 0.9)
    boxes = processor.to_answer(boxed, original_hw=[(40, 60)], masks=[(nowhere, 0.1), (there, 0.9)], boxes=[box] * 2)
    assert boxes.not_found == ("dog",), "a box of what is not there says nothing"
    found = processor.to_answer(text, original_hw=[(40, 60)], masks=[(there, 0.9)] * 2, boxes=[])
    assert found.not_found == () and "not_found" not in answer_to_json(found)


@pytest.mark.parametrize("image_aspect_ratio", ["pad", "stretch"])
@pytest.mark.parametrize("size", [(40, 56), (90, 30), (64, 64)])
def test_masks_come_back_to_where_the_view_took_them_from(image_aspect_ratio: str, size: tuple[int, int]) -> None:
    rules = VisionViewRules(64, image_aspect_ratio)
    height, width = size
    view = rules.geometry(size)
    down, across = torch.meshgrid(torch.arange(16) * 4.0 + 2, torch.arange(16) * 4.0 + 2, indexing="ij")
    planes = torch.stack([across, down])  # each cell tells where its center lies in the view
    found = rules.to_original(planes, size)
    assert found.shape == (2, height, width)
    x = (torch.arange(width) + 0.5) * view.scale_xy[0] + view.offset_xy[0]
    y = (torch.arange(height) + 0.5) * view.scale_xy[1] + view.offset_xy[1]
    torch.testing.assert_close(found[0], x.clamp(2, 62).expand(height, width).float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], y[:, None].clamp(2, 62).expand(height, width).float(), rtol=0, atol=1e-3)
    inside = rules.covered(planes, size)
    low, high = view.offset_xy[0], view.offset_xy[0] + view.scale_xy[0] * width
    assert abs(float(inside[0].min()) - 2 - low) <= 2 and abs(float(inside[0].max()) + 2 - high) <= 2


def test_a_stretched_plane_is_enlarged_as_torch_does() -> None:
    plane = torch.randn(3, 16, 16, requires_grad=True)
    view = plan_view("stretch", (70, 100), 64)
    made = view_to_original(plane, view)
    wanted = functional.interpolate(plane[None], (100, 70), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-5)
    assert covered_of_view(plane, view).shape == (3, 16, 16)


def test_strips_longer_than_a_matrix_are_mapped_alike() -> None:
    plane = torch.randn(1, 8, 8)
    long = LONGEST_BY_MATRIX + 8
    for size in ((3, long), (long, 3)):
        made = view_to_original(plane, plan_view("stretch", (size[1], size[0]), 32))
        wanted = functional.interpolate(plane[None], size, mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(made, wanted, rtol=1e-3, atol=1e-3)


def test_answers_carry_masks_of_the_original_size(tmp_path: Path) -> None:
    model, processor = build_sam2()
    Image.fromarray(make_image(8, 40, 56)).save(tmp_path / "8.png")
    sample = replace(grounded_sample("8", 2), images=(tmp_path / "8.png",))
    with torch.no_grad():
        seg = model(**batch_of(processor, [grounded_sample("8", 2)]).inputs.as_kwargs()).seg
        (there,) = Predictor(model, processor).teacher_forced([sample])
        model.mask_head.decoder.pred_obj_score_head.proj_out.bias.fill_(-9.0)
        (gone,) = Predictor(model, processor).teacher_forced([sample])
    assert [thing.mask.shape for thing in there.objects] == [(40, 56)] * 2
    wanted = seg.iou_scores * seg.presence_logits.sigmoid()
    assert [thing.mask_score for thing in there.objects] == pytest.approx(wanted.tolist(), rel=1e-3)
    planes = processor.masks.to_original(seg.mask_logits_lowres, (40, 56)) > 0
    shares = [float((plane.numpy() == thing.mask).mean()) for plane, thing in zip(planes, there.objects, strict=True)]
    assert min(shares) > 0.99
    assert gone.objects == () and gone.not_found == tuple(thing.phrase for thing in there.objects)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{kind: sam2, encoder: vision}", "kind sam2 needs the table sam2"),
        ("{encoder: vision, sam: {config: {}}}", "kind sam has an encoder of its own"),
        ("{kind: sam2, encoder: vision, sam2: {config: {}}, sam: {config: {}}}", "kind sam2 takes no table sam"),
        ("{kind: sam2, encoder: vision, sam2: {path: x}}", "starts afresh; give sam2.config"),
        ("{kind: sam2, encoder: vision, score: mean_probability, sam2: {config: {}}}", "scores by iou_head"),
        ("{}", "kind sam needs the table sam"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_text(MaskHeadConfig, table, "mask")


def test_what_cannot_serve_it_is_refused_by_name() -> None:
    clip = "vision.tower={config: {hidden_size: 32, intermediate_size: 48, num_hidden_layers: 2, image_size: 32, " \
           "num_attention_heads: 4, patch_size: 8}}"  # fmt: skip
    with pytest.raises(ConfigError, match="reads maps of stride 4, 8 and 16; vision.tower gives no maps"):
        build_sam2(tower=clip)
    with pytest.raises(ConfigError, match="mask.encoder vision needs a vision strategy .*clip_mlp.*strategy is slime"):
        build_sam2("vision.strategy=slime")
    with pytest.raises(UserError, match="vision.image_aspect_ratio pad or stretch, not crop"):
        build_sam2("vision.image_aspect_ratio=crop")
    with pytest.raises(ConfigError, match="num_attention_heads: 32 heads do not divide 16"):
        build_sam2("mask.sam2.config.num_attention_heads=32")
    with pytest.raises(ConfigError, match="hidden_size: 36 is no multiple of 8"):
        build_sam2("mask.sam2.config.hidden_size=36")


def test_a_saved_folder_whose_heads_do_not_fit_is_refused(tmp_path: Path) -> None:
    model, processor = build_sam2()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    table = json.loads(config.read_text())
    for change, said in (
        ({"sam2_config": None}, "sam2_config: is missing, but the mask head is a sam2"),
        (
            {"mask_encoder": "own"},
            "sam2_config.model_type: a 'sam2_mask_decoder', but with mask_encoder own it is a 'sam2'",
        ),
        ({"mask_kind": "sam"}, "mask_encoder: a mask head sam has the encoder own, not vision"),
        ({"mask_kind": "sam3"}, "mask_kind"),
    ):
        config.write_text(json.dumps(table | change))
        with pytest.raises(UserError, match=said):
            load_folder(tmp_path, torch.float32)
