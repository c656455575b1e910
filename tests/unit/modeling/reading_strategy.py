"""A vision strategy for tests alone that is as awkward as the contract allows.

How many tokens an image gives depends on the question, its tiles are ragged, a word stands among its tokens, it draws
noise in training and has a loss term of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ullava.examples import TokenCount
from ullava.modeling.vision.clip_mlp import ClipMlp, ClipMlpPreprocessor
from ullava.modeling.vision.strategy import (
    NO_CONTEXT,
    PLAIN,
    EncodeContext,
    ItemNotes,
    VideoInputs,
    Views,
    VisionInputs,
    VisionOutput,
    VisionPart,
    VisionStrategy,
    refuse_unknown,
    run_by_shape,
)

FORCE = ("keep",)


class ReadingPreprocessor:
    """Tiles: as many squares as fit along the image's longer side, at least one; two tokens and a word besides."""

    view_names = ("base", "tiles", "boxes")
    reads_text = True

    def __init__(self, plain: ClipMlpPreprocessor) -> None:
        self.plain = plain

    def preprocess(self, image_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VisionInputs:
        refuse_unknown(notes.overrides, FORCE, "reading")
        inputs = self.plain.preprocess(image_rgb_u8)
        height, width = image_rgb_u8.shape[:2]
        number = max(height, width) // min(height, width)
        most = 2 + number * self.plain.num_tokens
        shrunk = notes.budget is not None and notes.budget < most
        if shrunk:
            number, most = 1, 2 + self.plain.num_tokens
        base = inputs.views["base"]
        tiles = np.stack([np.roll(base, 7 * tile, axis=2) for tile in range(number)])
        boxes = np.zeros((0, 4)) if notes.boxes is None else notes.boxes.boxes_xyxy_px
        views = {"base": base, "tiles": tiles, "boxes": boxes.astype(np.float32)}
        low = most if notes.overrides.get("keep") == "all" else 3
        variant = f"|{number}|{boxes.tobytes().hex()}"
        return VisionInputs(views, inputs.geometry, TokenCount(low, most), None, variant, shrunk)

    def preprocess_video(self, frames_rgb_u8: NDArray[np.uint8], notes: ItemNotes = PLAIN) -> VideoInputs:
        refuse_unknown(notes.overrides, FORCE, "reading")
        views = self.plain.preprocess_video(frames_rgb_u8).views
        most = 2 + len(frames_rgb_u8) * self.plain.num_tokens
        return VideoInputs(views, TokenCount(most if notes.overrides.get("keep") == "all" else 3, most))


class ReadingStrategy(VisionStrategy):
    """[mean of the image][a word][those tokens of its tiles that are nearer to the question than most]."""

    aux_terms = ("size",)

    def __init__(self, plain: ClipMlp, word_id: int, noise: float = 0.0) -> None:
        super().__init__()
        self.plain = plain
        self.box_projector = nn.Linear(4, plain.projector[-1].out_features)  # type: ignore[index, union-attr, arg-type]
        self.word_id = word_id
        self.noise = noise
        self.seen = 0

    def _patches(self, pixels: torch.Tensor) -> torch.Tensor:
        self.seen += len(pixels)
        out = self.plain.encode({"base": pixels})
        return out.tokens.view(len(pixels), -1, out.tokens.shape[-1])

    def _gather(self, crops: list[torch.Tensor], boxes: list[torch.Tensor] | None, context: EncodeContext) -> Any:
        refuse_unknown(context.overrides, FORCE, "reading")
        whole = context.overrides.get("keep") == "all"
        tokens, literal, counts = [], [], []
        places = range(len(crops)) if whole else context.places
        for number, place in enumerate(places):
            states = crops[place].flatten(0, 1)
            if boxes is not None and len(boxes[place]):
                states = states + self.box_projector(boxes[place] / 100).sum(dim=0)
            if not whole:
                scores = states.detach() @ context.words_of(number).detach().mean(dim=0)
                if self.training and self.noise:
                    scores = scores + self.noise * torch.randn(scores.shape, generator=context.generator)
                states = torch.cat([states[:1], states[1:][scores[1:] > scores[1:].mean()]])
            tokens.append(torch.cat([crops[place].mean(dim=(0, 1))[None], torch.full_like(states[:1], 99.0), states]))
            literal += [-1, self.word_id, *[-1] * len(states)]
            counts.append(len(tokens[-1]))
        made = torch.cat(tokens)
        idle = sum(p.sum() * 0.0 for p in self.box_projector.parameters())
        return VisionOutput(
            made,
            tuple(counts),
            per_place=not whole,
            literal_ids=torch.tensor(literal),
            idle=idle,  # type: ignore[arg-type]
            aux={"size": made.square().mean()},
            diagnostics={"kept": torch.tensor(counts)},
        )

    def encode(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        return self._gather(run_by_shape(list(views["tiles"]), self._patches), list(views["boxes"]), context)

    def encode_video(self, views: Views, context: EncodeContext = NO_CONTEXT) -> VisionOutput:
        return self._gather(run_by_shape(list(views["base"]), self._patches), None, context)

    def parts(self) -> tuple[VisionPart, ...]:
        return (
            VisionPart("vision tower", ("plain.tower.",), "tower"),
            VisionPart("box projector", ("box_projector.",), "projector"),
            VisionPart("vision projector", ("",), "projector"),
        )

    def unread(self) -> tuple[str, ...]:
        return tuple(f"plain.{prefix}" for prefix in self.plain.unread())

    def load_pretrained(self, paths: Mapping[str, Path]) -> None:
        self.plain.load_pretrained(paths)


def make_reading(model: Any, processor: Any, noise: float = 0.0) -> None:
    """Give ``model`` and ``processor`` this vision encoder in the place of clip_mlp."""
    word = processor.tokenizer(",", add_special_tokens=False)["input_ids"][-1]
    torch.manual_seed(1)
    model.set_strategy(ReadingStrategy(model.vision, word, noise))
    processor.vision = ReadingPreprocessor(processor.vision)
