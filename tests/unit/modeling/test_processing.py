from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import grounded_sample, make_image

from ullava.errors import SampleError
from ullava.examples import TokenCount
from ullava.geometry import plan_view
from ullava.inference.export import object_to_json
from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD, normalize_u8, render_view, resize_u8
from ullava.modeling.vision.strategy import ItemNotes, VisionInputs
from ullava.structures import Region, Sample, Turn
from ullava.text.answers import grounded_answer


def test_supervised_tokens_are_the_answer_alone(small: tuple[Any, Any]) -> None:
    processor = small[1]
    sample = grounded_sample("a", 2)
    example = processor.encode(sample, [make_image(0)])
    said = processor.tokenizer.decode(example.labels[example.labels != -100].tolist())
    assert said.strip() == sample.turns[0].answer + processor.tokenizer.eos_token
    assert (example.input_ids == processor.token_ids["image_patch_id"]).sum() == processor.vision.num_tokens == 16
    assert len(example.masks) == 2 and example.boxes_xyxy_head.shape == (2, 4)
    np.testing.assert_allclose(example.boxes_xyxy_head[0], [6 / 56, 4 / 40, 30 / 56, 20 / 40], rtol=1e-6)


def test_the_prompt_is_the_beginning_of_the_training_row(small: tuple[Any, Any]) -> None:
    processor = small[1]
    sample = grounded_sample("a")
    whole = processor.encode(sample, [make_image(0)]).input_ids
    prompt = processor.encode(sample, [make_image(0)], prompt_only=True)
    assert whole[: len(prompt.input_ids)].tolist() == prompt.input_ids.tolist()
    assert len(prompt.masks) == 0 and prompt.images[0].sam_u8 is not None


def change(sample: Sample, **turn: Any) -> Sample:
    return replace(sample, turns=(replace(sample.turns[0], **turn),))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda s: change(s, answer=s.turns[0].answer.replace("[SEG]", "")), r"0 \[SEG\] in the answers, 1 masks"),
        (lambda s: change(s, answer=s.turns[0].answer + " [LOC]"), r"2 \[LOC\] in the answers, 1 boxes"),
        (lambda s: change(s, question="Where is it?"), "0 <image> markers, 1 images"),
        (lambda s: change(s, question="<image><image>Compare."), "2 <image> markers, 1 images"),
        (lambda s: change(s, question="<image>Say [SEG] please."), r"special token \[SEG\]"),
        (lambda s: change(s, question="<image>Segment cat</s>."), "holds the tokenizer's special token </s>"),
        (lambda s: change(s, question="<image>" + "very long " * 200), "more than max_length 256; nothing is cut"),
        (lambda s: change(s, regions=(Region("x", np.ones((8, 8), bool), (0, 0, 8, 8)),)), "a mask of 8x8"),
        (lambda s: change(s, question="<image>\udce4"), "its words hold half of a character"),
        (lambda s: replace(s, turns=()), "0 <image> markers"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(small: tuple[Any, Any], broken: Any, message: str) -> None:
    with pytest.raises(SampleError, match=message) as caught:
        small[1].encode(broken(grounded_sample("the-sample")), [make_image(0)])
    assert str(caught.value).startswith("the-sample: ")


def test_ids_become_objects_in_original_pixels(small: tuple[Any, Any]) -> None:
    processor = small[1]
    mask = np.zeros((40, 56), dtype=bool)
    mask[8:24, 14:42] = True
    text = grounded_answer([Region("thing", mask, (14.0, 8.0, 42.0, 24.0))])
    view = plan_view("pad_br", (56, 40), processor.sam_side)
    small_mask = np.asarray(Image.fromarray(mask).resize((32, 23), Image.Resampling.BILINEAR))
    logits = torch.full((32, 32), -9.0)
    logits[:23] = torch.where(torch.from_numpy(small_mask.copy()), 9.0, -9.0)
    answer = processor.to_answer(
        text,
        original_hw=[(40, 56)],
        masks=[(logits, 1.7)],
        boxes=[(np.array([14 / 56, 8 / 40, 42 / 56, 24 / 40]), 0.5)],
    )
    found = answer.objects[0]
    assert found.phrase == "thing" and text[slice(*found.span)].startswith("[tag]thing[/tag]: Mask [SEG]")
    assert found.box_xyxy_px == pytest.approx((14, 8, 42, 24)) and found.score == 1.0 and found.box_score == 0.5
    assert found.mask is not None and found.mask.shape == (40, 56)
    assert (found.mask & mask).sum() / (found.mask | mask).sum() > 0.85
    assert view.size_wh == (32, 32)


def test_masks_of_one_phrase_are_a_group(small: tuple[Any, Any]) -> None:
    text = "There are [tag]two cups[/tag][SEG][SEG] and [tag]a fork[/tag][SEG]."
    masks = [(torch.full((32, 32), 9.0), 1.0)] * 3
    found = small[1].to_answer(text, original_hw=[(40, 56)], masks=masks, boxes=[]).objects
    assert [(item.phrase, item.group) for item in found] == [("two cups", 0), ("two cups", 0), ("a fork", 1)]
    plain = "There are two cups and a fork."
    assert [plain[slice(*item.plain_span)] for item in found] == [item.phrase for item in found]
    told = [object_to_json(item) for item in found]
    assert [thing["group"] for thing in told] == [0, 0, 1] and told[0]["plain_span"] == [10, 18]


def test_a_grounding_token_without_a_image_is_no_object(small: tuple[Any, Any]) -> None:
    assert small[1].to_answer("It is [SEG].", original_hw=[], masks=[], boxes=[]).objects == ()


def test_text_stops_at_the_end_token(small: tuple[Any, Any]) -> None:
    tokenizer = small[1].tokenizer
    ids = tokenizer(" Yes.", add_special_tokens=False)["input_ids"]
    text, finished, count = small[1].decode_text([*ids, tokenizer.eos_token_id, tokenizer.pad_token_id])
    assert (text, finished, count) == ("Yes.", True, len(ids) + 1)
    assert small[1].decode_text(ids)[1] is False


@pytest.mark.parametrize(("mode", "resample", "levels"), [("bilinear", 2, 1), ("bicubic", 3, 2)])
def test_resizing_agrees_with_pillow(mode: str, resample: int, levels: int) -> None:
    image = make_image(3, 120, 160)
    for height, width in ((224, 224), (60, 80), (768, 1024)):
        ours = resize_u8(image, height, width, mode).astype(int)
        theirs = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling(resample))).astype(int)
        difference = np.abs(ours - theirs)
        assert difference.max() <= levels
        assert (difference > 0).mean() < 0.02


