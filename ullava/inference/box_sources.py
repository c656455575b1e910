"""Where the boxes of a vision encoder with object tokens come from, when it answers (docs/vision_encoders.md).

None at all, a person's own (``Predictor.answer(..., boxes=...)``), a file, a detector that looks for words, or the
model's last answer. In training they come from files alone (ullava.data.readers.boxes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from ullava.config.defaults import MAX_NEW_TOKENS
from ullava.data.readers.boxes import BoxFile
from ullava.errors import UserError
from ullava.hub import find_folder
from ullava.media.images import read_image_rgb_u8
from ullava.modeling.loading.pretrained import read_config, read_network, read_processor
from ullava.modeling.loading.strict_loading import refuse_misfits
from ullava.structures import Answer, DetectedBoxes, ImageArray, Sample

PROMPT = "a photo of {}"
THRESHOLD = 0.2
"""How MG-LLaVA's authors ask OWLv2 for a word, and the score from which they keep a box."""


class BoxProvider(Protocol):
    """Finds things in an image."""

    def boxes_in(self, path: Path, image_rgb_u8: ImageArray) -> DetectedBoxes | None:
        """Return the boxes in the image's own pixels; None = nobody looked."""
        ...


class FileBoxes:
    """Boxes from a file whose images are named from the file's own folder (ullava.data.readers.boxes)."""

    def __init__(self, path: Path) -> None:
        self.file = BoxFile(path)
        self.root = path.resolve().parent

    def boxes_in(self, path: Path, image_rgb_u8: ImageArray) -> DetectedBoxes | None:
        """See BoxProvider; an image outside the folder has none."""
        whole = path.resolve()
        if not whole.is_relative_to(self.root):
            return None
        return self.file.of_image(whole.relative_to(self.root).as_posix(), str(path))


class WordDetector:
    """A zero-shot detector of transformers (OWL-ViT, OWLv2) that looks for the same words in every image.

    ``folder`` may be an id of the Hub. Raises UserError for one that holds none, and without a word to look for.
    """

    def __init__(
        self, folder: Path | str, words: Sequence[str], *, threshold: float = THRESHOLD, device: str = "cpu"
    ) -> None:
        from transformers import AutoModelForZeroShotObjectDetection
        from transformers.models.auto.modeling_auto import MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES

        self.words = [word.strip() for word in words if word.strip()]
        if not self.words:
            raise UserError("a detector needs words to look for")
        folder = find_folder(str(folder), Path(), "detector")
        if not (folder / "config.json").is_file():
            raise UserError(f"{folder}: no saved detector (config.json) in this folder")
        kind = read_config(folder).model_type
        if kind not in MODEL_FOR_ZERO_SHOT_OBJECT_DETECTION_MAPPING_NAMES:
            raise UserError(f"{folder}: not a zero-shot detector: its model_type is '{kind}'")
        self.processor: Any = read_processor(folder)
        model, info = read_network(AutoModelForZeroShotObjectDetection, folder)
        refuse_misfits(info, folder)
        self.model = model.to(device).eval()
        self.threshold = threshold

    @torch.inference_mode()
    def boxes_in(self, path: Path, image_rgb_u8: ImageArray) -> DetectedBoxes:
        """See BoxProvider; boxes are cut at the image's edges."""
        height, width = image_rgb_u8.shape[:2]
        prompts = [[PROMPT.format(word) for word in self.words]]
        inputs = self.processor(text=prompts, images=[np.ascontiguousarray(image_rgb_u8)], return_tensors="pt")
        output = self.model(**inputs.to(self.model.device))
        (found,) = self.processor.post_process_grounded_object_detection(
            output, threshold=self.threshold, target_sizes=[(height, width)], text_labels=[self.words]
        )
        corners = found["boxes"].cpu().double().numpy().reshape(-1, 4).clip(0, [width, height, width, height])
        return DetectedBoxes(corners, found["scores"].cpu().double().numpy(), tuple(found["text_labels"]))


def boxes_of_answer(answer: Answer, image: int = 0) -> DetectedBoxes:
    """What an answer pointed at in image ``image``, as boxes for the next question about it."""
    things = [thing for thing in answer.objects if thing.image == image and thing.box_xyxy_px is not None]
    corners = np.asarray([thing.box_xyxy_px for thing in things], dtype=np.float64).reshape(-1, 4)
    scores = np.asarray([thing.score for thing in things], dtype=np.float64)
    return DetectedBoxes(corners, scores, tuple(thing.phrase for thing in things))


class WithBoxes:
    """A predictor whose images are looked at by ``provider`` first, once each. Samples that have boxes keep them."""

    def __init__(self, predictor: Any, provider: BoxProvider) -> None:
        self.predictor = predictor
        self.provider = provider
        self.found: dict[Path, DetectedBoxes | None] = {}

    def answer_samples(
        self,
        samples: Sequence[Sample],
        *,
        max_new_tokens: int = MAX_NEW_TOKENS,
        overrides: Mapping[str, Any] | None = None,
        **generation: Any,
    ) -> list[Answer]:
        """Answer single-turn samples, in order; see Predictor."""
        seen = [sample if sample.boxes else replace(sample, boxes=self._boxes(sample)) for sample in samples]
        options = {**generation, "overrides": overrides} if overrides else generation
        answers: list[Answer] = self.predictor.answer_samples(seen, max_new_tokens=max_new_tokens, **options)
        return answers

    def _boxes(self, sample: Sample) -> tuple[DetectedBoxes | None, ...]:
        for path in sample.images:
            if path not in self.found:
                self.found[path] = self.provider.boxes_in(path, read_image_rgb_u8(path))
        return tuple(self.found[path] for path in sample.images)


def with_boxes(predictor: Any, file: Path | None, detector: Path | None, classes: str | None) -> Any:
    """Return the predictor that looks for boxes first, in a file or by a detector of ``CLASS,CLASS``; else itself."""
    if file is not None:
        return WithBoxes(predictor, FileBoxes(file))
    if detector is not None:
        return WithBoxes(predictor, WordDetector(detector, (classes or "").split(","), device=str(predictor.device)))
    return predictor
