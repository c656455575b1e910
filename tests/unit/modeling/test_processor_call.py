"""``processor(...)`` and ``apply_chat_template``: the same rows as ``encode`` makes, and nothing dropped."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import build_small, make_image
from tests.unit.modeling.test_matrix import VISION_ENCODERS

from ullava.errors import UserError
from ullava.inference.predictor import Predictor
from ullava.structures import DetectedBoxes, Sample, Turn
from ullava.text.conversation import CHAT_TEMPLATES
from ullava.text.tokens import IMAGE_PATCH

IMAGE = make_image(0)
DIALOGUE = (Turn("<image>What is it?", "A cup."), Turn("Where is it?", "Here."))


def messages(turns: tuple[Turn, ...], image: Any, prompt: bool, system: str = "") -> list[dict[str, Any]]:
    """A dialogue about one image as chat messages."""
    made: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for number, turn in enumerate(turns):
        part = [{"type": "image", "image": image}] if number == 0 else []
        words = {"type": "text", "text": turn.question.removeprefix("<image>")}
        made.append({"role": "user", "content": [*part, words]})
        if not (prompt and number == len(turns) - 1):
            made.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return made


def sample(turns: tuple[Turn, ...] = DIALOGUE) -> Sample:
    return Sample("it", "", "res", (Path("it.png"),), turns)


@pytest.fixture(scope="module", params=sorted(VISION_ENCODERS))
def front(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    return build_small(VISION_ENCODERS[request.param])


@pytest.mark.parametrize("template", sorted(CHAT_TEMPLATES))
@pytest.mark.parametrize("turns", [DIALOGUE[:1], DIALOGUE])
def test_a_chat_gives_the_row_that_encode_makes(front: tuple[Any, Any], template: str, turns: tuple[Turn, ...]) -> None:
    processor = front[1]
    kept = processor.chat_template, processor.system
    processor.chat_template, processor.system = CHAT_TEMPLATES[template], "Be brief."
    try:
        expected = processor.encode(sample(turns), [IMAGE], prompt_only=True)
        options = {"tokenize": True, "return_dict": True, "add_generation_prompt": True}
        given = processor.apply_chat_template(messages(turns, IMAGE, prompt=True), **options)
        stated = processor.apply_chat_template(messages(turns, IMAGE, prompt=True, system="Be brief."), **options)
        text = processor.apply_chat_template(messages(turns, IMAGE, prompt=True), add_generation_prompt=True)
        later = processor(text=text, images=IMAGE)
    finally:
        processor.chat_template, processor.system = kept
    for inputs in (given, stated, later):
        assert inputs["input_ids"].tolist() == [expected.input_ids.tolist()]
        if expected.instruction_ids is not None:
            assert inputs["instruction_ids"].tolist() == [expected.instruction_ids.tolist()]
    assert set(given) <= set(processor.model_input_names), "the names that were announced"
    assert "labels" not in given and given["sam_pixel_values"].shape[0] == 1


@pytest.mark.parametrize("template", sorted(CHAT_TEMPLATES))
def test_a_whole_dialogue_is_the_training_row(front: tuple[Any, Any], template: str) -> None:
    """What is asked is the same as before the last answer: no word of an answer is among it."""
    processor = front[1]
    kept = processor.chat_template
    processor.chat_template = CHAT_TEMPLATES[template]
    try:
        expected = processor.encode(sample(), [IMAGE])
        given = processor(
            text=processor.apply_chat_template(messages(DIALOGUE, IMAGE, prompt=False)),
            images=[IMAGE], padding=True, padding_side="right", return_tensors="pt", add_special_tokens=False,
            truncation=True, max_length=250, pad_to_multiple_of=None,
        )  # fmt: skip
    finally:
        processor.chat_template = kept
    assert given["input_ids"].tolist() == [expected.input_ids.tolist()]
    if expected.instruction_ids is not None:
        assert given["instruction_ids"].tolist() == [expected.instruction_ids.tolist()]


def test_generate_says_what_the_predictor_says(front: tuple[Any, Any]) -> None:
    model, processor = front
    asked = messages(DIALOGUE[:1], Image.fromarray(IMAGE), prompt=True)
    inputs = processor.apply_chat_template(asked, tokenize=True, return_dict=True, add_generation_prompt=True)
    made = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    prompt = inputs["input_ids"]
    assert torch.equal(made[:, : prompt.shape[1]], prompt), "the prompt as it was given, wherever it grew"
    text, _, _ = processor.decode_text(made[0, prompt.shape[1] :].tolist())
    answer = Predictor(model, processor).answer(IMAGE, "What is it?", max_new_tokens=8)
    assert text == answer.text
    told = model.generate(
        **inputs, max_new_tokens=4, num_beams=2, num_return_sequences=2, do_sample=False, return_dict_in_generate=True
    )
    assert torch.equal(told.sequences[:, : prompt.shape[1]], prompt.expand(2, -1)) and told.sequences.shape[0] == 2


@pytest.mark.parametrize("template", ["vicuna_v1", "llama2", "chatml"])
def test_the_start_token_stands_once_where_a_template_wants_it(template: str) -> None:
    _, processor = build_small()
    processor.tokenizer.add_special_tokens({"bos_token": "<s>"})
    processor.chat_template = CHAT_TEMPLATES[template]
    expected = processor.encode(sample(DIALOGUE[:1]), [IMAGE], prompt_only=True).input_ids.tolist()
    text = processor.apply_chat_template(messages(DIALOGUE[:1], IMAGE, prompt=True), add_generation_prompt=True)
    assert processor(IMAGE, text)["input_ids"].tolist() == [expected]
    assert processor(IMAGE, str(text.encode(), "utf-8"))["input_ids"].tolist() == [expected]
    assert expected.count(processor.tokenizer.bos_token_id) == (template != "chatml")


def test_a_batch_equals_its_rows_in_every_form_of_images(small: tuple[Any, Any], tmp_path: Path) -> None:
    processor = small[1]
    other = make_image(1, 30, 60)
    Image.fromarray(other).save(tmp_path / "b.png")
    texts = ["<image>One?", "Words alone?", "<image> and <image>, two?"]
    flat = [IMAGE, str(tmp_path / "b.png"), Image.fromarray(IMAGE)]
    first = processor(flat, texts)
    nested = processor(text=texts, images=[[IMAGE], None, [Image.fromarray(other), torch.from_numpy(IMAGE)]])
    for key, value in first.items():
        same = nested[key]
        if key in ("image_index", "sam_index", "pixel_values", "sam_pixel_values", "sam_sizes"):
            continue
        assert torch.equal(value, same), key
    for inputs in (first, nested):
        shown = [inputs["pixel_values"][place] for place in inputs["image_index"].tolist()]
        assert torch.equal(shown[0], shown[2]) and not torch.equal(shown[0], shown[1])
        assert inputs["attention_mask"][1].tolist()[0] == 0 and inputs["attention_mask"][:, -1].all(), "padded left"
    twice = processor(text=texts[:1] * 2, images=[IMAGE, IMAGE])
    assert len(twice["pixel_values"]) == 1 and twice["image_index"].tolist() == [0, 0], "one image, read once"


def test_images_in_base64_and_openai_form(small: tuple[Any, Any]) -> None:
    processor = small[1]
    file = io.BytesIO()
    Image.fromarray(IMAGE).save(file, "PNG")
    letters = base64.b64encode(file.getvalue()).decode()
    forms: list[dict[str, Any]] = [
        {"type": "image", "image": IMAGE},
        {"type": "image", "base64": letters},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{letters}"}},
    ]
    seen = [
        processor.apply_chat_template([{"role": "user", "content": [form]}], tokenize=True, return_dict=True)
        for form in forms
    ]
    for inputs in seen[1:]:
        assert torch.equal(inputs["pixel_values"], seen[0]["pixel_values"])


def test_several_conversations_and_ids_alone(small: tuple[Any, Any]) -> None:
    processor = small[1]
    one = messages(DIALOGUE[:1], IMAGE, prompt=True)
    words = [{"role": "user", "content": "How are you?"}]
    ids = processor.apply_chat_template([one, words], tokenize=True, add_generation_prompt=True)
    assert ids.shape[0] == 2 and (ids == processor.image_token_id).sum(dim=1).tolist() == [16, 0]
    assert processor.image_token_id == processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    frames = np.stack([make_image(number) for number in range(8)])
    film = processor(text=f"<video>{IMAGE_PATCH}What moves?", videos=[frames], images=IMAGE)
    assert film["pixel_values_videos"].shape[:2] == (1, 8) and len(film["image_index"]) == 1


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p(text="What is it?", images=IMAGE), "row 1: the text has 0 places for images, 1 images are given"),
        (lambda p: p(text="<image><image>?", images=[IMAGE]), "row 1: the text has 2 places for images, 1 images"),
        (lambda p: p(text=["<image>?", "no"], images=[[], [IMAGE]]), "row 1: the text has 1 places for images, 0"),
        (lambda p: p(text=["<image>?", "<image>?"], images=[IMAGE]), "the texts have 2 places for images, 1 images"),
        (lambda p: p(text=["a", "b"], images=[[IMAGE]]), "images: 1 entries for 2 texts"),
        (lambda p: p(text="<image>? <img_beg>", images=IMAGE), "row 1: <img_beg> stands alone in the text"),
        (lambda p: p(text="<video>?"), "the text has 1 places for videos, 0 videos are given"),
        (lambda p: p(text="<video>?", videos=[IMAGE]), r"row 1: a video is a path, .* not uint8 \[40, 56, 3\]"),
        (lambda p: p(text="<image>?", images=IMAGE / 255), "not float64"),
        (lambda p: p(text="<image>?", images="nowhere.png"), "nowhere.png: no such image"),
        (lambda p: p(text="<image>?", images="data:image/png;base64,AAAA"), "row 1: data:image/png.* cannot be read"),
        (lambda p: p(images=IMAGE), "text is a text or a list of texts, not NoneType"),
        (lambda p: p(text=["a", "\udce4"]), "row 2: the text holds half of a character"),
        (lambda p: p.apply_chat_template([{**USER, "content": "\udce4"}]), "message 1: holds half of a character"),
        (lambda p: p(text=["a", " "]), "row 2: the text is empty"),
        (lambda p: p(text="a", return_tensors="np"), "return_tensors='np': the model reads tensors of torch alone"),
        (lambda p: p(text="a", padding="max_length"), "padding='max_length': rows are padded to the longest"),
        (lambda p: p(text="a", paddings=True), "no option 'paddings'.*padding"),
        (lambda p: p(text="word " * 90, max_length=40, truncation=True), "more than max_length 40; nothing is cut"),
        (lambda p: p(text="word " * 900), "more than max_length 256; nothing is cut"),
        (lambda p: p.apply_chat_template([]), "a conversation is a list of messages"),
        (lambda p: p.apply_chat_template([{"role": "judge", "content": "?"}]), "message 1: role 'judge' is none of"),
        (
            lambda p: p.apply_chat_template([{"role": "user", "content": [{"type": "audio", "audio": IMAGE}]}]),
            "message 1, part 1: the model reads no part of type 'audio'",
        ),
        (
            lambda p: p.apply_chat_template([{"role": "user", "content": [{"type": "image"}]}], tokenize=True),
            "message 1: a part of type image has none of image, url, path, base64",
        ),
        (lambda p: p.apply_chat_template([{"role": "user", "content": "say [SEG]"}]), r"the special token \[SEG\]"),
        (lambda p: p.apply_chat_template([USER], return_assistant_tokens_mask=True), "assistant_tokens_mask: not supp"),
        (
            lambda p: p.apply_chat_template([USER], tokenize=True, processor_kwargs={"images": [[IMAGE]]}),
            "row 1: the text has 0 places for images, 1 images are given",
        ),
    ],
)
def test_what_does_not_fit_is_refused(small: tuple[Any, Any], call: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(small[1])


def test_a_vision_encoder_that_reads_the_question_is_not_shown_answers() -> None:
    _, processor = build_small(VISION_ENCODERS["slime"])
    plain = str(processor.apply_chat_template(messages(DIALOGUE, IMAGE, prompt=False)).encode(), "utf-8")
    with pytest.raises(UserError, match="hand over what apply_chat_template returns, as it is"):
        processor(text=plain, images=IMAGE)
    assert processor(text="<image>What is it?", images=IMAGE)["instruction_ids"].shape[0] == 1


def test_boxes_and_overrides_reach_the_vision_encoder() -> None:
    model, processor = build_small(VISION_ENCODERS["mg"])
    found = DetectedBoxes(np.array([[4.0, 4, 30, 30]]), np.array([0.9]), ("thing",))
    texts = ["<image>One?", "<image>Two?"]
    flat = processor(text=texts, images=[IMAGE, make_image(1)], boxes=[found, None])
    nested = processor(text=texts, images=[IMAGE, make_image(1)], boxes=[[found], [None]])
    key = "pixel_values_boxes"
    assert [len(entry) for entry in flat[key]] == [1, 0] == [len(entry) for entry in nested[key]]
    with pytest.raises(UserError, match="2 places for boxes, 1 boxes"):
        processor(text=texts, images=[IMAGE, make_image(1)], boxes=[found])
    _, avg = build_small(VISION_ENCODERS["avg"])
    assert avg(text="<image>?", images=IMAGE, overrides={"granularity": 1})["overrides"] == {"granularity": 1}


def test_rows_made_as_released_are_not_told_by_a_text() -> None:
    _, processor = build_small(("text.template=conv_sep2", "text.as_released=true"))
    with pytest.raises(UserError, match="text.as_released: this model reads rows made u-LLaVA's own way"):
        processor(text="<image>What?", images=IMAGE)
