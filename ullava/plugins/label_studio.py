"""Label Studio's machine-learning backend, without its server: a request's tasks and sentence in, regions out.

What requests and answers look like: Label Studio's ``label_studio/ml/api_connector.py`` and ``ml/models.py``, the
``label_studio_ml`` package (``api.py``), and ``PredictionValue`` of label_studio_sdk for regions. An annotator types a
sentence into a ``<TextArea>`` on the image; it comes as a region of the request's context. A task whose data hold the
sentence already (``<TextArea value="$sentence">``) is answered beforehand, without an annotator.
"""

from __future__ import annotations

import re
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from ullava.data.annotations.class_names import class_key
from ullava.errors import DataError, UserError
from ullava.exports.label_studio import region
from ullava.inference.export import box_of
from ullava.plugins.label_studio_images import ImageSource
from ullava.structures import Answer, ImageArray
from ullava.text.wording import question_of

_LONGEST_PROMPT = 2000
_NO_WORD = re.compile(r"[^\w]+")
Region = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Control:
    """A tag that draws regions: its name and the labels it offers."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """What a project's labeling interface holds: an image (its tag's name and the field of a task it shows), brushes
    and rectangles, and the text areas on the image: name -> field of a task that fills it ('' = none).
    """

    image: str
    field: str
    brush: Control | None
    box: Control | None
    texts: Mapping[str, str]

    @classmethod
    def read(cls, config: Any) -> Interface:
        """Read a labeling interface. Raises UserError: no XML, no image, or neither brushes nor rectangles on it."""
        try:
            top = ElementTree.fromstring(config if isinstance(config, str) else "")
        except (ElementTree.ParseError, ValueError) as error:  # ValueError: halves of characters
            raise UserError(f"label_config: not XML ({error})") from error
        image = top.find(".//Image")
        if image is None:
            raise UserError("label_config: no <Image> to look at")
        name, field = image.get("name", ""), image.get("value", "").removeprefix("$")
        brush, box = (_control(top, tag, name) for tag in ("BrushLabels", "RectangleLabels"))
        if brush is None and box is None:
            raise UserError(f"label_config: neither <BrushLabels> nor <RectangleLabels> on the image '{name}'")
        texts = {
            tag.get("name", ""): tag.get("value", "").removeprefix("$")
            for tag in top.iter("TextArea")
            if tag.get("toName") == name
        }
        return cls(name, field, brush, box, texts)

    def prompt(self, context: Any, task: Mapping[str, Any]) -> str:
        """Return the sentence: the last that the annotator typed, else the one among the task's data, else ''.

        Raises UserError for one that is too long.
        """
        result = context.get("result") if isinstance(context, Mapping) else None
        given: Any = None
        for entry in result if isinstance(result, list) else ():
            value = entry.get("value") if isinstance(entry, Mapping) else None
            if isinstance(value, Mapping) and "text" in value and entry.get("from_name") in (*self.texts, None):
                given = value["text"]
        if given is None and not context:
            held = task.get("data")
            data = held if isinstance(held, Mapping) else {}
            given = next((data[field] for field in self.texts.values() if field and field in data), None)
        if isinstance(given, list):
            given = given[-1] if given else None
        text = given.strip() if isinstance(given, str) else ""
        if len(text) > _LONGEST_PROMPT:
            raise UserError(f"the sentence has {len(text)} characters, more than {_LONGEST_PROMPT}")
        return text


def _control(top: ElementTree.Element, tag: str, image: str) -> Control | None:
    for found in top.iter(tag):
        if found.get("toName") == image:
            labels = (label.get("value", "") for label in found.iter("Label"))
            return Control(found.get("name", ""), tuple(label for label in labels if label))
    return None


def label_for(phrase: str, prompt: str, labels: Sequence[str], chosen: str | None = None) -> str:
    """Return the label of a thing: the one that the annotator chose, else the longest whose words are in the model's
    phrase, else in the sentence, else the first. Without any labels it is the phrase.
    """
    if not labels:
        return phrase or prompt
    if chosen is not None and chosen in labels:
        return chosen
    for text in (phrase, prompt):
        words = f" {class_key(_NO_WORD.sub(' ', text))} "
        inside = [label for label in labels if f" {class_key(_NO_WORD.sub(' ', label))} " in words]
        if inside:
            return max(inside, key=len)
    return labels[0]


def regions_of(
    answer: Answer, interface: Interface, size_wh: tuple[int, int], prompt: str, chosen: str | None
) -> list[Region]:
    """Return an answer's things as regions: a brush where there is a mask and the interface has brushes, else a
    rectangle where it has those.
    """
    found: list[Region] = []
    for item in answer.objects:
        mask = item.mask if interface.brush is not None and item.mask is not None and item.mask.any() else None
        box = None if mask is not None or interface.box is None else box_of(item)
        control = interface.brush if mask is not None else interface.box
        if control is None or (mask is None and box is None):
            continue
        found.append(
            region(
                uuid.uuid4().hex[:10], mask, box, size_wh,
                label=label_for(item.phrase, prompt, control.labels, chosen), score=round(float(item.score), 4),
                prompt=prompt, brush=control.name, box=control.name, image=interface.image,
            )
        )  # fmt: skip
    return found


class Backend:
    """Answers Label Studio's requests with one model.

    ``predictor``: a Predictor, used by one thread at a time; ``images``: where a task's images come from;
    ``min_score``: things of a lower score are left out.
    """

    def __init__(self, predictor: Any, images: ImageSource, min_score: float = 0.0) -> None:
        self.predictor = predictor
        self.images = images
        self.min_score = min_score
        self._lock = threading.Lock()

    @property
    def model_version(self) -> str:
        """How predictions are marked; Label Studio asks anew where it changes."""
        return f"ullava-{self.predictor.name}"

    def predict(self, body: Any) -> tuple[list[Any], list[str]]:
        """Answer a request of ``/predict``: a prediction for each task, and what went wrong, a line each.

        A task without a sentence, or of several tasks one whose image cannot be read, gets [], which Label Studio takes
        for no prediction. Raises UserError: no tasks or interface in the request; the only task cannot be answered.
        """
        tasks = body.get("tasks") if isinstance(body, Mapping) else None
        if not isinstance(tasks, list) or not all(isinstance(task, Mapping) for task in tasks):
            raise UserError("tasks: expected a list of tasks")
        interface = Interface.read(body.get("label_config"))
        params = body.get("params")
        context = params.get("context") if isinstance(params, Mapping) else None
        results: list[Any] = []
        problems: list[str] = []
        for task in tasks:
            try:
                results.append(self._task(task, interface, context))
            except UserError as error:
                if len(tasks) == 1:
                    raise
                problems += [f"task {task.get('id')}: {problem}" for problem in error.problems]
                results.append([])
        return results, problems

    def _task(self, task: Mapping[str, Any], interface: Interface, context: Any) -> Any:
        prompt = interface.prompt(context, task)
        if not prompt:
            return self._prediction([]) if context else []
        data = task.get("data")
        url = data.get(interface.field) if isinstance(data, Mapping) else None
        if not isinstance(url, str) or not url:
            raise DataError(f"the task has no image in its field '{interface.field}'")
        image: ImageArray = self.images.read(url, task.get("id"))
        with self._lock:
            answer = self.predictor.answer(image, question_of(prompt, "segmentation"))
        regions = regions_of(answer, interface, (image.shape[1], image.shape[0]), prompt, _chosen(context))
        return self._prediction([region for region in regions if region["score"] >= self.min_score])

    def _prediction(self, regions: list[Region]) -> dict[str, Any]:
        score = round(sum(region["score"] for region in regions) / len(regions), 4) if regions else 0.0
        return {"result": regions, "score": score, "model_version": self.model_version}


def _chosen(context: Any) -> str | None:
    """Return the label that the annotator has chosen, if the context tells one."""
    result = context.get("result") if isinstance(context, Mapping) else None
    for entry in result if isinstance(result, list) else ():
        value = entry.get("value") if isinstance(entry, Mapping) else None
        for kind in ("brushlabels", "rectanglelabels"):
            labels = value.get(kind) if isinstance(value, Mapping) else None
            if isinstance(labels, list) and labels and isinstance(labels[0], str):
                return labels[0]
    return None
