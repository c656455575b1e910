"""Where a model runs: which device is taken, what is refused, and that an accelerator answers as the CPU does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ullava
from ullava.batching.collate import Collator
from ullava.errors import ConfigError, UserError
from ullava.examples import mapped
from ullava.inference.devices import is_bfloat16_fast, pick_device, pick_dtype
from ullava.inference.generation import drawn_from
from ullava.inference.predictor import Predictor
from ullava.structures import Answer, Region, Sample, Turn
from ullava.synthetic.write import draw_world
from ullava.training.loop.arguments import build_training_arguments

ROOT = Path(__file__).resolve().parents[3]
PACKAGE = sorted((ROOT / "ullava").rglob("*.py"))
MADE_ON_THE_CPU = {"evaluation/fingerprint.py", "geometry/mask_resize.py", "training/reporting/loss_window.py"}
"""Files that name torch.float64: for tensors that they make, without a device, and that stay on the CPU."""

QUESTIONS = ("Segment the largest shape.", "Draw a box around the largest shape.", "How many shapes are there?")


def found(monkeypatch: pytest.MonkeyPatch, kind: str | None) -> None:
    """Let torch find an accelerator of ``kind``, or none."""
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: kind is not None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device(kind) if kind else None)


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_auto_takes_the_accelerator_that_torch_finds(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, kind)
    device = pick_device("auto")
    assert device == torch.device(kind) and pick_dtype("auto", device) == torch.bfloat16
    assert pick_device("cpu") == torch.device("cpu")


def test_auto_is_the_cpu_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    found(monkeypatch, None)
    assert pick_device("auto") == torch.device("cpu") and pick_dtype("auto", torch.device("cpu")) == torch.float32


@pytest.mark.parametrize("name", ["meta", "quantum", "cuda:x", "", "cpu:-2", "cuda:63", "mps", "vulkan"])
def test_a_device_that_cannot_be_used_is_refused_in_one_line(name: str) -> None:
    if name == "mps" and torch.backends.mps.is_available():
        pytest.skip("MPS can be used here")
    with pytest.raises(UserError, match=re.escape(f"device '{name}' cannot be used: ")) as refused:
        pick_device(name)
    assert "\n" not in str(refused.value)


def test_float64_is_made_on_the_cpu_alone() -> None:
    """MPS has none: what becomes float64 has come to the CPU in the same line."""
    uses = [(path, line) for path in PACKAGE for line in path.read_text(encoding="utf-8").splitlines()]
    doubled = [(path, line) for path, line in uses if ".double()" in line]
    assert len(doubled) >= 5
    assert [(path.name, line) for path, line in doubled if re.search(r"(?<!\.cpu\(\))\.double\(\)", line)] == []
    named = {path.relative_to(ROOT / "ullava").as_posix() for path, line in uses if "torch.float64" in line}
    assert named == MADE_ON_THE_CPU


def test_no_batch_holds_float64(tmp_path: Path) -> None:
    draw_world(tmp_path / "world", 1, 2026, "seen", progress=False)
    (image,) = (tmp_path / "world" / "images").iterdir()
    predictor = ullava.load("tiny", device="cpu")
    box = Region("shape", box_xyxy_px=(3.0, 4.0, 20.0, 30.0))
    turn = Turn("<image>Draw a box around the largest shape.", "A [tag]shape[/tag]: Location [LOC].", (box,))
    sample = Sample("a", "b", "rec", (image,), (turn,))
    types: set[torch.dtype] = set()

    def note(tensor: torch.Tensor) -> torch.Tensor:
        types.add(tensor.dtype)
        return tensor

    rows = predictor.encode([sample], prompt_only=False)
    mapped(Collator(predictor.processor.tokenizer.pad_token_id)(rows), note)
    assert torch.float32 in types and torch.float64 not in types


def test_a_draw_leaves_the_random_state_as_it_was() -> None:
    before = torch.get_rng_state()
    with drawn_from(7, torch.device("cpu")):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    with drawn_from(7, torch.device("cpu")):
        assert torch.equal(torch.rand(3), first)


def arguments(tmp_path: Path, **training: Any) -> Any:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("training: {}\n", encoding="utf-8")
    return build_training_arguments(training, recipe=recipe, folder=tmp_path / "run", evaluates=False)


def test_training_takes_an_accelerator_that_is_not_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    found(monkeypatch, "mps")
    made = arguments(tmp_path)
    assert not made.use_cpu and not made.dataloader_pin_memory  # MPS pins nothing
    assert arguments(tmp_path, use_cpu=True).use_cpu
    found(monkeypatch, None)
    assert arguments(tmp_path).use_cpu


def test_several_processes_do_not_share_mps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    found(monkeypatch, "mps")
    with pytest.raises(ConfigError, match=r"recipe\.yaml.*not on mps; say use_cpu: true"):
        arguments(tmp_path)


# ---------------------------------------------------------------- answers there and here
@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("drawn") / "world"
    draw_world(folder, 4, 2026, "seen", progress=False)
    return sorted((folder / "images").iterdir())


def answers(predictor: Predictor, images: list[Path]) -> list[Answer]:
    return [predictor.answer(image, question) for image in images for question in QUESTIONS]


def worst_iou(ours: list[Any], theirs: list[Any]) -> float:
    """The lowest IoU of the masks of two runs whose words are equal."""
    assert [answer.text for answer in ours] == [answer.text for answer in theirs]
    pairs = [
        (mine.mask, other.mask)
        for answer, known in zip(ours, theirs, strict=True)
        for mine, other in zip(answer.objects, known.objects, strict=True)
        if mine.mask is not None
    ]
    assert len(pairs) >= 2
    return min(float((a & b).sum() / max(1, (a | b).sum())) for a, b in pairs)


def test_bfloat16_answers_as_float32_does_on_the_cpu(images: list[Path]) -> None:
    few = images[:2]
    rounded = answers(ullava.load("tiny", device="cpu", dtype="bfloat16"), few)
    assert worst_iou(rounded, answers(ullava.load("tiny", device="cpu"), few)) >= 0.95


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "least"), [("float32", 0.99), ("bfloat16", 0.95)])
def test_an_accelerator_answers_as_the_cpu_does(
    accelerator: torch.device, images: list[Path], dtype: str, least: float
) -> None:
    there = ullava.load("tiny", device=str(accelerator), dtype=dtype)
    assert there.device.type == accelerator.type
    assert worst_iou(answers(there, images), answers(ullava.load("tiny", device="cpu"), images)) >= least


@pytest.mark.gpu
def test_sdpa_answers_as_plain_attention_does_there(accelerator: torch.device, images: list[Path]) -> None:
    there = ullava.load("tiny", device=str(accelerator), dtype="float32")
    by_kind = {}
    for kind in ("eager", "sdpa"):
        there.model.set_attn_implementation(kind)
        by_kind[kind] = answers(there, images)
    assert worst_iou(by_kind["sdpa"], by_kind["eager"]) >= 0.99


@pytest.mark.gpu
def test_a_batch_there_answers_as_single_questions_do(accelerator: torch.device, images: list[Path]) -> None:
    there = ullava.load("tiny", device=str(accelerator), dtype="float32")
    samples = [
        Sample(f"{number}", "questions", "vqa", (image,), (Turn(f"<image>{question}", ""),))
        for number, image in enumerate(images)
        for question in QUESTIONS
    ]
    assert worst_iou(there.answer_samples(samples), answers(there, images)) >= 0.99


@pytest.mark.gpu
def test_a_step_there_has_the_gradient_of_the_cpu(accelerator: torch.device) -> None:
    """Words alone, in float32, so that the language model and its head are compared and nothing is drawn."""
    model = ullava.load("tiny", device="cpu").model.train()
    ids = torch.arange(24).reshape(2, 12) % 50
    gradients = []
    for device in (torch.device("cpu"), accelerator):
        model.to(device).zero_grad()
        output = model(input_ids=ids.to(device), attention_mask=torch.ones_like(ids).to(device), labels=ids.to(device))
        output.loss.backward()
        gradients.append(np.concatenate([
            value.grad.cpu().flatten()[:64].numpy() for value in model.parameters() if value.grad is not None
        ]))  # fmt: skip
    assert np.abs(gradients[0]).max() > 0
    assert np.allclose(gradients[0], gradients[1], rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("amx", [True, False])
def test_bfloat16_is_fast_on_processors_with_amx(monkeypatch: pytest.MonkeyPatch, *, amx: bool) -> None:
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    assert is_bfloat16_fast(torch.device("cpu")) is amx
    assert not is_bfloat16_fast(torch.device("mps"))
