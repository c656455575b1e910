"""Where a run goes on: from its newest whole checkpoint, at its end, or not at all because nothing is left to do."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from ullava.config.schema import BudgetConfig, TrainRecipe
from ullava.errors import UserError, WeightsError
from ullava.modeling.loading.weight_files import read_table
from ullava.training.loop.checkpoint import has_weights_alone, newest_usable, read_state
from ullava.training.loop.trainer import UllavaTrainer
from ullava.training.reporting.folder import RunFolder


@dataclass(frozen=True)
class Progress:
    """How far a run is. ``checkpoint``: what it goes on from (None: the beginning), after ``step`` of ``planned``.

    ``trained``: no step is left. ``report``: metrics.json where it is that of the last step, else empty. ``missing``:
    what else is not written. ``missed_evaluation``: the log has none after the checkpoint's step, where one is due.
    """

    checkpoint: Path | None = None
    step: int = 0
    planned: int = 0
    trained: bool = False
    report: dict[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    missed_evaluation: bool = False

    @property
    def finished(self) -> bool:
        """Whether nothing is left to do."""
        return bool(self.report) and not self.missing


def find_progress(trainer: UllavaTrainer, folder: RunFolder, recipe: TrainRecipe) -> Progress:
    """Return how far the run in ``folder`` is. The first process looks, all of them get the answer; changes nothing.

    Damaged checkpoints are named. Raises UserError where the run cannot go on.
    """
    planned = int(trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())[-1])
    shared: list[Progress | UserError] = [Progress()]
    if trainer.is_world_process_zero():
        try:
            shared = [_look(trainer, folder, recipe, planned)]
        except UserError as error:
            shared = [error]  # the others would wait for an answer
    if trainer.args.world_size > 1:
        torch.distributed.broadcast_object_list(shared)
    (found,) = shared
    if not isinstance(found, Progress):
        raise found
    return found


def _look(trainer: UllavaTrainer, folder: RunFolder, recipe: TrainRecipe, planned: int) -> Progress:
    pieces = [folder.model, *([folder.adapter] if recipe.lora is not None else [])]
    missing = tuple(f"{path.name}/" for path in pieces if not _is_readable(path))
    report = _complete_report(folder, recipe.budget, planned)
    reported = int(report["training"]["steps"]) if report else 0
    if reported > planned:
        raise UserError(_too_far(f"{folder.metrics}: the run", reported, planned))
    if folder.log_lines() and not folder.curve.is_file():
        missing += (folder.curve.name,)
    if report and set(missing) <= {folder.curve.name}:
        if recipe.lora is None:  # with adapters, model/ is merged and has other names
            check_weights(trainer.model, folder.model)
        return Progress(None, reported, planned, True, report, missing)
    found = newest_usable(folder)
    for line in found.passed_over:
        print(f"passed over: {line}")
    if found.checkpoint is None:
        return Progress(planned=planned)
    if found.step > planned:
        raise UserError(_too_far(str(found.checkpoint), found.step, planned))
    state = read_state(found.checkpoint, found.step)
    if state["max_steps"] != planned:
        print(f"{state['max_steps']} steps were planned, now {planned}: the learning rate follows the new schedule")
    before, now = len(list(found.checkpoint.glob("rng_state*.pth"))), trainer.args.world_size
    if before not in (0, now):
        print(f"{before} processes wrote {found.checkpoint}, now there are {now}: random numbers differ from here on")
    trained = found.step == planned or _spent(state, recipe.budget)
    if not trained and has_weights_alone(found.checkpoint):
        raise UserError(
            f"{found.checkpoint}: has weights alone (training.save_only_model), so the run cannot go on as it was; "
            f"start another with init={found.checkpoint}"
        )
    due = not trained and _evaluation_due(trainer, state) and not folder.is_evaluated(found.step)
    report = report if trained and reported == found.step else {}
    return Progress(found.checkpoint, found.step, planned, trained, report, missing, due)


def _is_readable(folder: Path) -> bool:
    """Return whether the weights of a saved folder are there, none of them cut off, and its JSON files whole."""
    files = sorted(folder.glob("*.safetensors"))
    try:
        for path in files:
            with safe_open(str(path), framework="pt"):
                pass
        for path in folder.glob("*.json"):
            read_table(path)
    except (SafetensorError, UserError, OSError):
        return False
    return bool(files)


def _too_far(where: str, step: int, planned: int) -> str:
    return (
        f"{where} has {step} steps, more than the {planned} that the recipe asks for now; raise training.max_steps "
        "(or num_train_epochs), or give a new run its own --out"
    )


def _complete_report(folder: RunFolder, budget: BudgetConfig | None, planned: int) -> dict[str, Any]:
    """Return the content of metrics.json where the run has come to its end, else nothing."""
    try:
        report: dict[str, Any] = json.loads(folder.metrics.read_text(encoding="utf-8"))
        training = report["training"]
        spent = budget is not None and float(training["budget"]["spent"]) >= budget.seconds
        return report if spent or int(training["steps"]) >= planned else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # not there, or damaged: it is written again


def _spent(state: dict[str, Any], budget: BudgetConfig | None) -> bool:
    saved = (state.get("stateful_callbacks") or {}).get("Budget") or {}
    return budget is not None and float(saved.get("attributes", {}).get("spent", 0.0)) >= budget.seconds


def _evaluation_due(trainer: UllavaTrainer, state: dict[str, Any]) -> bool:
    """Whether an undisturbed run evaluates after the step of ``state``, as HF's flow decides."""
    strategy, epoch = trainer.args.eval_strategy.value, float(state["epoch"])
    if trainer.evaluate_fn is None or trainer.args.eval_delay > (
        state["global_step"] if strategy == "steps" else epoch
    ):
        return False
    if strategy == "steps":
        return bool(state["global_step"] % state["eval_steps"] == 0)
    return strategy == "epoch" and abs(epoch - round(epoch)) < 1e-6


def take_up(trainer: UllavaTrainer, folder: RunFolder, progress: Progress) -> None:
    """Prepare ``trainer`` to go on from ``progress``, and drop what the run left beyond it."""
    if progress.checkpoint is not None:
        check_weights(trainer.model, progress.checkpoint)
        trainer.restore_window(progress.checkpoint)
        trainer.missed_evaluation = progress.missed_evaluation
    if trainer.is_world_process_zero():
        print(_where(progress))
        folder.forget_after(progress.step)


def _where(progress: Progress) -> str:
    if progress.trained:
        return f"all {progress.step} steps are there: writing what is missing"
    if progress.checkpoint is None:
        return "no complete checkpoint: starting again from step 0"
    return f"resuming after step {progress.step}"


def check_weights(model: Any, checkpoint: Path) -> None:
    """Raise WeightsError where the weights of ``checkpoint`` are not those of ``model`` by name and shape.

    Hugging Face only warns. Checkpoints without safetensors (DeepSpeed's own) are left to their loader.
    """
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
