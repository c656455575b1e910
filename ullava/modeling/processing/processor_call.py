"""``processor(...)`` and ``processor.apply_chat_template(...)``, as the transformers ecosystem calls them.

Texts and media come in, the flat inputs of the model go out. A row is made as ``UllavaProcessor.encode`` makes it and a
batch as the loader of training does. An image is never dropped: texts have as many places as images are given.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from transformers import BatchFeature, ProcessorMixin
from transformers.image_utils import load_image

from ullava.batching.collate import Collator
from ullava.config.renamed import current_saved
from ullava.errors import UserError, did_you_mean
from ullava.examples import Example, flat_keys
from ullava.media.images import first_line, read_image_rgb_u8
from ullava.media.video import read_clip
from ullava.modeling.heads.mask_contract import MaskRules
from ullava.modeling.processing.chat_messages import (
    checked_messages,
    checked_texts,
    conversations_of,
    items_by_row,
    media_of,
)
from ullava.modeling.processing.post_processing import instances_of
from ullava.modeling.processing.region_rows import regions_by_row
from ullava.modeling.processing.rows import TemplateRows
from ullava.modeling.processing.tokenizing import (
    Shown,
    TokenizedRow,
    adds_start_token,
    instruction_of_messages,
    written_out,
)
from ullava.structures import Clip, DetectedBoxes, ImageArray, RegionPrompt, Sample, Task, Turn
from ullava.text.answers import name_last
from ullava.text.conversation import released_style, turn_end_ids
from ullava.text.tokens import (
    IGNORE_LABEL,
    IMAGE_END,
    IMAGE_MARKER,
    IMAGE_PATCH,
    IMAGE_START,
    REGION_MARKER,
    REGION_PATCH,
    VIDEO_END,
    VIDEO_MARKER,
    VIDEO_PATCH,
    VIDEO_START,
)

PLACEHOLDERS = ("image_patch_id", "image_start_id", "image_end_id", "video_patch_id", "video_start_id", "video_end_id",
                "region_patch_id")  # fmt: skip
_IMAGE_PLACE = IMAGE_START + IMAGE_PATCH + IMAGE_END
_VIDEO_PLACE = VIDEO_START + VIDEO_PATCH + VIDEO_END
_IMAGES = re.compile("|".join(map(re.escape, (_IMAGE_PLACE, IMAGE_MARKER, IMAGE_PATCH))))
_VIDEOS = re.compile("|".join(map(re.escape, (_VIDEO_PLACE, VIDEO_MARKER, VIDEO_PATCH))))
_ELSEWHERE = ("http://", "https://", "data:image/")

_OPTIONS = (
    "return_tensors", "padding", "padding_side", "truncation", "max_length", "add_special_tokens", "boxes", "regions",
    "overrides",
)  # fmt: skip


class ChatText(str):
    """What a chat template wrote.

    ``wants_start``: the tokenizer has to add the start token; ``asked`` [t]: the ids of what is asked, for a vision
    strategy that reads it.
    """

    wants_start: bool
    asked: NDArray[np.int64] | None

    def __new__(cls, text: str, wants_start: bool = False, asked: NDArray[np.int64] | None = None) -> ChatText:
        """Make one of a plain text."""
        made = super().__new__(cls, text)
        made.wants_start, made.asked = wants_start, asked
        return made


class CallableProcessor(ProcessorMixin):
    """The calls of ``UllavaProcessor``, which brings the parts that are named here."""

    chat_template: str | None
    token_ids: Mapping[str, int]
    vision: Any
    system: str
    answer: str
    rows: TemplateRows
    masks: MaskRules
    video_frames: int
    region_grid: int | None
    core: str
    encode: Any

    @classmethod
    def from_args_and_dict(cls, args: Any, processor_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Make a processor of saved values, also of a release that called some keys otherwise."""
        return super().from_args_and_dict(args, current_saved(processor_dict), **kwargs)

    @property
    def image_token(self) -> str:
        """What a chat template writes for an image."""
        return IMAGE_PATCH if self.core == "spliced" else str(self.vision.image_token)

    @property
    def video_token(self) -> str | None:
        """What a chat template writes for a video; None where the core reads none."""
        video: str | None = VIDEO_PATCH if self.core == "spliced" else self.vision.video_token
        return video

    @property
    def image_token_id(self) -> int:
        """The id that stands for each visual token of an image."""
        return self.token_ids["image_patch_id"]

    @property
    def video_token_id(self) -> int | None:
        """The id that stands for each visual token of a video; None where the core reads none."""
        return self.token_ids.get("video_patch_id")

    @property
    def model_input_names(self) -> list[str]:
        """The keys that a call may return."""
        return ["input_ids", "attention_mask", *flat_keys(self.vision.view_names), "overrides"]

    # ------------------------------------------------------------ texts and media
    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[str] | None = None,
        videos: Any = None,
        *,
        return_tensors: str | None = None,
        padding: bool | str | None = True,
        padding_side: Literal["left", "right"] | None = None,
        truncation: bool | None = None,
        max_length: int | None = None,
        add_special_tokens: bool = True,
        boxes: Any = None,
        regions: Any = None,
        overrides: Mapping[str, Any] | None = None,
        **unknown: Any,
    ) -> BatchFeature:
        """Texts with their images and videos -> keyword arguments of ``forward`` and ``generate``.

        ``text``: one or several, with a place (``<image>``, ``<video>`` or what the chat template wrote) for each item.
        ``images``: one, a list in reading order, or a list for each text; each is a path, a URL, a Pillow image or an
        array (``read_image_rgb_u8``). ``videos`` likewise: a path, a Clip or frames uint8 [T, H, W, 3].
        ``boxes``: DetectedBoxes of the images in the same form, ``overrides``: overrides, both as in ``encode``.
        ``regions``: what the ``<region>`` of the text point at, or a list of them for each text
        (ullava.geometry.region_prompts has the forms).

        Rows are tensors and always padded, on the left unless ``padding_side`` says "right" (as for training).
        ``max_length``: a bound below the model's own. A row that is longer is refused, with ``truncation`` too: nothing
        is cut. ``add_special_tokens``: whether plain text gets the tokenizer's own; a chat template says that itself.

        Raises UserError: places and items do not number the same, a file cannot be read, an option is unknown.
        """
        _refuse(unknown)
        if return_tensors not in (None, "pt"):
            raise UserError(f"return_tensors='{return_tensors}': the model reads tensors of torch alone ('pt')")
        if padding not in (None, True, False, "longest"):
            raise UserError(f"padding={padding!r}: rows are padded to the longest of the batch")
        if padding_side not in (None, "left", "right"):
            raise UserError(f"padding_side='{padding_side}': left or right")
        self.rows.check_plain_texts(self)
        texts = checked_texts(text)
        written = [self._places_of(_IMAGES, entry, _IMAGE_PLACE, self.image_token) for entry in texts]
        written_videos = [self._places_of(_VIDEOS, entry, _VIDEO_PLACE, self.video_token) for entry, _ in written]
        shown = items_by_row(images, [places for _, places in written], "images")
        films = items_by_row(videos, [places for _, places in written_videos], "videos")
        found = [[] for _ in texts] if boxes is None else items_by_row(boxes, [len(row) for row in shown], "boxes")
        marked = [line if self.region_grid is None else line.replace(REGION_MARKER, REGION_PATCH)
                  for line, _ in written_videos]  # fmt: skip
        pointed = regions_by_row(regions, [line.count(REGION_PATCH) for line in marked], self.region_grid)
        reader = _Reader(self.video_frames)
        rows = []
        for number, (entry, line) in enumerate(zip(texts, marked, strict=True)):
            _check_strays(line, number + 1)
            words = partial(self._words, entry, line, add_special_tokens)
            sample = reader.sample(f"row {number + 1}", shown[number], films[number], found[number], pointed[number])
            row = self.encode(
                sample,
                [reader.images[path] for path in sample.images],
                videos=[reader.videos[clip] for clip in sample.videos],
                prompt_only=True,
                overrides=overrides or {},
                words=words if self.core == "native" else words(),
            )
            _check_length(row, max_length)
            rows.append(row)
        inputs, _ = Collator(self.tokenizer.pad_token_id, padding_side or "left")(rows).usable()
        return BatchFeature(replace(inputs, labels=None, overrides=dict(overrides or {})).as_kwargs())

    def _places_of(self, signs: re.Pattern[str], text: str, place: str, sign: str | None) -> tuple[str, int]:
        """A text with its places of images (or videos) as the tokenizer wants them, and how many there are."""
        if self.core == "native":
            return text, text.count(sign) if sign else 0
        return signs.subn(place, text)

    def _words(self, given: str, line: str, add_special_tokens: bool, shown: Shown | None = None) -> TokenizedRow:
        """Ids of a row's ``line``, nothing supervised, and what it asks; ``given`` is the text as it came."""
        line = line if shown is None else written_out(line, shown)[0]
        start = self.tokenizer.bos_token
        adds = add_special_tokens and not (start and line.startswith(start))
        if isinstance(given, ChatText):
            adds = given.wants_start if self.core == "spliced" else adds
        ids = np.asarray(self.tokenizer(line, add_special_tokens=adds)["input_ids"], dtype=np.int64)
        asked = given.asked if isinstance(given, ChatText) else None
        if self.vision.reads_text and asked is None:
            if np.isin(ids, turn_end_ids(self.tokenizer, self.chat_template)).any():
                raise UserError(
                    "this vision encoder reads the question, and a plain text does not tell which words are answers: "
                    "hand over what apply_chat_template returns, as it is"
                )
            asked = ids[~np.isin(ids, self._places())]
        return ids, np.full_like(ids, IGNORE_LABEL), asked if self.vision.reads_text else None

    def _places(self) -> list[int]:
        return [self.token_ids[name] for name in PLACEHOLDERS if name in self.token_ids]

    def post_process_instance_segmentation(
        self,
        outputs: Any,
        threshold: float = 0.3,
        mask_threshold: float = 0.5,
        target_sizes: Any = None,
    ) -> list[dict[str, Any]]:
        """Masks that ``model.generate_grounded`` (or a forward pass) gave -> tensors, in the shape of SAM 3's.

        Of each row of text a dict: ``scores`` [k], float in [0, 1]; ``boxes`` [k, 4], the masks' tight half-open boxes
        xyxy; ``masks`` [k, H, W], long, of 0 and 1. The row's ``[SEG]`` come in order, without those whose score is not
        above ``threshold`` and those without a pixel; ``mask_threshold``: of a pixel's probability.
        ``target_sizes``: (height, width) of the image of each row; without it, masks and boxes are on the mask head's
        own plane, its padding included. Raises UserError: no masks in ``outputs``, another number of sizes than rows.
        """
        return instances_of(self.masks, outputs, threshold, mask_threshold, target_sizes)

    # ------------------------------------------------------------ conversations
    def apply_chat_template(
        self,
        conversation: Any,
        chat_template: str | None = None,
        *,
        tokenize: bool = False,
        return_dict: bool = False,
        processor_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Messages -> text, or with ``tokenize`` -> the model's inputs (``return_dict``) or their ids alone.

        One conversation or a list of them. A part of a message is ``text``, ``image`` (with ``image``, ``url``,
        ``path`` or ``base64``) or ``video``. A conversation without a system message gets the processor's own.
        ``processor_kwargs`` and ``options`` that a call of the processor has go there; other options to the template.
        Raises UserError for a part that the model cannot read, and as a call.
        """
        for name in ("return_assistant_tokens_mask", "sanitize_control_tokens"):
            if options.get(name):
                raise UserError(f"{name}: not supported; processor.encode gives labels, and refuses control tokens")
        given = {key: options.pop(key) for key in _OPTIONS if key in options} | dict(processor_kwargs or {})
        if given.get("return_tensors") == "auto":
            del given["return_tensors"]
        template = self.chat_template if chat_template is None else chat_template
        conversations, several = conversations_of(conversation)
        checked = [
            checked_messages(
                messages,
                system=self.system,
                images_first=released_style(template) is not None,
                rewrite=name_last if self.answer == "name_last" else str,
                takes_regions=self.region_grid is not None,
            )
            for messages in conversations
        ]
        written = super().apply_chat_template(checked, template, tokenize=False, **options)
        texts = [
            ChatText(entry, adds_start_token(template), self._asked(messages, template))
            for entry, messages in zip(written, checked, strict=True)
        ]
        if not tokenize:
            return texts if several else texts[0]
        for kind in ("image", "video"):
            media = [media_of(messages, kind) for messages in checked]
            if any(media):
                given[f"{kind}s"] = media
        inputs = self(text=texts, **given)
        return inputs if return_dict else inputs["input_ids"]

    def _asked(self, messages: list[dict[str, Any]], template: str | None) -> NDArray[np.int64] | None:
        if not self.vision.reads_text:
            return None
        return instruction_of_messages(self.tokenizer, template, messages, self._places())


class _Reader:
    """Reads the items of a batch, each distinct one once, under names that tell them apart."""

    def __init__(self, frames: int) -> None:
        self.frames = frames
        self.images: dict[Path, ImageArray] = {}
        self.videos: dict[Clip, ImageArray] = {}
        self._kept: dict[Any, tuple[Any, Any]] = {}

    def sample(
        self,
        name: str,
        images: list[Any],
        videos: list[Any],
        boxes: list[DetectedBoxes | None],
        regions: tuple[RegionPrompt, ...],
    ) -> Sample:
        """Return a row's sample, a place for each item in its question. Raises UserError for what cannot be read."""
        paths = tuple(self._image(item, name) for item in images)
        clips = tuple(self._video(item, name) for item in videos)
        task: Task = "res" if paths else "vqa" if clips else "text"
        question = IMAGE_MARKER * len(paths) + VIDEO_MARKER * len(clips) + REGION_MARKER * len(regions)
        turns = (Turn(question, "", prompts=regions),)
        return Sample(name, "", task, paths, turns, boxes=tuple(boxes), videos=clips)

    def _image(self, item: Any, name: str) -> Path:
        key = str(item) if isinstance(item, str | Path) else id(item)
        if key not in self._kept:
            path = Path(f"image-{len(self.images) + 1}")
            self.images[path] = _read_image(item, name)
            self._kept[key] = item, path  # an item that is kept keeps its id
        return self._kept[key][1]  # type: ignore[no-any-return]

    def _video(self, item: Any, name: str) -> Clip:
        key = item if isinstance(item, Clip) else ("video", str(item) if isinstance(item, str | Path) else id(item))
        if key not in self._kept:
            clip = Clip(Path(f"video-{len(self.videos) + 1}"))
            self.videos[clip] = self._frames(item, name)
            self._kept[key] = item, clip
        return self._kept[key][1]  # type: ignore[no-any-return]

    def _frames(self, item: Any, name: str) -> ImageArray:
        if isinstance(item, str | Path | Clip):
            return read_clip(item if isinstance(item, Clip) else Clip(Path(item)), self.frames)
        frames = np.asarray(item) if hasattr(item, "__array__") else None
        if frames is None or frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3:
            told = type(item).__name__ if frames is None else f"{frames.dtype} {list(frames.shape)}"
            raise UserError(f"{name}: a video is a path, a Clip or frames uint8 [T, H, W, 3], not {told}")
        return frames


def _read_image(item: Any, name: str) -> ImageArray:
    """Read one image; those of the web and in base64 by transformers."""
    if isinstance(item, str) and item.startswith(_ELSEWHERE):
        try:
            item = load_image(item)
        except Exception as error:  # whatever a connection or a decoder makes of it
            raise UserError(f"{name}: {item[:80]}: cannot be read ({first_line(error)[:200]})") from error
    return read_image_rgb_u8(item)


def _check_strays(line: str, number: int) -> None:
    """Raise UserError where the marks of places stand outside of places: images are counted by them."""
    rest = line.replace(_IMAGE_PLACE, "").replace(_VIDEO_PLACE, "")
    stray = next((sign for sign in (IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END) if sign in rest), None)
    if stray is not None:
        raise UserError(f"row {number}: {stray} stands alone in the text; mark a place with {IMAGE_MARKER} or "
                        f"{VIDEO_MARKER}")  # fmt: skip


def _check_length(row: Example, max_length: int | None) -> None:
    counts = [item.count for item in row.images] + [item.count for item in row.videos]
    longest = len(row.input_ids) + sum(count.high - 1 for count in counts if not count.exact)
    if max_length is not None and longest > max_length:
        raise UserError(f"{row.name}: {longest} tokens, more than max_length {max_length}; nothing is cut")


def _refuse(unknown: Mapping[str, Any]) -> None:
    given = [key for key, value in unknown.items() if value is not None]
    if given:
        raise UserError([f"the processor has no option '{key}'{did_you_mean(key, _OPTIONS)}" for key in given])
