"""``UllavaConfig``: everything that a saved model needs to be built again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers import (
    CONFIG_MAPPING,
    EdgeTamConfig,
    EdgeTamVideoConfig,
    PreTrainedConfig,
    Sam2Config,
    Sam2MaskDecoderConfig,
    Sam2VideoConfig,
    Sam3TrackerConfig,
    SamConfig,
)

from ullava.config.renamed import current_saved
from ullava.modeling.mask_cut import MaskCut, MaskRule
from ullava.modeling.towers.clip import ClipTower
from ullava.modeling.towers.table import tower_class

CORE_KEYS: Mapping[str, frozenset[str]] = {
    "spliced": frozenset(
        {
            "text_config",
            "vision_config",
            "strategy",
            "vision_feature_layer",
            "projector",
            "image_aspect_ratio",
            "spatial_merge_size",
            "vision_settings",
            "region_grid",
            "region_patch_id",
        }
    ),
    "native": frozenset({"native_config"}),
}
"""Core -> the keys of a saved config that only it has."""


def foreign_keys(core_kind: str) -> frozenset[str]:
    """The keys that a saved config of this core does not have."""
    others = (keys for kind, keys in CORE_KEYS.items() if kind != core_kind)
    return frozenset().union(*others) if core_kind in CORE_KEYS else frozenset()


def _text_config(value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    table = dict(value or {"model_type": "llama"})
    return CONFIG_MAPPING[table.pop("model_type")](**table)


def _tower_config(value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig:
    if isinstance(value, PreTrainedConfig):
        return value
    table = dict(value or {})
    kind = tower_class(table.get("model_type", ClipTower.config_class.model_type))
    return kind.config_class(**table)


def _sam_config(value: dict[str, Any] | SamConfig | None, mask_kind: str) -> SamConfig | None:
    if isinstance(value, SamConfig):
        return value
    return SamConfig(**(value or {})) if value or mask_kind == "sam" else None


def _sam2_config(value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig | None:
    """A whole SAM 2 where the table says so (``model_type``), else its mask decoder."""
    if not isinstance(value, dict):
        return value
    return (Sam2Config if value.get("model_type") == Sam2Config.model_type else Sam2MaskDecoderConfig)(**value)


def _made(kind: type[PreTrainedConfig], value: dict[str, Any] | PreTrainedConfig | None) -> PreTrainedConfig | None:
    return kind(**value) if isinstance(value, dict) else value


class UllavaConfig(PreTrainedConfig):
    """Sizes and choices of one model.

    ``text_config`` may be any causal LM of transformers; ``vision_config`` is the vision tower, one of
    ``ullava.modeling.towers.table`` (CLIP's where it does not say). ``vision_settings``: the strategy's own choices
    (ullava.config.vision) as a table. ``region_grid`` n: a region that a question points at becomes n x n tokens; None:
    questions cannot point. With ``core_kind`` ``native`` none of these count (see ``CORE_KEYS``):
    ``native_config`` is an image-text-to-text model, and ``text_config`` its decoder's part of that.
    ``head_state`` says which hidden state feeds the heads: ``predicting`` is the one before ``[SEG]`` (u-LLaVA's),
    ``token`` the one at it; ``grounding_layer``: of which layer of the language model, counted from 1 (None: what its
    head reads). ``video_frames``: frames of a video that are seen.
    ``mask_kind`` names the mask head (ullava.modeling.heads.mask_table), ``sam_config``, ``sam2_config``,
    ``edgetam_config``, ``sam3_tracker_config``, ``sam2_video_config`` or ``edgetam_video_config`` holds its sizes,
    ``mask_encoder`` says what it sees: images by an encoder of its ``own``, or the maps of the ``vision`` tower;
    ``mask_repeat_prompt``: whether each frame of a clip is prompted, and not the first alone.
    ``presence_scale`` and ``presence_shift`` turn the mask head's object score into one that fits what was measured
    (``ullava calibrate``): ``scale * logit + shift``, in answers alone; ``mask_rule``, ``mask_threshold``
    and ``mask_peak_gap`` say what of its logits a mask is there (ullava.modeling.mask_cut).
    ``box_kind`` names the box head, ``detector_config`` its GroundingDINO, if it has one.
    ``box_frame``: ``norm`` = original image, ``padsq`` = center-padded square. All ``*_id``
    fields come from the tokenizer (``ullava.text.tokens``) and are never constants. ``marker_gradient_only`` reproduces
    a defect of u-LLaVA (``ullava.modeling.cores.gradient_ullava_v1``). ``pretrained`` notes which parts came from the
    Hugging Face Hub: key of model.yaml -> its id (``path``) and commit (``revision``).
    """

    model_type = "ullava"
    sub_configs = {
        "text_config": PreTrainedConfig,
        "vision_config": PreTrainedConfig,
        "native_config": PreTrainedConfig,
        "sam_config": SamConfig,
    }
    is_composition = True

    def __init__(
        self,
        text_config: dict[str, Any] | PreTrainedConfig | None = None,
        vision_config: dict[str, Any] | PreTrainedConfig | None = None,
        sam_config: dict[str, Any] | SamConfig | None = None,
        sam2_config: dict[str, Any] | Sam2Config | Sam2MaskDecoderConfig | None = None,
        edgetam_config: dict[str, Any] | EdgeTamConfig | None = None,
        sam3_tracker_config: dict[str, Any] | Sam3TrackerConfig | None = None,
        sam2_video_config: dict[str, Any] | Sam2VideoConfig | None = None,
        edgetam_video_config: dict[str, Any] | EdgeTamVideoConfig | None = None,
        strategy: str = "clip_mlp",
        vision_feature_layer: int = -2,
        projector: str = "mlp2x",
        image_aspect_ratio: str = "pad",
        spatial_merge_size: int = 1,
        vision_settings: dict[str, Any] | None = None,
        region_grid: int | None = None,
        head_state: str = "predicting",
        grounding_layer: int | None = None,
        mask_score: str = "iou_head",
        mask_kind: str = "sam",
        mask_encoder: str = "own",
        mask_repeat_prompt: bool = False,
        presence_scale: float = 1.0,
        presence_shift: float = 0.0,
        mask_threshold: float = 0.0,
        mask_rule: MaskRule = "fixed",
        mask_peak_gap: float | None = None,
        box_kind: str = "regression",
        detector_config: dict[str, Any] | PreTrainedConfig | None = None,
        box_width: int = 256,
        box_frame: str = "norm",
        box_sigmoid: bool = True,
        image_patch_id: int | None = None,
        image_start_id: int | None = None,
        image_end_id: int | None = None,
        video_patch_id: int | None = None,
        video_start_id: int | None = None,
        video_end_id: int | None = None,
        region_patch_id: int | None = None,
        seg_id: int | None = None,
        loc_id: int | None = None,
        tag_start_id: int | None = None,
        tag_end_id: int | None = None,
        max_text_length: int = 512,
        marker_gradient_only: bool = False,
        video_frames: int = 8,
        core_kind: str = "spliced",
        native_config: dict[str, Any] | PreTrainedConfig | None = None,
        pretrained: dict[str, dict[str, str]] | None = None,
        **kwargs: Any,
    ) -> None:
        self.core_kind = core_kind
        self.native_config = None if core_kind == "spliced" else _text_config(native_config)
        if self.native_config is None:
            self.text_config = _text_config(text_config)
            self.vision_config = _tower_config(vision_config)
        else:
            self.text_config = self.native_config.get_text_config(decoder=True)
            self.vision_config = None
        self.sam_config = _sam_config(sam_config, mask_kind)
        self.sam2_config = _sam2_config(sam2_config)
        self.edgetam_config = _made(EdgeTamConfig, edgetam_config)
        self.sam3_tracker_config = _made(Sam3TrackerConfig, sam3_tracker_config)
        self.sam2_video_config = _made(Sam2VideoConfig, sam2_video_config)
        self.edgetam_video_config = _made(EdgeTamVideoConfig, edgetam_video_config)
        self.strategy = strategy
        self.vision_feature_layer = vision_feature_layer
        self.projector = projector
        self.image_aspect_ratio = image_aspect_ratio
        self.spatial_merge_size = spatial_merge_size
        self.vision_settings = dict(vision_settings or {})
        self.region_grid = region_grid
        self.head_state = head_state
        self.grounding_layer = grounding_layer
        self.mask_kind, self.mask_encoder, self.mask_score = mask_kind, mask_encoder, mask_score
        self.mask_repeat_prompt = mask_repeat_prompt
        self.presence_scale, self.presence_shift = presence_scale, presence_shift
        self.mask_rule, self.mask_threshold, self.mask_peak_gap = mask_rule, mask_threshold, mask_peak_gap
        self.box_kind = box_kind
        self.detector_config = None if detector_config is None else _text_config(detector_config)
        self.box_width, self.box_frame, self.box_sigmoid = box_width, box_frame, box_sigmoid
        self.image_patch_id = image_patch_id
        self.image_start_id = image_start_id
        self.image_end_id = image_end_id
        self.video_patch_id = video_patch_id
        self.video_start_id = video_start_id
        self.video_end_id = video_end_id
        self.region_patch_id = region_patch_id
        self.seg_id = seg_id
        self.loc_id = loc_id
        self.tag_start_id = tag_start_id
        self.tag_end_id = tag_end_id
        self.max_text_length = max_text_length
        self.marker_gradient_only = marker_gradient_only
        self.video_frames = video_frames
        self.pretrained = dict(pretrained or {})
        whole = self.native_config or self.text_config
        kwargs.setdefault("tie_word_embeddings", bool(getattr(whole, "tie_word_embeddings", False)))
        super().__init__(**kwargs)

    def networks(self) -> tuple[PreTrainedConfig, ...]:
        """The configs of transformers' networks that the core and the mask head are made of."""
        core = (self.text_config, self.vision_config) if self.native_config is None else (self.native_config,)
        return (*core, self.mask_part)

    @property
    def mask_part(self) -> PreTrainedConfig:
        """The sizes of the mask head, as transformers has them."""
        part: PreTrainedConfig = getattr(self, f"{self.mask_kind}_config")
        return part

    def to_dict(self) -> dict[str, Any]:
        """PreTrainedConfig's, without what the core of this model does not have."""
        absent = foreign_keys(self.core_kind)
        return {key: value for key, value in super().to_dict().items() if key not in absent}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Read what ``to_dict`` wrote, also in a release that called some keys otherwise."""
        return super().from_dict(current_saved(config_dict), **kwargs)

    @property
    def mask_cut(self) -> MaskCut:
        """What of its logits a mask is, in answers."""
        return MaskCut(self.mask_rule, self.mask_threshold, self.mask_peak_gap)

    @mask_cut.setter
    def mask_cut(self, cut: MaskCut) -> None:
        self.mask_rule, self.mask_threshold, self.mask_peak_gap = cut.rule, cut.threshold, cut.peak_gap

    @property
    def sam_side(self) -> int:
        """Side S of the square that the mask head's encoder sees, in pixels."""
        if self.mask_encoder == "vision":
            return int(self.vision_config.image_size)
        if self.sam_config is not None:
            return int(self.sam_config.vision_config.image_size)
        return int(self.mask_part.prompt_encoder_config.image_size)

    def get_text_config(self, *args: Any, **kwargs: Any) -> PreTrainedConfig:
        """The language model's config; generation and caches size themselves by it."""
        return self.text_config
