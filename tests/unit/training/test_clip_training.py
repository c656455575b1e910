"""Masks in videos are taught with the memory in the loop: what is judged, how far gradients run, and that it learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import grounded_sample, make_image
from tests.unit.modeling.small_segmenters import SIDE, build_segmenter

from ullava.batching.collate import Collator
from ullava.config.schema import LossConfig
from ullava.errors import SampleError
from ullava.examples import Batch, HeadImages
from ullava.geometry import VideoMasks
from ullava.modeling.heads.clip_masks import carried_masks, taught_masks
from ullava.structures import Clip, Region, Sample, Turn
from ullava.text.answers import grounded_answer
from ullava.training.loop.batches import counts_of
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

FRAMES, HEIGHT, WIDTH = 4, 32, 48
GONE, UNSEEN = 0, 2
"""The frame that does not show the square, and the one that nobody has annotated."""


def square(frame: int) -> np.ndarray:
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[8:22, 4 + 8 * frame : 18 + 8 * frame] = frame != GONE
    return mask


def moving(things: int = 1) -> tuple[Sample, np.ndarray]:
    """A red square that comes into view and moves right over gray; the frames are uint8 [T, H, W, 3]."""
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 110, dtype=np.uint8)
    for number in range(FRAMES):
        frames[number][square(number)] = (220, 30, 30)
    masks = [None if number == UNSEEN else square(number) for number in range(FRAMES)]
    over_time = VideoMasks.from_masks(masks, (HEIGHT, WIDTH), unannotated=[UNSEEN])
    regions = tuple(Region(f"square {number}", video_masks=over_time) for number in range(things))
    turn = Turn("<video>Segment what moves right.", grounded_answer(regions), regions)
    return Sample("clip", "test", "res", (), (turn,), videos=(Clip(Path("clip.gif"), length=FRAMES),)), frames


def build(kind: str = "sam2_video") -> tuple[Any, Any]:
    return build_segmenter(kind, None, f"vision.video_frames={FRAMES}")


def batch_with(processor: Any, *, image: bool = False, things: int = 1) -> Batch:
    sample, frames = moving(things)
    rows = [processor.encode(sample, [], videos=[frames])]
    if image:
        rows.insert(0, processor.encode(grounded_sample("image", 2), [make_image(3)]))
    return Collator(processor.tokenizer.pad_token_id)(rows)


def run(model: Any, processor: Any, batch: Batch, **inputs: Any) -> Any:
    output = model(**batch.inputs.as_kwargs(), **inputs)
    return output, GroundingObjective(LossConfig(), processor.masks)(output, batch.targets)


@pytest.mark.parametrize("kind", ["sam2_video", "sam2"])
def test_every_annotated_frame_is_judged_and_no_other(kind: str) -> None:
    model, processor = build(kind)
    batch = batch_with(processor, image=True, things=2)
    assert len(batch.targets.masks) == 2 + 2 * (FRAMES - 1) and batch.targets.absent == {2, 5}
    assert counts_of(batch).masks == 8 and batch.inputs.clip_frames.prompt.tolist() == [1, 1]
    apply_stage(model, "scratch")
    model.train()
    output, terms = run(model, processor, batch)
    ways = 2 if kind == "sam2_video" else 1
    assert output.seg.target.tolist() == [0, 1, *(list(range(2, 8)) * ways)]
    assert output.seg.row.tolist() == [0, 0, *([1] * 6 * ways)] and set(output.seg.image.tolist()) == {0, -1}
    assert all(terms[name].item() > 0 for name in ("bce", "dice", "presence"))
    terms.total.backward()
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert {name for name, value in model.named_parameters() if value.requires_grad} == reached
    if kind == "sam2_video":
        moved = [
            name for name in reached if "memory_" in name and float(model.get_parameter(name).grad.abs().sum()) > 0
        ]
        assert any("memory_attention" in name for name in moved) and any("memory_encoder" in name for name in moved)


def test_a_batch_without_clips_leaves_no_weight_waiting() -> None:
    model, processor = build()
    apply_stage(model, "scratch")
    model.train()
    rows = [processor.encode(grounded_sample("image", 1), [make_image(3)])]
    batch = Collator(processor.tokenizer.pad_token_id)(rows)
    output, terms = run(model, processor, batch)
    assert output.seg.target is None
    terms.total.backward()
    wanted = {name for name, value in model.named_parameters() if value.requires_grad}
    assert {name for name, value in model.named_parameters() if value.grad is not None} == wanted


def embedded(head: Any, count: int) -> Any:
    """What the encoder of ``head`` makes of so many images."""
    pixels = torch.stack([torch.from_numpy(make_image(n, SIDE, SIDE)).permute(2, 0, 1) for n in range(count)])
    every = torch.arange(count)
    return head.embed(HeadImages(pixels=pixels, sizes=torch.full((count, 2), SIDE), row_of_image=every), every)


def test_gradients_run_back_as_far_as_asked() -> None:
    model, _ = build()
    head = model.mask_head.eval()
    features = embedded(head, 4)
    given: list[torch.Tensor] = []
    values = []
    for backprop in (None, 1, 3):
        states = torch.ones(1, 32, requires_grad=True)
        masks = carried_masks(head, features, 4, states, torch.tensor([0]), [0], backprop)
        values.append(masks.mask_logits_lowres.detach())
        (gradient,) = torch.autograd.grad(masks.mask_logits_lowres[-1].sum(), states)
        given.append(gradient)
    assert torch.equal(values[0], values[1]) and torch.equal(values[0], values[2])
    assert float(given[0].abs().sum()) > 0 and torch.allclose(given[0], given[2])
    assert float(given[1].abs().sum()) == 0, "one step reaches the frame before, not the prompt"


def test_things_of_several_clips_are_carried_together_as_alone() -> None:
    model, processor = build()
    head = model.mask_head.eval()
    features = embedded(head, 8)
    states = torch.randn(4, 32, generator=torch.Generator().manual_seed(2))
    clips, prompts = torch.tensor([1, 0, 1, 0]), [2, 0, 0, 2]
    annotated = torch.tensor([[1, 1, 1, 1], [1, 0, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    with torch.no_grad():
        together = taught_masks(head, features, states, clips, annotated, prompts, None)
        anew, carried = together.parted(len(together.scores) // 2)
        carried_of = carried.mask_logits_lowres.split(annotated.sum(dim=1).tolist())
        anew_of = anew.mask_logits_lowres.split(annotated.sum(dim=1).tolist())
        for thing, clip in enumerate(clips.tolist()):
            own = head.taken(features, torch.arange(4 * clip, 4 * clip + 4))
            state, first = states[thing][None], torch.tensor([0])
            alone = carried_masks(head, own, 4, state, first, [prompts[thing]], None).mask_logits_lowres
            seen = annotated[thing]
            assert torch.allclose(carried_of[thing], alone[seen], atol=1e-3)
            asked = head.decode(state.expand(int(seen.sum()), -1), own, seen.nonzero()[:, 0]).mask_logits_lowres
            assert torch.allclose(anew_of[thing], asked, atol=1e-4)
    assert not torch.allclose(carried_of[1], carried_of[3][annotated[1]], atol=1e-3), "two things of one clip differ"


def test_what_does_not_fit_its_clip_is_refused() -> None:
    _, processor = build()
    sample, frames = moving()
    (turn,) = sample.turns

    def refused(masks: VideoMasks, **changes: Any) -> str:
        told = Turn(turn.question, turn.answer, (Region("square 0", video_masks=masks),))
        with pytest.raises(SampleError) as caught:
            processor.encode(replace(sample, turns=(told,), **changes), [], videos=[frames])
        return caught.value.reason

    whole = VideoMasks.from_masks([square(1)] * 4, (HEIGHT, WIDTH))
    short = VideoMasks.from_masks([square(1)] * 3, (HEIGHT, WIDTH))
    assert refused(short) == "clip.gif: masks of 3 frames, the clip says 4"
    assert refused(whole, videos=(Clip(Path("clip.gif")),)) == "clip.gif: masks of 4 frames, the clip says None"
    small = VideoMasks.from_masks([square(1)[:20]] * 4, (20, WIDTH))
    assert refused(small) == "clip.gif: masks of 48x20 on frames of 48x32 pixels"
    unseen = VideoMasks.from_rles([None] * 4, (HEIGHT, WIDTH), unannotated=range(4))
    assert refused(unseen) == "clip.gif: none of the 4 frames that are seen is annotated"


def learn(steps: int) -> tuple[float, float, Any, Any, Batch]:
    """Train heads and memory on one clip; the loss before and after."""
    torch.manual_seed(1)
    model, processor = build()
    batch = batch_with(processor)
    apply_stage(model, "scratch")
    optimizer = torch.optim.AdamW([value for value in model.parameters() if value.requires_grad], lr=2e-3)
    losses = []
    model.train()
    for _ in range(steps):
        _, terms = run(model, processor, batch, backprop_frames=2)
        optimizer.zero_grad()
        terms.total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(terms.total.item())
    return losses[0], losses[-1], model.eval(), processor, batch


def test_a_few_steps_on_a_clip_lower_its_loss() -> None:
    first, last, *_ = learn(6)
    assert last < 0.9 * first


@pytest.mark.exhaustive
def test_the_memory_path_learns_a_clip_by_heart() -> None:
    _, _, model, processor, batch = learn(150)
    with torch.no_grad():
        output = model(**batch.inputs.as_kwargs())
    carried = slice(FRAMES - 1, None)
    wanted = torch.stack([mask.bool() for mask in batch.targets.masks])
    full = processor.masks.to_original(output.seg.mask_logits_lowres[carried], (HEIGHT, WIDTH)) > 0
    presence = output.seg.presence_logits[carried]
    assert (presence > 0).tolist() == [False, True, True]
    for mask, truth in zip(full[1:], wanted[1:], strict=True):
        assert float((mask & truth).sum() / (mask | truth).sum()) > 0.7
