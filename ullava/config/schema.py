"""Every YAML file of the project as frozen dataclasses. No torch here, and no defaults hidden elsewhere.

A field without a default is required. ``ullava.config.load`` reads YAML into these, strictly. Free-form tables that
belong to another library (``config`` of a Hugging Face architecture, ``training``) are ``dict`` here and are checked
against that library where it is imported. ``at_least``, ``at_most``, ``above`` and ``below`` bound a number; the loader
checks them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from ullava.config.augment import AugmentConfig as AugmentConfig
from ullava.config.augment import refuse_augment
from ullava.config.candidates import CandidatesConfig as CandidatesConfig
from ullava.config.core import CoreConfig as CoreConfig
from ullava.config.datasets import DatasetConfig as DatasetConfig
from ullava.config.datasets import DatasetEntry as DatasetEntry
from ullava.config.datasets import OriginalConfig as OriginalConfig
from ullava.config.datasets import OriginalSplit as OriginalSplit
from ullava.config.datasets import SplitConfig as SplitConfig
from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.config.fields import above, at_least, weight_per
from ullava.config.mask import MASK_ENCODERS as MASK_ENCODERS
from ullava.config.mask import MaskHeadConfig as MaskHeadConfig
from ullava.config.mask_cache import MaskCacheConfig as MaskCacheConfig
from ullava.config.packing import PackingConfig as PackingConfig
from ullava.config.quantization import Quantization as Quantization
from ullava.config.text import Template as Template
from ullava.config.text import TextConfig as TextConfig
from ullava.config.vision import PartConfig as PartConfig
from ullava.config.vision import VisionConfig as VisionConfig


# ---------------------------------------------------------------- models/<name>/model.yaml
@dataclass(frozen=True, kw_only=True, slots=True)
class LanguageConfig(PartConfig):
    """The language model. ``num_layers``: its first so many decoder layers alone, in config and weights.

    ``dtype``: what its weights are held in, whatever its files hold. Half precision saves memory where an accelerator
    trains adapters in mixed precision; without that, every part has to have one type.
    """

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_layers: int | None = field(default=None, metadata=at_least(1, 1024))


NO_LANGUAGE = LanguageConfig()
NO_VISION = VisionConfig(tower=PartConfig())


@dataclass(frozen=True, kw_only=True, slots=True)
class BoxHeadConfig:
    """``kind``: where boxes come from (docs/box_heads.md).

    ``regression``: ``[LOC]`` -> four numbers. ``frame``: what they mean (``padsq`` is u-LLaVA's); ``sigmoid`` bounds
    them; ``width`` is that of its layers. ``mask``: where the mask begins and ends that the mask head (sam2, edgetam)
    decodes of ``[LOC]``; ``frame`` is that of its plane, ``width`` as before. ``grounding_dino_query``: ``[LOC]`` takes
    the place of a phrase in ``detector``, a GroundingDINO. ``grounding_dino_phrase``: the words between the tags prompt
    ``detector``; boxes need a score above ``box_threshold``, and one above ``text_threshold`` at a word of the phrase.
    The detector sees the image with a short side of ``short_side`` pixels, the long one ``long_side`` at most.
    ``phrase_tokenizer``: folder of its tokenizer, where that is not the folder ``detector.path``.
    """

    kind: Literal["regression", "mask", "grounding_dino_query", "grounding_dino_phrase"] = "regression"
    width: int = field(default=256, metadata=at_least(1, 65_536))
    frame: Literal["norm", "padsq"] = "norm"
    sigmoid: bool = True
    detector: PartConfig | None = None
    phrase_tokenizer: str | None = None
    short_side: int = field(default=800, metadata=at_least(32, 16_384))
    long_side: int = field(default=1333, metadata=at_least(32, 16_384))
    box_threshold: float = field(default=0.25, metadata=at_least(0))
    text_threshold: float = field(default=0.2, metadata=at_least(0))

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other (ValueError)."""
        alone = self.kind in ("regression", "mask")
        if (self.detector is None) != alone:
            wants = "takes no detector" if alone else "needs a detector (path or config)"
            raise ValueError(f"kind {self.kind} {wants}")
        if not alone and self.frame != "norm":
            raise ValueError(f"kind {self.kind} speaks frame norm, not {self.frame}")
        words = self.phrase_tokenizer or (self.detector.path if self.detector is not None else None)
        if self.kind == "grounding_dino_phrase" and words is None:
            raise ValueError(f"kind {self.kind} reads words: give phrase_tokenizer, or a detector.path that has one")
        if self.phrase_tokenizer is not None and self.kind != "grounding_dino_phrase":
            raise ValueError(f"kind {self.kind} reads no phrase, so phrase_tokenizer means nothing")
        if self.long_side < self.short_side:
            raise ValueError(f"long_side {self.long_side} is below short_side {self.short_side}")


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """One system. ``weights`` (below the file's folder) is what ``ullava.load(name)`` reads, if there are any.

    ``core``: how language and vision meet; one of kind ``native`` stands in the place of ``language``, ``tokenizer``
    and ``vision``, which the other kind needs, and writes conversations in its own format (not ``text.template``).
    ``head_state``: masks and boxes are read at ``[SEG]`` and ``[LOC]`` themselves or, ``predicting``, one place before;
    ``grounding_layer``: of this layer of the language model, counted from 1, not of the last
    (ullava.modeling.heads.grounding_layer). ``compat: ullava_v1``: all as in u-LLaVA's first release
    (ullava.config.compat_ullava_v1), one way of which is ``marker_gradient_only``: words next to an image get no
    gradient.

    ``name``: what the system is called. ``language``: what reads and writes. ``tokenizer``: the folder or id of its
    tokenizer. ``vision``: what sees. ``mask``: what answers ``[SEG]``. ``box``: what answers ``[LOC]``. ``text``: how
    conversations are written. ``notes``: words for people.
    """

    compat: Literal["none", "ullava_v1"] = "none"
    name: str
    core: CoreConfig = field(default_factory=CoreConfig)
    language: LanguageConfig = NO_LANGUAGE
    tokenizer: str = ""
    vision: VisionConfig = NO_VISION
    mask: MaskHeadConfig
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    text: TextConfig = field(default_factory=TextConfig)
    head_state: Literal["predicting", "token"] = "predicting"
    grounding_layer: int | None = field(default=None, metadata=at_least(1))
    marker_gradient_only: bool = False
    weights: str | None = None
    notes: str = ""

    def __post_init__(self) -> None:
        """Refuse a core without its parts, or with those of the other kind (ValueError)."""
        parts = {"language": self.language != NO_LANGUAGE, "tokenizer": bool(self.tokenizer)}
        parts["vision"] = self.vision != NO_VISION
        if self.core.kind == "spliced" and not all(parts.values()):
            missing = ", ".join(name for name, there in parts.items() if not there)
            raise ValueError(f"{missing}: required key is missing (or name a core of kind native)")
        given = [name for name, there in parts.items() if there]
        if self.core.kind != "spliced" and given:
            raise ValueError(f"core.kind {self.core.kind} brings its own: leave out {', '.join(given)}")
        released = self.text.as_released or self.marker_gradient_only
        if self.core.kind != "spliced" and released:
            raise ValueError("as_released and marker_gradient_only reproduce u-LLaVA, whose core is of kind spliced")


# ---------------------------------------------------------------- configs/train/*.yaml, configs/eval/*.yaml
@dataclass(frozen=True, kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters on the language model (peft).

    ``r``: their rank. ``alpha``: they are scaled by alpha / r. ``dropout``: the share of their inputs that is left out.
    ``target``: the ends of the names of the linear layers that get one.
    """

    r: int = field(metadata=at_least(1, 65_536))
    alpha: int = field(default=16, metadata=at_least(1, 1 << 24))
    dropout: float = field(default=0.05, metadata={"at_least": 0, "below": 1})
    target: list[str] = field(default_factory=lambda: ["q_proj", "v_proj"])


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """The table of loss terms, a row each: name, default weight, what it is a mean over.

    ``ce``: cross-entropy of the answer's tokens. ``bce``, ``dice``: of masks, on the plane ``mask_plane``: that of the
    image, or the head's own small one. ``l1``, ``giou``: of boxes. ``iou_score``: how far the mask head's estimate of
    its own quality is off. ``box_divide_twice`` reproduces u-LLaVA's double division.
    ``presence``: of mask heads that say whether a thing is there; others have no such row. With them a mask that is
    empty has no other mask term but ``absent_bce``, its cross-entropy: what is not there is nowhere, pixel by pixel.
    ``patch``: visual tokens are taught the words of what they show, on annotations that list all ``things``; for towers
    that start from nothing (ullava.modeling.vision.patches). ``base_kl``: with ``lora``, how far the words of rows
    without image or video are from what the language model says without its adapters. ``aux``: weights of the vision
    strategy's own terms by name; those that are not named weigh 1.
    """

    ce: float = field(default=1.0, metadata=weight_per("tokens"))
    bce: float = field(default=2.0, metadata=weight_per("masks"))
    dice: float = field(default=0.5, metadata=weight_per("masks"))
    l1: float = field(default=1.0, metadata=weight_per("boxes"))
    giou: float = field(default=1.0, metadata=weight_per("boxes"))
    iou_score: float = field(default=0.0, metadata=weight_per("masks"))
    presence: float = field(default=1.0, metadata=weight_per("masks"))
    absent_bce: float = field(default=0.0, metadata=weight_per("masks"))
    patch: float = field(default=0.0, metadata=weight_per("patches"))
    base_kl: float = field(default=0.0, metadata=weight_per("plain_tokens"))
    aux: dict[str, float] = field(default_factory=dict)
    mask_plane: Literal["original", "lowres"] = "original"
    box_divide_twice: bool = False

    def __post_init__(self) -> None:
        """Refuse weights below 0 (ValueError)."""
        below = [name for name, weight in self.aux.items() if weight < 0]
        if below:
            raise ValueError(f"aux.{below[0]} has to be 0 or more, not {self.aux[below[0]]}")


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """``kind``: ``adamw``, Hugging Face's (``training.optim``), or ``muon``, with which ``training.learning_rate`` is
    that of weight matrices.

    ``momentum``: muon's. With ``muon``, ``adam_share`` times that rate is AdamW's for embeddings, norms, biases and
    convolutions. ``learning_rates``: learning rates of single parts by the names in the stage's table, with ``adamw``.
    """

    kind: Literal["adamw", "muon"] = "adamw"
    momentum: float = field(default=0.95, metadata={"at_least": 0, "below": 1})
    adam_share: float = field(default=0.25, metadata=above(0))
    learning_rates: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse rates below 0, and rates of parts with an optimizer that has two of its own (ValueError)."""
        below = [name for name, rate in self.learning_rates.items() if rate < 0]
        if below:
            raise ValueError(f"learning_rates.{below[0]} has to be 0 or more, not {self.learning_rates[below[0]]}")
        if self.learning_rates and self.kind != "adamw":
            raise ValueError(f"learning_rates go with adamw, not with {self.kind}")


@dataclass(frozen=True, kw_only=True, slots=True)
class BudgetConfig:
    """A run ends after ``seconds`` of training, its schedule fitted to them (ullava.training.loop.budget).

    ``clock``: ``wall``, or ``cpu``, the seconds of the process on its cores.
    """

    seconds: float = field(metadata=above(0))
    clock: Literal["wall", "cpu"] = "wall"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeadsConfig:
    """What a run makes afresh around the language model and the tower that it starts from: heads, view, conversation.

    ``image_aspect_ratio``: how an image becomes square, see ``VisionConfig``; ``compat``, ``mask``, ``box``, ``text``:
    the same as in ``ModelConfig``.
    """

    compat: Literal["none", "ullava_v1"] = "none"
    mask: MaskHeadConfig
    box: BoxHeadConfig = field(default_factory=BoxHeadConfig)
    image_aspect_ratio: Literal["pad", "stretch", "crop", "any"] = "pad"
    text: TextConfig = field(default_factory=TextConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainRecipe:
    """What ``ullava train`` reads. ``training`` are Hugging Face TrainingArguments, checked by name.

    ``init``: ``scratch``, a model with weights, or the ``adapter/`` of a LoRA run, or the
    ``adapters/`` of a model saved without its language model, which go on. ``model``: a name or
    model.yaml; the folder of ``init`` itself where its weights say everything. ``system``: the model spelt out in the
    recipe, paths from the working folder. ``reinit_heads``: ``none``, they come from ``init``; ``all``, new ones as the
    model (or this table) says, for a second stage that follows one without masks and boxes; ``box``: the box head
    alone. ``fresh_regions``: the weights of ``init`` take no regions; those of the model (``vision.regions``) begin
    afresh. ``parts``: parts of the stage's table that train (true) or not (false) against what the stage says.
    ``loss``: where the recipe has none, that of ``init``.
    ``vision``: settings of the vision strategy that differ from the model's in this stage, ``conversation``: how it
    writes dialogues, where that is not the model's way (ullava.modeling.construction.stage_settings).
    ``base_dtype: bfloat16`` holds what does not train in half precision, ``int8`` and ``nf4`` (QLoRA) its large linear
    layers in 8 and 4 bits (ullava.training.optim.base_dtype).
    ``sharding: fsdp2`` shares weights, gradients and optimizer out over the processes
    (ullava.training.distributed.sharding). ``output``: the run folder where --out names none.
    ``word_dropout``: this share of the answers' words is hidden from the model that goes on with them, so that it looks
    at the image rather than at habits of speech (ullava.data.sampling.word_dropout).
    ``attn_implementation`` is transformers' kernel; on a CPU ``eager`` trains short rows a third faster than ``sdpa``.
    ``passes``: how often a batch is run, for vision strategies that choose how to see an image
    (ullava.modeling.vision.passes): once, for ``every`` granularity, or to ``rank`` them for the router.
    ``group_by_modality_length`` makes batches of alike rows (ullava.data.sampling.grouping). ``pretokenized``: words
    are tokenized once and kept beside the annotations (ullava.data.loading.pretokenized). ``mask_cache``: a frozen mask
    encoder's maps of images are kept on disk. ``packing``: the dialogues of a batch share rows.
    ``budget``: the run ends with its seconds, whatever it got done in them.
    ``backprop_frames``: gradients of masks in videos run back through so many frames of the mask head's memory; without
    it through all of them.
    ``compat: ullava_v1``: losses and data as in u-LLaVA's first release (ullava.config.compat_ullava_v1).

    ``stage``: which parts train (ullava.training.optim.stages): ``scratch``, everything; ``align``, the projector and
    the new tokens; ``ground``, the language model, the projector and the heads. ``lora``: adapters in the place of the
    language model's own weights. ``optimizer``: which one, and rates of single parts. ``data_root``: the folder that
    paths of data sets are below. ``dataset``: what is trained on, ``eval_dataset``: what is measured during the run,
    entries by the names of data sets. ``eval_protocol``: how, see ``EvalRecipe``. ``max_new_tokens``: the longest
    answer in these measurements. ``bad_sample_budget``: how many samples may be left out as bad before the run stops.
    """

    compat: Literal["none", "ullava_v1"] = "none"
    model: str
    system: ModelConfig | None = None
    init: str = "scratch"
    reinit_heads: Literal["none", "all", "box"] | HeadsConfig = "none"
    fresh_regions: bool = False
    stage: Literal["scratch", "align", "ground"]
    parts: dict[str, bool] = field(default_factory=dict)
    vision: dict[str, Any] = field(default_factory=dict)
    conversation: Template | None = None
    lora: LoraConfig | None = None
    base_dtype: Literal["float32", "bfloat16", Quantization] = "float32"
    sharding: Literal["none", "fsdp2"] = "none"
    output: str | None = None
    loss: LossConfig | None = None
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    data_root: str = "."
    dataset: dict[str, DatasetEntry]
    eval_dataset: dict[str, DatasetEntry] = field(default_factory=dict)
    eval_protocol: Literal["generate", "teacher_forced"] = "generate"
    bad_sample_budget: int = field(default=0, metadata=at_least(0))
    max_new_tokens: int = field(default=MAX_NEW_TOKENS, metadata=at_least(1, 1 << 24))
    word_dropout: float = field(default=0.0, metadata={"at_least": 0, "below": 1})
    attn_implementation: Literal["sdpa", "eager", "flash_attention_2"] = "sdpa"
    passes: Literal["one", "every", "rank"] = "one"
    group_by_modality_length: bool = False
    shuffle_block: int | None = field(default=None, metadata=at_least(1, 1 << 24))
    """Instead of every row by itself, so many neighbors are shuffled together (ullava.data.sampling.blocks): for shards
    whose rows are slow to reach one by one.
    """
    pretokenized: bool = False
    mask_cache: MaskCacheConfig | None = None
    packing: PackingConfig | None = None
    budget: BudgetConfig | None = None
    backprop_frames: int | None = field(default=None, metadata=at_least(1, 65_536))
    training: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse augmentations where they would change what is measured, or words that are fixed (ValueError)."""
        refuse_augment(self.eval_dataset, "eval_dataset")
        if self.shuffle_block is not None and self.group_by_modality_length:
            raise ValueError(
                "shuffle_block keeps neighbors together, group_by_modality_length parts them: leave one out"
            )
        augmented = [name for name, entry in self.dataset.items() if entry.augment is not None]
        if self.pretokenized and augmented:
            raise ValueError(
                f"pretokenized keeps the words once, dataset.{augmented[0]}.augment changes them: leave one out"
            )
        if self.mask_cache is not None and augmented:
            raise ValueError(
                f"mask_cache keeps maps of whole images, dataset.{augmented[0]}.augment changes them: leave one out"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalRecipe:
    """What ``ullava eval`` reads. ``compat: ullava_v1``: data and figures as in u-LLaVA's first release
    (ullava.config.compat_ullava_v1), which counts ``as_released``: what is missing drops out.

    ``text_box_frame``: under the protocol ``text_box``, what the numbers of a box are fractions of: the center-padded
    square (ConvLLaVA) or the image (``norm``). ``overrides``: overrides of the vision encoder for every question, such
    as {granularity: 36} (docs/vision_encoders.md).

    ``model``: a name, a model.yaml or the folder of a saved model. ``data_root``: the folder that paths of data sets
    are below. ``dataset``: what is measured, entries by the names of data sets. ``protocol``: ``generate``, the model
    answers freely; ``teacher_forced``, it is given the words of the answer; ``text_box``, boxes are numbers in the
    text. ``counting``: ``strict``, what is missing counts as wrong, or ``as_released``, as u-LLaVA's first release
    counts. ``batch_size``: questions at a time. ``max_new_tokens``: the longest answer. ``caption_beams``: beams of the
    search for a caption (those that are published often had 3 to 5); at 1, and in all other answers, each word is the
    likeliest. ``num_workers``: threads that read ahead; at 0, none does. ``bad_sample_budget``: how many samples may be
    left out as bad before the run stops. ``device``: ``auto``, an accelerator where there is one, or a name that torch
    knows. ``dtype``: what the weights are held in; ``auto`` is bfloat16 on an accelerator and float32 on a CPU.
    ``quantize``: large linear layers in 8 or 4 bits (docs/quantization.md). ``clip_masks``: how things in videos are
    masked (docs/video.md). ``candidates``: several masks for each thing, of which one is chosen (docs/candidates.md);
    without it, the model's own. ``bootstrap``: so many resamples for 95 % intervals; at 0, none. ``mask_cache``: the
    mask encoder's maps of images are kept on disk. ``phrase_similarity``: when a phrase of a grounded caption is the
    one meant: ``words``, at least half of the words of the two in common; or an encoder by folder or Hub id, such as
    bert-base-uncased's (docs/grounded_captions.md).
    """

    compat: Literal["none", "ullava_v1"] = "none"
    model: str = "tiny"
    data_root: str = "."
    dataset: dict[str, DatasetEntry]
    protocol: Literal["generate", "teacher_forced", "text_box"] = "generate"
    text_box_frame: Literal["padsq", "norm"] = "padsq"
    counting: Literal["strict", "as_released"] = "strict"
    batch_size: int = field(default=32, metadata=at_least(1, 65_536))
    max_new_tokens: int = field(default=MAX_NEW_TOKENS, metadata=at_least(1, 1 << 24))
    caption_beams: int = field(default=1, metadata=at_least(1, 64))
    num_workers: int = field(default=0, metadata=at_least(0, 1024))
    bad_sample_budget: int = field(default=0, metadata=at_least(0))
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    quantize: Quantization | None = None
    clip_masks: Literal["memory", "frames", "none"] | None = None
    bootstrap: int = field(default=0, metadata=at_least(0, 1_000_000))
    mask_cache: MaskCacheConfig | None = None
    candidates: CandidatesConfig | None = None
    phrase_similarity: str = "words"
    overrides: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse augmentations: an evaluation takes images as they are (ValueError)."""
        refuse_augment(self.dataset, "dataset")
