"""Hugging Face's Trainer with our criterion, mixture and guards. The loop, the checkpoints and DDP are its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import nn
from transformers import Trainer, TrainerControl, TrainingArguments

from ullava.atomic_write import write_json
from ullava.config.schema import OptimizerConfig
from ullava.data.loading.encode import EncodedMixture
from ullava.data.sampling.mixture import MixtureSampler
from ullava.errors import Interrupted, UserError
from ullava.inference.generation import kept_random_state
from ullava.modeling.vision.passes import Passes
from ullava.modeling.vision.strategy import zero_loss_of
from ullava.training.distributed.empty_batches import check_empty, take_part
from ullava.training.distributed.sharded_checkpoint import load_optimizer_shares, save_optimizer_shares, save_whole
from ullava.training.distributed.sharding import check_step, is_sharded, unshared_gradients, whole_state, whole_weights
from ullava.training.loop.batches import KEY, batch_of, counts_of, forced, loading
from ullava.training.loop.checkpoint_seal import CheckpointSeal
from ullava.training.loop.finite import plain
from ullava.training.loop.interruption import StopSignals
from ullava.training.loop.loading import build_loader, forget_tied
from ullava.training.loop.step_callback import StepCallback
from ullava.training.optim.base_dtype import is_mixed
from ullava.training.optim.base_words import BaseWords
from ullava.training.optim.gradient_guard import GradientGuard
from ullava.training.optim.learning_rates import decaying, set_learning_rates
from ullava.training.optim.muon import build_muon
from ullava.training.optim.objective import Counts, GroundingObjective
from ullava.training.optim.stages import TrainablePlan
from ullava.training.reporting.bad_samples import BadSamples
from ullava.training.reporting.folder import RunFolder
from ullava.training.reporting.loss_window import LossWindow

BAD_STEPS_IN_A_ROW = 5
"""Batches without a finite loss (or gradient) after which a run stops."""

WINDOW_FILE = "loss_window.json"
EvaluateFn = Callable[[nn.Module, int], dict[str, float]]


class UllavaTrainer(Trainer):
    """Trains one model on a mixture.

    ``sampler`` names the positions of each epoch; ``examiner(model, step)`` returns figures by name and runs wherever
    HF would evaluate. ``plan`` says which modules stay in eval mode. Samples that cannot be used are written to the
    run folder; more than ``bad_sample_budget`` distinct ones stop the run with UserError, as do five steps in a row
    without a finite loss or gradient. ``optimizer_config``: which optimizer. ``passes``: how often a batch is run
    (None: once). ``base_words`` judges ``loss.base_kl``. ``backprop_frames``: see TrainRecipe. ``stop`` ends the run at
    a signal. ``missed_evaluation``: one is due before the first step.
    """

    control: TrainerControl
    optimizer: Any

    def __init__(
        self,
        *,
        model: nn.Module,
        args: TrainingArguments,
        dataset: EncodedMixture,
        sampler: MixtureSampler,
        collator: Callable[[list[Any]], Mapping[str, Any]],
        processor: Any,
        objective: GroundingObjective,
        plan: TrainablePlan,
        folder: RunFolder,
        optimizer_config: OptimizerConfig,
        passes: Passes | None = None,
        base_words: BaseWords | None = None,
        bad_sample_budget: int = 0,
        backprop_frames: int | None = None,
        evaluate_fn: EvaluateFn | None = None,
        stop: StopSignals | None = None,
    ) -> None:
        self.mixture_sampler = sampler
        self.objective = objective
        self.plan = plan
        self.folder = folder
        self.optimizer_config = optimizer_config
        self.passes = passes or Passes()
        self.base_words = base_words
        self.backprop_frames = backprop_frames
        self.evaluate_fn = evaluate_fn
        self.bad_samples = BadSamples(folder.bad_samples, bad_sample_budget)
        self.skipped_batches = 0
        self.skipped_in_a_row = 0
        self.epoch_is_new = True
        self.step_was_judged = False
        self.missed_evaluation = False
        self.first_step = 0
        self.stop = stop or StopSignals()
        self.seal = CheckpointSeal(self)
        if is_sharded(model):  # training_step keeps the gradients of a step's micro-batches apart
            args.accelerator_config.gradient_accumulation_kwargs = {"sync_each_batch": True}
        super().__init__(
            model=model,
            args=args,
            data_collator=collator,
            train_dataset=dataset,
            eval_dataset={} if evaluate_fn is None else {"all": dataset},
            processing_class=processor,
            callbacks=[StepCallback(self), GradientGuard(self), self.stop, self.seal],
        )
        self.is_distributed_loading_by_transformers = is_sharded(model)  # no DDP around it; what is whole is averaged
        model.register_load_state_dict_post_hook(forget_tied)
        self.model_accepts_loss_kwargs = False  # compute_loss has counted over the whole step itself
        self.window = LossWindow.empty(self.args.device, self.objective.aux_terms, self.objective.terms)

    # ------------------------------------------------------------ data
    def get_train_dataloader(self) -> Any:
        """The mixture in the sampler's order, with settings and workers as HF's loader has them.

        The loader has random numbers of its own: what it draws from dropout's depends on which workers are alive.
        """
        loader = self.accelerator.prepare(build_loader(self.train_dataset, self.mixture_sampler, self))
        getattr(loader, "base_dataloader", loader).generator = torch.Generator()
        return loader

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Any]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Any]], Any]:
        """Fetch the micro-batches of one optimizer step and count what the step supervises, over all processes.

        None where the run is at its end: HF would take a step before it looked.
        """
        if self.control.should_training_stop:
            return [], None
        if self.epoch_is_new and not (self.args.dataloader_persistent_workers and self.state.global_step):
            torch.empty((), dtype=torch.int64).random_()  # as the loader of an undisturbed run: seeds keep their losses
        self.epoch_is_new = False
        with loading():
            batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches:
            self.bad_samples.note(batch_of(batch).bad_samples)
        if len(batches) == 1 and self.args.world_size == 1:
            return batches, None
        check_empty(self, [batch_of(batch) for batch in batches])
        usable = [batch_of(batch) for batch in batches if batch_of(batch).inputs is not None]
        totals = torch.zeros(Counts.number(), device=device)
        for batch in usable:
            counts = counts_of(batch, None if self.base_words is None else self.base_words.placeholder_ids)
            totals += torch.tensor(counts.stacked(), dtype=torch.float32, device=device)
        if self.args.world_size > 1:
            totals = self.accelerator.reduce(totals, reduction="sum")
        return batches, Counts(*totals.tolist())

    # ------------------------------------------------------------ one step
    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """HF's, for each variant of the batch that has a backward pass of its own; the last one shares gradients."""
        *early, last = self.passes.variants()
        batch = batch_of(inputs)
        shares_weights = is_sharded(self.model) or self.is_deepspeed_enabled  # layers then run within a pass alone
        if self.passes.repeats and batch.inputs is not None and not shares_weights:
            self.plan.set_frozen_to_eval()
            batch = batch.to(self.args.device)
            with self.accelerator.autocast():
                batch = replace(batch, inputs=self.passes.cached_features(model, batch.usable()[0]))
        shares_at_the_end = self.accelerator.sync_gradients
        loss = torch.zeros((), device=self.args.device)
        if early and batch.inputs is not None:
            self.accelerator.sync_gradients = False
            with self._unshared(model):
                for overrides in early:
                    loss = loss + super().training_step(model, {KEY: forced(batch, overrides)}, num_items_in_batch)
            self.accelerator.sync_gradients = shares_at_the_end
        # HF keeps the gradients of all micro-batches but a step's last one apart, yet only of models that it wrapped.
        waits = is_sharded(self.model) and not shares_at_the_end
        with unshared_gradients(self.model) if waits else nullcontext():
            return loss + super().training_step(model, {KEY: forced(batch, last)}, num_items_in_batch)

    def _unshared(self, model: nn.Module) -> AbstractContextManager[Any]:
        """Keep gradients to this process for now, whatever wraps the model."""
        if is_sharded(self.model):
            return unshared_gradients(self.model)
        if self.is_deepspeed_enabled:
            return nullcontext()
        return self.accelerator.no_sync(model)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Run the model and judge it. ``num_items_in_batch`` carries the Counts of the optimizer step."""
        batch = batch_of(inputs).to(self.args.device)  # as it is: with DeepSpeed, HF rounds what it moves to bfloat16
        check_step(self, batch)
        if batch.inputs is None:
            return take_part(self, model, num_items_in_batch)
        self.plan.set_frozen_to_eval()
        network_inputs, targets = batch.usable()
        heads_only = self.objective.weights.ce == 0
        network_inputs = network_inputs.for_losses(heads_only=heads_only, backprop_frames=self.backprop_frames)
        output = self.passes(model, network_inputs)
        if self.base_words is not None:
            with self.accelerator.autocast():  # which accelerate puts around forward alone
                output.base_kl = self.base_words(self.accelerator.unwrap_model(model), network_inputs, output)
        local = self.objective.counts(output, targets)
        step: Counts = num_items_in_batch if num_items_in_batch is not None else local
        terms = self.objective(output, targets, step)
        if len(self.passes.variants()) > 1:
            terms = replace(terms, total=terms.total / len(self.passes.variants()))
        loss = terms.total
        if self.is_finite_everywhere(loss):
            self.window.add(terms, step, local)
            self.step_was_judged = True
            # HF divides by the micro-batches of the step and DDP by the processes; our counts have done both.
            loss = loss * (self.current_gradient_accumulation_steps * self.args.world_size)
        else:
            self.skip("loss")
            # Shares of weights are gathered again on the way back, so that way has to be gone, for nothing.
            loss = loss.nan_to_num() * 0.0 if is_sharded(self.model) else zero_loss_of(model)
        return (loss, output) if return_outputs else loss

    def is_finite_everywhere(self, loss: torch.Tensor) -> bool:
        """Return whether the loss is finite on every process, so that all of them skip together."""
        flag = torch.isfinite(loss.detach()).float()
        if self.args.world_size > 1:
            flag = self.accelerator.reduce(flag, reduction="sum") / self.args.world_size
        return bool(flag > 0.999)

    def skip(self, what: str) -> None:
        """Count a step that is left out; raise UserError after five in a row."""
        self.skipped_batches += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= BAD_STEPS_IN_A_ROW:
            raise UserError(
                f"the {what} was not finite {self.skipped_in_a_row} times in a row at step {self.state.global_step}; "
                "lower training.learning_rate, raise training.warmup_steps or train without fp16"
            )

    # ------------------------------------------------------------ logging
    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Replace HF's running loss by the window's terms and write the line to train_log.jsonl.

        HF's summary of a training that was stopped, or that took no step, is left out.
        """
        if "train_runtime" in logs and (self.stop.number or self.state.global_step == self.first_step):
            return
        if "loss" in logs:
            logs.update(self._window_means())
            if self.skipped_batches:
                logs["skipped_batches"] = self.skipped_batches
            if self.bad_samples:
                logs["bad_samples"] = len(self.bad_samples)
        if self.is_world_process_zero():
            line = {"step": self.state.global_step, "epoch": self.state.epoch, **logs}
            self.folder.append_log({name: plain(value) for name, value in line.items()})
        logs.update({name: None for name, value in logs.items() if plain(value) is None})  # for trainer_state.json
        super().log(logs, start_time)

    def _window_means(self) -> dict[str, Any]:
        window = self._reduced_window()
        self.window = LossWindow.empty(self.args.device, self.objective.aux_terms, self.objective.terms)
        return window.means()

    def _reduced_window(self) -> LossWindow:
        if self.args.world_size == 1:
            return self.window
        sums = self.accelerator.reduce(self.window.sums.clone(), reduction="sum")
        counts = self.accelerator.reduce(self.window.counts.float().to(self.args.device), reduction="sum")
        return replace(self.window, sums=sums, counts=counts.cpu().double())

    # ------------------------------------------------------------ evaluation
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Run the real metrics (ullava.evaluation) without touching the random state of the training.

        One process leaves at once when a signal comes, with a checkpoint; several finish the evaluation first.
        """
        if self.evaluate_fn is None:
            return {}
        alone = self.args.world_size == 1
        try:
            mixed = self.accelerator.autocast() if is_mixed(self.model) else nullcontext()
            with kept_random_state(self.args.device), whole_weights(self.model), mixed:
                with self.stop.at_once() if alone else nullcontext():
                    figures = self.evaluate_fn(self.model, self.state.global_step)
        except Interrupted as stopped:
            if not self.is_in_train or not self.state.global_step or self.seal.is_there():
                raise
            self.stop.after_this_step(stopped.number)
            self.control.should_training_stop = self.control.should_save = True
            self.control.should_evaluate = False
            return self._best_so_far()
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in figures.items()}
        if not (self.is_world_process_zero() and self.folder.is_evaluated(self.state.global_step)):
            self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _best_so_far(self) -> dict[str, float]:
        """What HF is told after an evaluation that was left: the figure that it would look for, of no new best one."""
        name = self.args.metric_for_best_model
        return {} if name is None else {f"eval_{name.removeprefix('eval_')}": math.nan}

    # ------------------------------------------------------------ checkpoints
    def _get_output_dir(self, trial: Any) -> str:
        """Let HF write a checkpoint where the seal takes it from when it is whole."""
        return str(self.seal.drafts)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save as HF does (whole weights of a sharded model); what is not finite gets into no checkpoint.

        Beside a checkpoint's weights lies what the next log line has gathered so far.
        """
        if _internal_call:
            self.seal.begin()
        if is_sharded(self.model):
            weights = whole_state(self)
            if self.args.should_save:
                save_whole(self, Path(output_dir or self.args.output_dir), weights)
        else:
            super().save_model(output_dir, _internal_call=_internal_call)
        windows, bad_samples = gather_object([self.window.state()]), self.bad_samples.by_process()
        if _internal_call and output_dir is not None and self.args.should_save:
            counted = {"skipped_batches": self.skipped_batches, "bad_samples": bad_samples}
            block = {"block": self.mixture_sampler.block}
            write_json(Path(output_dir) / WINDOW_FILE, {"windows": windows} | counted | block)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Save as HF does, or each process its share."""
        if is_sharded(self.model):
            save_optimizer_shares(self, Path(output_dir))
        else:
            super()._save_optimizer_and_scheduler(output_dir)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Load as HF does, or each process its share."""
        if checkpoint is not None and is_sharded(self.model):
            load_optimizer_shares(self, Path(checkpoint))
        else:
            super()._load_optimizer_and_scheduler(checkpoint)

    def restore_window(self, checkpoint: Path) -> None:
        """Take up the gathered terms and the bad samples of ``checkpoint``, so that a resumed run logs the same."""
        path = checkpoint / WINDOW_FILE
        if not path.is_file():
            return
        state = json.loads(path.read_text(encoding="utf-8"))
        before, block = state.get("block", 1), self.mixture_sampler.block
        if before != block:
            raise UserError(
                f"{checkpoint}: grouped by {before} rows a pass, now {block}; keep batch size and processes"
            )
        self.skipped_batches = int(state["skipped_batches"])
        rank, processes = self.args.process_index, self.args.world_size
        self.bad_samples.take_up(state.get("bad_samples"), rank, processes)
        self.window = LossWindow.empty(self.args.device, self.objective.aux_terms, self.objective.terms)
        self.window.take_up(state.get("windows") or [state], rank, processes)  # one of all, in a checkpoint of old

    # ------------------------------------------------------------ optimizer
    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build what ``optimizer.kind`` of the recipe names."""
        if self.optimizer is None and self.optimizer_config.kind == "muon":
            subject = self.model if model is None else model
            decayed = self.get_decay_parameter_names(subject)
            self.optimizer = build_muon(subject, decayed, self.args, self.optimizer_config)
            return self.optimizer
        made = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if made and self.optimizer_config.learning_rates:
            set_learning_rates(optimizer, self.model, self.optimizer_config.learning_rates)
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Return the matrices and kernels: no norms, biases, embedding tables, learned positions.

        Nor a table of which only rows train: decay would reach all of it.
        """
        return [name for name in decaying(model) if name not in self.plan.row_tables]
