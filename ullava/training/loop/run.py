"""One training run, from a recipe to ``runs/<name>/``."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed

from ullava.atomic_write import write_json
from ullava.batching.collate import Collator
from ullava.config.load import dump_config, load_config
from ullava.config.quantization import QUANTIZATIONS
from ullava.config.schema import TrainRecipe
from ullava.data.augment import Augmenter
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.data.loading.pretokenized import pretokenized
from ullava.data.sampling.grouping import GroupedSampler
from ullava.data.sampling.mixture import Mixture, MixtureSampler
from ullava.data.sampling.word_dropout import WordDropout
from ullava.errors import ConfigError, Interrupted, UserError
from ullava.modeling.construction.quantized import layer_maker
from ullava.modeling.heads.mask_cache import MaskCache
from ullava.modeling.processing.tokenizing import tokenizer_fingerprint
from ullava.run_lock import hold
from ullava.training.distributed.sharding import (
    check_core,
    check_sharding,
    find_deepspeed,
    leave_together,
    shard_model,
    wrapper_of,
)
from ullava.training.loop.arguments import build_training_arguments, check_training_keys
from ullava.training.loop.batches import TrainingCollator
from ullava.training.loop.budget import Budget
from ullava.training.loop.finite import check_finite
from ullava.training.loop.init import Start, note_in_config, start_model
from ullava.training.loop.interruption import StopSignals
from ullava.training.loop.mask_caching import cache_masks, cache_report
from ullava.training.loop.packing import check_packing
from ullava.training.loop.resume import Progress, find_progress, take_up
from ullava.training.loop.save import save_run
from ullava.training.loop.trainer import UllavaTrainer
from ullava.training.optim.base_dtype import check_base_dtype, hold_frozen
from ullava.training.optim.base_words import BaseWords, check_base_kl
from ullava.training.optim.lora import HEADS
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import TrainablePlan, apply_stage
from ullava.training.reporting.folder import RunFolder
from ullava.training.reporting.monitor import EvaluationMonitor
from ullava.training.reporting.plot import draw_curve

FREE_TO_CHANGE = (
    "training",
    "attn_implementation",
    "eval_dataset",
    "eval_protocol",
    "bad_sample_budget",
    "max_new_tokens",
    "pretokenized",
    "mask_cache",
    "data_root",
    "output",
)
"""What a resumed run may set differently from the run that it continues."""


def train(recipe: TrainRecipe, *, recipe_path: Path, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train as ``recipe`` says and return what was written to ``metrics.json``.

    Everything that the user can have got wrong is looked at before anything is written. A finished run that is resumed
    stays as it is, and a folder that another run trains in is refused. Raises UserError; Interrupted at SIGTERM or
    Ctrl-C, with a checkpoint written.
    """
    folder = RunFolder(out)
    alone = hold(out) if int(os.environ.get("RANK", "0")) == 0 else nullcontext()
    with StopSignals() as stop, alone:
        return _train(recipe, recipe_path, folder, resume, stop)


