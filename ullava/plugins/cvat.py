"""CVAT's auto-annotation function (cvat_sdk.auto_annotation): the names of the labels are what is looked for.

A CVAT label has room for a whole expression ("the car in front"), so a referring model can be asked by it. From the
command line of CVAT: ``cvat-cli task auto-annotate ID --function-module ullava.plugins.cvat -p model=str:tiny -p
labels=str:"red circle;blue square"``; as a running agent: ``cvat-cli function create-native`` and ``run-agent``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

from ullava.errors import UserError, did_you_mean
from ullava.geometry import mask_to_box_xyxy_px, simple_outlines
from ullava.structures import GroundedObject
from ullava.text.wording import question_of

try:
    import cvat_sdk.auto_annotation as cvataa
    from cvat_sdk.masks import encode_mask
except ImportError as error:
    raise UserError("the function for CVAT needs cvat-sdk: pip install 'ullava[cvat]'") from error

if TYPE_CHECKING:
    from PIL.Image import Image

Shape = Literal["mask", "polygon", "rectangle", "any"]
_DIVIDER = ";"


def create(
    model: str = "tiny",
    labels: str | Sequence[str] | Mapping[str, str] = "",
    *,
    shape: str = "mask",
    device: str = "auto",
    threshold: float = 0.0,
    max_new_tokens: int = 128,
) -> DetectionFunction:
    """Load a model and return the function; what ``cvat-cli`` calls with the values of its ``-p`` options.

    ``labels``: names of the task's labels, in a list or between semicolons; ``name=what is asked`` (or a mapping) asks
    for something else than the name. ``shape``: see ``DetectionFunction``.
    Raises UserError: no labels, a name twice, an unknown shape, a model that is not there.
    """
    asked = labels_of(labels)
    from ullava.inference.load import load

    return DetectionFunction(
        load(model, device=device), asked, shape=shape, threshold=threshold, max_new_tokens=max_new_tokens
    )


def labels_of(labels: str | Sequence[str] | Mapping[str, str]) -> dict[str, str]:
    """Return the names of labels and what is asked for each. Raises UserError for none, an empty one or one twice."""
    if isinstance(labels, Mapping):
        pairs = [(name.strip(), asked.strip()) for name, asked in labels.items()]
    else:
        listed = labels.split(_DIVIDER) if isinstance(labels, str) else list(labels)
        pairs = []
        for entry in (entry.strip() for entry in listed if entry.strip()):
            name, equals, asked = entry.partition("=")
            pairs.append((name.strip(), asked.strip() if equals else name.strip()))
    if not pairs:
        raise UserError("labels: expected the names of the task's labels, such as labels='red circle;blue square'")
    found: dict[str, str] = {}
    for name, asked in pairs:
        if not name or not asked:
            raise UserError(f"labels: '{name}={asked}': expected NAME or NAME=WHAT IS ASKED")
        if name in found:
            raise UserError(f"labels: '{name}' is named twice")
        found[name] = asked
    return found


class DetectionFunction:
    """An auto-annotation function that asks ``predictor`` for each label of ``labels`` (name -> what is asked).

    ``shape``: what is drawn: ``mask`` (where the model gives boxes alone, nothing), ``polygon`` (outer outlines of
    masks), ``rectangle``, or ``any``: the mask, else the rectangle, on labels of the type any. Labels of a task that
    are for another shape are refused by cvat_sdk. ``threshold``: things of a lower score are left out, unless CVAT
    names one. Scores are those of the model. Raises UserError for an unknown shape.
    """

    def __init__(
        self,
        predictor: Any,
        labels: Mapping[str, str],
        *,
        shape: str = "mask",
        threshold: float = 0.0,
        max_new_tokens: int = 128,
    ) -> None:
        if shape not in get_args(Shape):
            raise UserError(f"shape: '{shape}' is not a shape{did_you_mean(shape, get_args(Shape))}")
        self.predictor = predictor
        self.asked = tuple(labels.values())
        self.shape = shape
        self.threshold = threshold
        self.max_new_tokens = max_new_tokens
        specs = [cvataa.label_spec(name, number, type=shape) for number, name in enumerate(labels)]
        self.spec = cvataa.DetectionFunctionSpec(labels=specs)

    def detect(self, context: Any, image: Image) -> list[Any]:
        """Return the shapes of an image, label after label. ``context``: a DetectionFunctionContext."""
        least = self.threshold if context.conf_threshold is None else context.conf_threshold
        pixels = image.convert("RGB")
        shapes: list[Any] = []
        for label, asked in enumerate(self.asked):
            question = question_of(asked, "segmentation")
            answer = self.predictor.answer(pixels, question, max_new_tokens=self.max_new_tokens)
            for item in answer.objects:
                if item.score >= least:
                    shapes += self._shapes(item, label, len(shapes) + 1, context.conv_mask_to_poly)
        return shapes

    def _shapes(self, item: GroundedObject, label: int, group: int, as_polygons: bool) -> list[Any]:
        """Return one thing as shapes; several polygons of it are one ``group``."""
        score = min(max(float(item.score), 0.0), 1.0)
        tight = None if item.mask is None else mask_to_box_xyxy_px(item.mask)
        if item.mask is not None and tight is not None and self.shape != "rectangle":
            if self.shape != "polygon" and not as_polygons:
                return [cvataa.mask(label, encode_mask(item.mask, tight), score=score)]
            rings = simple_outlines(item.mask)
            more = {"group": group} if len(rings) > 1 else {}
            return [cvataa.polygon(label, ring.ravel().tolist(), score=score, **more) for ring in rings]
        box = item.box_xyxy_px or tight
        if box is None or self.shape in ("mask", "polygon"):
            return []
        return [cvataa.rectangle(label, [float(value) for value in box], score=score)]
