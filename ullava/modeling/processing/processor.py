"""``UllavaProcessor``: samples -> model inputs, and generated ids -> answers in the frame of the original image."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from ullava.errors import SampleError
from ullava.examples import ClipTarget, Example, ImageExample, RegionExample, VideoExample
from ullava.modeling.cores.native_processor import NativePreprocessor, native_token_ids
from ullava.modeling.heads.box import to_head_frame
from ullava.modeling.heads.box_post_processing import DetectedPhrase
from ullava.modeling.heads.box_table import build_box_post_processor
from ullava.modeling.heads.mask_cache import MaskCache
from ullava.modeling.heads.mask_table import build_mask_rules
from ullava.modeling.processing.expanding import expand_places, row_with_media
from ullava.modeling.processing.image_example import make_image_example
from ullava.modeling.processing.joined_answer import Told, joined_answer
from ullava.modeling.processing.processor_call import PLACEHOLDERS, CallableProcessor
from ullava.modeling.processing.region_rows import check_prompts, region_examples, with_region_places
from ullava.modeling.processing.rows import TemplateRows
from ullava.modeling.processing.rows_ullava_v1 import UllavaV1Rows
from ullava.modeling.processing.sample_rules import (
    asks_for_things,
    check_counts,
    check_frame,
    check_phrases,
    clip_targets_of,
    targets_of,
    validate_placeholders,
)
from ullava.modeling.processing.tokenizing import Shown, TokenizedRow
from ullava.modeling.vision.patches import patch_words
from ullava.modeling.vision.strategies import build_preprocessor
from ullava.modeling.vision.strategy import ItemNotes
from ullava.structures import Answer, Clip, DetectedBoxes, ImageArray, MasksOverTime, Sample
from ullava.text.answers import name_last
from ullava.text.conversation import turn_end_ids, with_videos
from ullava.text.tokens import IMAGE_MARKER, VIDEO_MARKER, special_token_ids

NOTHING: Mapping[str, Any] = MappingProxyType({})
ROWS: Mapping[bool, type[TemplateRows]] = {False: TemplateRows, True: UllavaV1Rows}
"""``as_released`` -> how dialogues are written down and answers read back."""


class UllavaProcessor(CallableProcessor):
    """Everything around the network that must be the same in training and inference.

    ``image_side``/``patch``/``image_aspect_ratio``/``spatial_merge_size``: the vision strategy's view; ``settings``:
    its own (UllavaConfig.vision_settings); ``mask_kind``, ``mask_encoder``, ``sam_side`` (S) and ``mask_score``: the
    mask head's; ``box_frame``: what the box head speaks; ``system``: a first
    sentence; ``max_length``: longest row in tokens, visual ones included; ``as_released``: u-LLaVA's own way with
    blanks, labels and frames; ``video_frames``: T, frames of a video seen; ``answer``: see TextConfig; ``box``: the box
    head's settings (ullava.modeling.heads.box_table.box_settings). ``core``: the model's (ullava.modeling.cores); a
    native one brings a processor of its own (``set_native``) in the place of the vision strategy's. ``region_grid``:
    the model's, see UllavaConfig; None: questions cannot point at regions.
    """

    attributes = ["tokenizer"]
    tokenizer_class = "AutoTokenizer"
    mask_cache: MaskCache | None = None

    def __init__(
        self,
        tokenizer: Any = None,
        strategy: str = "clip_mlp",
        image_side: int = 224,
        patch: int = 14,
        image_aspect_ratio: str = "pad",
        spatial_merge_size: int = 1,
        settings: dict[str, Any] | None = None,
        sam_side: int = 1024,
        box_frame: str = "norm",
        mask_score: str = "iou_head",
        mask_kind: str = "sam",
        mask_encoder: str = "own",
        system: str = "",
        max_length: int = 512,
        video_frames: int = 8,
        box: dict[str, Any] | None = None,
        as_released: bool = False,
        answer: str = "name_first",
        chat_template: str | None = None,
        core: str = "spliced",
        region_grid: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.core = core
        self.region_grid = region_grid
        self.strategy = strategy
        self.image_side = image_side
        self.patch = patch
        self.image_aspect_ratio = image_aspect_ratio
        self.spatial_merge_size = spatial_merge_size
        self.settings = dict(settings or {})
        self.sam_side = sam_side
        self.mask_score = mask_score
        self.mask_kind = mask_kind
        self.mask_encoder = mask_encoder
        self.masks = build_mask_rules(
            {
                "kind": mask_kind,
                "encoder": mask_encoder,
                "side": sam_side,
                "score": mask_score,
                "image_aspect_ratio": image_aspect_ratio,
            }
        )
        self.system = system
        self.max_length = max_length
        self.as_released = as_released
        self.rows = ROWS[as_released]()
        self.answer = answer
        self.video_frames = video_frames
        super().__init__(tokenizer, chat_template=with_videos(chat_template), **kwargs)
        self.vision: Any = NativePreprocessor()
        if core == "spliced":
            self.set_vision(self.settings)
        self.set_box(box or {"kind": "regression"}, box_frame)
        self.token_ids = special_token_ids(tokenizer, media=core == "spliced", regions=region_grid is not None)
        # Those of one or two letters (CLIP pads with "!") are words as well; a marker of a place is counted elsewhere.
        signs = (sign for sign in tokenizer.all_special_tokens if len(sign) > 2)
        self.signs = tuple(sign for sign in signs if sign not in (IMAGE_MARKER, VIDEO_MARKER))

    def set_vision(self, settings: Mapping[str, Any]) -> None:
        """Take other settings of the same vision strategy."""
        self.settings = dict(settings)
        self.vision = build_preprocessor(
            self.strategy,
            side=self.image_side,
            patch=self.patch,
            image_aspect_ratio=self.image_aspect_ratio,
            spatial_merge_size=self.spatial_merge_size,
            settings=self.settings,
        )
        self.rows.check_vision(self)

    def set_native(self, processor: Any) -> None:
        """Take the model's own processor, which a native core brings; its tokenizer is ours."""
        self.vision.take(processor, self.tokenizer)
        self.token_ids = native_token_ids(self.token_ids, self.vision)

    @property
    def native(self) -> Any:
        """The processor that a native core brought; None for any other."""
        return self.vision.processor if self.core == "native" else None

    def set_box(self, settings: Mapping[str, Any], frame: str) -> None:
        """Take the rules of another box head."""
        self.box, self.box_frame = dict(settings), frame
        self.boxes = build_box_post_processor(self.box, frame)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> UllavaProcessor:
        """ProcessorMixin's, and what the box head's rules keep beside it."""
        kwargs["trust_remote_code"] = False
        processor: UllavaProcessor = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        processor.boxes.load(str(pretrained_model_name_or_path))
        if processor.core == "native":
            processor.vision.load(Path(pretrained_model_name_or_path), processor.tokenizer)
            processor.token_ids = native_token_ids(processor.token_ids, processor.vision)
        return processor

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> Any:
        """ProcessorMixin's, and what the box head's rules keep beside it."""
        files = super().save_pretrained(save_directory, *args, **kwargs)
        self.boxes.save(Path(save_directory))
        if self.core == "native":
            self.vision.save(Path(save_directory))
        return files

    def to_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What is saved: the arguments, without the parts made of them."""
        made = ("vision", "token_ids", "boxes", "masks", "mask_cache", "rows")
        return {key: value for key, value in super().to_dict(*args, **kwargs).items() if key not in made}

    # ------------------------------------------------------------ samples -> examples
    def encode(
        self,
        sample: Sample,
        images: Sequence[ImageArray],
        *,
        prompt_only: bool = False,
        prepared: Sequence[ImageExample] | None = None,
        with_patches: bool = False,
        videos: Sequence[ImageArray | VideoExample] = (),
        overrides: Mapping[str, Any] = NOTHING,
        words: TokenizedRow | Callable[[Shown], TokenizedRow] | None = None,
        files: bool = False,
    ) -> Example:
        """Make one row. ``images``: the decoded images of ``sample.images``, uint8 [H, W, 3].

        ``videos``: the frames of ``sample.videos``, uint8 [T, H, W, 3], or what ``prepare_video`` made of them.
        ``prepared``: what an earlier row made of the very same images and boxes, to be used again where it suffices.
        ``overrides``: overrides of the vision strategy, which the network has to be given too. ``words``: what
        ``tokenize`` made of ``sample``, where that was done beforehand; of a native core, whose processor writes into
        the text what stands for an image, what tokenizes the text with that. ``files``: the images are those of the
        files ``sample.images``, whole and unchanged, so that the mask encoder's maps of them may be kept
        (``mask_cache``).
        With ``prompt_only`` the last answer is left out (the row ends where the model speaks); nothing is supervised.
        ``with_patches``: name the visual tokens after ``sample.things``, where there are any.
        Raises SampleError: markers and images, masks and ``[SEG]``, boxes and ``[LOC]`` do not number the same; a
        mask or record of another size than its image; special tokens in a question; a row longer than ``max_length``.
        """
        validate_placeholders(sample, IMAGE_MARKER, "images", len(images), len(sample.images))
        validate_placeholders(sample, VIDEO_MARKER, "videos", len(videos), len(sample.videos))
        check_prompts(sample, self.region_grid, len(images))
        check_frame(sample, images)
        if not prompt_only:
            check_phrases(sample, self.signs)
        clips = tuple(
            video if isinstance(video, VideoExample) else self.prepare_video(clip, video, sample.name, boxes, overrides)
            for clip, video, boxes in zip(sample.videos, videos, sample.frame_boxes or ((),) * len(videos), strict=True)
        )
        taught: tuple[ClipTarget, ...] = ()
        if not prompt_only and videos and not isinstance(videos[0], VideoExample):
            taught = clip_targets_of(sample, videos[0].shape[1:3], self.video_frames)
            clips = (self._with_frames(clips[0], videos[0]),) if taught else clips
        see = partial(
            self._images, sample, images, prepared or (), overrides=overrides, prompt_only=prompt_only, files=files
        )
        regions: tuple[RegionExample, ...] = ()
        if self.core == "native":
            examples = see(self.max_length)
            ids, labels, instruction = row_with_media(self, sample, examples, clips, words, prompt_only)
        else:
            ids, labels, instruction = cast(TokenizedRow, words) or self.tokenize(sample, prompt_only)
            room = self.max_length - len(ids) + len(images) - sum(clip.count.high - 1 for clip in clips)
            room -= sum(len(turn.prompts) for turn in sample.turns) * ((self.region_grid or 1) ** 2 - 1)
            examples = see(room)
            regions = region_examples(sample, images, examples, self.region_grid)
            ids, labels = expand_places(
                sample.name, ids, labels, examples, clips, regions, token_ids=self.token_ids, max_length=self.max_length
            )
        masks, boxes_px = targets_of(sample, images, prompt_only)
        frame_wh = (images[-1].shape[1], images[-1].shape[0]) if len(images) else (1, 1)
        boxes = to_head_frame(np.asarray(boxes_px, dtype=np.float64).reshape(-1, 4), frame_wh, self.box_frame)
        if not prompt_only:
            of_videos = sum(region.video_masks is not None for turn in sample.turns for region in turn.regions)
            check_counts(sample, labels, len(masks) + of_videos, len(boxes), self.token_ids)
        return Example(
            name=sample.name,
            dataset=sample.dataset,
            task=sample.task,
            input_ids=ids,
            labels=labels,
            images=examples,
            masks=masks,
            boxes_xyxy_head=boxes.astype(np.float32),
            patch_words=self._patch_words(sample, examples) if with_patches and sample.things else None,
            videos=clips,
            instruction_ids=instruction,
            grounded=asks_for_things(sample),
            regions=regions,
            clip_targets=taught,
        )

    def _with_frames(self, clip: VideoExample, frames_rgb_u8: ImageArray) -> VideoExample:
        """The same video with what the mask head's own encoder sees of its frames, if it has one."""
        views = (self.masks.view(frame) for frame in frames_rgb_u8)
        return replace(clip, sam_u8=tuple(view for view in views if view is not None))

    def prepare_video(
        self,
        clip: Clip,
        frames_rgb_u8: ImageArray,
        sample: str,
        boxes: tuple[DetectedBoxes | None, ...] = (),
        overrides: Mapping[str, Any] = NOTHING,
    ) -> VideoExample:
        """Preprocess the frames of one video, uint8 [T, H, W, 3]. Raises SampleError for another T than the model's."""
        if self.core == "native" and not self.vision.reads_videos:
            raise SampleError(sample, f"{clip.path}: core native: {self.vision.kind} reads images, no videos")
        if len(frames_rgb_u8) != self.video_frames:
            raise SampleError(sample, f"{clip.path}: {len(frames_rgb_u8)} frames, the model sees {self.video_frames}")
        notes = ItemNotes(frame_boxes=boxes, overrides=overrides)
        inputs = self.vision.preprocess_video(self.rows.frames(self, frames_rgb_u8), notes)
        key = f"{clip.path}|{clip.sampling}|{clip.seed}{inputs.variant}"
        return VideoExample(key, inputs.views, inputs.count, clip.path, text=inputs.text)

    def _images(
        self,
        sample: Sample,
        images: Sequence[ImageArray],
        prepared: Sequence[ImageExample],
        room: int,
        *,
        overrides: Mapping[str, Any],
        prompt_only: bool,
        files: bool,
    ) -> tuple[ImageExample, ...]:
        """Preprocess the images of one row, which may have ``room`` visual tokens together."""
        with_heads = any(turn.regions for turn in sample.turns) or prompt_only
        suffices = sum(image.count.high for image in prepared) <= room and not any(
            image.shrunk or (with_heads and not image.for_heads) for image in prepared
        )
        if prepared and suffices:
            return tuple(prepared)
        boxes = sample.boxes or (None,) * len(images)
        return tuple(
            make_image_example(
                self,
                str(path),
                image,
                ItemNotes(found, (), overrides, max(room // len(images), 1), alone=len(images) == 1),
                with_heads=with_heads,
                file=path if files else None,
            )
            for path, image, found in zip(sample.images, images, boxes, strict=True)
        )

    def _patch_words(self, sample: Sample, images: Sequence[ImageExample]) -> NDArray[np.int64]:
        image = images[0]
        if image.grid_hw is None:
            raise SampleError(sample.name, f"the tokens of vision strategy {self.strategy} are no grid to be named")
        return patch_words(
            sample.things,
            image.geometry["base"],
            image.grid_hw,
            lambda words: self.tokenizer(words, add_special_tokens=False)["input_ids"],
        )

    def tokenize(self, sample: Sample, prompt_only: bool = False, shown: Shown | None = None) -> TokenizedRow:
        """The words alone: every image and video is one placeholder, or what ``shown`` has of it.

        Raises SampleError, see ``encode``.
        """
        turns = with_region_places(sample.turns)
        if self.answer == "name_last":
            turns = tuple(replace(turn, answer=name_last(turn.answer)) for turn in turns)

        slots = [self.token_ids[name] for name in PLACEHOLDERS if name in self.token_ids]  # a native core has fewer
        return self.rows.tokenize(
            self, replace(sample, turns=turns), left_out=slots, prompt_only=prompt_only, shown=shown
        )

    # ------------------------------------------------------------ ids -> answers
    def decode_text(self, new_ids: Sequence[int]) -> tuple[str, bool, int]:
        """New ids of one row -> text up to the end token, whether it ended by itself, number of new tokens."""
        ids = [int(token) for token in new_ids]
        ends = set(turn_end_ids(self.tokenizer, self.chat_template))
        stop = next((place for place, token in enumerate(ids) if token in ends), None)
        finished = stop is not None
        ids = ids[:stop] if finished else [token for token in ids if token != self.tokenizer.pad_token_id]
        return self.rows.text_of(self.tokenizer, ids).strip(), finished, len(ids) + int(finished)

    def to_answer(
        self,
        text: str,
        *,
        original_hw: Sequence[tuple[int, int]],
        masks: Sequence[tuple[torch.Tensor, float]],
        boxes: Sequence[tuple[NDArray[np.float64], float]],
        finished: bool = True,
        new_tokens: int = 0,
        phrases: Mapping[int, DetectedPhrase] | None = None,
        chosen: Mapping[str, tuple[int, ...]] = NOTHING,
        presence: Sequence[float] = (),
        over_time: Sequence[MasksOverTime] = (),
    ) -> Answer:
        """Join an answer's words with its masks and boxes, and map both back to the original image.

        ``masks``: (logits [h, w] of SAM's low plane, score) for each ``[SEG]`` in order; ``boxes``: (xyxy [4] in the
        head's frame, score) for each ``[LOC]``. They speak of the last of the images ``original_hw`` [(H, W)].
        ``phrases``: what the box head found for the words of each thing (0, 1, ...), if it looks for words.
        ``chosen``, ``presence``: see Answer. ``over_time``: of each ``[SEG]`` that speaks of a video, in order.
        """
        return joined_answer(
            self.masks,
            self.boxes,
            Told(text, finished, new_tokens, chosen, tuple(presence)),
            original_hw=original_hw,
            masks=masks,
            boxes=boxes,
            phrases=phrases or {},
            over_time=over_time,
        )
