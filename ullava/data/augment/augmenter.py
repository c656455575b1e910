"""Which samples are augmented and how: a pure function of seed, position and the sample itself."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageEnhance

from ullava.config.augment import AugmentConfig
from ullava.data.augment.changes import Window, cropped, flipped
from ullava.data.augment.paste import LAYOUTS, TASKS, Paste, drawn_paste, pasted
from ullava.data.augment.words import names_places
from ullava.data.readers.base import TaskDataset
from ullava.data.readers.boxes import reader_of
from ullava.data.sampling.mixture import Mixture
from ullava.errors import ConfigError, SampleError
from ullava.media.images import read_image_rgb_u8
from ullava.structures import GROUNDING_TASKS, ImageArray, Sample

_AUGMENT = 4
"""Sets these random numbers apart from those that draw the sample's questions."""
_OTHER = 5
"""The same for the sample that something is pasted from."""
_ATTEMPTS = 10
"""As often torchvision's RandomResizedCrop tries."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What happens to one sample. ``sample``: its words, masks and boxes when it has happened.

    ``paste``: an object of another image that is laid into this one first; ``window``: the part of the image that is
    kept; ``factors``: (name, factor) of the color changes in their order.
    ``done`` and ``kept`` tell, for counting, what was done, and why what was drawn was not.
    """

    sample: Sample
    paste: Paste | None = None
    window: Window | None = None
    flip: bool = False
    factors: tuple[tuple[str, float], ...] = ()
    done: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()

    def image(self, image_rgb_u8: ImageArray) -> ImageArray:
        """Return the pixels uint8 [h, w, 3] that go with ``sample``. Raises DataError for an unreadable source."""
        pixels = image_rgb_u8
        if self.paste is not None:
            pixels = self.paste.onto(pixels, read_image_rgb_u8(self.paste.source))
        if self.window is not None:
            x0, y0, x1, y1 = self.window
            pixels = pixels[y0:y1, x0:x1]
        if self.flip:
            pixels = pixels[:, ::-1]
        return jittered(pixels, self.factors) if self.factors else np.ascontiguousarray(pixels)


class Augmenter:
    """Augments the samples of the entries that say so.

    Random numbers come from ``seed`` and the position alone, so that a resumed run, or another number of workers, sees
    the same images. Other entries' samples pass as the same objects. Raises ConfigError for an entry whose questions
    ``copy_paste`` does not suit.
    """

    def __init__(self, mixture: Mixture) -> None:
        self.mixture = mixture
        self.settings = [entry.augment for entry in mixture.entries]
        unfit = [
            f"dataset.{dataset.id}.augment.copy_paste: is for questions that name a class, where the truth can be made "
            f"anew (layouts {', '.join(LAYOUTS)}; tasks {', '.join(TASKS)})"
            for dataset, settings in zip(mixture.datasets, self.settings, strict=True)
            if settings is not None and settings.copy_paste and not _names_classes(dataset)
        ]
        if unfit:
            raise ConfigError(unfit)

    @classmethod
    def of(cls, mixture: Mixture) -> Augmenter | None:
        """Return the augmenter of a mixture; None where no entry asks for it."""
        return cls(mixture) if any(entry.augment is not None for entry in mixture.entries) else None

    def __call__(
        self, position: int, sample: Sample, images: Sequence[ImageArray]
    ) -> tuple[Sample, Sequence[ImageArray]]:
        """Return the sample at ``position`` and its images (uint8 [H, W, 3]) as training sees them.

        The path of a changed image ends in ``#`` and the position: images are told apart by it where rows of a batch
        show the same file.
        """
        if not images:
            return sample, images
        plan = self.plan(position, sample, (images[0].shape[0], images[0].shape[1]))
        if not plan.done:
            return sample, images
        path = Path(f"{sample.images[0]}#{position}")
        return replace(plan.sample, images=(path,)), [plan.image(images[0])]

    def plan(self, position: int, sample: Sample, size_hw: tuple[int, int]) -> Plan:
        """Decide what happens to the sample at ``position``, whose image is of ``size_hw``."""
        dataset = self.mixture.datasets[number := self.mixture.locate(position)[0]]
        settings = self.settings[number]
        if settings is None:
            return Plan(sample)

        def another() -> Sample:
            rng = np.random.default_rng([self.mixture.seed, position, _OTHER])
            return dataset.sample(int(rng.integers(len(dataset))), rng)

        rng = np.random.default_rng([self.mixture.seed, position, _AUGMENT])
        return planned(sample, size_hw, settings, rng, another)


