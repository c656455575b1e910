"""Boxes for a model that looks at objects: from a file, from a detector, from the answer before."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ullava.errors import UserError
from ullava.inference.box_sources import FileBoxes, WithBoxes, WordDetector, boxes_of_answer
from ullava.structures import Answer, DetectedBoxes, GroundedObject, Sample, Turn

OWL: dict[str, Any] = {
    "text_config": {
        "vocab_size": 600, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
        "num_attention_heads": 2, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0,
    },
    "vision_config": {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    },
    "projection_dim": 16,
}  # fmt: skip


def make_image(folder: Path, name: str, width: int = 60, height: int = 30) -> Path:
    path = folder / name
    pixels = np.random.default_rng(len(name)).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


class Listener:
    """Stands in for a predictor: keeps what it was asked."""

    def answer_samples(self, samples: list[Sample], **options: Any) -> list[Answer]:
        self.samples, self.options = samples, options
        return [Answer("yes") for _ in samples]


def sample(*paths: Path) -> Sample:
    return Sample("s", "", "vqa", paths, (Turn("<image>" * len(paths) + "?", ""),))


def test_boxes_of_a_file_reach_the_samples(tmp_path: Path) -> None:
    one, two = make_image(tmp_path, "one.png"), make_image(tmp_path, "second.png")
    (tmp_path / "boxes.json").write_text(json.dumps([{"image": "one.png", "boxes": [[1, 2, 3, 4]]}]))
    listener = Listener()
    boxed = WithBoxes(listener, FileBoxes(tmp_path / "boxes.json"))
    own = DetectedBoxes(np.zeros((0, 4)), np.zeros(0), ())
    given = Sample("own", "", "vqa", (one,), (Turn("<image>?", ""),), boxes=(own,))
    assert [answer.text for answer in boxed.answer_samples([sample(one, two), given], max_new_tokens=3)] == ["yes"] * 2
    first, second = listener.samples[0].boxes
    assert first.boxes_xyxy_px.tolist() == [[1, 2, 3, 4]] and second is None
    assert listener.samples[1].boxes == (own,) and listener.options == {"max_new_tokens": 3}
    outside = FileBoxes(tmp_path / "boxes.json").boxes_in(Path("/elsewhere/one.png"), np.zeros((2, 2, 3), np.uint8))
    assert outside is None


def test_what_an_answer_pointed_at_is_where_to_look_next() -> None:
    things = (
        GroundedObject("cup", (0, 3), None, (1.0, 2.0, 3.0, 4.0), 0.8),
        GroundedObject("sky", (4, 7), None, None, 0.5),
        GroundedObject("dog", (8, 9), None, (0.0, 0.0, 1.0, 1.0), 0.4, image=1),
    )
    found = boxes_of_answer(Answer("", things))
    assert (found.boxes_xyxy_px.tolist(), found.scores.tolist(), found.labels) == ([[1, 2, 3, 4]], [0.8], ("cup",))
    assert boxes_of_answer(Answer("", things), image=1).labels == ("dog",)
    assert boxes_of_answer(Answer("")).boxes_xyxy_px.shape == (0, 4)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """OWLv2 at the smallest sizes, random, with a tokenizer that knows single letters."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2Processor
    from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

    folder = tmp_path_factory.mktemp("owl")
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    words = ["!", "<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    tokenizer = CLIPTokenizer(vocab={word: place for place, word in enumerate(words)}, merges=[])
    torch.manual_seed(0)
    model = Owlv2ForObjectDetection(Owlv2Config(**OWL)).eval()
    model.save_pretrained(folder)
    views = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    Owlv2Processor(image_processor=views, tokenizer=tokenizer).save_pretrained(folder)
    return folder


class Seer:
    """Stands in for a detector: sees always the same."""

    device = "cpu"

    def __init__(self, seen: Any) -> None:
        self.seen = seen

    def __call__(self, **inputs: Any) -> Any:
        return self.seen


def test_a_detector_looks_for_words(detector: Path, tmp_path: Path) -> None:
    path = make_image(tmp_path, "wide.png", 90, 40)
    found = WordDetector(detector, ["cup", " ", "dog"], threshold=0.0).boxes_in(path, np.asarray(Image.open(path)))
    assert len(found.labels) == len(found.scores) == len(found.boxes_xyxy_px) == 16
    assert set(found.labels) <= {"cup", "dog"} and (found.scores > 0).all()
    assert (found.boxes_xyxy_px >= 0).all() and (found.boxes_xyxy_px <= [90, 40, 90, 40]).all()
    looking = WordDetector(detector, ["cup"], threshold=0.6)
    seen = SimpleNamespace(
        logits=torch.tensor([[[1.0], [0.0]]]), pred_boxes=torch.tensor([[[0.5, 0.25, 0.2, 0.1]] * 2])
    )
    looking.model = Seer(seen)
    (box,) = looking.boxes_in(path, np.asarray(Image.open(path))).boxes_xyxy_px
    assert box == pytest.approx([36, 18, 54, 27], abs=1e-4), "fractions of the square that OWLv2 pads to"
    strict = WordDetector(detector, ["cup"], threshold=1.0).boxes_in(path, np.asarray(Image.open(path)))
    assert strict.boxes_xyxy_px.shape == (0, 4)


def test_what_is_no_detector_is_refused(tmp_path: Path, detector: Path) -> None:
    with pytest.raises(UserError, match="no saved detector"):
        WordDetector(tmp_path, ["cup"])
    with pytest.raises(UserError, match="needs words"):
        WordDetector(detector, [" "])
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="not a zero-shot detector"):
        WordDetector(tmp_path, ["cup"])


def test_a_folder_of_images_becomes_a_file(detector: Path, tmp_path: Path, command: Any) -> None:
    make_image(tmp_path, "a.png")
    (tmp_path / "words.txt").write_text("cup\ndog\n")
    line = ["data", "boxes", "--detector", str(detector), "--images", str(tmp_path), "--device", "cpu"]
    code, said, error = command(*line, "--classes", str(tmp_path / "words.txt"), "--out", str(tmp_path / "boxes.json"))
    assert (code, error) == (0, "") or code == 0, error
    assert "boxes of 1 images" in said
    assert FileBoxes(tmp_path / "boxes.json").file.of_image("a.png", "s") is not None
    assert command(*line, "--out", str(tmp_path / "b.json"))[0] == 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--boxes", "a.json", "--detector", "d", "--classes", "cup"], "give one of them"),
        (["--detector", "d"], "--detector and --classes go together"),
        (["--boxes", "nowhere.json"], "no such file"),
    ],
)
def test_options_that_lead_nowhere_are_refused(command: Any, options: list[str], reason: str) -> None:
    code, _, error = command("predict", "--prompt", "What?", *options)
    assert code == 2 and reason in error
