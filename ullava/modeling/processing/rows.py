"""How a processor writes dialogues down and reads answers back: one object, chosen when the processor is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ullava.errors import SampleError, UserError
from ullava.modeling.processing.tokenizing import Shown, TokenizedRow, instruction_of, tokenize
from ullava.structures import Sample


class TemplateRows:
    """Through the chat template; ``processor`` is the UllavaProcessor that asks."""

    def check_vision(self, processor: Any) -> None:
        """Raise UserError where the processor's vision strategy reads what these rows do not tell."""

    def check_plain_texts(self, processor: Any) -> None:
        """Raise UserError where a row cannot be made of a text that a chat template wrote."""

    def tokenize(
        self,
        processor: Any,
        sample: Sample,
        *,
        left_out: Sequence[int],
        prompt_only: bool,
        shown: Shown | None = None,
    ) -> TokenizedRow:
        """Ids and labels of a dialogue, and what it asks where the strategy reads that, without ``left_out``.

        ``shown``: see ullava.modeling.processing.tokenizing. Raises SampleError for a dialogue that cannot be written
        down.
        """
        tokenizer, template, system = processor.tokenizer, processor.chat_template, processor.system
        turns = sample.turns
        try:
            row = tokenize(tokenizer, template, turns, system=system, prompt_only=prompt_only, shown=shown)
        except UserError as error:
            raise SampleError(sample.name, str(error)) from error
        if not processor.vision.reads_text:
            return *row, None
        return *row, instruction_of(tokenizer, template, turns, system=system, left_out=left_out)

    def text_of(self, tokenizer: Any, ids: Sequence[int]) -> str:
        """The text of an answer's ids."""
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def frames(self, processor: Any, frames_rgb_u8: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The frames of a video, uint8 [T, H, W, 3], as the vision strategy is to see them."""
        return frames_rgb_u8
