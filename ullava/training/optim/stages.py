"""Which parameters a stage trains: closed rules by name, printed as a table and asserted.

Every parameter belongs to exactly one part (the first whose prefix fits), and a stage names the parts that train. A
part that matches nothing, or a parameter that belongs nowhere, is an error rather than a silent default.
Facts: u-LLaVA, arXiv 2311.05348, and its released training script, with its addendum (ours trains the rows of the
    special tokens).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import nn

from ullava.errors import ConfigError, did_you_mean
from ullava.modeling.cores.core_contract import Core
from ullava.modeling.heads.mask_contract import VideoMaskHead

Stage = Literal["scratch", "align", "ground"]

ADAPTERS = "LoRA adapters"
ADAPTERS_ABOVE = "LoRA adapters above"
"""Of the layers above the one that masks and boxes read (``grounding_layer``): what they learn changes words alone."""
LANGUAGE = "language model"
LANGUAGE_HEAD = "language head"
TOKEN_ROWS = "special-token rows"
TOWER = "vision tower"
PROJECTOR = "vision projector"
"""Of the vision strategy, what it calls a tower and what it calls a projector; its parts have names of their own."""
SAM_ENCODER = "SAM image encoder"
PROMPT_ENCODER = "SAM prompt encoder"
QUALITY = "SAM quality head"
DECODER = "SAM mask decoder"
PRESENCE = "SAM presence head"
MEMORY = "SAM memory"
MASK_NECK = "mask neck"
MASK_PROJECTOR = "mask projector"
DETECTOR_BACKBONE = "box detector backbone"
DETECTOR = "box detector"
BOX_HEAD = "box head"
UNREAD = "never read"

UNUSED_MEMORY = ("mask_downsample.", "no_memory_positional_encoding")
"""What a segmenter of videos has for masks that a person draws, and for a use that it never had; nothing reads it."""

PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (SAM_ENCODER, ("mask_head.sam.vision_encoder.", "mask_head.sam.no_memory_embedding")),
    (PROMPT_ENCODER, ("mask_head.sam.prompt_encoder.", "mask_head.sam.shared_image_embedding.")),
    (QUALITY, ("mask_head.sam.mask_decoder.iou_prediction_head.", "mask_head.decoder.iou_prediction_head.")),
    (
        PRESENCE,
        tuple(
            f"mask_head.{decoder}.{part}."
            for decoder in ("sam.mask_decoder", "decoder")
            for part in ("pred_obj_score_head", "obj_score_token")
        ),
    ),
    (DECODER, ("mask_head.sam.mask_decoder.", "mask_head.decoder.")),
    (
        MEMORY,
        tuple(
            f"mask_head.sam.{start}"
            for start in (
                "memory_",
                "object_pointer_proj.",
                "no_object_pointer",
                "occlusion_spatial_embedding_parameter",
                "spatial_perceiver.",
                "temporal_positional_encoding_projection_layer.",
                *UNUSED_MEMORY,
            )
        ),
    ),
    (MASK_NECK, ("mask_head.neck.",)),
    (MASK_PROJECTOR, ("mask_head.projector.", "mask_head.modulation.", "mask_head.match.")),
    (DETECTOR_BACKBONE, ("box_head.detector.model.backbone.",)),
    (DETECTOR, ("box_head.detector.",)),
    (BOX_HEAD, ("box_head.",)),
)

TRAINS: dict[Stage, tuple[str, ...]] = {
    "scratch": (
        LANGUAGE, LANGUAGE_HEAD, TOWER, PROJECTOR, SAM_ENCODER, PROMPT_ENCODER, QUALITY, PRESENCE, DECODER, MEMORY,
        MASK_NECK, MASK_PROJECTOR, BOX_HEAD, DETECTOR, DETECTOR_BACKBONE,
    ),
    "align": (TOKEN_ROWS, PROJECTOR),
    "ground": (
        LANGUAGE, LANGUAGE_HEAD, PROJECTOR, QUALITY, PRESENCE, DECODER, MEMORY, MASK_NECK, MASK_PROJECTOR, BOX_HEAD,
        DETECTOR,
    ),
}  # fmt: skip

NOT_IN_ALL = frozenset(
    {
        ADAPTERS_ABOVE,
        TOKEN_ROWS,
        LANGUAGE_HEAD,
        SAM_ENCODER,
        PROMPT_ENCODER,
        PRESENCE,
        MEMORY,
        MASK_NECK,
        DETECTOR,
        DETECTOR_BACKBONE,
    }
)
"""Parts that a stage trains where a model has them: heads of some kinds do without."""


@dataclass(frozen=True, slots=True)
class PartRow:
    """One line of the table. ``trained`` counts scalars, as ``size`` does; for token rows only their own scalars."""

    part: str
    tensors: int
    size: int
    trained: int


@dataclass(frozen=True)
class TrainablePlan:
    """What ``apply_stage`` did: the table, the names that train, and the modules that stay in eval mode.

    ``row_tables``: those of the names of which only the rows ``row_ids`` (our own tokens) train.
    """

    stage: Stage
    rows: tuple[PartRow, ...]
    trainable: frozenset[str]
    frozen_modules: tuple[nn.Module, ...]
    row_tables: frozenset[str] = frozenset()
    row_ids: tuple[int, ...] = ()

    def with_modules_of(self, model: nn.Module) -> TrainablePlan:
        """The same plan for ``model`` after some of its frozen layers were replaced by others."""
        return replace(self, frozen_modules=tuple(_frozen_modules(model)))

    def table(self) -> str:
        """Return the parts with their parameter counts as text."""
        lines = [f"stage {self.stage}: what trains", f"  {'part':<22}{'tensors':>8}{'parameters':>14}{'trained':>14}"]
        for row in self.rows:
            trained = f"{row.trained:,}" if row.trained else "frozen"
            lines.append(f"  {row.part:<22}{row.tensors:>8}{row.size:>14,}{trained:>14}")
        tensors, size = sum(row.tensors for row in self.rows), sum(row.size for row in self.rows)
        lines.append(f"  {'all':<22}{tensors:>8}{size:>14,}{sum(row.trained for row in self.rows):>14,}")
        return "\n".join(lines)

    def set_frozen_to_eval(self) -> None:
        """Put frozen modules back into eval mode; ``model.train()`` would wake their dropout.

        A layer that recomputes its activations does so only in training mode, so its own flag (not its parts') stays.
        """
        for module in self.frozen_modules:
            if module.training:
                module.eval()
                for layer in module.modules():
                    if getattr(layer, "gradient_checkpointing", False):
                        layer.training = True


def apply_stage(
    model: nn.Module,
    stage: Stage,
    *,
    lora: bool = False,
    quality_trains: bool = True,
    presence_trains: bool = True,
    parts: Mapping[str, bool] | None = None,
) -> TrainablePlan:
    """Set ``requires_grad`` of every parameter as ``stage`` says and check that nothing else trains.

    ``lora``: adapters are attached; the rest of the language model is then frozen but for the special-token rows.
    ``quality_trains``, ``presence_trains``: the loss has a term for SAM's quality head, and for the head that says
    whether a thing is there (otherwise they would only decay). ``parts``: the recipe's own choices, which win over the
    stage's.

    Raises ConfigError for a name in ``parts`` that is no part, ValueError for a parameter that belongs to no part and
    for a part of the stage that matches nothing.
    """
    wanted = set(TRAINS[stage])
    if lora:
        wanted = (wanted - {LANGUAGE, LANGUAGE_HEAD}) | {ADAPTERS, ADAPTERS_ABOVE, TOKEN_ROWS}
    if not quality_trains:
        wanted.discard(QUALITY)
    if not presence_trains:
        wanted.discard(PRESENCE)
    part_of = assign_parts(model)
    wanted = _by_name(wanted, model, set(part_of.values()))
    wanted = _chosen(wanted, parts or {}, set(part_of.values()) | {TOKEN_ROWS})
    wanted -= set() if _head_trains(model) else {BOX_HEAD}
    missing = wanted - set(part_of.values()) - NOT_IN_ALL
    if missing:
        raise ValueError(f"stage {stage}: no parameter of this model belongs to {', '.join(sorted(missing))}")
    rows_only = _token_row_names(model) if TOKEN_ROWS in wanted and LANGUAGE not in wanted else frozenset()
    trainable = {name for name, part in part_of.items() if part in wanted}
    rows_only -= trainable
    trainable |= rows_only
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    token_ids = special_token_ids(model)
    for name in rows_only:
        _train_rows_only(model.get_parameter(name), token_ids)
    rows = _table_rows(model, part_of, trainable, rows_only, len(token_ids))
    plan = TrainablePlan(
        stage, rows, frozenset(trainable), tuple(_frozen_modules(model)), frozenset(rows_only), token_ids
    )
    assert_plan(model, plan)
    return plan


def _chosen(wanted: set[str], parts: Mapping[str, bool], known: set[str]) -> set[str]:
    unknown = [f"parts: no part is called '{name}'{did_you_mean(name, known)}" for name in parts if name not in known]
    if UNREAD in parts:
        unknown.append(f"parts: '{UNREAD}' can never train")
    if unknown:
        raise ConfigError(unknown)
    off = {name for name, trains in parts.items() if not trains}
    return (wanted | {name for name, trains in parts.items() if trains}) - off


def assert_plan(model: nn.Module, plan: TrainablePlan) -> None:
    """Raise ValueError unless exactly the planned parameters require a gradient."""
    actual = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if actual != plan.trainable:
        extra, lost = sorted(actual - plan.trainable), sorted(plan.trainable - actual)
        raise ValueError(f"stage {plan.stage}: should not train {extra[:5]}, should train {lost[:5]}")


def assign_parts(model: nn.Module) -> dict[str, str]:
    """Return the part of every parameter, by name (tied weights once). Raises ValueError for one that fits none."""
    unread = unread_names(model)
    known = part_prefixes(model)
    above = _above_grounding(model)
    parts: dict[str, str] = {}
    for name, _ in model.named_parameters():
        if ".lora_" in name:
            parts[name] = ADAPTERS_ABOVE if name in above else ADAPTERS
            continue
        fitting = [part for part, prefixes in known if name.startswith(prefixes)]
        if not fitting:
            raise ValueError(f"parameter {name} belongs to no part; add it to ullava.training.optim.stages.PARTS")
        parts[name] = UNREAD if name in unread else fitting[0]
    return parts


def _above_grounding(model: nn.Module) -> frozenset[str]:
    """Return the parameters of the layers above ``grounding_layer``, none where masks read the last one."""
    layer = getattr(model.config, "grounding_layer", None)
    layers = [] if layer is None else _core(model).decoder_layers()[layer:]
    above = {id(parameter) for module in layers for parameter in module.parameters()}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in above)


def part_prefixes(model: nn.Module) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return every part of ``model`` with the starts of its parameters' names, those of its core first."""
    return (*((part.name, part.prefixes) for part in _core(model).parts()), *PARTS)


def _core(model: nn.Module) -> Core:
    return cast(Core, cast(Any, model).core)


def _by_name(wanted: set[str], model: nn.Module, present: set[str]) -> set[str]:
    """Replace "vision tower" and "vision projector" of a stage by the core's parts of those kinds.

    Of several those alone that some pass reads (``present``): a strategy's settings may leave one out.
    """
    for kind, general in (("tower", TOWER), ("projector", PROJECTOR)):
        if general in wanted:
            own = {part.name for part in _core(model).parts() if part.kind == kind}
            wanted = (wanted - {general}) | (own & present or own)
    return wanted


def unread_names(model: nn.Module) -> frozenset[str]:
    """Return the parameters that no forward pass reads, so that no optimizer and no process group waits for them.

    They are what the core names, SAM's embeddings of points, boxes and mask prompts, and a box head that
    looks for words, which are known only after the pass.
    """
    names = [name for name, _ in model.named_parameters()]
    prompts = "mask_head.sam.prompt_encoder."
    carries = isinstance(getattr(model, "mask_head", None), VideoMaskHead)
    read = ("no_mask_embed", "not_a_point_embed") if carries else ("no_mask_embed",)
    unread = {name for name in names if name.startswith(prompts) and not any(part in name for part in read)}
    unread |= {name for name in names if name.startswith(tuple(f"mask_head.sam.{start}" for start in UNUSED_MEMORY))}
    unread |= {name for name in names if name.startswith(_core(model).unread())}
    skipped = getattr(getattr(model, "box_head", None), "unread", ()) if _head_trains(model) else ("",)
    unread |= {name for name in names if name.startswith(tuple(f"box_head.{start}" for start in skipped))}
    return frozenset(unread)


def _head_trains(model: nn.Module) -> bool:
    """Return whether the box head reads the states of the pass, so that a stage can train it."""
    return bool(getattr(getattr(model, "box_head", None), "trains", True))


def special_token_ids(model: nn.Module) -> tuple[int, ...]:
    """Return the ids of our own tokens that the tokenizer of this model has, in ascending order."""
    images = ("image_start_id", "image_end_id", "video_start_id", "video_end_id")
    names = (*images, "seg_id", "loc_id", "tag_start_id", "tag_end_id")
    found = {getattr(model.config, name, None) for name in names}
    return tuple(sorted(number for number in found if number is not None))


def _token_row_names(model: nn.Module) -> frozenset[str]:
    """Return the names of the input embedding and, where it has weights of its own, of the language head."""
    network: Any = model
    tables = {id(module.weight) for module in (network.get_input_embeddings(), network.get_output_embeddings())}
    return frozenset(name for name, parameter in model.named_parameters() if id(parameter) in tables)


def _train_rows_only(table: nn.Parameter, rows: Sequence[int]) -> None:
    """Let gradients through to ``rows`` alone; Adam leaves a row whose gradient was always zero untouched."""
    kept = list(rows)

    def keep(gradient: torch.Tensor) -> torch.Tensor:
        masked = torch.zeros_like(gradient)
        masked[kept] = gradient[kept]
        return masked

    table.register_hook(keep)


def _table_rows(
    model: nn.Module, part_of: dict[str, str], trainable: set[str], rows_only: frozenset[str], token_count: int
) -> tuple[PartRow, ...]:
    made: list[PartRow] = []
    order = [ADAPTERS, ADAPTERS_ABOVE, TOKEN_ROWS, *(part for part, _ in part_prefixes(model)), UNREAD]
    for part in order:
        names = rows_only if part == TOKEN_ROWS else [n for n, p in part_of.items() if p == part and n not in rows_only]
        if not names:
            continue
        parameters = [(name, model.get_parameter(name)) for name in names]
        size = sum(parameter.numel() for _, parameter in parameters)
        if part == TOKEN_ROWS:
            trained = sum(token_count * parameter.shape[1] for _, parameter in parameters)
        else:
            trained = sum(parameter.numel() for name, parameter in parameters if name in trainable)
        made.append(PartRow(part, len(parameters), size, trained))
    return tuple(made)


def _frozen_modules(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the topmost modules that have parameters, none of which trains."""
    for child in model.children():
        parameters = list(child.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            yield child
        elif parameters:
            yield from _frozen_modules(child)
