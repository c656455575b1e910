"""The special tokens, by name; their ids belong to the tokenizer and are written into the model's config."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ullava.errors import UserError

PAD = "[PAD]"
IMAGE_PATCH = "<image_patch>"
VIDEO_PATCH = "<video_patch>"
IMAGE_START = "<img_beg>"
IMAGE_END = "</img_end>"
VIDEO_START = "<vid_beg>"
VIDEO_END = "</vid_end>"
SEG = "[SEG]"
LOC = "[LOC]"
TAG_START = "[tag]"
TAG_END = "[/tag]"

IMAGE_MARKER = "<image>"
"""Stands for an image in questions and templates; a word of ours, never a token."""
VIDEO_MARKER = "<video>"
"""Stands for a video in the same way."""
REGION_MARKER = "<region>"
"""Stands for a region that a question points at, where regions came with it; any other word without them."""
REGION_PATCH = "<region_patch>"
"""What stands in the text for each token of such a region: a token of models that take regions alone."""

GROUNDING_TOKENS: tuple[str, ...] = (
    IMAGE_PATCH,
    VIDEO_PATCH,
    IMAGE_START,
    IMAGE_END,
    VIDEO_START,
    VIDEO_END,
    SEG,
    LOC,
    TAG_START,
    TAG_END,
)
"""In the order in which u-LLaVA adds them (both stages), so that ids agree with its released tokenizers."""

RESERVED_TOKENS: tuple[str, ...] = (*GROUNDING_TOKENS, REGION_PATCH)
"""What no question may hold: the processor writes it, and counts by it."""

_CONFIG_KEYS: Mapping[str, str] = {
    "image_patch_id": IMAGE_PATCH,
    "image_start_id": IMAGE_START,
    "image_end_id": IMAGE_END,
    "video_patch_id": VIDEO_PATCH,
    "video_start_id": VIDEO_START,
    "video_end_id": VIDEO_END,
    "seg_id": SEG,
    "loc_id": LOC,
    "tag_start_id": TAG_START,
    "tag_end_id": TAG_END,
}


IGNORE_LABEL = -100
"""The label of a token that is not judged: PyTorch's own for its cross-entropy."""


def is_whole(text: str) -> bool:
    """Whether a text can be pretokenized: halves of characters (lone surrogates) cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def mark_places(question: str, images: int, videos: int) -> str:
    """Put markers of images, then of videos, in front of ``question`` unless it places those of a kind itself."""
    marked = question if VIDEO_MARKER in question else VIDEO_MARKER * videos + question
    return marked if IMAGE_MARKER in question else IMAGE_MARKER * images + marked


MEDIA_KEYS = tuple(key for key in _CONFIG_KEYS if key.startswith(("image_", "video_")))
"""Those of images and videos, which a core with a processor of its own has no use for."""
_REGION_KEY = "region_patch_id"


def add_special_tokens(tokenizer: Any, *, media: bool = True, regions: bool = False) -> int:
    """Add the tokens that ``tokenizer`` lacks (a pad token too, if it has none); return how many were new.

    Without ``media`` those of images and videos are left out; with ``regions`` that of regions comes behind the others.
    """
    added = 0
    if tokenizer.pad_token is None:
        added += tokenizer.add_special_tokens({"pad_token": PAD})
    left_out = set() if media else {_CONFIG_KEYS[key] for key in MEDIA_KEYS}
    wanted = RESERVED_TOKENS if regions else GROUNDING_TOKENS
    missing = [token for token in wanted if token not in tokenizer.get_vocab() and token not in left_out]
    return added + tokenizer.add_tokens(missing, special_tokens=True)


def special_token_ids(tokenizer: Any, *, media: bool = True, regions: bool = False) -> dict[str, int]:
    """Return the config's id fields (``seg_id`` …) as this tokenizer numbers them.

    ``media``: also those of images; ``regions``: also that of regions.
    Raises UserError when a token is missing or is not one single id.
    """
    vocabulary = tokenizer.get_vocab()
    named = {key: token for key, token in _CONFIG_KEYS.items() if media or key not in MEDIA_KEYS}
    named |= {_REGION_KEY: REGION_PATCH} if regions else {}
    absent = [token for token in named.values() if token not in vocabulary]
    if absent:
        raise UserError(f"the tokenizer lacks the special tokens {', '.join(absent)}")
    return {key: int(vocabulary[token]) for key, token in named.items()}


_CLAUSE = re.compile(r":?\s*\b(?:Mask|Location)\s*(?:\[SEG\]|\[LOC\])\s*;?")
_CUTS = (
    (_CLAUSE, ""),
    *((re.compile(re.escape(token)), "") for token in GROUNDING_TOKENS),
    (re.compile(r"\s{2,}"), " "),
    (re.compile(r"\s+(?=[.;,])"), ""),
    (re.compile(r"^\s+|\s+$"), ""),
)
"""What is cut out of an answer one after the other, and what comes in its place."""


def strip_grounding(text: str) -> str:
    """Take the grounding clauses' tokens out of an answer and leave words that read on their own."""
    return plain_places(text)[0]


def plain_places(text: str) -> tuple[str, list[int]]:
    """Return what ``strip_grounding`` leaves, and for each of its characters where it stands in ``text``."""
    places = list(range(len(text)))
    for pattern, put in _CUTS:
        pieces: list[str] = []
        kept: list[int] = []
        here = 0
        for cut in pattern.finditer(text):
            pieces += [text[here : cut.start()], put]
            kept += [*places[here : cut.start()], *places[cut.start() : cut.start() + len(put)]]
            here = cut.end()
        text, places = "".join([*pieces, text[here:]]), kept + places[here:]
    return text, places
