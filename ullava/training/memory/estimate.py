"""``ullava check --memory``: what a process of a training run holds, part by part, computed without any of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

from ullava.config.schema import TrainRecipe
from ullava.modeling.cores.core_contract import Core, CorePart
from ullava.training.memory.ledger import GRADIENTS, Ledger
from ullava.training.memory.settings import MemorySettings, read_settings
from ullava.training.memory.subject import Subject, make_batch, make_subject
from ullava.training.optim.learning_rates import decaying
from ullava.training.optim.muon import split_parameters
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import ADAPTERS, LANGUAGE, SAM_ENCODER, part_prefixes

MASK_ENCODER, MASK_HEAD, BOX_HEAD, REST = "mask encoder", "mask head", "box head", "losses, splicing"
MASTER_BYTES = 4
"""Of a number's float32 copy that DeepSpeed's optimizer steps on."""
MUON_BYTES = 4
GATHERED_LAYERS = 2
"""Decoder layers whose weights are whole at a time, where processes share them: one at work, one on its way."""


@dataclass(frozen=True, slots=True)
class PartMemory:
    """Bytes of one part in one process. ``weights``: by type. ``activations``: at the moment when most is held."""

    weights: Mapping[torch.dtype, int]
    gradients: int
    optimizer: int
    activations: int

    def total(self) -> int:
        """All of it."""
        return sum(self.weights.values()) + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes in one process. ``pass_peak``: the most within forward and backward, ``step_peak`` within the optimizer.

    ``beside``: what sharing holds beside the parts. ``activations_unknown``: why there is no figure for activations.
    """

    parts: Mapping[str, PartMemory]
    beside: Mapping[str, int]
    pass_peak: int
    step_peak: int
    rows: int
    length: int
    supervised: float
    settings: MemorySettings
    processes: int
    activations_unknown: str = ""

    @property
    def total(self) -> int:
        """The most that the process holds at a time."""
        return max(self.pass_peak, self.step_peak)


def estimate(
    recipe: TrainRecipe,
    recipe_path: Path,
    *,
    processes: int = 1,
    length: int | None = None,
    supervised: float = 0.5,
) -> MemoryEstimate:
    """Compute what one of ``processes`` processes holds that trains ``recipe``; see ``make_batch`` for the others.

    Raises UserError as training does for what does not fit together.
    """
    settings = read_settings(recipe, recipe_path, processes)
    subject = make_subject(recipe, recipe_path, settings.sharing.whole_dtype)
    batch_length, peak, unknown = _activations(subject, recipe, settings, length, supervised)
    parts = _parts(subject, recipe, settings, peak)
    beside = _beside(subject, settings, processes)
    held = sum(sum(part.weights.values()) + part.optimizer for part in parts.values()) + sum(beside.values())
    gradients = sum(part.gradients for part in parts.values())
    during = gradients if settings.gathers else peak.get(GRADIENTS, 0)
    activations = sum(part.activations for part in parts.values())
    working = _step_copies(subject, settings)
    return MemoryEstimate(
        parts=parts,
        beside=beside,
        pass_peak=held + activations + during,
        step_peak=held + gradients + working,
        rows=settings.rows,
        length=batch_length,
        supervised=supervised,
        settings=settings,
        processes=processes,
        activations_unknown=unknown,
    )


def _activations(
    subject: Subject, recipe: TrainRecipe, settings: MemorySettings, length: int | None, supervised: float
) -> tuple[int, dict[str, int], str]:
    """Tokens of a row, bytes by label when one forward and backward pass holds most, and why not where it cannot."""
    model = subject.model
    batch, tokens = make_batch(subject, settings.rows, length, supervised)
    if settings.checkpointing:
        model.gradient_checkpointing_enable(settings.checkpointing_options)
        subject.plan.set_frozen_to_eval()
    if settings.checkpointing or recipe.lora is not None:
        model.enable_input_require_grads()
    inputs, targets = batch.usable()
    passes = model.core.passes(recipe.passes)
    objective = GroundingObjective(subject.loss, subject.processor.masks, passes.aux_terms)
    inputs = inputs.for_losses(heads_only=subject.loss.ce == 0, overrides=dict(passes.variants()[-1]))
    ledger = Ledger(subject.fake, REST, 0.0 if settings.gathers else 1 / settings.sharing.gradients)
    ledger.leave_out([*model.parameters(), *model.buffers()])
    try:
        with ledger, ledger.labelled(_labels(model), model):
            with torch.autocast("cpu", settings.half or torch.bfloat16, enabled=settings.half is not None):
                output = passes(model, inputs)
                total = objective(output, targets, objective.counts(output, targets)).total
            del output
            total.backward()
    except (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException) as error:
        return tokens, {}, f"this system decides on sizes by values that it computes ({type(error).__name__})"
    return tokens, ledger.peak, ""


