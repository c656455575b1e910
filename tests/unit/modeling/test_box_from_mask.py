"""Boxes that are read off the mask which the mask head decodes of [LOC]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import ROOT, batch_of, build_small, grounded_sample, make_image
from tests.unit.modeling.small_sam2 import build_sam2
from tests.unit.modeling.test_network import Script

from ullava.batching.collate import Collator
from ullava.config.load import parse_text
from ullava.config.schema import BoxHeadConfig, LossConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.geometry.box_tensors import paired_iou_giou
from ullava.losses import giou_loss, l1_loss
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.fresh_heads import build_fresh_box
from ullava.modeling.heads.box_from_mask import MaskBoxHead
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

ON_MASK = "box={kind: mask, width: 16, frame: padsq}"


def rectangles(count: int, seed: int, side: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [count, side, side] of filled rectangles with noise, and their boxes as shares [count, 4]."""
    rng = np.random.default_rng(seed)
    planes, boxes = rng.normal(-3.0, 0.5, (count, side, side)), np.zeros((count, 4))
    for plane, box in zip(planes, boxes, strict=True):
        x0, y0 = rng.integers(0, side - 6, 2)
        x1, y1 = x0 + rng.integers(4, side - x0), y0 + rng.integers(4, side - y0)
        plane[y0:y1, x0:x1] += 6.0
        box[:] = np.array([x0, y0, x1, y1]) / side
    return torch.tensor(planes, dtype=torch.float32), torch.tensor(boxes, dtype=torch.float32)


def test_it_learns_where_masks_begin_and_end() -> None:
    torch.manual_seed(0)
    head = MaskBoxHead(16)
    optimizer = torch.optim.Adam(head.parameters(), lr=5e-3)
    for step in range(150):
        planes, boxes = rectangles(16, step)
        (offered,) = head(planes)
        loss = l1_loss(offered.boxes_xyxy_head[:, 0], boxes) + giou_loss(offered.boxes_xyxy_head[:, 0], boxes)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    planes, boxes = rectangles(64, 10_000)
    found = head(planes)[0].boxes_xyxy_head[:, 0].detach()
    overlap = paired_iou_giou(found, boxes)[0]
    assert float(overlap.mean()) > 0.85, "new rectangles"
    turned = head(planes.transpose(1, 2))[0].boxes_xyxy_head[:, 0]
    torch.testing.assert_close(turned, found[:, [1, 0, 3, 2]])


def test_masks_and_boxes_come_from_one_run_and_are_the_same_alone(tmp_path: Path) -> None:
    model, processor = build_sam2(ON_MASK)
    given = [grounded_sample("1", 2), grounded_sample("2", 1)]
    batch = batch_of(processor, given)
    runs = []
    model.mask_head.neck.register_forward_hook(lambda *_: runs.append(1))
    with torch.no_grad():
        together = model(**batch.inputs.as_kwargs())
        alone = model(**batch_of(processor, given[1:]).inputs.as_kwargs())
    assert runs == [1, 1], "one embedding a pass"
    boxes = together.loc.boxes_xyxy_head
    assert boxes.shape == (3, 4) and together.loc.image.tolist() == [0, 0, 1]
    assert bool((boxes[:, 2:] >= boxes[:, :2]).all()) and float(boxes.min()) >= 0 and float(boxes.max()) <= 1
    torch.testing.assert_close(alone.loc.boxes_xyxy_head[0], boxes[2], rtol=1e-4, atol=1e-5)
    assert bool((together.loc.scores <= together.loc.token_probability).all())

    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    with torch.no_grad():
        after = again(**batch_of(processor_again, given).inputs.as_kwargs())
    torch.testing.assert_close(after.loc.boxes_xyxy_head, boxes, rtol=1e-4, atol=1e-5)