def _train(
    recipe: TrainRecipe, recipe_path: Path, folder: RunFolder, resume: bool, stop: StopSignals
) -> dict[str, Any]:
    main = int(os.environ.get("RANK", "0")) == 0
    values, problems = check_training_keys(recipe.training, recipe=recipe_path)
    problems += check_sharding(recipe, values) + check_base_dtype(recipe, values, recipe_path)
    if problems:
        raise ConfigError(problems)
    if main:
        folder.check(resume=resume)
        _check_same_run(folder, recipe, resume)
    seed = int(values.get("seed", 42))
    set_seed(seed)
    mixture = build_mixture(recipe.dataset, Path(recipe.data_root), seed, recipe.shuffle_block)
    start = start_model(recipe, recipe_path)
    model, processor, loss = start.model, start.processor, start.loss
    if problems := check_core(model.core.kind, recipe, values):
        raise ConfigError(problems)
    note_in_config(model, recipe, loss)
    eval_batch = int(values.get("per_device_eval_batch_size", 32))
    monitor = EvaluationMonitor(recipe, processor, folder, eval_batch) if recipe.eval_dataset else None
    plan = apply_stage(
        model,
        recipe.stage,
        lora=recipe.lora is not None,
        quality_trains=loss.iou_score > 0,
        presence_trains=loss.presence > 0,
        parts=recipe.parts,
    )
    args = _arguments(recipe, recipe_path, folder)
    if recipe.base_dtype != "float32":
        plan = _hold_frozen(start, recipe, plan, args.device)
    cache = None
    if recipe.mask_cache is not None:
        cache = cache_masks(model, processor, recipe.mask_cache, plan, args)
    if recipe.packing is not None:
        check_packing(recipe.attn_implementation, model, processor)
    passes = model.core.passes(recipe.passes)
    budget = Budget(recipe.budget, args.world_size) if recipe.budget else None
    if recipe.sharding == "fsdp2":
        shard_model(model, plan)
    trainer = UllavaTrainer(
        model=model,
        args=args,
        dataset=_rows(recipe, mixture, processor, seed, with_patches=loss.patch > 0),
        sampler=_sampler(recipe, mixture, args.train_batch_size * args.world_size),
        collator=TrainingCollator(_collator(recipe, processor)),
        processor=processor,
        objective=GroundingObjective(loss, processor.masks, passes.aux_terms),
        passes=passes,
        base_words=_base_words(start, recipe, values, recipe_path),
        plan=plan,
        folder=folder,
        optimizer_config=recipe.optimizer,
        bad_sample_budget=recipe.bad_sample_budget,
        backprop_frames=recipe.backprop_frames,
        evaluate_fn=monitor,
        stop=stop,
    )
    if budget is not None:
        trainer.add_callback(budget)
    progress = find_progress(trainer, folder, recipe) if resume else Progress()
    report = progress.report
    if progress.finished:
        if main:
            print(f"already finished after {progress.step} steps, nothing changed: {folder.model}")
    else:
        if main:
            print(_mixture_table(mixture))
            print(plan.table())
            folder.prepare(dump_config(recipe))
        if resume:
            take_up(trainer, folder, progress)
        if progress.checkpoint is not None or not report:
            seconds = _fit(trainer, progress)
            report = report or _report(trainer, monitor, recipe, seconds, budget, cache)
            save_run(trainer, start, folder)
        if main:
            draw_curve(folder.log_lines(), folder.curve, folder.root.name)
            if not progress.report:
                write_json(folder.metrics, report)  # last: it says that the run is complete
            print(f"model: {folder.model}   metrics: {folder.metrics}   curve: {folder.curve}")
    leave_together(trainer)
    return report


def _hold_frozen(start: Start, recipe: TrainRecipe, plan: TrainablePlan, device: torch.device) -> TrainablePlan:
    """Do what ``base_dtype`` says with what ``plan`` freezes. Heads that are saved as they are here stay float32."""
    dtype, make = recipe.base_dtype, None
    if dtype in QUANTIZATIONS:
        make = layer_maker(dtype, device, compute_dtype=torch.bfloat16, trains=True)
    own_heads = start.fresh_heads or recipe.reinit_heads != "none"
    hold_frozen(start.model, dtype, make, HEADS if own_heads else ())
    return plan.with_modules_of(start.model)


def _base_words(start: Start, recipe: TrainRecipe, values: Mapping[str, Any], recipe_path: Path) -> BaseWords | None:
    """What judges ``loss.base_kl``, where it has a weight. Raises ConfigError for a run that cannot have it."""
    if problems := check_base_kl(recipe, start.loss.base_kl, values, recipe_path):
        raise ConfigError(problems)
    return BaseWords(start.adapters, start.model.core.placeholder_ids) if start.loss.base_kl else None


def _fit(trainer: UllavaTrainer, progress: Progress) -> float:
    """Take the steps that are left; return the seconds. Raises Interrupted at a signal, UserError for NaN weights."""
    begun = time.time()
    try:
        with trainer.stop.between_steps(), trainer.seal.whole_or_gone():
            trainer.train(resume_from_checkpoint=str(progress.checkpoint) if progress.checkpoint else None)
    except RuntimeError as error:
        if trainer.stop.number is None:
            raise
        # The signal has ended loader workers that are no forks, or another process of the run.
        raise Interrupted(trainer.stop.number, f"stopped within a step ({error}); go on with --resume") from error
    if trainer.stop.number is not None:
        leave_together(trainer)
        raise Interrupted(trainer.stop.number, f"stopped after step {trainer.state.global_step}; go on with --resume")
    check_finite(trainer, str(trainer.folder.model))
    return time.time() - begun


