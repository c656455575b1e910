"""The calls that transformers and TRL make of any image-text model, on the trained ``tiny``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from tests.unit.modeling.conftest import build_small, make_image
from tests.unit.modeling.test_matrix import VISION_ENCODERS

import ullava

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = str(ROOT / "models" / "tiny" / "weights")


def drawn(color: str = "red") -> Image.Image:
    image = Image.new("RGB", (96, 80), "white")
    ImageDraw.Draw(image).ellipse((20, 20, 60, 60), fill=color)
    return image


def asked(image: Any, words: str = "Segment the circle.") -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": words}]}]


@pytest.fixture(scope="module")
def tiny() -> Any:
    return ullava.load("tiny", device="cpu")


def test_the_pipeline_answers_chats_and_texts_with_images(tiny: Any) -> None:
    from transformers import pipeline

    pipe = pipeline("image-text-to-text", model=WEIGHTS, device="cpu")
    pair = [drawn(), drawn("blue")]
    expected = [tiny.answer(image, "Segment the circle.").text for image in pair]
    assert all("[SEG]" in text for text in expected)
    options = {"max_new_tokens": 40, "return_full_text": False, "skip_special_tokens": False}
    chats = pipe(text=[asked(image) for image in pair], **options)
    assert [row[0]["generated_text"].removesuffix("</s>").strip() for row in chats] == expected
    (whole,) = pipe(text=asked(pair[0]), max_new_tokens=40)
    said = whole["generated_text"][-1]
    assert said["role"] == "assistant" and said["content"].split() == _spoken(expected[0]).split()
    texts = [pipe.processor.apply_chat_template(asked(image), add_generation_prompt=True) for image in pair]
    flat = pipe(images=pair, text=texts, **options)
    assert [row["generated_text"].split("</s>")[0].strip() for row in flat] == expected
    (one,) = pipe(images=pair[0], text="USER: <image>\nSegment the circle. ASSISTANT:", **options)
    assert one["generated_text"].removesuffix("</s>").strip() == expected[0]


def _spoken(text: str) -> str:
    """An answer without the special tokens, as ``skip_special_tokens`` leaves it."""
    for token in ("[SEG]", "[LOC]", "[tag]", "[/tag]"):
        text = text.replace(token, "")
    return text


def test_the_auto_classes_answer(tiny: Any) -> None:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model, processor = AutoModelForImageTextToText.from_pretrained(WEIGHTS), AutoProcessor.from_pretrained(WEIGHTS)
    inputs = processor.apply_chat_template(
        [asked(drawn()), asked(drawn("blue"))],
        add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
    ).to(model.device, dtype=model.dtype)  # fmt: skip
    made = model.generate(**inputs, max_new_tokens=40)
    new = processor.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=False)
    expected = [tiny.answer(drawn(color), "Segment the circle.").text for color in ("red", "blue")]
    assert [text.split("</s>")[0].strip() for text in new] == expected


def collate(processor: Any, examples: list[dict[str, Any]]) -> Any:
    """As TRL's DataCollatorForVisionLanguageModeling: labels are the ids, those of padding ignored."""
    texts = processor.apply_chat_template([example["messages"] for example in examples])
    batch = processor(
        images=[example["images"] for example in examples], text=texts, padding=True, padding_side="right",
        pad_to_multiple_of=None, truncation=True, max_length=200, return_tensors="pt", add_special_tokens=False,
    )  # fmt: skip
    labels = batch["input_ids"].clone()
    labels[batch["attention_mask"] == 0] = -100
    batch["labels"] = labels
    return batch


@pytest.mark.parametrize("front", sorted(VISION_ENCODERS))
def test_a_collator_of_trl_trains_it(front: str) -> None:
    model, processor = build_small(VISION_ENCODERS[front])
    said = [{"role": "assistant", "content": [{"type": "text", "text": "A cup on a table."}]}]
    place = [{"type": "image", "image": None, "text": None}, {"type": "text", "text": "What is it?"}]
    examples = [
        {"images": [make_image(0)], "messages": [{"role": "user", "content": place}, *said]},
        {"images": [make_image(1, 40, 90)], "messages": [{"role": "user", "content": place[::-1]}, *said]},
        {"images": [], "messages": [{"role": "user", "content": "How are you, then, today?"}, *said]},
    ]
    batch = collate(processor, examples)
    places = batch["input_ids"] == processor.image_token_id
    assert (batch["labels"][places] == processor.image_token_id).all(), "the collator knows nothing of places"
    model.train()
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=0.02)
    losses = []
    for _ in range(3):
        torch.manual_seed(0)
        output = model(**batch)
        assert not torch.isin(output.targets, torch.tensor([processor.image_token_id])).any()
        losses.append(float(output.loss))
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[2] < losses[0], losses
    ignoring = {**batch, "labels": batch["labels"].masked_fill(places, -100)}
    outputs = []
    for given in (batch, ignoring):
        torch.manual_seed(0)
        outputs.append(model(**given))
    assert torch.equal(outputs[0].targets, outputs[1].targets)
    torch.testing.assert_close(outputs[0].loss, outputs[1].loss)