def _parts(
    subject: Subject, recipe: TrainRecipe, settings: MemorySettings, peak: Mapping[str, int]
) -> dict[str, PartMemory]:
    weights: dict[str, Counter[torch.dtype]] = {}
    gradients: Counter[str] = Counter()
    optimizer: Counter[str] = Counter()
    sharing = settings.sharing
    state = _state_bytes(subject, recipe, settings)
    shared_whole = sharing.kind == "FSDP2"
    for name, parameter in subject.model.named_parameters():
        part = group_of(subject.model, name)
        whole = shared_whole and name in subject.plan.row_tables
        numbers, size = parameter.numel(), parameter.numel() * parameter.element_size()
        if "weights" not in sharing.offloaded:
            weights.setdefault(part, Counter())[parameter.dtype] += size // (1 if whole else sharing.weights)
        if not parameter.requires_grad:
            continue
        gradients[part] += size // (1 if whole else sharing.gradients)
        if "optimizer" not in sharing.offloaded:
            optimizer[part] += numbers * state[name] // (1 if whole else sharing.optimizer)
    found = {
        part: PartMemory(weights.get(part, {}), gradients[part], optimizer[part], peak.get(part, 0))
        for part in _order(subject.model)
        if part in weights or gradients[part] or peak.get(part)
    }
    if peak.get(REST):
        found[REST] = PartMemory({}, 0, 0, peak[REST])
    return found


def _state_bytes(subject: Subject, recipe: TrainRecipe, settings: MemorySettings) -> dict[str, int]:
    """Bytes of optimizer state for a number of each parameter that trains."""
    named = {name: value for name, value in subject.model.named_parameters() if value.requires_grad}
    master = MASTER_BYTES if settings.sharing.kind.startswith("ZeRO") else 0
    if recipe.optimizer.kind != "muon":
        return dict.fromkeys(named, settings.state_bytes + master)
    decayed = [name for name in decaying(subject.model) if name not in subject.plan.row_tables]
    matrices = {id(value) for value in split_parameters(subject.model, decayed)[0]}
    return {name: MUON_BYTES if id(value) in matrices else 2 * MUON_BYTES for name, value in named.items()}


def _beside(subject: Subject, settings: MemorySettings, processes: int) -> dict[str, int]:
    """What several processes hold beside their shares."""
    model, sharing = subject.model, settings.sharing
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if sharing.kind == "DDP":
        return {"buckets of DDP": sum(value.numel() * value.element_size() for value in trained)}
    found: dict[str, int] = {}
    if sharing.kind.startswith("ZeRO") and sharing.kind != "ZeRO-0":
        numbers = min(sharing.bucket, sum(value.numel() for value in trained))
        found["buckets of DeepSpeed"] = numbers * max((value.element_size() for value in trained), default=4)
    if sharing.weights > 1 or "weights" in sharing.offloaded:
        layers = [_bytes(layer) for layer in model.core.decoder_layers()]
        found["weights that are gathered"] = sum(sorted(layers)[-GATHERED_LAYERS:])
        if sharing.kind == "FSDP2":  # everything but the layers is one group, whole within a pass
            found["weights that are gathered"] += _bytes(model) - sum(layers)
    return found


def _step_copies(subject: Subject, settings: MemorySettings) -> int:
    """What the optimizer's step holds for itself: copies of all that trains, or of the largest parameter."""
    sizes = [value.numel() * 4 for value in subject.model.parameters() if value.requires_grad]
    if settings.sharing.kind.startswith("ZeRO") or not settings.state_bytes:
        return 0
    return sum(sizes) // settings.sharing.optimizer if settings.foreach else 2 * max(sizes, default=0)


def _bytes(module: nn.Module) -> int:
    return sum(value.numel() * value.element_size() for value in module.parameters())


def group_of(model: nn.Module, name: str) -> str:
    """The row of the table that the parameter ``name`` belongs to."""
    if ".lora_" in name:
        return ADAPTERS
    part = next(part for part, prefixes in part_prefixes(model) if name.startswith(prefixes))
    if name.startswith("mask_head."):
        return MASK_ENCODER if part == SAM_ENCODER else MASK_HEAD
    if name.startswith("box_head."):
        return BOX_HEAD
    language = {known.name for known in _core_parts(model) if known.kind in ("language", "head")}
    return LANGUAGE if part in language else part


def _order(model: nn.Module) -> list[str]:
    vision = [part.name for part in _core_parts(model) if part.kind in ("tower", "projector")]
    return [LANGUAGE, ADAPTERS, *vision, MASK_ENCODER, MASK_HEAD, BOX_HEAD]


def _core_parts(model: nn.Module) -> tuple[CorePart, ...]:
    core: Core = cast(Any, model).core
    return core.parts()


def _labels(model: nn.Module) -> dict[nn.Module, str]:
    """The row of the table of every module whose parameters belong to one; of the language model with its adapters."""
    rows: dict[nn.Module, set[str]] = {}
    for name, _ in model.named_parameters():
        row = group_of(model, name)
        path = name.split(".")
        for depth in range(1, len(path)):
            module = model.get_submodule(".".join(path[:depth]))
            rows.setdefault(module, set()).add(LANGUAGE if row == ADAPTERS else row)
    return {module: min(found) for module, found in rows.items() if len(found) == 1}
