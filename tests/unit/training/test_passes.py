"""Several passes over one batch: every granularity with a backward pass of its own, and the lesson for the router."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from ullava.batching.collate import Collator
from ullava.config.schema import DatasetEntry, LossConfig, OptimizerConfig
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.data.sampling.mixture import MixtureSampler
from ullava.errors import ConfigError
from ullava.modeling.vision.avg_passes import router_scores
from ullava.training.loop.arguments import build_training_arguments
from ullava.training.loop.batches import KEY, TrainingCollator
from ullava.training.loop.trainer import UllavaTrainer
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage
from ullava.training.reporting.folder import RunFolder

AVG = ("vision.strategy=avg", "vision.avg={text_slots: 6, heads: 4, dropout: 0.0}")
ROUTER_ALONE = {"vision projector": False, "special-token rows": False, "vision router": True}


@pytest.fixture
def make_trainer(make_model: Any, world: Path, tmp_path: Path) -> Callable[..., UllavaTrainer]:
    """A function that builds a trainer of two steps with vision encoder ``avg``."""

    def make(kind: str, loss: LossConfig, stage: Any = "scratch", parts: dict[str, bool] | None = None) -> Any:
        model, processor = make_model(*AVG)
        mixture = build_mixture({"shapes_vqa": DatasetEntry(turns=1)}, world, 0)
        folder = RunFolder(tmp_path / kind)
        folder.prepare("")
        settings = {"use_cpu": True, "per_device_train_batch_size": 2, "max_steps": 2, "logging_steps": 1, "seed": 1}
        settings |= {"save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-3}
        args = build_training_arguments(settings, recipe=Path("r.yaml"), folder=folder.checkpoints, evaluates=False)
        passes = model.vision.passes(kind)
        return UllavaTrainer(
            model=model,
            args=args,
            dataset=EncodedMixture(mixture, processor),
            sampler=MixtureSampler(mixture),
            collator=TrainingCollator(Collator(processor.tokenizer.pad_token_id)),
            processor=processor,
            objective=GroundingObjective(loss, processor.masks, passes.aux_terms),
            plan=apply_stage(model, stage, quality_trains=False, parts=parts),
            folder=folder,
            optimizer_config=OptimizerConfig(),
            passes=passes,
        )

    return make


def batch_of(make_batch: Any, processor: Any, dataset: str = "shapes_vqa") -> dict[str, Any]:
    return make_batch(processor, dataset, count=3, turns=1)


def test_every_granularity_once_is_the_mean_of_them(make_trainer: Any, make_batch: Any) -> None:
    """The gradient of a step is the mean of the gradients of the granularities, each computed by itself."""
    trainer = make_trainer("every", LossConfig())
    model = trainer.model.train()
    batch = batch_of(make_batch, trainer.processing_class)
    levels = model.vision.candidates()
    assert [overrides["granularity"] for overrides in levels] == [1, 2, 4, 8, 16]
    objective, losses = trainer.objective, []
    for overrides in levels:
        terms = objective(model(**batch.inputs.as_kwargs(), overrides=overrides), batch.targets)
        losses.append(float(terms.total.detach()))
        (terms.total / len(levels)).backward()
    wanted = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.training_step(model, {KEY: batch})
    assert float(loss) == pytest.approx(sum(losses) / len(losses), rel=1e-5)
    assert len(set(losses)) == len(losses)
    for name, value in model.named_parameters():
        if name in wanted:
            torch.testing.assert_close(value.grad, wanted[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ("every", "rank"))
def test_a_frozen_tower_runs_once_for_all_passes(make_trainer: Any, make_batch: Any, kind: str) -> None:
    """A pass for each level, one for the tower; loss and gradients are those of a tower that runs each time."""
    parts = {"vision tower": False} if kind == "every" else ROUTER_ALONE
    loss = LossConfig() if kind == "every" else LossConfig(ce=0.0, aux={"rglf_ce": 0.1, "rglf_rank": 1.0})
    trainer = make_trainer(kind, loss, "scratch" if kind == "every" else "align", parts)
    model = trainer.model.train()
    batch = batch_of(make_batch, trainer.processing_class)
    trainer.current_gradient_accumulation_steps = 1
    runs: list[int] = []
    hook = model.vision.tower.embeddings.register_forward_hook(lambda _module, given, made: runs.append(1))

    def step() -> tuple[float, dict[str, torch.Tensor]]:
        model.zero_grad()
        runs.clear()
        value = float(trainer.training_step(model, {KEY: batch}))
        return value, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    value, gradients = step()
    assert len(runs) == 1
    trainer.passes.cached_features = lambda _model, inputs: inputs
    again, wanted = step()
    hook.remove()
    assert len(runs) >= len(model.vision.candidates())
    assert value == pytest.approx(again, rel=1e-6) and gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-5, atol=1e-7)


def test_the_log_shows_the_mean_over_granularities(make_trainer: Any) -> None:
    trainer = make_trainer("every", LossConfig())
    trainer.train()
    lines = [line for line in trainer.folder.log_lines() if "loss" in line]
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        assert line["loss"] == pytest.approx(line["loss_ce"], rel=1e-4)


def test_the_router_learns_from_what_answers_cost(make_trainer: Any, make_batch: Any) -> None:
    loss = LossConfig(ce=0.0, aux={"rglf_ce": 0.1, "rglf_rank": 1.0})
    trainer = make_trainer("rank", loss, "align", ROUTER_ALONE)
    model = trainer.model
    assert {name.split(".")[1] for name in trainer.plan.trainable} == {"router"}
    batch = batch_of(make_batch, trainer.processing_class)
    model.train()
    output = trainer.passes(model, batch.inputs)
    assert not output.supervised_logits.requires_grad, "nothing of the language model is kept for a backward pass"
    costs = []
    with torch.no_grad():
        for overrides in model.vision.candidates():
            seen = model(**batch.inputs.as_kwargs(), overrides=overrides)
            each = torch.nn.functional.cross_entropy(seen.supervised_logits.float(), seen.targets, reduction="none")
            counts = (batch.inputs.labels[:, 1:] != -100).sum(dim=1)
            costs.append(torch.stack([part.mean() for part in each.split(counts.tolist())]))
    wanted = torch.stack(costs, dim=1)
    scores = router_scores(model, batch.inputs)[0].float().log_softmax(dim=1)
    best = -scores.gather(1, wanted.argmin(dim=1, keepdim=True)).mean()
    torch.testing.assert_close(output.aux["rglf_ce"], best, rtol=1e-4, atol=1e-5)
    terms = trainer.objective(output, batch.targets)
    torch.testing.assert_close(terms.total, 0.1 * terms.aux["rglf_ce"] + terms.aux["rglf_rank"])
    before = {name: value.clone() for name, value in model.named_parameters()}
    trainer.train()
    moved = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert moved and all(name.startswith("vision.router.") for name in moved)
    line = next(line for line in trainer.folder.log_lines() if "loss" in line)
    assert line["loss"] == pytest.approx(0.1 * line["loss_aux_rglf_ce"] + line["loss_aux_rglf_rank"], rel=1e-3)


def test_rows_without_images_teach_the_router_nothing(make_trainer: Any, make_batch: Any) -> None:
    trainer = make_trainer("rank", LossConfig(ce=0.0), "align", ROUTER_ALONE)
    model = trainer.model.train()
    batch = batch_of(make_batch, trainer.processing_class, "shapes_text")
    terms = trainer.objective(trainer.passes(model, batch.inputs), batch.targets)
    terms.total.backward()
    assert float(terms.total.detach()) == 0.0 and not model.vision.router.voter.grad.any()


def test_a_vision_encoder_that_does_not_choose_is_refused(make_model: Any) -> None:
    model, _ = make_model()
    for kind in ("every", "rank"):
        with pytest.raises(ConfigError, match=f"passes: {kind} is for a vision encoder that chooses"):
            model.vision.passes(kind)
    assert model.vision.passes("one").variants() == ({},)


def test_the_trainer_knows_no_kind_of_passes() -> None:
    """What a batch is run for is the strategy's affair: neither the loop nor the criterion names a kind or a term."""
    for name in ("loop.trainer", "optim.objective", "loop.batches", "reporting.loss_window"):
        text = Path(importlib.import_module(f"ullava.training.{name}").__file__ or "").read_text(encoding="utf-8")
        assert not re.search(r"rglf|router|granularity|[\"'](every|rank)[\"']", text), name
