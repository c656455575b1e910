"""From a position of the mixture to a model-ready row, in the loader's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol

from ullava.data.sampling.word_dropout import WordDropout
from ullava.errors import DataError, SampleError
from ullava.examples import BadSample, Example
from ullava.media.images import read_image_rgb_u8
from ullava.media.video import read_clip
from ullava.structures import Clip, ImageArray, Sample

if TYPE_CHECKING:  # it reads annotations and draws; answers read images through this module and need neither
    from ullava.data.augment import Augmenter


class Encoder(Protocol):
    """The part of the processor that this module needs; of ``video_frames`` only where samples have videos."""

    video_frames: int

    def encode(
        self,
        sample: Sample,
        images: Sequence[ImageArray],
        *,
        prompt_only: bool = False,
        with_patches: bool = False,
        videos: Sequence[Any] = (),
        words: Any = None,
    ) -> Example:
        """See UllavaProcessor.encode."""
        ...


class Positions(Protocol):
    """The part of the mixture that this module needs."""

    def __len__(self) -> int: ...

    def sample(self, position: int) -> Sample:
        """The sample at a position: a pure function of seed and position."""
        ...


_AHEAD: ContextVar[Mapping[Path, Future[ImageArray]]] = ContextVar("images read ahead", default=MappingProxyType({}))


@contextmanager
def images_ahead(images: Mapping[Path, Future[ImageArray]]) -> Iterator[None]:
    """Within, ``read_images`` takes these, which are being decoded elsewhere, and reads all others itself."""
    token = _AHEAD.set(images)
    try:
        yield
    finally:
        _AHEAD.reset(token)


def read_images(paths: Sequence[Path], sample: str) -> list[ImageArray]:
    """Decode images; an unreadable one is a SampleError of ``sample``."""
    ahead = _AHEAD.get()
    try:
        return [ahead[path].result() if path in ahead else read_image_rgb_u8(path) for path in paths]
    except SampleError:
        raise
    except DataError as error:
        raise SampleError(sample, str(error)) from error


def read_videos(clips: Sequence[Clip], count: int, sample: str) -> list[ImageArray]:
    """Decode ``count`` frames of each clip; an unreadable one is a SampleError of ``sample``."""
    try:
        return [read_clip(clip, count) for clip in clips]
    except SampleError:
        raise
    except DataError as error:
        raise SampleError(sample, str(error)) from error


def encode_or_bad(
    make: Callable[[], Sample],
    encoder: Encoder,
    fallback_name: str,
    change: Callable[[Sample, Sequence[ImageArray]], tuple[Sample, Sequence[ImageArray]]] | None = None,
    **options: Any,
) -> Example | BadSample:
    """Encode one sample; what is wrong with it comes back as a BadSample for the main process to count.

    ``change``: what becomes of the sample and its decoded images first (ullava.data.augment).
    """
    try:
        sample = make()
        if sample.videos:
            options["videos"] = read_videos(sample.videos, encoder.video_frames, sample.name)
        images: Sequence[ImageArray] = read_images(sample.images, sample.name)
        if change is not None:
            sample, images = change(sample, images)
        return encoder.encode(sample, images, **options)
    except SampleError as error:
        return BadSample(error.sample, error.reason)
    except DataError as error:
        return BadSample(fallback_name, str(error))


class EncodedMixture:
    """A map-style dataset over positions of the mixture.

    ``pretokenized``: the ids at a position where they were made beforehand (ullava.data.loading.pretokenized).
    ``augmenter``: what changes the sample and its images at a position. ``keeps_maps``: the encoder keeps a frozen mask
    encoder's maps of images, of which nothing may change then.
    """

    def __init__(
        self,
        mixture: Positions,
        encoder: Encoder,
        *,
        with_patches: bool = False,
        word_dropout: WordDropout | None = None,
        pretokenized: Callable[[int], Any] | None = None,
        augmenter: Augmenter | None = None,
        keeps_maps: bool = False,
    ) -> None:
        self.mixture = mixture
        self.encoder = encoder
        self.with_patches = with_patches
        self.word_dropout = word_dropout
        self.pretokenized = pretokenized
        self.augmenter = augmenter
        self.keeps_maps = keeps_maps

    def __len__(self) -> int:
        return len(self.mixture)

    def __getitem__(self, position: int) -> Example | BadSample:
        """The row at a position, or what is wrong with it."""
        options = {} if self.pretokenized is None else {"words": self.pretokenized(position)}
        options |= {"files": True} if self.keeps_maps else {}
        row = encode_or_bad(
            lambda: self.mixture.sample(position),
            self.encoder,
            f"position {position}",
            None if self.augmenter is None else partial(self.augmenter, position),
            with_patches=self.with_patches,
            **options,
        )
        return row if self.word_dropout is None or isinstance(row, BadSample) else self.word_dropout(row, position)
