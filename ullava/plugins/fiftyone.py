"""A model for FiftyOne (fiftyone.core.models): ``dataset.apply_model(load_model(prompt="the red circle"), "ullava")``.

The prompt is one for all samples, or that of a field of each sample.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ullava.errors import UserError
from ullava.exports.in_memory import to_fiftyone
from ullava.structures import Answer, ImageArray
from ullava.text.wording import question_of

try:
    from fiftyone.core.models import Model, SamplesMixin
except ImportError as error:
    raise UserError("the model for FiftyOne needs fiftyone: pip install 'ullava[fiftyone]'") from error

PROMPT = "prompt_field"


def load_model(
    model: str = "tiny",
    prompt: str | None = None,
    prompt_field: str | None = None,
    *,
    device: str = "auto",
    max_new_tokens: int = 128,
) -> UllavaModel:
    """Load a model. ``prompt``: what is looked for in every sample; ``prompt_field``: the samples' field that says it.

    Raises UserError: neither or both of the two, a model that is not there.
    """
    check_prompts(prompt, prompt_field)
    from ullava.inference.load import load

    return UllavaModel(load(model, device=device), prompt, prompt_field, max_new_tokens=max_new_tokens)


def check_prompts(prompt: str | None, prompt_field: str | None) -> None:
    """Raise UserError unless exactly one of the two says something."""
    if bool(prompt and prompt.strip()) == bool(prompt_field):
        raise UserError("give either prompt= (one for all samples) or prompt_field= (the samples' field that holds it)")


class UllavaModel(SamplesMixin, Model):
    """Asks ``predictor`` about each sample; labels are Detections with masks, as ``Answer.to_fiftyone`` makes them.

    A sample's field holds one prompt or a list of them, whose detections are joined; a sample without a prompt gets
    none. Each detection says in ``prompt`` what was asked. ``apply_model(..., confidence_thresh=0.5)`` leaves out what
    the model is less sure of.
    """

    def __init__(
        self, predictor: Any, prompt: str | None = None, prompt_field: str | None = None, *, max_new_tokens: int = 128
    ) -> None:
        check_prompts(prompt, prompt_field)
        super().__init__()
        self.predictor = predictor
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self._preprocess = False
        self._own_fields = {PROMPT: prompt_field} if prompt_field else {}
        self._fields = dict(self._own_fields)

    @property
    def needs_fields(self) -> dict[str, str]:
        """The samples' field that holds the prompt, under the key ``prompt_field``."""
        return dict(self._fields)

    @needs_fields.setter
    def needs_fields(self, fields: Mapping[str, str] | None) -> None:
        """Take other fields; ``apply_model`` sets none where it was given none, which means ours."""
        self._fields = dict(fields or self._own_fields)

    @property
    def media_type(self) -> str:
        """What it reads."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Images of different sizes may come together."""
        return False

    @property
    def transforms(self) -> None:
        """The model prepares images itself."""
        return None

    @property
    def preprocess(self) -> bool:
        """Whether ``transforms`` are applied: there are none."""
        return self._preprocess

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        self._preprocess = value

    def predict(self, arg: Any, sample: Any = None) -> Any:
        """Return ``fiftyone.Detections`` of an image uint8 [H, W, 3] (or gray, or with alpha)."""
        image: ImageArray = np.asarray(arg)
        found: Any = None
        for prompt in self._prompts(sample):
            question = question_of(prompt, "segmentation")
            answer: Answer = self.predictor.answer(image, question, max_new_tokens=self.max_new_tokens)
            labels = to_fiftyone(answer, size_wh=(image.shape[1], image.shape[0]))
            for detection in labels.detections:
                detection["prompt"] = prompt
            if found is None:
                found = labels
            else:
                found.detections.extend(labels.detections)
        return to_fiftyone(Answer("")) if found is None else found

    def predict_all(self, args: Iterable[Any], samples: Any = None) -> list[Any]:
        """Return the detections of many images, one after the other."""
        if samples is None:
            return [self.predict(arg) for arg in args]
        return [self.predict(arg, sample) for arg, sample in zip(args, samples, strict=True)]

    def _prompts(self, sample: Any) -> Sequence[str]:
        field = self._fields.get(PROMPT)
        if field is None:
            return [self.prompt] if self.prompt else []
        if sample is None:
            raise UserError(f"the prompt is in the field '{field}', but no sample came with the image")
        given = sample[field]
        listed = [given] if isinstance(given, str) else given or []
        if not isinstance(listed, list | tuple) or not all(isinstance(text, str) for text in listed):
            raise UserError(f"field '{field}': expected a text or a list of texts, not {type(given).__name__}")
        return [text for text in listed if text.strip()]
