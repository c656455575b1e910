"""Every YAML file of the project as frozen dataclasses. No torch here, and no defaults hidden elsewhere.

A field without a default is required. ``ullava.config.load`` reads YAML into these, strictly. Free-form tables that
belong to another library (``config`` of a Hugging Face architecture, ``training``) are ``dict`` here and are checked
by name against that library where it is imported. ``at_least`` and ``above`` bound a number; the loader checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def at_least(smallest: float) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be ``smallest`` or more."""
    return {"at_least": smallest}


def above(bound: float) -> dict[str, float]:
    """Return field metadata: a number (where there is one) has to be greater than ``bound``."""
    return {"above": bound}


# ---------------------------------------------------------------- models/<name>/model.yaml
@dataclass(frozen=True, kw_only=True, slots=True)
class PartConfig:
    """A transformers part: ``path`` of pretrained weights, or ``config`` (with ``model_type``) to build it afresh."""

    path: str | None = None
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class VisionConfig:
    """The front-end: strategy, tower, and how its tokens reach the language width.

    ``merge`` n joins n x n neighbouring patches into one visual token (side by side, before the projector).
    ``video_frames``: how many frames of a video are seen.
    """

    strategy: Literal["clip_mlp"] = "clip_mlp"
    tower: PartConfig
    hidden_layer: int = -2
    projector: Literal["linear", "mlp2x"] = "mlp2x"
    aspect: Literal["pad", "stretch", "crop"] = "pad"
    merge: int = field(default=1, metadata={"at_least": 1})
    video_frames: int = field(default=8, metadata=at_least(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskHeadConfig:
    """``[SEG]`` -> SAM. ``score``: SAM's own quality prediction, or the mean foreground probability."""

    sam: PartConfig
    score: Literal["iou_head", "mean_probability"] = "iou_head"


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxHeadConfig:
    """``[LOC]`` -> box. ``frame``: what the four numbers mean (``padsq`` is u-LLaVA's). ``sigmoid`` bounds them."""

    kind: Literal["regression"] = "regression"
    width: int = field(default=256, metadata=at_least(1))
    frame: Literal["norm", "padsq"] = "norm"
    sigmoid: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class TextConfig:
    """How a conversation is written down."""

    template: Literal["vicuna_v1", "llama2", "simple", "chatml"] = "vicuna_v1"
    system: str = ""
    max_length: int = field(default=512, metadata=at_least(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """One system. ``weights`` (below the file's folder) is what ``ullava.load(name)`` reads, if there are any."""

    name: str
    language: PartConfig
    tokenizer: str
    vision: VisionConfig
    mask: MaskHeadConfig
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    text: TextConfig = field(default_factory=TextConfig)
    head_state: Literal["predicting", "token"] = "predicting"
    weights: str | None = None
    notes: str = ""


# ---------------------------------------------------------------- datasets/<id>/dataset.yaml
@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Where one split lies below the data root; ``count`` is what ``ullava check`` expects to find."""

    annotations: str
    images: str = "."
    count: int | None = field(default=None, metadata=at_least(0))


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """One dataset: which reader, which files, which words."""

    name: str
    layout: Literal["refer", "grefer", "label_png", "coco_instances", "salient_png", "llava_json", "regions"]
    task: Literal["text", "caption", "vqa", "res", "rec", "salient", "semantic", "instance"]
    splits: dict[str, SplitConfig]
    template: str | None = None
    classes: list[str] = field(default_factory=list)
    label_offset: int = 0
    ignore_label: int | None = None
    licence: str
    source: str
    notes: str = ""


# ---------------------------------------------------------------- configs/train/*.yaml, configs/eval/*.yaml
@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetEntry:
    """A dataset's part in a recipe.

    ``portion`` below 1 takes a seeded subset, above 1 repeats; ``weight`` is instead a sampling ratio (all entries of
    a recipe use the one or the other). ``turns`` caps questions per sample; ``group: image`` lets them come from
    different annotations of one picture. ``limit`` keeps the first n annotations (for a quick look). ``dataset`` names
    the dataset where the entry's own key is only a label, so that one dataset may occur twice.
    """

    dataset: str | None = None
    portion: float | None = field(default=None, metadata=above(0))
    weight: float | None = field(default=None, metadata=above(0))
    split: str | None = None
    template: str | None = None
    data_root: str | None = None
    task: str | None = None
    turns: int = field(default=3, metadata=at_least(0))
    group: Literal["item", "image"] = "item"
    limit: int | None = field(default=None, metadata=at_least(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters on the language model (peft)."""

    r: int = field(metadata=at_least(1))
    alpha: int = field(default=16, metadata=at_least(1))
    dropout: float = field(default=0.05, metadata=at_least(0))
    target: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the named terms. ``box_divide_twice`` reproduces u-LLaVA's double division (spec part 2.5).

    ``patch``: visual tokens are taught the words of what they show, on annotations that list all ``things``; for towers
    that start from nothing (ullava.modeling.patches).
    """

    ce: float = field(default=1.0, metadata=at_least(0))
    bce: float = field(default=2.0, metadata=at_least(0))
    dice: float = field(default=0.5, metadata=at_least(0))
    l1: float = field(default=1.0, metadata=at_least(0))
    giou: float = field(default=1.0, metadata=at_least(0))
    iou_score: float = field(default=0.0, metadata=at_least(0))
    patch: float = field(default=0.0, metadata=at_least(0))
    mask_plane: Literal["original", "lowres"] = "original"
    box_divide_twice: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """``adamw`` is Hugging Face's (``training.optim``); ``muon`` takes ``training.learning_rate`` for weight matrices.

    With ``muon``, ``adam_share`` times that rate is AdamW's for embeddings, norms, biases and convolutions.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    momentum: float = 0.95
    adam_share: float = 0.25


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """What ``ullava train`` reads. ``training`` are Hugging Face TrainingArguments, checked by name.

    ``attention`` is transformers' kernel; on a CPU ``eager`` trains short rows a third faster than ``sdpa``.
    """

    model: str
    init: str = "scratch"
    stage: Literal["scratch", "align", "ground"]
    lora: LoraConfig | None = None
    loss: LossConfig = field(default_factory=LossConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data_root: str = "."
    dataset: dict[str, DatasetEntry]
    eval_dataset: dict[str, DatasetEntry] = field(default_factory=dict)
    eval_protocol: Literal["generate", "teacher_forced"] = "generate"
    bad_sample_budget: int = field(default=0, metadata=at_least(0))
    max_new_tokens: int = field(default=96, metadata=at_least(1))
    attention: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    training: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRecipe:
    """What ``ullava eval`` reads."""

    model: str = "tiny"
    data_root: str = "."
    dataset: dict[str, DatasetEntry]
    protocol: Literal["generate", "teacher_forced"] = "generate"
    batch_size: int = field(default=32, metadata=at_least(1))
    max_new_tokens: int = field(default=96, metadata=at_least(1))
    num_workers: int = field(default=0, metadata=at_least(0))
    bad_sample_budget: int = field(default=0, metadata=at_least(0))
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    bootstrap: int = field(default=0, metadata=at_least(0))
