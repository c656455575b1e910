"""Networks of transformers built and run once without memory for weights, to see that a config holds together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    EdgeTamConfig,
    EdgeTamModel,
    EdgeTamVideoConfig,
    EdgeTamVideoModel,
    PreTrainedConfig,
    Sam2Config,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamConfig,
    SamModel,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
)
from transformers.models.sam2.modeling_sam2 import Sam2MaskDecoder

from ullava.config.load import place
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.examples import HeadImages
from ullava.modeling.configuration import UllavaConfig
from ullava.modeling.heads.detector import DETECTORS
from ullava.modeling.heads.mask_memory import EdgeTamVideoMaskHead, VideoSegmenterMaskHead
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.towers.table import TOWERS

LANGUAGES = frozenset(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
"""``model_type`` of what can go on with words."""
NATIVES = frozenset(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES) - {UllavaConfig.model_type}
"""``model_type`` of what reads images and goes on with words by itself."""
MAX_PARAMETERS = 10**12
MAX_RUN_PARAMETERS = 30_000_000
"""A detector reads numbers as it goes and cannot run without memory; a small one runs with it."""
MAX_QUERIES = 10_000
MEMORY_WIDTH = 64
"""Of what is remembered of a place: the attention of transformers 5.17 and later has no other."""
TRIAL_WIDTH = 8
"""Of the states that a mask head is tried with."""
WORDS = 4
"""Words of the trial: enough for every kind of position and cache."""


class TrialError(Exception):
    """The network is none that anything could hold, or its parts do not fit; ``key`` is the value to blame, if any."""

    def __init__(self, reason: str, key: str = "") -> None:
        self.key = key
        super().__init__(reason)


LIBRARY_ERRORS = (
    StrictDataclassError,
    ValueError,
    TypeError,
    AttributeError,
    LookupError,
    ArithmeticError,
    AssertionError,
    ImportError,
    NameError,
    OSError,
    RuntimeError,
    TrialError,
)
"""What transformers and torch raise for values of a config that they cannot use."""


def reason_of(error: BaseException) -> str:
    """Return the line of a library's message that says something; strict configs say it below the name of the field."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[1] if isinstance(error, StrictDataclassError) and len(lines) > 1 else (lines or [""])[0]
    told = told.removeprefix("TypeError: ").removeprefix("ValueError: ")
    return told[:200] or type(error).__name__


@dataclass(frozen=True)
class Volume:
    """How much a whole system holds: numbers of its parameters, and of all that is saved (buffers too)."""

    parameters: int
    values: int


_HELD: set[str] = set()
"""What held together before in this process; a second trial of the same values would say the same."""
_VOLUMES: dict[str, Volume] = {}
"""Of whole systems that were built without memory before in this process."""


def _identity(value: Any) -> str:
    """Text that is the same for configs of one class with the same values, those within and their types included."""
    if isinstance(value, PreTrainedConfig):
        return f"{type(value).__module__}.{type(value).__qualname__}{_identity(vars(value))}"
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{key!r}: {_identity(item)}' for key, item in value.items()))}}}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__}({', '.join(map(_identity, value))})"
    return repr(value)


def try_network(config: PreTrainedConfig) -> None:
    """Build the network of ``config`` on the meta device and run it on an input of the least size.

    The same values are tried once in a process. The random numbers of the caller stay as they are. Raises whatever
    transformers or torch raise, and TrialError for more parameters than any network has.
    """
    identity = _identity(config)
    if identity not in _HELD:
        _try_network(copy.deepcopy(config))
        _HELD.add(identity)


def _try_network(config: PreTrainedConfig) -> None:
    if config.model_type in TOWERS:
        _refuse_lists("", config)
    if isinstance(config, SamConfig):
        _refuse_unequal_sam(config)
    if isinstance(config, Sam2MaskDecoderConfig):
        _refuse_narrow_decoder(config)
    if isinstance(config, Sam2Config | EdgeTamConfig | Sam2VideoConfig | EdgeTamVideoConfig):
        _refuse_unequal_segmenter(config)
    if isinstance(config, Sam2VideoConfig | EdgeTamVideoConfig):
        _refuse_unequal_memory(config)
    if type(config) in _DETECTORS:
        _refuse_many_queries(config)
    build, run = _NETWORKS.get(type(config), _WORDS if config.model_type in LANGUAGES else _IMAGES_AND_WORDS)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        with torch.device("meta"):
            network = build(config).eval()
        size = sum(parameter.numel() for parameter in network.parameters())
        if size > MAX_PARAMETERS:
            raise TrialError(f"a network of {size:,} parameters")
        if type(config) not in _DETECTORS:
            with torch.device("meta"):
                run(network, config)
        elif size <= MAX_RUN_PARAMETERS:
            run(build(config).eval(), config)