def planned(
    sample: Sample,
    size_hw: tuple[int, int],
    settings: AugmentConfig,
    rng: np.random.Generator,
    another: Callable[[], Sample] | None = None,
) -> Plan:
    """Draw what happens to ``sample``, whose one image is of ``size_hw``. ``another``: a sample to paste from.

    A sample with videos, without exactly one image, or whose annotation is of another size than its image stays as it
    is: the encoder says what is wrong with it, if anything is.
    """
    draws = rng.random(4)
    if len(sample.images) != 1 or sample.videos or not _fits(sample, size_hw):
        return Plan(sample, kept=("not one image",))
    paste, window, flip = None, None, False
    done: list[str] = []
    kept: list[str] = []
    pointing = any(turn.prompts for turn in sample.turns)
    if draws[3] < settings.copy_paste and another is not None and not pointing:  # it could cover what is pointed at
        laid = _paste(sample, size_hw, settings, rng, another)
        if laid is None:
            kept.append("copy_paste: nothing that fits")
        else:
            sample, paste = laid
            done.append("copy_paste")
    if draws[0] < settings.crop:
        found, reason = _crop(sample, size_hw, settings, rng)
        if found is None:
            kept.append(f"crop: {reason}")
        else:
            sample, window = found
            done.append("crop")
    width = size_hw[1] if window is None else window[2] - window[0]
    if draws[1] < settings.flip:
        mirrored = flipped(sample, width)
        if mirrored is None:
            kept.append("flip: words that cannot be turned for certain")
        else:
            sample, flip = mirrored, True
            done.append("flip")
    factors = _factors(settings, rng) if draws[2] < settings.color else ()
    if factors:
        done.append("color")
    return Plan(sample, paste, window, flip, factors, tuple(done), tuple(kept))


def _paste(
    sample: Sample,
    size_hw: tuple[int, int],
    settings: AugmentConfig,
    rng: np.random.Generator,
    another: Callable[[], Sample],
) -> tuple[Sample, Paste] | None:
    """Return the sample with an object of another one in its image."""
    try:
        other = another()
    except SampleError:  # counted when its own turn comes
        return None
    paste = drawn_paste(other, size_hw, rng)
    changed = None if paste is None else pasted(sample, paste, size_hw, settings.min_visible)
    return None if paste is None or changed is None else (changed, paste)


def _crop(
    sample: Sample, size_hw: tuple[int, int], settings: AugmentConfig, rng: np.random.Generator
) -> tuple[tuple[Sample, Window] | None, str]:
    """Return the cropped sample with its window, or why it is not cropped."""
    if sample.task not in GROUNDING_TASKS or sample.task == "gcg":
        return None, f"a {sample.task} may speak of anything in the image"
    if any(names_places(words) for turn in sample.turns for words in (turn.question, turn.answer)):
        return None, "words of place, order, size or number"
    for _ in range(_ATTEMPTS):
        window = random_window(size_hw, settings, rng)
        if window is None:
            continue
        found = cropped(sample, window, settings.min_visible)
        if found is not None:
            return (found, window), ""
    return None, "an object would lose too much"


def random_window(size_hw: tuple[int, int], settings: AugmentConfig, rng: np.random.Generator) -> Window | None:
    """Draw a part of the image: area uniform, aspect log-uniform, as RandomResizedCrop; None where it does not fit."""
    height, width = size_hw
    share = rng.uniform(settings.crop_scale[0], settings.crop_scale[1])
    low, high = settings.crop_ratio
    image_aspect_ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
    places = rng.random(2)
    w, h = round(width * math.sqrt(share * image_aspect_ratio)), round(height * math.sqrt(share / image_aspect_ratio))
    if not (0 < w <= width and 0 < h <= height):
        return None
    x0, y0 = int(places[0] * (width - w + 1)), int(places[1] * (height - h + 1))
    return x0, y0, x0 + w, y0 + h


def _factors(settings: AugmentConfig, rng: np.random.Generator) -> tuple[tuple[str, float], ...]:
    """Draw the factors of brightness, contrast and saturation, in random order, as ColorJitter."""
    names = [name for name in ("brightness", "contrast", "saturation") if getattr(settings, name) > 0]
    spreads = [getattr(settings, name) for name in names]
    values = [float(rng.uniform(1 - spread, 1 + spread)) for spread in spreads]
    return tuple((names[place], values[place]) for place in rng.permutation(len(names)))


_ENHANCERS = {
    "brightness": ImageEnhance.Brightness,
    "contrast": ImageEnhance.Contrast,
    "saturation": ImageEnhance.Color,
}


def jittered(image_rgb_u8: ImageArray, factors: Sequence[tuple[str, float]]) -> ImageArray:
    """Return an image uint8 [H, W, 3] with ``factors`` applied one after the other."""
    image = Image.fromarray(np.ascontiguousarray(image_rgb_u8))
    for name, factor in factors:
        image = _ENHANCERS[name](image).enhance(factor)
    return np.array(image)


def _names_classes(dataset: TaskDataset) -> bool:
    return dataset.task in TASKS and getattr(reader_of(dataset), "layout", "") in LAYOUTS


def _fits(sample: Sample, size_hw: tuple[int, int]) -> bool:
    """Whether masks and stated size of a sample are those of its image."""
    stated = sample.truth.get("height", size_hw[0]), sample.truth.get("width", size_hw[1])
    turns = sample.turns
    masks = [region.mask for turn in turns for region in turn.regions] + [region.mask for region in sample.things]
    masks += [prompt.mask for turn in turns for prompt in turn.prompts]
    return stated == size_hw and all(mask is None or mask.shape == size_hw for mask in masks)
