"""Masks through the frames of a video: streamed, carried both ways, the same as in one piece, within bounded memory."""

from __future__ import annotations

import json
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import build_small
from tests.unit.modeling.small_sam2 import build_sam2
from tests.unit.modeling.small_segmenters import build_segmenter

from ullava.batching.collate import Collator
from ullava.errors import DataError, UserError
from ullava.examples import HeadImages
from ullava.geometry import VideoMasks
from ullava.inference import clip_masks
from ullava.inference.answering import answer_one
from ullava.inference.batch import Question
from ullava.inference.clip_masks import ClipChoice, ClipTracker
from ullava.inference.predictor import Predictor
from ullava.media.video import iter_frames
from ullava.modeling.heads.clip_masks import carried_masks
from ullava.modeling.heads.outputs import SegOutput
from ullava.modeling.model.clips import embed_frames
from ullava.structures import Clip, Region, Sample, Turn

LENGTH, SIZE_HW = 7, (20, 28)


def film(path: Path, length: int = LENGTH, size_hw: tuple[int, int] = SIZE_HW) -> Path:
    """A GIF of noise, other in every frame."""
    noise = np.random.default_rng(length).integers(0, 256, (length, *size_hw, 3), dtype=np.uint8)
    first, *others = [Image.fromarray(frame) for frame in noise]
    first.save(path, save_all=True, append_images=others)
    return path


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """A random model with a memory, whose every word is [SEG]; things are there in about half of the frames."""
    model, processor = build_segmenter("sam2_video")
    said = model.core.logits

    def always_seg(hidden: torch.Tensor) -> torch.Tensor:
        logits = said(hidden)
        logits[..., model.config.seg_id] = 1e4
        return logits

    model.core.logits = always_seg
    with torch.no_grad():
        for name, value in model.mask_head.named_parameters():
            if "vision_encoder" not in name and value.dim() > 1:
                value.copy_(torch.randn_like(value) * 0.8 * value[0].numel() ** -0.5)
    return Predictor(model, processor)


@pytest.fixture(scope="module")
def movie(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("films") / "a.gif")


def in_one_piece(predictor: Predictor, movie: Path, states: torch.Tensor, prompts: list[int]) -> Any:
    """The masks that training makes of all frames at once."""
    views = [torch.from_numpy(predictor.processor.masks.view(frame)) for _, frame in iter_frames(movie)]
    pixels = torch.stack(views)
    sizes = torch.full((len(pixels), 2), pixels.shape[-1])
    features = embed_frames(
        predictor.model, HeadImages(pixels=pixels, sizes=sizes, row_of_image=torch.arange(len(pixels)))
    )
    clips = torch.zeros(len(states), dtype=torch.long)
    return carried_masks(predictor.model.mask_head, features, len(pixels), states, clips, prompts, None)