def system_volume(config: UllavaConfig) -> Volume:
    """Build a whole system on the meta device, once in a process for the same values, and say how much it holds.

    The random numbers of the caller stay as they are. Raises what our parts, transformers and torch raise.
    """
    identity = _identity(config)
    if identity not in _VOLUMES:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            system = UllavaForConditionalGeneration(copy.deepcopy(config))
        _VOLUMES[identity] = Volume(
            parameters=sum(value.numel() for value in system.parameters()),
            values=sum(value.numel() for value in system.state_dict().values()),
        )
    return _VOLUMES[identity]


@contextmanager
def vision_of(site: Site) -> Iterator[None]:
    """Let what a vision strategy refuses name file and line of its settings."""
    try:
        yield
    except ConfigError:
        raise
    except UserError as error:
        told = site.of("vision")
        raise ConfigError([f"{place(told.file, told.key)}: {problem}" for problem in error.problems]) from error


def try_system(config: UllavaConfig, site: Site, dtype: torch.dtype = torch.float32) -> None:
    """Build a whole system without memory.

    Raises ConfigError, which names ``site``, where its parts do not go together, and for weights (of ``dtype``) that
    this machine has no memory for.
    """
    try:
        with vision_of(site):
            size = system_volume(config).parameters
    except LIBRARY_ERRORS as error:
        raise ConfigError(f"{site}: no network can be made of these parts ({reason_of(error)})") from error
    memory = psutil.virtual_memory().total
    if size * dtype.itemsize > memory:
        needed = f"{size:,} parameters take {size * dtype.itemsize / 1e9:,.0f} GB"
        raise ConfigError(f"{site}: {needed}, this machine has {memory / 1e9:,.0f} GB of memory")


def _run_words(network: Any, config: PreTrainedConfig) -> None:
    network(input_ids=torch.zeros(1, WORDS, dtype=torch.long))


def _run_image(network: Any, config: PreTrainedConfig) -> None:
    network(pixel_values=torch.zeros(1, 3, int(config.image_size), int(config.image_size)))


def _run_sam(network: Any, config: PreTrainedConfig) -> None:
    side = int(config.vision_config.image_size)
    network(pixel_values=torch.zeros(1, 3, side, side), input_points=torch.zeros(1, 1, 1, 2))