def test_views_place_the_image_where_their_geometry_says() -> None:
    image = np.zeros((40, 80, 3), dtype=np.uint8)
    image[10:20, 40:60] = 200
    for kind in ("pad_center", "pad_br", "stretch"):
        view = plan_view(kind, (80, 40), 64)
        pixels = render_view(image, view, mode="bilinear", fill=7)
        x0, y0, x1, y1 = view.to_view([40, 10, 60, 20]).round().astype(int)
        assert pixels[:, y0 + 1 : y1 - 1, x0 + 1 : x1 - 1].min() > 150
        outside = pixels.copy()
        outside[:, y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = 0
        assert outside.max() <= 7 + (kind == "pad_center") * 1


def test_uint8_is_normalized_on_the_device() -> None:
    pixels = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    ours = normalize_u8(pixels, CLIP_MEAN, CLIP_STD, torch.float32)
    mean, std = torch.tensor(CLIP_MEAN)[None, :, None, None], torch.tensor(CLIP_STD)[None, :, None, None]
    torch.testing.assert_close(ours, (pixels.float() / 255 - mean) / std, rtol=1e-5, atol=1e-5)
    as_given = torch.randn(1, 3, 4, 4)
    assert normalize_u8(as_given, CLIP_MEAN, CLIP_STD, torch.float32) is as_given


def test_several_images_in_one_row(small: tuple[Any, Any]) -> None:
    sample = Sample("two", "test", "vqa", (Path("a"), Path("b")), (Turn("<image><image>Same?", "No."),))
    example = small[1].encode(sample, [make_image(0), make_image(1)])
    assert (example.input_ids == small[1].token_ids["image_patch_id"]).sum() == 2 * small[1].vision.num_tokens


class OpenCount:
    """A strategy whose number of tokens only the network settles."""

    view_names = ("base",)
    reads_text = False

    def __init__(self, plain: Any) -> None:
        self.plain = plain

    def preprocess(self, image_rgb_u8: np.ndarray, notes: ItemNotes) -> VisionInputs:
        return replace(self.plain.preprocess(image_rgb_u8, notes), count=TokenCount(2, 9))


def test_open_counts_keep_one_marker_and_are_budgeted_at_their_most(
    small: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    processor = small[1]
    in_full = processor.encode(grounded_sample("a"), [make_image(0)]).input_ids
    monkeypatch.setattr(processor, "vision", OpenCount(processor.vision))
    example = processor.encode(grounded_sample("a"), [make_image(0)])
    assert (example.input_ids == processor.token_ids["image_patch_id"]).sum() == 1
    assert len(example.input_ids) == len(in_full) - 15
    monkeypatch.setattr(processor, "max_length", len(example.input_ids) + 7)
    with pytest.raises(SampleError, match=f"{len(example.input_ids) + 8} tokens, more than max_length"):
        processor.encode(grounded_sample("a"), [make_image(0)])