def center_presence(predictor: Predictor, movie: Path, states: torch.Tensor) -> None:
    """Move the presence so that half of what is carried is there."""
    told = in_one_piece(predictor, movie, states, [3] * len(states)).presence_logits
    told = told.sort().values
    middle = told[len(told) // 2 - 1 : len(told) // 2 + 1].mean()
    predictor.model.mask_head.sam.mask_decoder.pred_obj_score_head.proj_out.bias.data.sub_(middle)


@torch.inference_mode()
def test_streamed_masks_are_those_of_the_training_path_in_both_directions(predictor: Predictor, movie: Path) -> None:
    states = torch.randn(2, 32, generator=torch.Generator().manual_seed(5))
    center_presence(predictor, movie, states)
    tracker = ClipTracker(predictor.model, predictor.processor, ClipChoice("memory", 3))
    for backward_pixels in (clip_masks.BACKWARD_PIXELS, 1):  # all frames before the prompt at once, one at a time
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(clip_masks, "BACKWARD_PIXELS", backward_pixels)
            found = tracker.track(movie, states, [0, 0])
        wanted = in_one_piece(predictor, movie, states, [3, 3])
        logits = wanted.mask_logits_lowres.unflatten(0, (2, LENGTH))
        presence = wanted.presence_logits.unflatten(0, (2, LENGTH))
        gone = 0
        for thing in range(2):
            assert len(found[thing].masks) == LENGTH and found[thing].masks.size_hw == SIZE_HW
            assert found[thing].presence == pytest.approx(presence[thing].sigmoid().tolist(), rel=1e-3, abs=1e-4)
            for frame in range(LENGTH):
                whole = predictor.processor.masks.to_original(logits[thing, frame][None], SIZE_HW)[0] > 0
                there = bool(presence[thing, frame] > 0)
                gone += not there
                wrong = (found[thing].masks.mask(frame) != (whole.numpy() & there)).mean()
                assert wrong < 0.01, "float32's rounding moves a pixel at the edge"
        assert 0 < gone < 2 * LENGTH


@torch.inference_mode()
def test_the_prompt_is_the_first_of_a_few_frames_that_shows_the_thing(predictor: Predictor, movie: Path) -> None:
    tracker = ClipTracker(predictor.model, predictor.processor, ClipChoice("memory"))
    states = torch.randn(24, 32, generator=torch.Generator().manual_seed(6)) * 4
    candidates = [place * LENGTH // 5 for place in range(5)]
    frames = [frame for number, frame in iter_frames(movie) if number in candidates]
    told = torch.stack([tracker._anew(tracker._embedded(frame), states).presence_logits for frame in frames], dim=1)
    predictor.model.mask_head.sam.mask_decoder.pred_obj_score_head.proj_out.bias.data.sub_(told.median() + 1e-3)
    told = told - told.median() - 1e-3
    wanted = []
    for row in told.tolist():
        there = [number for number, logit in zip(candidates, row, strict=True) if logit > 0]
        wanted.append(there[0] if there else candidates[row.index(max(row))])
    assert tracker._prompts(movie, states) == wanted
    assert len(set(wanted)) > 1, "the frames differ"


def test_an_answer_holds_masks_over_time_as_json_too(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    question = Question("q", (), "Segment the circle that moves left.", (movie,))
    settings = {"model": "m", "max_new_tokens": 2, "prompt_frame": 4}
    record = answer_one(predictor, question, tmp_path / "out", settings)
    answer = predictor.answer(question.prompt, video=movie, max_new_tokens=2, prompt_frame=4)
    assert answer.text.replace(" ", "") == "[SEG][SEG]" and len(answer.presence) == 2
    assert len(answer.objects) + len(answer.not_found) == 2 and answer.objects
    for item, told in zip(answer.objects, record["objects"], strict=True):
        assert item.mask is None and item.masks is not None and len(item.over_time.scores) == LENGTH
        assert VideoMasks.from_json(told["masks"]) == item.masks and told["video"] == 0 and told["mask"] is None
        assert told["frame_presence"] == [round(value, 4) for value in item.over_time.presence]
        assert len(told["frame_scores"]) == LENGTH and item.score == pytest.approx(item.over_time.score)
    assert json.loads((tmp_path / "out" / "answer.json").read_text()) == record
    frames = predictor.answer(question.prompt, video=movie, max_new_tokens=1, clip_masks="frames")
    (prompted, *_) = frames.objects or [None]
    assert prompted is None or len(prompted.masks) == LENGTH
    none = predictor.answer(question.prompt, video=movie, max_new_tokens=1, clip_masks="none")
    assert none.objects == () and none.presence == ()


@pytest.mark.parametrize("build", [build_small, build_sam2], ids=["sam", "sam2 on the tower"])
@torch.inference_mode()
def test_asked_anew_every_frame_is_an_image_to_any_head(build: Any, movie: Path, tmp_path: Path) -> None:
    model, processor = build()
    predictor = Predictor(model, processor)
    region = Region("it", video_masks=VideoMasks.absent(SIZE_HW, LENGTH))
    turn = Turn("<video>Segment it.", "Sure. [SEG]", (region,))
    asked = Sample("clip", "t", "res", (), (turn,), videos=(Clip(movie, length=LENGTH),))
    (answer,) = predictor.teacher_forced([asked], clip_masks="frames")
    inputs = Collator(processor.tokenizer.pad_token_id)(predictor.encode([asked], prompt_only=False)).inputs
    states = model(**inputs.as_kwargs()).clips.states
    assert states.shape == (1, 32)
    masks = []
    for number, frame in iter_frames(movie):
        Image.fromarray(frame).save(tmp_path / f"{number}.png")
        sample = Sample("image", "t", "res", (tmp_path / f"{number}.png",), (Turn("<image>Segment it.", ""),))
        shown = Collator(processor.tokenizer.pad_token_id)(predictor.encode([sample], prompt_only=True)).inputs
        view = shown.mask_images
        if view is None:
            view = model.core.encode_images(shown).pyramid
        made = model.mask_head.decode(states, model.mask_head.embed(view, torch.arange(1)), torch.zeros(1).long())
        logits, _ = SegOutput(made.mask_logits_lowres, made.scores, made.presence_logits).judged()
        masks.append((processor.masks.to_original(logits, frame.shape[:2])[0] > 0).numpy())
    found = answer.objects[0].masks if answer.objects else VideoMasks.absent(SIZE_HW, LENGTH)
    assert any(mask.any() for mask in masks)
    assert all((found.mask(number) == mask).mean() > 0.99 for number, mask in enumerate(masks))


def test_what_cannot_be_asked_of_a_clip_is_one_line(predictor: Predictor, movie: Path, tmp_path: Path) -> None:
    def refused(who: Predictor = predictor, **options: Any) -> str:
        with pytest.raises(UserError) as caught:
            who.answer("Segment it.", video=movie, max_new_tokens=1, **options)
        (line,) = caught.value.problems
        return line

    assert refused(prompt_frame=LENGTH) == f"{movie}: prompt_frame 7: the clip has frames 0 to 6"
    assert "prompt_frame is of masks that are carried by memory" in refused(prompt_frame=1, clip_masks="frames")
    assert refused(clip_masks="memry") == "masks over time: unknown 'memry'; did you mean 'memory'?"
    without = Predictor(*build_small())
    assert "mask.kind sam has no memory of frames" in refused(without, clip_masks="memory")
    assert without.answer("Segment it.", video=movie, max_new_tokens=1).objects == ()
    (tmp_path / "empty.gif").write_bytes(b"GIF89a" + bytes([1, 0, 1, 0, 0, 0, 0]) + b";")
    with pytest.raises(DataError, match="holds no frame"):
        ClipChoice("memory").check_clip(tmp_path / "empty.gif")


def live_frames(predictor: Predictor, path: Path, prompt: int, patch: pytest.MonkeyPatch) -> int:
    """The most frames that were alive at a time while a clip was tracked."""
    alive: set[int] = set()
    most = 0

    def watched(*given: Any) -> Iterator[tuple[int, np.ndarray]]:
        nonlocal most
        for number, frame in iter_frames(*given):
            alive.add(id(frame))
            weakref.finalize(frame, alive.discard, id(frame))
            most = max(most, len(alive))
            yield number, frame
            del frame

    patch.setattr("ullava.media.video.iter_frames", watched)  # the way back reads through it
    patch.setattr(clip_masks, "iter_frames", watched)
    patch.setattr(clip_masks, "BACKWARD_PIXELS", 10 * 8 * 8)
    tracker = ClipTracker(predictor.model, predictor.processor, ClipChoice("memory", prompt))
    with torch.inference_mode():
        (found,) = tracker.track(path, torch.randn(1, 32), [0])
    assert len(found.masks) == len(found.presence)
    assert watched is clip_masks.iter_frames
    return most


def test_a_clip_is_streamed_with_few_frames_alive(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "long.gif", 200, (8, 8))
    assert 10 <= live_frames(predictor, path, 30, monkeypatch) <= 13, "the ten on the way back, and those in hand"


@pytest.mark.exhaustive
def test_three_thousand_frames_take_no_more(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "long.gif", 3000, (8, 8))
    assert live_frames(predictor, path, 1500, monkeypatch) <= 13
