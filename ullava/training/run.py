"""One training run, from a recipe to ``runs/<name>/``."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import set_seed

from ullava.config.load import dump_config, load_config
from ullava.config.schema import ModelConfig, TrainRecipe
from ullava.data.build import build_mixture
from ullava.data.collate import Collator
from ullava.data.encode import EncodedMixture
from ullava.data.mixture import Mixture, MixtureSampler
from ullava.errors import ConfigError, UserError, WeightsError
from ullava.inference.load import weights_folder
from ullava.modeling.auto import load_folder
from ullava.modeling.build import build_model, to_model_config
from ullava.resources import find
from ullava.training.arguments import build_training_arguments, check_training_keys
from ullava.training.batches import TrainingCollator
from ullava.training.curve import draw_curve
from ullava.training.folder import RunFolder, write_text
from ullava.training.lora import attach_adapters, save_and_merge
from ullava.training.monitor import Monitor
from ullava.training.objective import GroundingObjective
from ullava.training.stages import apply_stage
from ullava.training.trainer import UllavaTrainer

FREE_TO_CHANGE = (
    "training",
    "attention",
    "eval_dataset",
    "eval_protocol",
    "bad_sample_budget",
    "max_new_tokens",
    "data_root",
)
"""What a resumed run may set differently from the run that it continues."""


def train(recipe: TrainRecipe, *, recipe_path: Path, out: Path, resume: bool = False) -> dict[str, Any]:
    """Train as ``recipe`` says and return what was written to ``metrics.json``.

    Everything that the user can have got wrong is looked at before anything is written. Raises UserError.
    """
    folder = RunFolder(out)
    main = int(os.environ.get("RANK", "0")) == 0
    values, problems = check_training_keys(recipe.training, recipe=recipe_path)
    if problems:
        raise ConfigError(problems)
    if main:
        folder.check(resume=resume)
        _check_same_run(folder, recipe, resume)
    seed = int(values.get("seed", 42))
    set_seed(seed)
    mixture = build_mixture(recipe.dataset, Path(recipe.data_root), seed)
    model, processor = _model(recipe, recipe_path)
    eval_batch = int(values.get("per_device_eval_batch_size", 32))
    monitor = Monitor(recipe, processor, folder, eval_batch) if recipe.eval_dataset else None
    adapters = attach_adapters(model.language_model, recipe.lora, str(recipe_path)) if recipe.lora else None
    plan = apply_stage(model, recipe.stage, lora=adapters is not None, quality_trains=recipe.loss.iou_score > 0)
    args = build_training_arguments(
        recipe.training, recipe=recipe_path, folder=folder.checkpoints, evaluates=bool(recipe.eval_dataset)
    )
    if main:
        print(_mixture_table(mixture))
        print(plan.table())
        folder.prepare(dump_config(recipe))
    trainer = UllavaTrainer(
        model=model,
        args=args,
        dataset=EncodedMixture(mixture, processor, with_patches=recipe.loss.patch > 0),
        sampler=MixtureSampler(mixture),
        collator=TrainingCollator(Collator(processor.tokenizer.pad_token_id, processor.sam_side)),
        processor=processor,
        objective=GroundingObjective(recipe.loss, processor.sam_side),
        plan=plan,
        folder=folder,
        optimizer_config=recipe.optimizer,
        bad_sample_budget=recipe.bad_sample_budget,
        examiner=monitor,
    )
    start = time.time()
    _fit(trainer, folder, resume, main)
    report = _report(trainer, monitor, recipe, time.time() - start)
    if adapters is not None and main:
        save_and_merge(adapters, folder.adapter)
    if main:
        write_text(folder.metrics, json.dumps(report, indent=2) + "\n")
        draw_curve(folder.log_lines(), folder.curve, out.name)
        save_model(model, processor, folder.model)
        print(f"model: {folder.model}   metrics: {folder.metrics}   curve: {folder.curve}")
    return report


def save_model(model: Any, processor: Any, folder: Path) -> None:
    """Write weights and processor to a temporary folder, then put it in the place of ``folder``."""
    draft = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(str(draft))
    processor.save_pretrained(str(draft))
    if folder.exists():
        shutil.rmtree(folder)
    draft.replace(folder)


def _model(recipe: TrainRecipe, recipe_path: Path) -> tuple[Any, Any]:
    """Build the model afresh, or load the weights that ``init`` names and hold them against ``model``."""
    import torch

    path = find("models", recipe.model)
    config = load_config(ModelConfig, path)
    if recipe.init == "scratch":
        return build_model(config, path.parent, attention=recipe.attention)
    model, processor = load_folder(weights_folder(recipe.init), torch.float32, attention=recipe.attention)
    wanted = to_model_config(config, path.parent, processor.tokenizer)
    problems = [
        f"{recipe_path}: init: {recipe.init} has {key} {theirs!r}, model {recipe.model} asks for {ours!r}"
        for (key, ours), theirs in zip(_shape(wanted).items(), _shape(model.config).values(), strict=True)
        if ours != theirs
    ]
    if problems:
        raise ConfigError(problems)
    return model, processor


def _shape(config: Any) -> dict[str, Any]:
    """Return the choices in which weights and a model.yaml have to agree."""
    shape = {
        name: getattr(config, name)
        for name in ("strategy", "hidden_layer", "projector", "aspect", "merge", "head_state")
    }
    shape |= {name: getattr(config, name) for name in ("box_width", "box_frame", "box_sigmoid", "sam_side")}
    parts = {"language": config.text_config, "tower": config.vision_config, "sam": config.sam_config.vision_config}
    for part, sizes in parts.items():
        shape |= {f"{part} {name}": getattr(sizes, name) for name in ("hidden_size", "num_hidden_layers")}
    return shape


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


def _fit(trainer: UllavaTrainer, folder: RunFolder, resume: bool, main: bool) -> None:
    checkpoint = folder.last_checkpoint() if resume else None
    step = 0
    if checkpoint is not None:
        step = int(checkpoint.name.rsplit("-", 1)[-1])
        check_weights(trainer.model, checkpoint)
        trainer.restore_window(checkpoint)
    if main and resume:
        print(f"resuming after step {step}" if checkpoint else "no complete checkpoint: starting again from step 0")
        folder.forget_after(step)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)


def check_weights(model: Any, checkpoint: Path) -> None:
    """Raise WeightsError where the weights of ``checkpoint`` are not those of ``model`` by name and shape.

    Hugging Face only warns. Checkpoints without safetensors (DeepSpeed's own) are left to their loader.
    """
    from safetensors import safe_open

    saved: dict[str, tuple[int, ...]] = {}
    for path in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(str(path), framework="pt") as stream:
            saved |= {name: tuple(stream.get_slice(name).get_shape()) for name in stream.keys()}
    if not saved:
        return
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    wanted = {
        name: tuple(value.shape) for name, value in model.state_dict().items() if name not in tied or name in saved
    }
    wrong = sorted(name for name in saved.keys() | wanted.keys() if saved.get(name) != wanted.get(name))
    if wrong:
        raise WeightsError(
            f"{checkpoint}: {len(wrong)} weights differ from the model's ({', '.join(wrong[:3])}); "
            "has model.yaml changed since the run began?"
        )


def _report(trainer: UllavaTrainer, monitor: Monitor | None, recipe: TrainRecipe, seconds: float) -> dict[str, Any]:
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
            "epochs": round(float(trainer.state.epoch or 0.0), 4),
            "seconds": round(seconds, 1),
            "skipped_batches": trainer.skipped_batches,
            "bad_samples": len(trainer.bad_samples),
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
