"""Videos in native cores: rows, pixels, positions and logits of transformers' own, alone and among images and words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import grounded_sample, make_image
from tests.unit.modeling.native_models import (
    VIDEOS,
    build_native,
    check_answers,
    native_yaml,
    needed_packages,
    write_processor,
)
from transformers import AutoProcessor

from ullava.batching.collate import Collator
from ullava.errors import SampleError, UserError
from ullava.examples import Batch, ModelInputs
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.outline import outline
from ullava.structures import Clip, Sample, Turn
from ullava.training.optim.stages import apply_stage

FRAMES = 4
Built = tuple[Any, Any, Any]


@pytest.fixture(scope="module", params=VIDEOS)
def native(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Model, processor, and transformers' own processor of the same family; tests must not change them."""
    needed_packages(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    model, processor = build_native(request.param, folder, (f"core.video_frames={FRAMES}",))
    return model, processor, AutoProcessor.from_pretrained(str(folder / "processor"))


def frames(seed: int) -> Any:
    """A clip, uint8 [T, 36, 48, 3]."""
    return np.stack([make_image(seed + number, 48, 36) for number in range(FRAMES)])


def asked(*kinds: str) -> list[dict[str, Any]]:
    parts = [{"type": kind} for kind in kinds]
    return [{"role": "user", "content": [*parts, {"type": "text", "text": "What happens?"}]}]


def clip_row(name: str, question: str, clips: tuple[str, ...], *images: str) -> Sample:
    turns = (Turn(question, "A thing moves."),)
    paths = tuple(Path(path) for path in images)
    return Sample(name, "test", "vqa", paths, turns, videos=tuple(Clip(Path(path)) for path in clips))


CLIPS = {"v.mp4": 1, "w.mp4": 7}


def rows() -> list[Sample]:
    """A clip, an image with a thing in it, two clips in one row, and words alone."""
    words = Sample("t", "test", "text", (), (Turn("How many is two and two?", "Four."),))
    two = clip_row("two", "<video>Look at both.<video>Which is longer?", ("w.mp4", "v.mp4"))
    return [clip_row("one", "<video>What happens?", ("v.mp4",)), grounded_sample("a", 1), two, words]


def batch_of(processor: Any, samples: list[Sample], *, prompts: bool = False) -> Batch:
    made = [
        processor.encode(
            sample,
            [make_image(1) for _ in sample.images],
            videos=[frames(CLIPS[clip.path.name]) for clip in sample.videos],
            prompt_only=prompts,
        )
        for sample in samples
    ]
    return Collator(processor.tokenizer.pad_token_id, "left" if prompts else "right")(made)


@pytest.mark.parametrize("kinds", [("video",), ("video", "video"), ("image", "video")])
def test_rows_logits_and_answers_are_transformers_own(native: Built, kinds: tuple[str, ...]) -> None:
    model, processor, theirs = native
    if "image" in kinds and processor.vision.shares_tokens:
        pytest.skip("such a row is refused: test_a_row_of_both_is_refused_where_their_tokens_are_the_same")
    clips = [frames(number) for number in range(kinds.count("video"))]
    images = [Image.fromarray(make_image(1))] * kinds.count("image")
    text = processor.apply_chat_template(asked(*kinds), add_generation_prompt=True)
    ours = processor(text=text, videos=clips, images=images or None)
    told = {"do_sample_frames": False, "video_metadata": [processor.vision.times(clip) for clip in clips]}
    wanted = theirs(
        text=[str(text)], videos=clips, images=images or None, return_tensors="pt", add_special_tokens=False,
        videos_kwargs=told,
    )  # fmt: skip
    assert torch.equal(ours["input_ids"], wanted["input_ids"])
    prepared = model.core.prepare(ModelInputs.from_kwargs(ours), left_pad=True)
    given = {name: value for name, value in wanted.items() if name not in ("input_ids", "attention_mask")}
    assert {name for name in given if "token_type" not in name} <= prepared.arguments.keys()
    for name in given.keys() & prepared.arguments.keys():
        found, value = prepared.arguments[name], torch.as_tensor(given[name])
        torch.testing.assert_close(found.reshape(-1).double(), value.reshape(-1).double())
    check_answers(model, ours, wanted, 6)


def test_a_row_does_not_depend_on_who_shares_its_batch(native: Built) -> None:
    model, processor, _ = native
    with torch.no_grad():
        batch = batch_of(processor, rows())
        together = model(**batch.inputs.as_kwargs())
        for number, sample in enumerate(rows()):
            alone = model(**batch_of(processor, [sample]).inputs.as_kwargs())
            length = alone.logits.shape[1]
            torch.testing.assert_close(together.logits[number, :length], alone.logits[0], rtol=1e-4, atol=1e-4)
    assert together.seg.row.tolist() == [1] and together.seg.image.tolist() == [0]
    items = model.core.video_items(batch.inputs.input_ids, batch.inputs)[:, -1]
    assert items.tolist() == [0, -1, 2, -1], "a row of two clips speaks of its last one"
    assert model.core.items(batch.inputs.input_ids, batch.inputs)[:, -1].tolist() == [-1, 0, -1, -1]


def test_questions_about_clips_are_answered_together_as_alone_and_a_step_trains(native: Built) -> None:
    model, processor, _ = native
    made = [
        processor.encode(sample, [], videos=[frames(CLIPS[clip.path.name]) for clip in sample.videos], prompt_only=True)
        for sample in (rows()[0], rows()[2])
    ]
    predictor = Predictor(model, processor)
    together = predictor.answer_examples(made, max_new_tokens=8)
    assert [answer.text for answer in together] == [
        predictor.answer_examples([row], max_new_tokens=8)[0].text for row in made
    ]
    model, processor = build_again(native)
    apply_stage(model.train(), "scratch")
    output = model(**batch_of(processor, rows()).inputs.as_kwargs())
    (output.loss + output.idle).backward()
    seen = [value for name, value in model.named_parameters() if name.startswith("native.") and value.requires_grad]
    assert all(value.grad is not None and bool(value.grad.isfinite().all()) for value in seen)
    tower = model.core.modules()["native"].get_encoder(modality="image")
    assert any(float(value.grad.abs().max()) > 0 for value in tower.parameters())


def build_again(native: Built) -> tuple[Any, Any]:
    """A copy of the model, which may be changed, and its processor."""
    from copy import deepcopy

    return deepcopy(native[0]), native[1]


def test_a_row_of_both_is_refused_where_their_tokens_are_the_same(native: Built) -> None:
    model, processor, _ = native
    both = clip_row("both", "<image><video>What happens?", ("v.mp4",), "a.png")
    if not processor.vision.shares_tokens:
        assert model(**batch_of(processor, [both]).inputs.as_kwargs()).loss.isfinite()
        return
    with pytest.raises(SampleError, match="writes videos with the tokens of images"):
        batch_of(processor, [both])
    inputs = batch_of(processor, rows()).inputs
    untold = replace(inputs, videos=replace(inputs.videos, row=None))
    with pytest.raises(UserError, match="no image_row and video_row"):
        model.core.prepare(untold, left_pad=False)


def test_a_number_of_frames_is_the_models_own(native: Built, tmp_path: Path) -> None:
    _, processor, _ = native
    with pytest.raises(SampleError, match=f"3 frames, the model sees {FRAMES}"):
        processor.encode(rows()[0], [], videos=[frames(1)[:3]])
    assert processor.video_frames == FRAMES


def test_the_outline_counts_the_tokens_of_a_video(tmp_path: Path) -> None:
    needed_packages("internvl")
    config = native_yaml("internvl", write_processor("internvl", tmp_path / "p"), (f"core.video_frames={FRAMES}",))
    told = outline(config, tmp_path)
    assert told.frames == FRAMES and told.video is not None and told.video.low == 4 * FRAMES
