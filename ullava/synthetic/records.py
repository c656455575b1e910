"""From a drawn scene to the records of every annotation file, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ullava.structures import MaskArray
from ullava.synthetic.forms import Description
from ullava.synthetic.grounded import placed_caption
from ullava.synthetic.language import KIND_WEIGHTS, REASONING_KINDS, Expression, sentences_for, targets_wanted
from ullava.synthetic.namings import drills, namings
from ullava.synthetic.plurals import generalized
from ullava.synthetic.pointing import loose_box, pointed_questions
from ullava.synthetic.questions import Question, caption, conversation, listing, named_in_full, questions, quiz
from ullava.synthetic.render import RenderedScene
from ullava.synthetic.scene import Scene, rng_of
from ullava.synthetic.vocabulary import SHAPES, class_id
from ullava.synthetic.words import word_tasks

Record = dict[str, Any]

GRES_PER_IMAGE = 4
MOST_OBJECTS = 16
"""COCO annotation ids are image id x this + place, so that they do not depend on what was drawn before."""

_REASONS = (
    "it is by far the largest shape",
    "it is much larger than everything else",
    "it is the largest and stands out",
)


@dataclass(frozen=True, slots=True)
class Outline:
    """One mask in file form: COCO segmentation (polygons or compressed RLE), xywh box in pixels, area in pixels."""

    rle: Record
    polygons: list[list[float]] | None
    bbox: list[int]
    area: int


def _edge_polygon(mask: MaskArray, bbox: Sequence[int]) -> list[list[float]] | None:
    """The pixel edges round a mask without holes as one polygon, or None where it has a hole or falls apart."""
    x, y, w, h = bbox
    fine = cv2.resize(mask[y : y + h, x : x + w].view(np.uint8), None, fx=3, fy=3, interpolation=cv2.INTER_NEAREST)
    contours, tree = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if len(contours) != 1 or tree is None:
        return None
    points = cv2.approxPolyDP(contours[0], 1.0, True)[:, 0, :].astype(np.float64)
    points = np.round((points + 0.5) / 3 + [x, y], 1)
    return [[float(value) for value in points.reshape(-1)]] if len(points) >= 3 else None


def outline_of(mask: MaskArray) -> Outline:
    """File forms of a mask [H, W]; polygons only where they give the mask back with an IoU of 0.97 or more."""
    rle = coco_mask.encode(np.asfortranarray(mask.view(np.uint8)))
    bbox = [int(value) for value in coco_mask.toBbox(rle)]
    polygons = _edge_polygon(mask, bbox)
    if polygons is not None:
        back = coco_mask.frPyObjects(polygons, *mask.shape)
        if float(coco_mask.iou(back, [rle], [0])[0, 0]) < 0.97:
            polygons = None
    text = {"size": [int(side) for side in mask.shape], "counts": rle["counts"].decode("ascii")}
    return Outline(text, polygons, bbox, int(coco_mask.area(rle)))


def _uncompressed(mask: MaskArray) -> Record:
    """RLE with its counts as numbers, column by column, starting with background."""
    flat = mask.ravel(order="F")
    starts = np.flatnonzero(np.diff(flat, prepend=False, append=False))
    edges = np.concatenate([[0], starts, [flat.size]] if not flat[-1] else [[0], starts])
    return {"size": [int(side) for side in mask.shape], "counts": [int(run) for run in np.diff(edges)]}


@dataclass(frozen=True, slots=True, eq=False)
class SceneRecords:
    """A scene, its image, where its files lie (relative to the world), and the file forms of its masks."""

    scene: Scene
    image: RenderedScene
    image_path: str
    label_path: str
    salient_path: str
    outlines: tuple[Outline, ...]

    @classmethod
    def of(cls, scene: Scene, image: RenderedScene) -> SceneRecords:
        """Work out what several records share."""
        name = f"{scene.index:06d}"
        outlines = tuple(outline_of(mask) for mask in image.masks)
        return cls(scene, image, f"images/{name}.jpg", f"labels/{name}.png", f"salient/{name}.png", outlines)

    def segmentation(self, place: int) -> list[Any]:
        """Polygons and RLE in turn, as the refer files of different sources have them."""
        outline, turn = self.outlines[place], (self.scene.index + place) % 8
        if outline.polygons is not None and turn % 2 == 0:
            return outline.polygons
        return [_uncompressed(self.image.masks[place]) if turn == 7 else outline.rle]

    def _rng(self, stream: str) -> Random:
        return rng_of(self.scene.split, self.scene.seed, self.scene.index, stream)

    def _canvas(self) -> Record:
        return {"image_path": self.image_path, **self._size()}

    def _size(self) -> Record:
        return {"height": self.scene.height, "width": self.scene.width}

    def res(self) -> list[Record]:
        """Layout ``refer``: one record for each object that has an unambiguous expression."""
        return self._referred("res", KIND_WEIGHTS)

    def reasoning(self) -> list[Record]:
        """As ``res``, with the kinds of expression alone that take two steps."""
        return self._referred("reasoning", REASONING_KINDS)

    def _referred(self, stream: str, kinds: Mapping[str, float]) -> list[Record]:
        rng, records = self._rng(stream), []
        for place in targets_wanted(self.scene):
            expressions = sentences_for(self.scene, place, rng, kinds)
            if expressions:
                records.append(
                    {
                        **self._canvas(),
                        "segmentation": self.segmentation(place),
                        "bbox": self.outlines[place].bbox,
                        "category": " ".join(self.scene.things[place].pair),
                        "sentences": [expression.words for expression in expressions],
                        "kinds": [expression.kind for expression in expressions],
                    }
                )
        return records

    def gres(self) -> list[Record]:
        """Layout ``grefer``: expressions with several targets (from left to right), one or none."""
        rng = self._rng("gres")
        found: dict[str, Expression] = {}
        for _ in range(GRES_PER_IMAGE):
            expression = generalized(self.scene, rng)
            if expression is not None:
                found.setdefault(expression.words, expression)
        return [
            {
                **self._canvas(),
                "sentences": [expression.words],
                "no_target": not expression.targets,
                "annotations": [
                    {
                        "segmentation": self.segmentation(place),
                        "bbox": self.outlines[place].bbox,
                        "category": " ".join(self.scene.things[place].pair),
                    }
                    for place in sorted(expression.targets, key=lambda place: self.scene.things[place].centre_px)
                ],
            }
            for expression in found.values()
        ]

    def label_map(self) -> NDArray[np.uint8]:
        """Class id of every pixel [H, W]; 0 is background."""
        label = np.zeros((self.scene.height, self.scene.width), dtype=np.uint8)
        for thing, mask in zip(self.scene.things, self.image.masks, strict=True):
            label[mask] = class_id(thing.shape)
        return label

    def semantic(self) -> list[Record]:
        """Layout ``label_png``: the classes present, by their value in the label image."""
        present = {thing.shape for thing in self.scene.things}
        classes = [{"class": shape, "class_id": class_id(shape)} for shape in SHAPES if shape in present]
        return [{**self._canvas(), "label_path": self.label_path, "classes": classes}]

    def salient(self) -> list[Record]:
        """Layout ``salient_png``, for scenes with one object far larger than the rest."""
        if self.scene.salient is None:
            return []
        thing = self.scene.things[self.scene.salient]
        gpt = {"reason": self._rng("salient").choice(_REASONS), "tag": f"{thing.colour} {thing.shape}"}
        return [{**self._canvas(), "label_path": self.salient_path, "gpt": gpt}]

    def coco_image(self) -> Record:
        """This image's entry in a COCO instances file."""
        scene = self.scene
        return {"id": scene.index + 1, "file_name": self.image_path, "width": scene.width, "height": scene.height}

    def coco_annotations(self) -> list[Record]:
        """This image's objects in a COCO instances file: polygons where they can be, RLE in turn."""
        image_id = self.scene.index + 1
        records = []
        for place, thing in enumerate(self.scene.things):
            outline = self.outlines[place]
            as_polygon = outline.polygons is not None and (self.scene.index + place) % 3 != 2
            records.append(
                {
                    "id": image_id * MOST_OBJECTS + place,
                    "image_id": image_id,
                    "category_id": class_id(thing.shape),
                    "segmentation": outline.polygons if as_polygon else outline.rle,
                    "area": outline.area,
                    "bbox": outline.bbox,
                    "iscrowd": 0,
                }
            )
        return records

    def parts(self) -> list[Record]:
        """Layout ``regions``: core and rim of the objects that have a core and that words can single out."""
        classes, annotations = [], []
        for place in targets_wanted(self.scene):
            thing = self.scene.things[place]
            if thing.core is None:
                continue
            what = Description(thing.colour, thing.shape)
            words = f"{thing.colour} {thing.shape}"
            if what.matches(self.scene) != [place]:
                what, words = Description(thing.colour, thing.shape, thing.size), f"{thing.size} {words}"
            if what.matches(self.scene) != [place]:
                continue
            core = self.image.cores[place]
            for part, mask in (("core", core), ("rim", self.image.masks[place] & ~core)):
                outline = outline_of(mask)
                segmentation = outline.polygons or outline.rle
                classes.append(f"{part} of the {words}")
                annotations.append(
                    {
                        "height": self.scene.height,
                        "width": self.scene.width,
                        "segmentation": segmentation,
                        "bbox": outline.bbox,
                    }
                )
        return [{"image_path": self.image_path, "classes": classes, "annotations": annotations}] if classes else []

    def caption(self) -> list[Record]:
        """LLaVA JSON with ``facts`` for checking."""
        words, facts = caption(self.scene)
        asked = self._rng("caption").choice(("Describe the picture.", "What do you see?", "Caption this picture."))
        turn = Question(asked, words, (), "caption")
        return [{**conversation(self._name("caption"), [turn], self._shown()), "facts": facts}]

    def grounded(self) -> list[Record]:
        """Layout ``grounded_captions``: a caption that names every object, with the place of each."""
        words, phrases = placed_caption(self.scene)
        told = [
            {
                "span": list(phrase.span),
                "annotations": [
                    {"segmentation": self.segmentation(place), "bbox": self.outlines[place].bbox}
                    for place in phrase.places
                ],
            }
            for phrase in phrases
        ]
        return [{**self._canvas(), "caption": words, "phrases": told}]

    def listing(self) -> list[Record]:
        """LLaVA JSON that names every object, with ``things``: all that is in the image, words and place."""
        turn = Question("List all shapes from left to right.", listing(self.scene), (), "listing")
        things = [
            {"words": named_in_full(thing), "segmentation": self.segmentation(place), "bbox": self.outlines[place].bbox}
            for place, thing in enumerate(self.scene.things)
        ]
        return [{**conversation(self._name("listing"), [turn], self._shown()), **self._size(), "things": things}]

    def naming(self) -> list[Record]:
        """LLaVA JSON with many short turns, each naming what an expression means; nothing where none leaves it open."""
        asked = namings(self.scene, self._rng("naming"))
        return [quiz(self._name("naming"), asked, self._shown())] if asked else []

    def drill(self) -> list[Record]:
        """LLaVA JSON that asks for every neighbour and every rank; nothing where none leaves the name open."""
        asked = drills(self.scene, self._rng("drill"))
        return [quiz(self._name("drill"), asked, self._shown())] if asked else []

    def vqa(self) -> list[Record]:
        """LLaVA JSON with several turns about the image."""
        return [quiz(self._name("vqa"), questions(self.scene, self._rng("vqa")), self._shown())]

    def regions(self) -> list[Record]:
        """LLaVA JSON whose questions point: ``regions`` has boxes as a hand draws them, and masks for a third."""
        rng = self._rng("regions")
        asked = pointed_questions(self.scene, rng)
        made = quiz(self._name("regions"), [one.question for one in asked], self._shown())
        regions = [self._pointed(place, rng) for one in asked for place in one.places]
        return [{**made, **self._size(), "regions": regions}]

    def _pointed(self, place: int, rng: Random) -> Any:
        outline = self.outlines[place]
        return outline.rle if rng.random() < 1 / 3 else loose_box(outline.bbox, self.scene, rng)

    def region_masks(self) -> list[Record]:
        """Layout ``refer``, to be asked for by its box: every object, also those that no words single out."""
        return [
            {
                **self._canvas(),
                "segmentation": self.segmentation(place),
                "bbox": self.outlines[place].bbox,
                "category": " ".join(thing.pair),
                "sentences": [named_in_full(thing)],
            }
            for place, thing in enumerate(self.scene.things)
        ]

    def text(self) -> list[Record]:
        """LLaVA JSON without an image."""
        return [quiz(self._name("text"), word_tasks(self._rng("text")), {})]

    def truth(self) -> list[Record]:
        """Everything about the scene, for reports and for checking."""
        scene = self.scene
        things = [
            {
                "colour": thing.colour,
                "shape": thing.shape,
                "size": thing.size,
                "texture": thing.texture,
                "core": thing.core,
                "bbox": outline.bbox,
                "centre": [round(value, 2) for value in thing.centre_px],
                "diameter": round(thing.diameter_px, 2),
            }
            for thing, outline in zip(scene.things, self.outlines, strict=True)
        ]
        return [{"index": scene.index, **self._canvas(), "salient": scene.salient, "objects": things}]

    def _name(self, task: str) -> str:
        return f"{task}_{self.scene.index:06d}"

    def _shown(self) -> dict[str, str]:
        return {"image": self.image_path}
