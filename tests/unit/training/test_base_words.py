"""``loss.base_kl``: the words of rows without an image, held against the language model without its adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ullava.batching.collate import Collator
from ullava.config.load import load_config
from ullava.config.schema import DatasetEntry, LoraConfig, LossConfig, TrainRecipe
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.training.loop.batches import counts_of
from ullava.training.optim.base_words import BaseWords, check_base_kl
from ullava.training.optim.lora import attach_adapters
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

LORA = "lora={r: 2, alpha: 4, dropout: 0.0, target: [q_proj, v_proj]}"


@dataclass(frozen=True)
class Mixed:
    """``plain``: the model without adapters; ``texts``: the rows of ``batch`` that are words alone."""

    plain: Any
    model: Any
    processor: Any
    adapters: Any
    batch: Any
    texts: list[Any]


@pytest.fixture
def mixed(make_model: Any, world: Path) -> Mixed:
    """A model with stirred adapters, and a batch of rows with an image between rows of words alone."""
    plain, _ = make_model()
    model, processor = make_model()
    adapters = attach_adapters(model.language_model, LoraConfig(r=2, dropout=0.0, target=["q_proj"]), "recipe.yaml")
    apply_stage(model, "ground", lora=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    entries = {"shapes_res": DatasetEntry(turns=2), "shapes_text": DatasetEntry()}
    rows = []
    for name, entry in entries.items():
        encoded = EncodedMixture(build_mixture({name: entry}, world, 0), processor)
        rows.append([encoded[place] for place in range(2)])
    batch = Collator(processor.tokenizer.pad_token_id)([rows[1][0], rows[0][0], rows[1][1], rows[0][1]])
    return Mixed(plain.eval(), model.eval(), processor, adapters, batch, rows[1])


def test_each_token_equals_the_two_models_run_apart(mixed: Mixed) -> None:
    plain, model, adapters, batch = mixed.plain, mixed.model, mixed.adapters, mixed.batch
    inputs = replace(batch.inputs, supervised_only=True)
    output = model(**inputs.as_kwargs())
    found = BaseWords(adapters, model.core.placeholder_ids)(model, inputs, output)
    expected = []
    for row in mixed.texts:
        alone = Collator(0)([row]).inputs.as_kwargs()
        ours, base = model(**alone).supervised_logits.detach(), plain(**alone).supervised_logits.detach()
        for said, kept in zip(ours.softmax(-1), base.softmax(-1), strict=True):
            expected.append(sum(float(p) * float((p / q).log()) for p, q in zip(kept, said, strict=True)))
    assert max(expected) > 1e-3
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-3, atol=1e-5)
    found.mean().backward()
    moved = [name for name, value in model.named_parameters() if value.grad is not None and value.grad.abs().sum() > 0]
    assert any("lora_B" in name for name in moved)
    assert all("lora_" in name or "embed_tokens" in name for name in moved)


def test_dialogues_that_share_a_row_are_told_apart_by_the_base_too(mixed: Mixed) -> None:
    words = BaseWords(mixed.adapters, mixed.model.core.placeholder_ids)

    def found(tokens: int | None) -> torch.Tensor:
        inputs = Collator(mixed.processor.tokenizer.pad_token_id, tokens=tokens)(mixed.texts).inputs
        assert len(inputs.input_ids) == (2 if tokens is None else 1)
        told = words(mixed.model, inputs, mixed.model(**inputs.as_kwargs()))
        assert told is not None
        return told.detach()

    torch.testing.assert_close(found(4096), found(None), rtol=1e-3, atol=1e-5)


def test_what_is_frozen_stays_frozen(mixed: Mixed) -> None:
    model, adapters, batch = mixed.model, mixed.adapters, mixed.batch
    frozen = [parameter for name, parameter in model.named_parameters() if "lora_A" in name]
    for parameter in frozen:
        parameter.requires_grad_(False)
    before = [parameter.requires_grad for parameter in model.parameters()]
    BaseWords(adapters, model.core.placeholder_ids)(model, batch.inputs, model(**batch.inputs.as_kwargs()))
    assert [parameter.requires_grad for parameter in model.parameters()] == before


def test_images_alone_have_none(make_model: Any, make_batch: Any) -> None:
    model, processor = make_model()
    adapters = attach_adapters(model.language_model, LoraConfig(r=2, target=["q_proj"]), "recipe.yaml")
    batch = make_batch(processor, "shapes_res")
    words = BaseWords(adapters, model.core.placeholder_ids)
    assert words(model, batch.inputs, model(**batch.inputs.as_kwargs())) is None


def test_counts_and_share_of_a_step(mixed: Mixed) -> None:
    processor, model, adapters, batch = mixed.processor, mixed.model, mixed.adapters, mixed.batch
    words = BaseWords(adapters, model.core.placeholder_ids)
    output = model(**batch.inputs.as_kwargs())
    output.base_kl = words(model, batch.inputs, output)
    objective = GroundingObjective(LossConfig(base_kl=3.0), processor.masks)
    counts = objective.counts(output, batch.targets)
    assert counts_of(batch, words.placeholder_ids) == counts
    assert 0 < counts.plain_tokens < counts.tokens
    terms = objective(output, batch.targets)
    half = objective(output, batch.targets, replace(counts, plain_tokens=2 * counts.plain_tokens))
    torch.testing.assert_close(half["base_kl"] * 2, terms["base_kl"])
    torch.testing.assert_close(terms.total - half.total, 3.0 * half["base_kl"])


def test_training_comes_nearer_to_the_base(
    command: Callable[..., tuple[int, str, str]], recipe_file: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    code, _, err = command("train", str(recipe_file), "training.max_steps=1", "--out", str(base))
    assert code == 0, err
    start = (f"init={base / 'model'}", "stage=ground", LORA, "training.save_strategy=no", "training.learning_rate=0.02")

    def last(name: str, weight: float) -> dict[str, float]:
        out = tmp_path / name
        settings = (*start, f"loss.base_kl={weight}", "training.max_steps=8", "training.gradient_accumulation_steps=2")
        code, _, err = command("train", str(recipe_file), *settings, "--out", str(out))
        assert code == 0, err
        lines = (out / "train_log.jsonl").read_text().splitlines()
        return dict(json.loads(lines[-1] if "loss" in json.loads(lines[-1]) else lines[-2]))

    loose, kept = last("loose", 1e-9), last("kept", 30.0)
    assert kept["loss_base_kl"] < 0.5 * loose["loss_base_kl"]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "give lora, or leave it out"),
        ((LORA, "passes=every"), "whose rows differ from pass to pass"),
        ((LORA, "sharding=fsdp2"), "leave sharding and deepspeed out"),
    ],
)
def test_what_it_cannot_go_with_is_told(recipe_file: Path, settings: tuple[str, ...], words: str) -> None:
    recipe = load_config(TrainRecipe, recipe_file, overrides=settings)
    (problem,) = check_base_kl(recipe, 1.0, recipe.training, recipe_file)
    assert problem.startswith(f"{recipe_file}") and words in problem
    assert not check_base_kl(recipe, 0.0, recipe.training, recipe_file)


def test_it_is_refused_before_the_first_step(
    command: Callable[..., tuple[int, str, str]], recipe_file: Path, tmp_path: Path
) -> None:
    code, _, err = command("train", str(recipe_file), "loss.base_kl=1", "--out", str(tmp_path / "out"))
    assert (code, "loss.base_kl compares with the model without its adapters" in err) == (2, True)
