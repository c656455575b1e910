"""Rows, answers and frames of video as u-LLaVA's first release makes them, defects included (``text.as_released``)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from ullava.errors import SampleError, UserError
from ullava.modeling.processing.rows import TemplateRows
from ullava.modeling.processing.tokenizing import Row, Shown, TokenizedRow
from ullava.structures import Sample, Turn
from ullava.text.conversation import released_style
from ullava.text.decoding_ullava_v1 import decode_released
from ullava.text.rows_ullava_v1 import open_text, released_row, with_image, with_video
from ullava.text.tokens import IGNORE_LABEL

STRETCHED = "clip_mlp"
"""The vision strategy that u-LLaVA has; the views of the others are their own."""


class UllavaV1Rows(TemplateRows):
    """u-LLaVA's own way with blanks, labels and frames; chat templates of other formats write rows as ever."""

    def check_vision(self, processor: Any) -> None:
        """These rows do not tell what is asked."""
        if processor.vision.reads_text:
            raise UserError(
                f"text.as_released: u-LLaVA's own rows do not tell what vision strategy {processor.strategy} reads"
            )

    def check_plain_texts(self, processor: Any) -> None:
        """Stray blanks and counted labels are in no text."""
        if released_style(processor.chat_template) is not None:
            raise UserError(
                "text.as_released: this model reads rows made u-LLaVA's own way, which a text does not tell; "
                "ask it through ullava.load(...).answer or processor.encode"
            )

    def tokenize(
        self,
        processor: Any,
        sample: Sample,
        *,
        left_out: Sequence[int],
        prompt_only: bool,
        shown: Shown | None = None,
    ) -> TokenizedRow:
        """Ids and labels as ``tokenize_as_released``; raises SampleError for a dialogue on which the original stops."""
        style = released_style(processor.chat_template)
        if style is None:
            return super().tokenize(processor, sample, left_out=left_out, prompt_only=prompt_only, shown=shown)
        try:
            return *tokenize_as_released(processor.tokenizer, style, sample.turns, prompt_only=prompt_only), None
        except UserError as error:
            raise SampleError(sample.name, str(error)) from error

    def text_of(self, tokenizer: Any, ids: Sequence[int]) -> str:
        """The text with a blank on each side of every added token."""
        return decode_released(tokenizer, ids)

    def frames(self, processor: Any, frames_rgb_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames stretched to the square that the strategy sees, uint8 [T, R, R, 3], which it leaves so."""
        if processor.strategy != STRETCHED:
            return frames_rgb_u8
        return stretch_plain_u8(frames_rgb_u8, processor.image_side).transpose(0, 2, 3, 1)


def tokenize_as_released(tokenizer: Any, style: str, turns: Sequence[Turn], *, prompt_only: bool) -> Row:
    """Ids [L] and labels [L] with the original's defects (ullava.text.rows_ullava_v1): stray blanks, lost samples.

    Raises UserError for a dialogue on which the original stops.
    """
    said = [part for turn in turns for part in (("human", turn.question), ("gpt", turn.answer))]
    said = with_video(with_image(said, 1), 1)
    if prompt_only:
        ids = np.asarray(tokenizer(open_text(said[:-1], style))["input_ids"], dtype=np.int64)
        return ids, np.full_like(ids, IGNORE_LABEL)
    row = released_row(tokenizer, said, style, sys.maxsize)
    return np.asarray(row.input_ids, dtype=np.int64), np.asarray(row.labels, dtype=np.int64)


def stretch_plain_u8(frames_rgb_u8: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Bicubic resize of frames uint8 [T, H, W, 3] to planes [T, 3, side, side] as u-LLaVA resizes clips.

    Without antialiasing, cut to whole numbers; overshoot is clamped, where the original lets it wrap around.
    """
    planes = torch.from_numpy(np.ascontiguousarray(frames_rgb_u8)).permute(0, 3, 1, 2).float()
    resized = functional.interpolate(planes, (side, side), mode="bicubic", align_corners=False)
    return np.ascontiguousarray(resized.clamp(0, 255).to(torch.uint8).numpy())
