"""The weight-free part of the core ``native``: transformers' own processor of the model, as our flow uses it."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.video_utils import VideoMetadata

from ullava.config.core import CoreConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.examples import (
    BASE_VIEW,
    IMAGE_TOKENS,
    IMAGES_OF_ROW,
    NATIVE_VIDEO_VIEWS,
    NATIVE_VIEWS,
    VIEW_KEYS,
    TokenCount,
)
from ullava.hub import find_folder
from ullava.modeling.cores.core_native import TOKEN_KINDS
from ullava.modeling.loading.pretrained import read_processor
from ullava.modeling.vision.strategy import PLAIN, ItemNotes, VideoInputs, VisionInputs, refuse_unknown

FOLDER = "core_processor"
"""Where a saved model keeps the processor of its core."""
PLACES = "text_replacement_offsets"
"""Where a processor of transformers tells what it wrote for an image or a video, if it is asked to."""
TEXT_KEYS = frozenset({"input_ids", "attention_mask", PLACES, *TOKEN_KINDS})
NEEDED = ("torchvision", "num2words")
"""Packages that processors of some models need, and ullava itself does not."""
USUAL_RATE = 1.0
"""Frames a second of a video that is seen, for a processor that has no rate of its own."""


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


def image_id_of(processor: Any) -> int:
    """The id of each visual token of an image; the sign for an image in a text may be another token."""
    return int(processor.image_token_ids[0])


def video_id_of(processor: Any) -> int | None:
    """The id of each visual token of a video, which may be that of an image's; None where it reads no videos."""
    if getattr(processor, "video_processor", None) is None or getattr(processor, "video_token", None) is None:
        return None
    own = processor.video_token_ids[0]
    return image_id_of(processor) if own is None else int(own)