def test_boxes_teach_the_mask_head() -> None:
    model, processor = build_sam2(ON_MASK)
    apply_stage(model, "scratch")
    batch = batch_of(processor, [grounded_sample("1", 2)])
    output = model.train()(**batch.inputs.as_kwargs())
    boxes_alone = LossConfig(ce=0.0, bce=0.0, dice=0.0, presence=0.0)
    GroundingObjective(boxes_alone, processor.masks)(output, batch.targets).total.backward()
    for part in ("box_head.edges", "mask_head.decoder", "mask_head.projector", "mask_head.neck", "vision.tower"):
        moved = [
            p.grad.abs().sum() for name, p in model.named_parameters() if name.startswith(part) and p.grad is not None
        ]
        assert float(sum(moved)) > 0, part


def test_generated_boxes_are_those_of_the_pass_that_is_given_the_words() -> None:
    model, processor = build_sam2(ON_MASK)
    sample = grounded_sample("3", 2)
    told = model(**batch_of(processor, [sample]).inputs.as_kwargs()).loc
    prompt = processor.encode(sample, [make_image(3, 40, 56)], prompt_only=True)
    wanted = processor.encode(sample, [make_image(3, 40, 56)]).input_ids[len(prompt.input_ids) :].tolist()
    inputs, _ = Collator(processor.tokenizer.pad_token_id, "left")([prompt]).usable()
    made = model.generate_grounded(
        inputs, max_new_tokens=len(wanted), logits_processor=[Script(wanted)], do_sample=False
    )
    torch.testing.assert_close(made.loc.boxes_xyxy_head, told.boxes_xyxy_head, rtol=1e-3, atol=1e-4)


def test_words_alone_say_a_box_of_nothing() -> None:
    model, processor = build_sam2(ON_MASK)
    inputs, _ = Collator(processor.tokenizer.pad_token_id)(
        [processor.encode(grounded_sample("1", 1), [make_image(1, 40, 56)])]
    ).usable()
    blind: Any = type(inputs).from_kwargs({"input_ids": inputs.input_ids[:, -12:], "labels": inputs.labels[:, -12:]})
    blind.input_ids[:] = torch.where(blind.input_ids == model.config.image_patch_id, 5, blind.input_ids)
    output = model(**blind.as_kwargs())
    assert len(output.loc.row) == 0 and output.loc.boxes_xyxy_head.shape == (0, 4)


def test_a_trained_system_takes_it_in_the_place_of_its_box_head() -> None:
    model, processor = build_sam2()
    kept = model.mask_head.state_dict()
    box = BoxHeadConfig(kind="mask", width=16, frame="padsq")
    again, processor = build_fresh_box(model, processor, box, ROOT, site=Site(Path("model.yaml"), "box"))
    assert again is model and again.config.box_kind == "mask" and isinstance(again.box_head, MaskBoxHead)
    assert all(torch.equal(value, kept[name]) for name, value in again.mask_head.state_dict().items())
    boxes = again(**batch_of(processor, [grounded_sample("1", 2)]).inputs.as_kwargs()).loc.boxes_xyxy_head
    assert boxes.shape == (2, 4) and bool((boxes[:, 2:] >= boxes[:, :2]).all())


@pytest.mark.parametrize(
    ("build", "overrides", "said"),
    [
        (build_small, (ON_MASK,), "box.kind mask reads the plane of SAM 2, EdgeTAM or SAM 3, not that of sam"),
        (build_sam2, ("box={kind: mask, frame: norm}",), "has the frame padsq"),
        (build_sam2, ("box={kind: mask, detector: {path: x}}",), "kind mask takes no detector"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, overrides: tuple[str, ...], said: str) -> None:
    with pytest.raises((UserError, ConfigError), match=said):
        build(overrides) if build is build_small else build(*overrides)


def test_a_kind_that_is_close_is_named() -> None:
    with pytest.raises(ConfigError, match="mask"):
        parse_text(BoxHeadConfig, "kind: masks\n", "box")
