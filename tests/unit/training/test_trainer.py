"""Guards, counting and logging of the trainer, on a few steps of a very small model."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ullava.batching.collate import Collator
from ullava.config.schema import DatasetEntry, LossConfig, OptimizerConfig
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.data.sampling.grouping import GroupedSampler
from ullava.data.sampling.mixture import MixtureSampler
from ullava.errors import UserError
from ullava.examples import BadSample, Batch, Targets
from ullava.training.loop import trainer as trainer_module
from ullava.training.loop.arguments import build_training_arguments
from ullava.training.loop.batches import KEY, TrainingCollator, batch_of
from ullava.training.loop.trainer import BAD_STEPS_IN_A_ROW, UllavaTrainer
from ullava.training.optim.objective import TERMS, Counts, GroundingObjective, LossTerms
from ullava.training.optim.stages import apply_stage
from ullava.training.reporting.folder import RunFolder
from ullava.training.reporting.loss_window import LossWindow

TRAINING = {"use_cpu": True, "per_device_train_batch_size": 2, "max_steps": 3, "logging_steps": 1, "seed": 1}
TRAINING |= {"save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-3}


class Spoilt(EncodedMixture):
    """Every ``every``-th position cannot be used."""

    every = 2

    def __getitem__(self, position: int) -> Any:
        bad = BadSample(f"sample {position}", "torn") if position % self.every == 0 else None
        return bad or super().__getitem__(position)


class Exploding(GroundingObjective):
    """The loss is not a number in the steps ``when``."""

    when: Callable[[int], bool] = staticmethod(lambda call: False)
    calls = 0

    def __call__(self, *args: Any, **kwargs: Any) -> LossTerms:
        terms = super().__call__(*args, **kwargs)
        self.calls += 1
        if type(self).when(self.calls):
            return replace(terms, total=terms.total * torch.nan)
        return terms


@pytest.fixture
def make_trainer(make_model: Any, world: Path, tmp_path: Path) -> Callable[..., UllavaTrainer]:
    """A function that builds a trainer; keyword arguments replace parts, others are TrainingArguments."""

    def make(**options: Any) -> UllavaTrainer:
        model, processor = make_model()
        mixture = build_mixture({"shapes_res": DatasetEntry(turns=1)}, world, 0)
        folder = RunFolder(tmp_path / "run")
        folder.prepare("")
        dataset = options.pop("dataset", EncodedMixture)
        objective = options.pop("objective", GroundingObjective)
        budget = options.pop("budget", 0)
        args = build_training_arguments(
            {**TRAINING, **options}, recipe=Path("recipe.yaml"), folder=folder.checkpoints, evaluates=False
        )
        return UllavaTrainer(
            model=model,
            args=args,
            dataset=dataset(mixture, processor),
            sampler=MixtureSampler(mixture),
            collator=TrainingCollator(Collator(processor.tokenizer.pad_token_id)),
            processor=processor,
            objective=objective(LossConfig(), processor.masks),
            plan=apply_stage(model, "scratch", quality_trains=False),
            folder=folder,
            optimizer_config=OptimizerConfig(),
            bad_sample_budget=budget,
        )

    return make


def lines(trainer: UllavaTrainer) -> list[dict[str, Any]]:
    return [line for line in trainer.folder.log_lines() if "loss" in line]


def test_terms_are_logged_every_step(make_trainer: Any) -> None:
    trainer = make_trainer()
    trainer.train()
    logged = lines(trainer)
    assert [line["step"] for line in logged] == [1, 2, 3]
    weights = LossConfig()
    for line in logged:
        total = sum(getattr(weights, name) * line[f"loss_{name}"] for name in ("ce", "bce", "dice", "l1", "giou"))
        assert line["loss"] == pytest.approx(total, rel=1e-4)


def test_accumulated_steps_log_and_learn_like_one_batch(make_trainer: Any) -> None:
    whole = make_trainer(per_device_train_batch_size=4)
    whole.train()
    once = lines(whole)
    whole.folder.train_log.unlink()
    pieces = make_trainer(per_device_train_batch_size=1, gradient_accumulation_steps=4)
    pieces.train()
    for one, four in zip(once, lines(pieces), strict=True):
        assert four["loss"] == pytest.approx(one["loss"], rel=2e-4)
        assert four["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-3)


def test_bad_samples_stop_a_run_without_a_budget(make_trainer: Any) -> None:
    trainer = make_trainer(dataset=Spoilt)
    with pytest.raises(UserError, match="1 samples cannot be used, the budget .* is 0: sample 0"):
        trainer.train()
    assert json.loads(trainer.folder.bad_samples.read_text()) == {"sample": "sample 0", "reason": "torn"}


def test_bad_samples_within_the_budget_are_counted_once(make_trainer: Any) -> None:
    trainer = make_trainer(dataset=Spoilt, budget=3)
    trainer.train()
    named = [json.loads(line)["sample"] for line in trainer.folder.bad_samples.read_text().splitlines()]
    assert named == ["sample 0", "sample 2", "sample 4"]
    assert lines(trainer)[-1]["bad_samples"] == 3


def test_a_batch_without_any_usable_sample_trains_nothing(make_trainer: Any) -> None:
    trainer = make_trainer(dataset=type("AllBad", (Spoilt,), {"every": 1}), budget=6, max_steps=1, weight_decay=0.0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.train()
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())


def test_a_batch_of_bad_samples_keeps_their_names() -> None:
    batch = batch_of(TrainingCollator(Collator(0))([BadSample("a", "torn"), BadSample("b", "torn")]))
    assert batch.inputs is None and [bad.name for bad in batch.bad_samples] == ["a", "b"]


def test_a_loss_that_is_no_number_is_skipped_and_counted(make_trainer: Any) -> None:
    explode = type("Once", (Exploding,), {"when": staticmethod(lambda call: call == 2)})
    trainer = make_trainer(objective=explode)
    trainer.train()
    assert trainer.skipped_batches == 1
    assert lines(trainer)[-1]["skipped_batches"] == 1
    assert all(bool(torch.isfinite(parameter).all()) for parameter in trainer.model.parameters())


def test_five_in_a_row_stop_the_run(make_trainer: Any) -> None:
    explode = type("Always", (Exploding,), {"when": staticmethod(lambda call: call > 1)})
    trainer = make_trainer(objective=explode, max_steps=20)
    with pytest.raises(UserError, match="loss was not finite 5 times in a row at step 5"):
        trainer.train()
    assert trainer.skipped_batches == BAD_STEPS_IN_A_ROW


def test_a_grouped_run_goes_on_with_as_many_rows_a_pass(make_trainer: Any, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.mixture_sampler = GroupedSampler(trainer.train_dataset.mixture, 2)
    trainer.train()
    (tmp_path / "checkpoint-3").mkdir()
    trainer.save_model(str(tmp_path / "checkpoint-3"), _internal_call=True)
    trainer.restore_window(tmp_path / "checkpoint-3")
    trainer.mixture_sampler = GroupedSampler(trainer.train_dataset.mixture, 4)
    with pytest.raises(UserError, match="grouped by 2 rows a pass, now 4; keep batch size and processes"):
        trainer.restore_window(tmp_path / "checkpoint-3")


def test_norms_biases_and_tables_do_not_decay(make_trainer: Any) -> None:
    trainer = make_trainer()
    decayed = set(trainer.get_decay_parameter_names(trainer.model))
    assert "language_model.model.layers.0.self_attn.q_proj.weight" in decayed
    assert "box_head.decoder.0.weight" in decayed
    for name in (
        "language_model.model.embed_tokens.weight",
        "language_model.model.layers.0.input_layernorm.weight",
        "box_head.decoder.0.bias",
        "mask_head.sam.mask_decoder.mask_tokens.weight",
        "mask_head.sam.vision_encoder.pos_embed",
        "vision.tower.embeddings.class_embedding",
        "vision.tower.embeddings.position_embedding.weight",
    ):
        assert name in dict(trainer.model.named_parameters()) and name not in decayed


def test_window_averages_over_things_not_steps() -> None:
    window = LossWindow.empty(torch.device("cpu"))
    for ce, masks, bce in ((2.0, 0.0, 0.0), (4.0, 3.0, 0.5), (6.0, 1.0, 0.9)):
        values = dict.fromkeys(TERMS, torch.tensor(0.0)) | {"ce": torch.tensor(ce), "bce": torch.tensor(bce)}
        local = Counts(10.0, masks, 0.0)
        terms = LossTerms(values, torch.tensor(ce + bce))
        window.add(terms, local, local)
        window.steps += 1
    means = window.means()
    assert means["loss_ce"] == pytest.approx(4.0)
    assert means["loss_bce"] == pytest.approx((3 * 0.5 + 0.9) / 4)
    assert means["loss"] == pytest.approx((2.0 + 4.5 + 6.9) / 3)
    assert "loss_l1" not in means


def test_bf16_on_a_cpu_computes_in_bf16_and_keeps_float32_weights(make_trainer: Any) -> None:
    trainer = make_trainer(bf16=True, max_steps=1)
    seen: dict[str, torch.dtype] = {}
    layer = trainer.model.language_model.model.layers[0].mlp.up_proj
    layer.register_forward_hook(lambda part, inputs, output: seen.update(product=output.dtype))
    inner = trainer.objective._mask_terms
    trainer.objective._mask_terms = lambda *args: seen.update(mask=inner(*args)["bce"].dtype) or inner(*args)
    trainer.train()
    assert seen == {"product": torch.bfloat16, "mask": torch.float32}
    assert {parameter.dtype for parameter in trainer.model.parameters()} == {torch.float32}


def test_the_trainer_counts_tokens(make_trainer: Any) -> None:
    trainer = make_trainer(max_steps=2, include_num_input_tokens_seen="all")
    trainer.train()
    assert trainer.state.total_flos > 0 and trainer.state.num_input_tokens_seen > 0


def test_true_boxes_are_never_rounded_on_their_way(make_trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer()
    boxes = torch.tensor([0.1234567890123], dtype=torch.float64)
    targets = Targets(masks=[torch.ones(2, dtype=torch.uint8)], boxes_xyxy_head=boxes)
    seen: list[Batch] = []
    monkeypatch.setattr(trainer_module, "check_step", lambda _, batch: seen.append(batch))
    monkeypatch.setattr(trainer_module, "take_part", lambda *_: torch.zeros((), requires_grad=True))
    trainer.is_deepspeed_enabled = True  # Hugging Face casts floating tensors to the run's half precision then
    trainer.optimizer, trainer.current_gradient_accumulation_steps = object(), 1
    trainer.training_step(trainer.model, {KEY: Batch(inputs=None, targets=targets)}, None)
    (moved,) = (batch.targets for batch in seen)
    assert moved is not None
    assert moved.boxes_xyxy_head.dtype == torch.float64 and torch.equal(moved.boxes_xyxy_head, boxes)
    assert moved.masks[0].dtype == torch.uint8


def test_a_table_of_which_rows_train_does_not_decay(make_trainer: Any, make_model: Any) -> None:
    model, _ = make_model("language.config.tie_word_embeddings=false")
    trainer = make_trainer()
    head = "language_model.lm_head.weight"
    trainer.plan = apply_stage(model, "scratch")
    assert head in trainer.get_decay_parameter_names(model)
    trainer.plan = apply_stage(model, "align")
    assert head in trainer.plan.row_tables
    assert head not in trainer.get_decay_parameter_names(model)


class Deadly(EncodedMixture):
    """Ends the process that reads it, as the system does where memory is used up."""

    def __getitem__(self, position: int) -> Any:
        os._exit(9)


def test_a_killed_worker_is_one_line(make_trainer: Any) -> None:
    with pytest.raises(UserError, match=r"reading the data ended early .*lower training\.dataloader_num_workers"):
        make_trainer(dataset=Deadly, dataloader_num_workers=1).train()
