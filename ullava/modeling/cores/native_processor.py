"""The weight-free part of the core ``native``: transformers' own processor of the model, as our flow uses it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ullava.config.core import CoreConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.examples import BASE_VIEW, IMAGE_TOKENS, NATIVE_VIEWS, VIEW_KEYS, TokenCount
from ullava.hub import find_folder
from ullava.modeling.cores.core_native import TOKEN_KINDS
from ullava.modeling.loading.pretrained import read_processor
from ullava.modeling.vision.strategy import PLAIN, ItemNotes, VideoInputs, VisionInputs, refuse_unknown

FOLDER = "core_processor"
"""Where a saved model keeps the processor of its core."""
TEXT_KEYS = frozenset({"input_ids", "attention_mask", *TOKEN_KINDS})
NEEDED = ("torchvision", "num2words")
"""Packages that processors of some models need, and ullava itself does not."""


def read_native(core: CoreConfig, folder: Path, site: Site) -> Any:
    """Read the processor of a native core. Raises ConfigError where it is not there or lacks what ours needs."""
    where = site.of("processor" if core.processor else "path")
    revision = None if core.processor else core.revision
    path = find_folder(core.processor or str(core.path), folder, str(where), revision=revision, weights=False)
    try:
        return checked_processor(read_processor(path), path)
    except UserError as error:
        raise ConfigError([f"{where}: {problem}{_hint(problem)}" for problem in error.problems]) from error


def checked_processor(processor: Any, path: Path) -> Any:
    """Return ``processor`` (of folder ``path``) if it has all that ours needs; raises UserError otherwise."""
    kind = type(processor).__name__
    for name in ("tokenizer", "image_processor", "image_token", "image_token_id"):
        if getattr(processor, name, None) is None:
            raise UserError(f"{path}: a {kind}, which has no {name}: core native needs an image-text-to-text processor")
    if template_of(processor) is None:
        raise UserError(f"{path}: a {kind} without a chat template")
    if processor.tokenizer.eos_token is None:
        raise UserError(f"{path}: the tokenizer has no end token, so answers could not end")
    return processor


def template_of(processor: Any) -> str | None:
    """The chat template that transformers would use."""
    template = getattr(processor, "chat_template", None) or getattr(processor.tokenizer, "chat_template", None)
    return template if isinstance(template, str) else None


class NativePreprocessor:
    """A VisionPreprocessor: what the model's own processor makes of one image, in pixels and in ids of the text."""

    reads_text = False

    def __init__(self) -> None:
        self.processor: Any = None
        self.view_names: tuple[str, ...] = (BASE_VIEW, IMAGE_TOKENS)

    def take(self, processor: Any, tokenizer: Any) -> None:
        """Work with ``processor`` from now on; ``tokenizer`` is ours, which has tokens of its own beside those."""
        processor.tokenizer = tokenizer
        self.processor = processor
        named = [name for name in processor.model_input_names if name in NATIVE_VIEWS]
        self.view_names = (BASE_VIEW, *named, IMAGE_TOKENS)

    def load(self, folder: Path, tokenizer: Any) -> None:
        """Read the processor that a saved model keeps beside ours. Raises UserError for a damaged one."""
        self.take(checked_processor(read_processor(folder / FOLDER), folder / FOLDER), tokenizer)

    def save(self, folder: Path) -> None:
        """Write it beside ours."""
        self.processor.save_pretrained(str(folder / FOLDER))

    @property
    def image_token(self) -> str:
        """What a chat template writes for an image."""
        return str(self.processor.image_token)

    @property
    def image_token_id(self) -> int:
        """The id that stands for each visual token."""
        return int(self.processor.image_token_id)

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """See VisionPreprocessor; ``text_ids`` are what stands in the text for the image.

        Raises UserError for an override, and for inputs that no core of ours reads.
        """
        refuse_unknown(notes.overrides, (), "native")
        made = self.processor(
            text=[self.image_token],
            images=[Image.fromarray(image_rgb_u8)],
            add_special_tokens=False,
            return_tensors="pt",
        )
        ids = made["input_ids"][0].numpy()
        views: dict[str, NDArray[Any]] = {IMAGE_TOKENS: np.asarray([(ids == self.image_token_id).sum()])}
        for name, value in made.items():
            if name not in TEXT_KEYS:
                views[self._view(name)] = value.numpy()
        return VisionInputs(views=views, geometry={}, count=TokenCount(len(ids), len(ids)), text_ids=ids)

    def preprocess_video(
        self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN, *, as_released: bool = False
    ) -> VideoInputs:
        """See VisionPreprocessor. Raises UserError: videos are not supported."""
        raise UserError("core native: videos are not supported; ask about images")

    def _view(self, name: str) -> str:
        if name == VIEW_KEYS["images"]:
            return BASE_VIEW
        if name not in NATIVE_VIEWS:
            raise UserError(f"core native: {type(self.processor).__name__} gives {name}, which is not supported")
        return name


def native_token_ids(ids: Mapping[str, int], preprocessor: NativePreprocessor) -> dict[str, int]:
    """The ids of our own tokens, with that of the core's visual tokens."""
    return {**ids, "image_patch_id": preprocessor.image_token_id}


def _hint(problem: str) -> str:
    """What to install, where a library says that something is not there."""
    missing = [name for name in NEEDED if name in problem.lower() and importlib.util.find_spec(name) is None]
    return f" (pip install {' '.join(missing)})" if missing else ""
