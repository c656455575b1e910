"""The pipeline ``referring-segmentation`` of transformers: an image and words in, the things that the words mean out.

``import ullava`` registers it (ullava.registration), by importing this module. Answers come from the Predictor, so they
are those of ``ullava.load(...).answer``. Our own classes are imported when a pipeline is made: this module is imported
whenever transformers' pipelines are, which may be in the middle of importing those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from transformers.image_utils import load_image
from transformers.models.auto.modeling_auto import AutoModelForImageTextToText
from transformers.pipelines import PIPELINE_REGISTRY
from transformers.pipelines.base import Pipeline

from ullava.errors import UserError
from ullava.structures import Answer, BoxXYXY, GroundedObject
from ullava.text.wording import question_of

if TYPE_CHECKING:
    from ullava.examples import Example

TASK = "referring-segmentation"
_ELSEWHERE = ("http://", "https://", "data:image/")
Found = dict[str, Any]


class ReferringSegmentationPipeline(Pipeline):
    """Finds what words mean in an image: ``pipe(image, text="the red circle")``.

    The result is a list of dicts, one for each thing: ``score`` in [0, 1]; ``label``, the text that was asked;
    ``box``, {"xmin", "ymin", "xmax", "ymax"} in whole pixels; ``mask``, a Pillow image "L" of 0 and 255 in the size of
    the image (None where the model gives boxes alone); ``phrase``, how the model calls the thing, and ``span``, the
    characters of its answer that speak of it.
    """

    _load_processor = True
    _load_image_processor = False
    _load_video_processor = False
    _load_feature_extractor = False
    _load_tokenizer = False

    def __init__(self, **kwargs: Any) -> None:
        from ullava.inference.predictor import Predictor
        from ullava.modeling.processing.processor import UllavaProcessor

        super().__init__(**kwargs)
        if not isinstance(self.processor, UllavaProcessor):
            raise UserError(f"{TASK}: expected a model of ullava, not {type(self.model).__name__}")
        self.predictor = Predictor(self.model, self.processor, name=str(self.model.name_or_path or "model"))

    def __call__(self, image: Any, text: str | Sequence[str] | None = None, **kwargs: Any) -> Any:
        """Look for ``text`` in an image; a list of images, or of texts about one, gives a list of results.

        ``image``: a path, a url, a Pillow image or an array; a list of them with one ``text`` for all or a list of as
        many; or dicts {"image": ..., "text": ...}, one, a list, a generator or a dataset. A name ("red circle") becomes
        a question; a sentence (it ends with a mark) is asked as it stands.
        ``threshold``: things of a lower score are left out (0); ``max_new_tokens`` and other options of
        ``Predictor.answer``; ``batch_size``: images that are answered together (1).
        Raises UserError: no text, an image that cannot be read, lists of different lengths, an unknown option.
        """
        if text is not None and not (isinstance(text, Sequence) and all(isinstance(words, str) for words in text)):
            raise UserError(f"{TASK}: text is a text or a list of texts, not {type(text).__name__}")
        if isinstance(image, list | tuple) and not all(isinstance(item, Mapping) for item in image):
            texts = [text] * len(image) if text is None or isinstance(text, str) else list(text)
            if len(texts) != len(image):
                raise UserError(f"{TASK}: {len(image)} images, but {len(texts)} texts")
            rows: Any = [{"image": item, "text": words} for item, words in zip(image, texts, strict=True)]
        elif text is not None and not isinstance(image, Mapping):
            one = isinstance(text, str)
            rows = {"image": image, "text": text} if one else [{"image": image, "text": words} for words in text]
        else:
            rows = image
        if isinstance(rows, list) and not rows:
            return []
        return super().__call__(rows, **kwargs)

    def _sanitize_parameters(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        threshold = kwargs.pop("threshold", None)
        if threshold is not None and (isinstance(threshold, bool) or not isinstance(threshold, int | float)):
            raise UserError(f"{TASK}: threshold is a number, not {type(threshold).__name__}")
        timeout = kwargs.pop("timeout", None)
        before = {} if timeout is None else {"timeout": timeout}
        return before, kwargs, {} if threshold is None else {"threshold": threshold}

    def preprocess(self, inputs: Any, timeout: float | None = None) -> tuple[str, Example]:
        """Return what is asked and the row of one {"image", "text"}. Raises UserError, see ``__call__``."""
        from ullava.inference.asking import read_shown

        if not isinstance(inputs, Mapping) or "image" not in inputs:
            raise UserError(f"{TASK}: expected an image with text=..., or {{'image': ..., 'text': ...}}")
        text = inputs.get("text")
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{TASK}: text says nothing to look for")
        shown = read_shown(_opened(inputs["image"], timeout), None, (), self.processor.video_frames)
        sample = shown.named_by_content().sample(question_of(text, "segmentation"), ())
        return text, self.processor.encode(sample, shown.images, prompt_only=True)

    def _forward(self, model_inputs: Any, **options: Any) -> list[tuple[str, Answer]]:
        rows = model_inputs if isinstance(model_inputs, list) else [model_inputs]
        answers = self.predictor.answer_examples([example for _, example in rows], **options)
        return [(text, answer) for (text, _), answer in zip(rows, answers, strict=True)]

    def postprocess(self, model_outputs: Any, threshold: float = 0.0) -> list[Found]:
        """Return the things of one answer, see the class."""
        from ullava.inference.export import box_of

        ((text, answer),) = model_outputs
        return [_found(item, box, text) for item in answer.objects if (box := box_of(item)) and item.score > threshold]

    def save_pretrained(self, save_directory: Any, **kwargs: Any) -> None:
        """Save the model and its processor, which transformers leaves out, into a folder."""
        super().save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory)

    def get_iterator(
        self,
        inputs: Iterable[Any],
        num_workers: int,
        batch_size: int,
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[list[Found]]:
        """Yield the results of many rows, ``batch_size`` of which are answered together.

        Rows of this model are no tensors to be padded, so transformers' own loader is not used, nor its workers.
        """
        rest = iter(inputs)
        while rows := [self.preprocess(row, **preprocess_params) for row in islice(rest, batch_size)]:
            for answered in self.forward(rows, **forward_params):
                yield self.postprocess([answered], **postprocess_params)


def _register() -> None:
    """Make ``transformers.pipeline("referring-segmentation", ...)`` known."""
    model = AutoModelForImageTextToText
    PIPELINE_REGISTRY.register_pipeline(TASK, ReferringSegmentationPipeline, pt_model=model, type="multimodal")
    # By this, save_pretrained would write our module beside the weights and mark the folder as one of foreign code.
    del ReferringSegmentationPipeline._registered_impl


def _opened(image: Any, timeout: float | None) -> Any:
    if not isinstance(image, str) or not image.startswith(_ELSEWHERE):
        return image
    try:
        return load_image(image, timeout=timeout)
    except Exception as error:  # whatever a connection or a decoder makes of it
        said = str(error).splitlines() or [type(error).__name__]
        raise UserError(f"{image[:80]}: cannot be read ({said[0][:200]})") from error


def _found(item: GroundedObject, box: BoxXYXY, text: str) -> Found:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), (round(float(value)) for value in box), strict=True)
    return {
        "score": float(item.score),
        "label": text,
        "box": dict(corners),
        "mask": None if item.mask is None else Image.fromarray(item.mask.astype(np.uint8) * 255, mode="L"),
        "phrase": item.phrase,
        "span": item.span,
    }


_register()  # not by who imports it: imported first, it is not whole yet when transformers' pipelines are there