class NativePreprocessor:
    """A VisionPreprocessor: what the model's own processor makes of one image or video, in pixels and as text."""

    reads_text = False

    def __init__(self) -> None:
        self.processor: Any = None
        self.view_names: tuple[str, ...] = (BASE_VIEW, IMAGE_TOKENS)

    def take(self, processor: Any, tokenizer: Any) -> None:
        """Work with ``processor`` from now on; ``tokenizer`` is ours, which has tokens of its own beside those."""
        processor.tokenizer = tokenizer
        self.processor = processor
        known = (*NATIVE_VIEWS, *NATIVE_VIDEO_VIEWS)
        named = [name for name in processor.model_input_names if name in known]
        self.view_names = (BASE_VIEW, *named, IMAGE_TOKENS)

    def load(self, folder: Path, tokenizer: Any) -> None:
        """Read the processor that a saved model keeps beside ours. Raises UserError for a damaged one."""
        self.take(checked_processor(read_processor(folder / FOLDER), folder / FOLDER), tokenizer)

    def save(self, folder: Path) -> None:
        """Write it beside ours."""
        self.processor.save_pretrained(str(folder / FOLDER))

    @property
    def kind(self) -> str:
        """The processor's class, as messages name it."""
        return type(self.processor).__name__

    @property
    def image_token(self) -> str:
        """What a chat template writes for an image."""
        return str(self.processor.image_token)

    @property
    def video_token(self) -> str | None:
        """What a chat template writes for a video; None where the processor reads none."""
        return str(self.processor.video_token) if self.reads_videos else None

    @property
    def image_token_id(self) -> int:
        """The id that stands for each visual token of an image."""
        return image_id_of(self.processor)

    @property
    def video_token_id(self) -> int | None:
        """The id that stands for each visual token of a video; None where the processor reads none."""
        return video_id_of(self.processor)

    @property
    def reads_videos(self) -> bool:
        """Whether the processor reads videos."""
        return self.video_token_id is not None

    @property
    def shares_tokens(self) -> bool:
        """Whether visual tokens of videos have the id of those of images."""
        return self.video_token_id == self.image_token_id

    def shown(self, images: Sequence[str], videos: Sequence[str]) -> dict[str, Sequence[str]]:
        """What stands for a row's images and videos, by the signs of a chat template."""
        signs: dict[str, Sequence[str]] = {self.image_token: images}
        return signs if self.video_token is None else signs | {self.video_token: videos}

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        """See VisionPreprocessor; ``text`` is what stands in the text for the image.

        Raises UserError for an override, and for inputs that no core of ours reads.
        """
        refuse_unknown(notes.overrides, (), "native")
        shown = Image.fromarray(image_rgb_u8)
        made = self._made(self.image_token, images=[shown], images_kwargs={"return_tensors": "pt"})
        among = IMAGES_OF_ROW in made and not notes.alone
        if among:  # such a processor makes less of an image that does not stand alone: it is shown two, one is kept
            twice = self._made(self.image_token * 2, images=[[shown, shown]], images_kwargs={"return_tensors": "pt"})
            made = {name: value[: len(value) // 2] if _is_view(name) else value for name, value in twice.items()}
        views = self._views(made, VIEW_KEYS["images"], NATIVE_VIEWS, self.image_token_id, 2 if among else 1)
        count = TokenCount(*2 * (int(views[IMAGE_TOKENS][0]),))
        variant = "|among others" if among else ""
        return VisionInputs(views=views, geometry={}, count=count, variant=variant, text=made[PLACES])

    def preprocess_video(
        self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN, *, as_released: bool = False
    ) -> VideoInputs:
        """See VisionPreprocessor; ``text`` is what stands in the text for the video.

        Where the processor writes times, frames are as far apart as the rate says at which it would take them itself.
        Raises UserError where the processor reads no videos, for an override, and for inputs that no core reads.
        """
        if self.video_token is None or self.video_token_id is None:
            raise UserError(f"core native: {self.kind} reads images, no videos")
        refuse_unknown(notes.overrides, (), "native")
        told = {"return_tensors": "pt", "do_sample_frames": False, "video_metadata": [self.times(frames_rgb_u8)]}
        made = self._made(self.video_token, videos=[frames_rgb_u8], videos_kwargs=told)
        base = next((key for key in (VIEW_KEYS["videos"], VIEW_KEYS["images"]) if key in made), "")
        views = self._views(made, base, (*NATIVE_VIDEO_VIEWS, "pixel_attention_mask"), self.video_token_id, 1)
        return VideoInputs(views=views, count=TokenCount(*2 * (int(views[IMAGE_TOKENS][0]),)), text=made[PLACES])

    def times(self, frames_rgb_u8: NDArray[np.uint8]) -> VideoMetadata:
        """When the frames uint8 [T, H, W, 3] were seen, for processors that write that into the text."""
        count, height, width = frames_rgb_u8.shape[:3]
        rate = float(getattr(self.processor.video_processor, "fps", None) or USUAL_RATE)
        return VideoMetadata(
            total_num_frames=count,
            fps=rate,
            width=width,
            height=height,
            duration=count / rate,
            frames_indices=list(range(count)),
        )

    def _made(self, text: str, **media: Any) -> dict[str, Any]:
        """What the processor makes of ``text``; in the place of its account of places, what it wrote for the first."""
        made = dict(
            self.processor(text=[text], add_special_tokens=False, return_text_replacement_offsets=True, **media)
        )
        made[PLACES] = str(made[PLACES][0][0]["replacement"])
        return made

    def _views(
        self, made: Mapping[str, Any], base: str, known: Sequence[str], token_id: int, row: int
    ) -> dict[str, NDArray[Any]]:
        """Arrays by view, with the count of visual tokens; ``row``: see IMAGES_OF_ROW. Raises UserError, see above."""
        unknown = [name for name in made if _is_view(name) and name not in (base, *known)]
        if unknown:
            raise UserError(f"core native: {self.kind} gives {unknown[0]}, which is not supported")
        arrays = {name: torch.as_tensor(value).numpy() for name, value in made.items() if _is_view(name)}
        views = {BASE_VIEW if name == base else name: value for name, value in arrays.items()}
        if IMAGES_OF_ROW in made:
            views[IMAGES_OF_ROW] = np.asarray([row])
        sign = self.processor.tokenizer.convert_ids_to_tokens(token_id)
        return {**views, IMAGE_TOKENS: np.asarray([made[PLACES].count(sign)])}


def native_token_ids(ids: Mapping[str, int], preprocessor: NativePreprocessor) -> dict[str, int]:
    """The ids of our own tokens, with those of the core's visual tokens."""
    made = {**ids, "image_patch_id": preprocessor.image_token_id}
    video = preprocessor.video_token_id
    return made if video is None else made | {"video_patch_id": video}


def _is_view(name: str) -> bool:
    """Whether a processor's output belongs to an image or a video, not to the text."""
    return name not in TEXT_KEYS


def _hint(problem: str) -> str:
    """What to install, where a library says that something is not there."""
    missing = [name for name in NEEDED if name in problem.lower() and importlib.util.find_spec(name) is None]
    return f" (pip install {' '.join(missing)})" if missing else ""
