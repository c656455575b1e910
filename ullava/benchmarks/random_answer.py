"""An answer of a model on random weights: what it says is prescribed, since such weights never point at anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessor, LogitsProcessorList

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig
from ullava.inference.asking import read_shown
from ullava.inference.devices import pick_device, pick_dtype
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.random_weights import build_random
from ullava.resources import find
from ullava.structures import Answer, Region
from ullava.text.answers import grounded_answer

PHRASE = "person"
"""What the prescribed answer calls the thing that it points at."""


def random_predictor(model: str, device: str, dtype: str) -> Predictor:
    """The system of models/NAME/model.yaml (or of a path to one) on random weights, the same ones every time.

    Raises UserError for a model that is nowhere, parts whose configs are not at hand, sizes that memory cannot hold.
    """
    place = pick_device(device)
    kind = pick_dtype(dtype, place)
    path = find("models", model)
    torch.manual_seed(0)
    network, processor = build_random(load_config(ModelConfig, path), path.parent, kind)
    return Predictor(network.to(place), processor, name=model)


def prescribed_ids(predictor: Predictor, image: str, prompt: str) -> list[int]:
    """Return the ids of an answer as the model is taught to give it: one thing with one ``[SEG]`` and one ``[LOC]``.

    They are what a row with the answer has behind the row without it, up to the sign that ends an answer. Raises
    UserError where the image cannot be read or the row is too long.
    """
    processor = predictor.processor
    shown = read_shown(image, None, (), processor.video_frames)
    asked = shown.sample(prompt, ())
    height, width = shown.images[-1].shape[:2]
    thing = Region(PHRASE, np.ones((height, width), dtype=bool), (0.0, 0.0, float(width), float(height)))
    answered = replace(asked.turns[-1], answer=grounded_answer([thing]), regions=(thing,))
    told = processor.encode(replace(asked, turns=(answered,)), shown.images)
    open_end = processor.encode(asked, shown.images, prompt_only=True)
    ids = [int(number) for number in told.input_ids[len(open_end.input_ids) :]]
    ends: Any = predictor.model.generation_config.eos_token_id
    end = next((place for place, number in enumerate(ids) if number in ends), len(ids))
    return [*ids[:end], ids[end] if end < len(ids) else ends[0]]


def prescribed_answer(predictor: Predictor, image: str, prompt: str, ids: Sequence[int]) -> Answer:
    """Ask as ``Predictor.answer`` does; the words of the answer are ``ids``, everything else is worked out."""
    says = LogitsProcessorList([Prescribed(ids)])
    return predictor.answer(image, prompt, max_new_tokens=len(ids), logits_processor=says)


class Prescribed(LogitsProcessor):
    """Leaves generation one token in each step: those of ``ids``, one after the other. For one answer."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids = tuple(ids)
        self._prompt: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores [B, V] with one that can be chosen; ``input_ids`` [B, L]: the prompt and the new tokens."""
        if self._prompt is None:
            self._prompt = input_ids.shape[1]
        wanted = self.ids[min(input_ids.shape[1] - self._prompt, len(self.ids) - 1)]
        left = torch.full_like(scores, -torch.inf)
        left[:, wanted] = 0.0
        return left
