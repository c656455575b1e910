"""``datasets/<id>/dataset.yaml``, and a dataset's entry in a recipe. No torch here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ullava.config.augment import AugmentConfig
from ullava.config.fields import above, at_least


@dataclass(frozen=True, kw_only=True, slots=True)
class SplitConfig:
    """Where one split lies below the data root; ``count`` is what ``ullava check`` expects to find.

    ``annotations``: a file below the data root, or a pattern of shards (``train-{000000..000099}.tar``, ``*.parquet``;
    ullava.data.annotations.shards). ``images``: the folder of its images, below it too; shards may hold their own.
    ``about``: a figure that was published rounded, in the place of ``count``; a tenth more or less is right too.
    """

    annotations: str
    images: str = "."
    count: int | None = field(default=None, metadata=at_least(0))
    about: int | None = field(default=None, metadata=at_least(1))


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalSplit:
    """One split in the files that a data set's authors publish; every path is below the data root.

    ``annotations``: a file, or a folder where each image has its own. ``companion``: what else is needed
    (``instances.json``, a list of the split's images, the masks of clips). ``part``: what this split is called inside
    the files, or in the names of several; ``oracle`` of SA-Co: all annotators at once. ``sentences``: expected
    expressions.
    ``images``: the folder of images. ``count``: expected samples. ``first_text``: of several texts of an image the
    first alone is asked, as ReasonSeg's published figures are taken.
    """

    annotations: str
    images: str = "."
    companion: str | None = None
    part: str | None = None
    first_text: bool = False
    count: int | None = field(default=None, metadata=at_least(0))
    sentences: int | None = field(default=None, metadata=at_least(0))


@dataclass(frozen=True, kw_only=True, slots=True)
class OriginalConfig:
    """How the authors' own files are laid out (ullava.data.converters.published).

    ``kind``: the layout. ``splits``: where each split lies. ``leave_out``: classes that nobody asks for.
    """

    kind: Literal[
        "refs",
        "grefs",
        "reasonseg",
        "label_folders",
        "mask_pairs",
        "ade_objects",
        "paco",
        "pascal_part",
        "scienceqa",
        "alpaca",
        "sharegpt",
        "tgif_tsv",
        "boxed_refs",
        "coco_captions",
        "refcoco_m",
        "ref_l4",
        "groundingme",
        "pbench",
        "grounding_suite",
        "sa_co",
        "grandf",
        "grandf_refcocog",
        "grandf_flickr",
        "grandf_eval",
        "flickr_entities",
        "mevis",
        "revos",
        "ref_youtube_vos",
        "ref_davis",
    ]
    splits: dict[str, OriginalSplit]
    leave_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetConfig:
    """One dataset: which reader, which files, which words.

    ``splits`` are in the form of ``layout``; ``original`` are the authors' own files, converted when they are opened.
    A name outside ``classes`` is an error unless ``classes_open``. ``foreground``: which gray values of a mask are
    the object: above half of the range, or white alone (u-LLaVA's way, which thins masks with soft edges).
    ``boxes_only``: things have boxes and no masks, which serves the task rec alone. ``exhaustive: false``: an image may
    hold things of these classes that are not annotated, so nothing can be said to be absent from it.
    ``root``: what the paths are below, relative to this file; without it they are below the recipe's data root.

    ``name``: what the data set is called. ``task``: what is asked and how it is scored. ``template``: the words of the
    questions, a name below datasets/templates. ``label_offset``: a class of number c is stored in a label image as
    c - label_offset. ``ignore_label``: the stored value of pixels that belong to no class. ``license``: as the authors
    word it. ``source``: where the files come from. ``notes``: words for people.
    """

    name: str
    layout: str
    """One of the table in ullava.data.readers.layouts."""
    task: Literal["text", "caption", "vqa", "res", "rec", "salient", "semantic", "instance", "gcg", "rvos"]
    splits: dict[str, SplitConfig] = field(default_factory=dict)
    original: OriginalConfig | None = None
    root: str | None = None
    template: str | None = None
    classes: list[str] = field(default_factory=list)
    classes_open: bool = False
    foreground: Literal["half", "white"] = "half"
    label_offset: int = 0
    ignore_label: int | None = None
    boxes_only: bool = False
    exhaustive: bool = True
    license: str
    source: str
    notes: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetEntry:
    """A dataset's part in a recipe.

    ``portion`` below 1 takes a seeded subset, above 1 repeats; ``weight`` is instead a sampling ratio (all entries of a
    recipe use the one or the other). ``turns`` caps questions per sample; ``group: image`` lets them come from
    different annotations of one image. ``limit`` keeps the first n annotations (for a quick look). ``dataset`` names
    the dataset where the entry's own key is only a label, so that one dataset may occur twice. ``form`` says which
    files to read where a dataset has both; without it, those that are there, ``reworked`` before ``original``.
    ``frames``: which frames of a video training sees (ullava.media.frames). ``foreground``: see DatasetConfig; without
    it that of the dataset. ``split``: without it ``train``, or the only one there is. ``template``, ``task``: in the
    place of the dataset's. ``data_root``: in the place of the recipe's.
    """

    dataset: str | None = None
    portion: float | None = field(default=None, metadata=above(0, 1000))
    weight: float | None = field(default=None, metadata=above(0))
    split: str | None = None
    template: str | None = None
    data_root: str | None = None
    task: str | None = None
    form: Literal["reworked", "original"] | None = None
    turns: int = field(default=3, metadata=at_least(0, 65_536))
    group: Literal["item", "image"] = "item"
    limit: int | None = field(default=None, metadata=at_least(1))
    frames: Literal["uniform", "head_tail", "original_uniform", "original_head_tail"] = "uniform"
    foreground: Literal["half", "white"] | None = None
    annotations: str | None = None
    """This file, or pattern of shards, in the place of the split's, in the layout of the dataset; relative to the
    working folder.
    """
    images: str | None = None
    """This folder of images in the place of the split's; relative to the working folder."""
    boxes: str | None = None
    """Boxes found in the images beforehand (ullava.data.readers.boxes), for vision encoders with objects; below the
    data root.
    """
    augment: AugmentConfig | None = None
    """What training changes in the images; none without it."""
    min_area: float | None = field(default=None, metadata={"at_least": 0, "below": 1})
    """Where questions name a class (ullava.data.readers.class_questions): the least share of the image it covers."""
    absent: float | None = field(default=None, metadata={"at_least": 0, "below": 1})
    """Of the same: the share of questions about a class that is not in the image."""
    absent_as: Literal["words", "empty_mask"] | None = None
    """How training answers those: by words alone (the default), or by a mask that is empty, for heads that tell
    presence.
    """
