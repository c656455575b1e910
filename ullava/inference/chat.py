"""A dialogue of several turns about the same images and videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ullava.errors import UserError
from ullava.examples import ImageExample, VideoExample
from ullava.geometry.region_prompts import Regions, as_regions
from ullava.inference.asking import Shown
from ullava.modeling.processing.region_rows import check_pointed
from ullava.modeling.processing.sample_rules import question_sample
from ullava.structures import Answer, RegionPrompt

if TYPE_CHECKING:
    from ullava.inference.predictor import Predictor


class Chat:
    """Questions one after the other; each is asked with all that was said before (``history``).

    Images and videos belong to the first question, unless questions mark their places with ``<image>`` and
    ``<video>``; they are read and preprocessed once. ``overrides`` and ``generation``: see ``Predictor.answer``; those
    of a question are laid over them. A row that grows past the model's ``max_length`` is refused: start another chat.
    """

    def __init__(
        self, predictor: Predictor, shown: Shown, overrides: Mapping[str, Any], generation: Mapping[str, Any]
    ) -> None:
        self.history: list[tuple[str, str]] = []
        self._predictor = predictor
        self._shown = shown
        self._overrides = overrides
        self._generation = generation
        self._pointed: list[tuple[RegionPrompt, ...]] = []
        self._images: tuple[ImageExample, ...] = ()
        self._videos: tuple[VideoExample, ...] = ()

    def ask(self, prompt: str, *, regions: Regions = (), **generation: Any) -> Answer:
        """Answer the next question; ``regions``: what it points at (see ``Predictor.answer``).

        Raises UserError as ``Predictor.answer``; the history then stays as it was.
        """
        pointed = as_regions(regions)
        row = self._row(prompt, pointed)
        options = {**self._generation, **generation}
        (answer,) = self._predictor.answer_examples([row], overrides=self._overrides, **options)
        self._remember(prompt, answer, pointed)
        return self._shown.told(answer)

    def undo(self) -> str:
        """Forget the last question and its answer; return the question. Raises UserError where none was answered."""
        if not self.history:
            raise UserError("nothing was answered yet that could be undone")
        question, _ = self.history.pop()
        self._pointed.pop()
        return question

    def stream(self, prompt: str, *, regions: Regions = (), **generation: Any) -> Iterator[str | Answer]:
        """Answer the next question as ``Predictor.stream``; an answer that was left early is not remembered."""
        pointed = as_regions(regions)
        row = self._row(prompt, pointed)
        pieces = self._predictor.stream_example(row, overrides=self._overrides, **{**self._generation, **generation})
        return self._remembering(prompt, pieces, pointed)

    def _remember(self, prompt: str, answer: Answer, pointed: tuple[RegionPrompt, ...]) -> None:
        self.history.append((prompt, answer.text))
        self._pointed.append(pointed)

    def _remembering(
        self, prompt: str, pieces: Iterator[str | Answer], pointed: tuple[RegionPrompt, ...]
    ) -> Iterator[str | Answer]:
        for piece in pieces:
            if isinstance(piece, Answer):
                self._remember(prompt, piece, pointed)
                piece = self._shown.told(piece)
            yield piece

    def _row(self, prompt: str, pointed: tuple[RegionPrompt, ...]) -> Any:
        shown, processor = self._shown, self._predictor.processor
        every = [region for regions in (*self._pointed, pointed) for region in regions]
        check_pointed(question_sample(prompt, (), regions=pointed), processor.region_grid)
        row = processor.encode(
            shown.sample(prompt, self.history, every),
            shown.images,
            prompt_only=True,
            prepared=self._images,
            videos=self._videos or shown.videos,
            overrides={**self._predictor.overrides, **self._overrides},
        )
        self._images, self._videos = row.images, row.videos
        return row
