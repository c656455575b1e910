"""The tokens that u-LLaVA adds to a Llama tokenizer, as its released folders have them."""

from __future__ import annotations

from ullava.text.tokens import GROUNDING_TOKENS, LOC, PAD, SEG, TAG_END, TAG_START

STAGE_ONE_TOKENS = tuple(token for token in GROUNDING_TOKENS if token not in (SEG, LOC, TAG_START, TAG_END))


def stage_tokens(*, stage: int, base_has_pad: bool) -> list[str]:
    """The tokens that are added up to ``stage`` (1 or 2), in order; ``[PAD]`` only to a base without one."""
    later = [token for token in GROUNDING_TOKENS if token not in STAGE_ONE_TOKENS] if stage == 2 else []
    return [*([] if base_has_pad else [PAD]), *STAGE_ONE_TOKENS, *later]
