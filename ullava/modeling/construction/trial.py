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
    Sam3TrackerConfig,
    Sam3TrackerModel,
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
from ullava.modeling.construction.shared_sizes import (
    TrialError,
    refuse_lists,
    refuse_many_queries,
    refuse_narrow_decoder,
    refuse_unequal_memory,
    refuse_unequal_sam,
    refuse_unequal_segmenter,
)
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
TRIAL_WIDTH = 8
"""Of the states that a mask head is tried with."""
WORDS = 4
"""Words of the trial: enough for every kind of position and cache."""


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
        refuse_lists("", config)
    if isinstance(config, SamConfig):
        refuse_unequal_sam(config)
    if isinstance(config, Sam2MaskDecoderConfig):
        refuse_narrow_decoder(config)
    if isinstance(config, Sam2Config | EdgeTamConfig | Sam3TrackerConfig | Sam2VideoConfig | EdgeTamVideoConfig):
        refuse_unequal_segmenter(config)
    if isinstance(config, Sam2VideoConfig | EdgeTamVideoConfig):
        refuse_unequal_memory(config)
    if type(config) in _DETECTORS:
        refuse_many_queries(config)
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
    """A whole SAM 2, EdgeTAM or tracker of SAM 3, as it is used here: always the one mask."""
    network.mask_decoder.dynamic_multimask_via_stability = False
    side = int(config.prompt_encoder_config.image_size)
    network(pixel_values=torch.zeros(1, 3, side, side), multimask_output=False)


def _run_video_segmenter(head: Any, config: PreTrainedConfig) -> None:
    """A mask head with a memory: one frame with a prompt and one that is read by the memory."""
    side = int(config.prompt_encoder_config.image_size)
    pixels, row = torch.zeros(1, 3, side, side, dtype=torch.uint8), torch.zeros(1, dtype=torch.long)
    frame = head.embed(HeadImages(pixels=pixels, sizes=torch.full((1, 2), side), row_of_image=row), row)
    head.step(frame, head.start(frame, torch.zeros(1, TRIAL_WIDTH)).memory)


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
    Sam3TrackerConfig: (Sam3TrackerModel, _run_segmenter),
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