def _run_decoder(network: Any, config: PreTrainedConfig) -> None:
    """SAM 2's decoder on a grid of 2 x 2 cells, as it is used here: always the one mask."""
    network.dynamic_multimask_via_stability = False
    width = int(config.hidden_size)
    plane = torch.zeros(1, width, 2, 2)
    network(
        image_embeddings=plane,
        image_positional_embeddings=plane,
        sparse_prompt_embeddings=torch.zeros(1, 1, 1, width),
        dense_prompt_embeddings=plane,
        multimask_output=False,
        high_resolution_features=[torch.zeros(1, width // 8, 8, 8), torch.zeros(1, width // 4, 4, 4)],
    )


def _run_segmenter(network: Any, config: PreTrainedConfig) -> None:
    """A whole SAM 2 or EdgeTAM, as it is used here: always the one mask."""
    network.mask_decoder.dynamic_multimask_via_stability = False
    side = int(config.prompt_encoder_config.image_size)
    network(pixel_values=torch.zeros(1, 3, side, side), multimask_output=False)


def _run_video_segmenter(head: Any, config: PreTrainedConfig) -> None:
    """A mask head with a memory: one frame with a prompt and one that is read by the memory."""
    side = int(config.prompt_encoder_config.image_size)
    pixels, row = torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    frame = head.embed(HeadImages(pixels=pixels, sizes=torch.full((1, 2), side), row_of_image=row), row)
    head.step(frame, head.start(frame, torch.zeros(1, TRIAL_WIDTH)).memory)


def _refuse_narrow_decoder(config: PreTrainedConfig, prefix: str = "") -> None:
    """Raise TrialError where the decoder's width has no eighth, or its heads do not share out what attention sees."""
    if config.hidden_size % 8:
        raise TrialError(f"{config.hidden_size} is no multiple of 8", f"{prefix}hidden_size")
    inner = config.hidden_size // config.attention_downsample_rate
    if inner % config.num_attention_heads:
        raise TrialError(
            f"{config.num_attention_heads} heads do not divide {inner}, hidden_size / attention_downsample_rate",
            f"{prefix}num_attention_heads",
        )


def _refuse_unequal_segmenter(config: PreTrainedConfig) -> None:
    """Raise TrialError where the parts of a SAM 2 or EdgeTAM do not have the sizes in common that they share."""
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    _refuse_lists("prompt_encoder_config.", prompt)
    if prompt.image_size % prompt.patch_size:
        raise TrialError(
            f"{prompt.image_size} is no multiple of patch_size {prompt.patch_size}", "prompt_encoder_config.image_size"
        )
    grid = prompt.image_size // prompt.patch_size
    maps = [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2]
    width, backbone = prompt.hidden_size, vision.backbone_config
    channels = getattr(backbone, "embed_dim_per_stage", None)
    equal = [
        ("vision_config.num_feature_levels", vision.num_feature_levels, "the number of maps", len(maps)),
        ("vision_config.backbone_feature_sizes", [list(pair) for pair in vision.backbone_feature_sizes],
         "4, 2 and 1 times image_size / patch_size of prompt_encoder_config", maps),
        ("vision_config.fpn_hidden_size", vision.fpn_hidden_size, "prompt_encoder_config.hidden_size", width),
        ("mask_decoder_config.hidden_size", decoder.hidden_size, "prompt_encoder_config.hidden_size", width),
    ]  # fmt: skip
    if channels is not None:
        start = "embed_dim_per_stage of backbone_config"
        last = ("vision_config.backbone_channel_list", vision.backbone_channel_list, f"{start} from its end")
        equal.append((*last, list(reversed(channels))))
        first = ("vision_config.backbone_config.hidden_size", backbone.hidden_size, f"the first {start}")
        equal.append((*first, channels[0]))
    for key, value, other, wanted in equal:
        if value != wanted:
            raise TrialError(f"{value} has to equal {other}, which is {wanted}", key)
    _refuse_narrow_decoder(decoder, "mask_decoder_config.")


def _refuse_unequal_memory(config: PreTrainedConfig) -> None:
    """Raise TrialError where the memory of a segmenter of videos has other sizes than the maps that it is made of."""
    prompt, width_key = config.prompt_encoder_config, "prompt_encoder_config.hidden_size"
    side, width = prompt.image_size, prompt.hidden_size
    grid = side // prompt.patch_size
    if width % MEMORY_WIDTH:
        raise TrialError(f"{width} is no multiple of {MEMORY_WIDTH}", width_key)
    equal = (
        ("image_size", config.image_size, "prompt_encoder_config.image_size", side),
        ("memory_attention_hidden_size", config.memory_attention_hidden_size, width_key, width),
        ("memory_encoder_hidden_size", config.memory_encoder_hidden_size, width_key, width),
        ("mask_downsampler_embed_dim", config.mask_downsampler_embed_dim, "memory_encoder_hidden_size", width),
        ("memory_fuser_embed_dim", config.memory_fuser_embed_dim, "memory_encoder_hidden_size", width),
        ("mask_downsampler_total_stride", config.mask_downsampler_total_stride,
         "prompt_encoder_config.patch_size", prompt.patch_size),
        ("memory_attention_rope_feat_sizes", list(config.memory_attention_rope_feat_sizes),
         "image_size / patch_size of prompt_encoder_config, twice", [grid, grid]),
        ("memory_encoder_output_channels", config.memory_encoder_output_channels,
         "the width that transformers' attention to a memory has", MEMORY_WIDTH),
    )  # fmt: skip
    for key, value, other, wanted in equal:
        if value != wanted:
            raise TrialError(f"{value} has to equal {other}, which is {wanted}", key)


def _refuse_lists(prefix: str, sizes: PreTrainedConfig) -> None:
    """transformers takes a height and a width too; our views are squares."""
    for name in ("image_size", "patch_size"):
        value = getattr(sizes, name, 1)  # a tower of convolutions has no patches
        if not isinstance(value, int):
            raise TrialError(f"expected a whole number, got {value}", f"{prefix}{name}")


def _refuse_unequal_sam(config: PreTrainedConfig) -> None:
    """Raise TrialError where SAM's three parts do not have the sizes in common that they share."""
    vision, prompt, decoder = config.vision_config, config.prompt_encoder_config, config.mask_decoder_config
    _refuse_lists("vision_config.", vision)
    _refuse_lists("prompt_encoder_config.", prompt)
    if vision.image_size % vision.patch_size:
        raise TrialError(
            f"{vision.image_size} is no multiple of patch_size {vision.patch_size}", "vision_config.image_size"
        )
    width = prompt.hidden_size
    equal = (
        ("prompt_encoder_config.image_size", prompt.image_size, "vision_config.image_size", vision.image_size),
        ("prompt_encoder_config.patch_size", prompt.patch_size, "vision_config.patch_size", vision.patch_size),
        ("vision_config.output_channels", vision.output_channels, "prompt_encoder_config.hidden_size", width),
        ("mask_decoder_config.hidden_size", decoder.hidden_size, "prompt_encoder_config.hidden_size", width),
        ("vision_config.num_pos_feats", vision.num_pos_feats, "half of prompt_encoder_config.hidden_size", width / 2),
    )
    for key, value, other, wanted in equal:
        if value != wanted:
            raise TrialError(f"{value} has to equal {other}, which is {wanted:g}", key)
    layers = int(vision.num_hidden_layers)
    nowhere = [number for number in vision.global_attn_indexes if not 0 <= number < layers]
    if nowhere:
        raise TrialError(f"{nowhere[0]} is none of {layers} layers", "vision_config.global_attn_indexes")


def _refuse_many_queries(config: PreTrainedConfig) -> None:
    """The queries are the best places of an image, so that it has to have as many."""
    if int(config.num_queries) > MAX_QUERIES:
        raise TrialError(f"{config.num_queries} is more than an image has places ({MAX_QUERIES})", "num_queries")


def _run_detector(network: Any, config: PreTrainedConfig) -> None:
    """An image with a place for every query, where that is no larger than images are."""
    side = min(max(128, 16 * (math.isqrt(int(config.num_queries)) + 1)), 1024)
    words = min(WORDS, int(config.max_text_len))
    ids = torch.zeros(1, words, dtype=torch.long)
    network(pixel_values=torch.zeros(1, 3, side, side), input_ids=ids, attention_mask=torch.ones_like(ids))


def _run_nothing(network: Any, config: PreTrainedConfig) -> None:
    """Image-text-to-text models look into what they are given, which has no values here."""


_WORDS = (AutoModelForCausalLM.from_config, _run_words)
_IMAGES_AND_WORDS = (AutoModelForImageTextToText.from_config, _run_nothing)
_DETECTORS = {kind: (network, _run_detector) for kind, network in DETECTORS.values()}
_NETWORKS: Mapping[type[PreTrainedConfig], tuple[Callable[[Any], Any], Callable[[Any, Any], None]]] = {
    **{row.config_class: (row.network_class, _run_image) for row in TOWERS.values()},
    SamConfig: (SamModel, _run_sam),
    Sam2Config: (Sam2Model, _run_segmenter),
    Sam2MaskDecoderConfig: (Sam2MaskDecoder, _run_decoder),
    EdgeTamConfig: (EdgeTamModel, _run_segmenter),
    Sam2VideoConfig: (
        lambda config: VideoSegmenterMaskHead(config, TRIAL_WIDTH, Sam2VideoModel),
        _run_video_segmenter,
    ),
    EdgeTamVideoConfig: (
        lambda config: EdgeTamVideoMaskHead(config, TRIAL_WIDTH, EdgeTamVideoModel),
        _run_video_segmenter,
    ),
    **_DETECTORS,
}
"""Config -> how its network is built and run; any other is a language model's, or an image-text-to-text model's."""