def _arguments(recipe: TrainRecipe, recipe_path: Path, folder: RunFolder) -> Any:
    settings = dict(recipe.training)
    if settings.get("deepspeed"):
        settings["deepspeed"] = find_deepspeed(settings["deepspeed"])
    return build_training_arguments(
        settings, recipe=recipe_path, folder=folder.checkpoints, evaluates=bool(recipe.eval_dataset)
    )


def _rows(recipe: TrainRecipe, mixture: Mixture, processor: Any, seed: int, *, with_patches: bool) -> EncodedMixture:
    """Return the mixture as rows for the network."""
    share = recipe.word_dropout
    words = pretokenized(mixture, processor.tokenize, tokenizer_fingerprint(processor)) if recipe.pretokenized else None
    dropout = WordDropout.of(processor.tokenizer, share, seed) if share else None
    return EncodedMixture(
        mixture,
        processor,
        with_patches=with_patches,
        word_dropout=dropout,
        pretokenized=words,
        augmenter=Augmenter.of(mixture),
        keeps_maps=recipe.mask_cache is not None,
    )


def _collator(recipe: TrainRecipe, processor: Any) -> Collator:
    """Return what makes batches of rows."""
    tokens = None if recipe.packing is None else recipe.packing.tokens
    return Collator(processor.tokenizer.pad_token_id, tokens=tokens)


def _sampler(recipe: TrainRecipe, mixture: Mixture, block: int) -> MixtureSampler:
    """Return the order of the mixture's positions; ``block``: rows of all processes in one pass."""
    return MixtureSampler(mixture) if not recipe.group_by_modality_length else GroupedSampler(mixture, block)


def _check_same_run(folder: RunFolder, recipe: TrainRecipe, resume: bool) -> None:
    """Refuse to continue a run with another model, stage, loss or mixture than it began with."""
    if not resume or not folder.recipe.is_file():
        return
    before, now = asdict(load_config(TrainRecipe, folder.recipe)), asdict(recipe)
    changed = [key for key in now if key not in FREE_TO_CHANGE and before[key] != now[key]]
    if changed:
        raise UserError(
            f"{folder.recipe}: --resume with another {', '.join(changed)} than the run began with; "
            "give a new run its own --out"
        )


def _report(
    trainer: UllavaTrainer,
    monitor: EvaluationMonitor | None,
    recipe: TrainRecipe,
    seconds: float,
    budget: Budget | None,
    cache: MaskCache | None,
) -> dict[str, Any]:
    """Return the content of metrics.json: the last evaluation, made now unless the last step had one."""
    results: Sequence[Mapping[str, Any]] = ()
    if monitor is not None:
        if monitor.last_step != trainer.state.global_step:
            trainer.evaluate()
        results = monitor.last_results
    return {
        "model": recipe.model,
        "protocol": recipe.eval_protocol,
        "results": list(results),
        "training": {
            "steps": trainer.state.global_step,
            "processes": trainer.args.world_size,
            "wrapper": wrapper_of(trainer),
            "epochs": round(float(trainer.state.epoch or 0.0), 4),
            "seconds": round(seconds, 1),
            "skipped_batches": trainer.skipped_batches,
            "bad_samples": len(set(chain.from_iterable(trainer.bad_samples.by_process()))),
            **({"budget": budget.report()} if budget is not None else {}),
            **({"mask_cache": cache_report(cache, trainer)} if cache is not None else {}),
        },
    }


def _mixture_table(mixture: Mixture) -> str:
    """Return the mixture as text."""
    lines = [f"mixture: {mixture.positions_per_epoch:,} samples an epoch"]
    lines.append(f"  {'dataset':<24}{'split':<10}{'task':<10}{'items':>10}{'per epoch':>12}{'share':>8}")
    for row in mixture.describe():
        lines.append(
            f"  {row['dataset']:<24}{row['split']:<10}{row['task']:<10}{row['items']:>10,}"
            f"{row['per_epoch']:>12,}{row['share']:>8.1%}"
        )
    return "\n".join(lines)
