"""A dialogue of several turns about the same images and videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ullava.errors import UserError
from ullava.examples import ImageExample, VideoExample
from ullava.inference.asking import Shown
from ullava.structures import Answer

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
        self._images: tuple[ImageExample, ...] = ()
        self._videos: tuple[VideoExample, ...] = ()

    def ask(self, prompt: str, **generation: Any) -> Answer:
        """Answer the next question. Raises UserError as ``Predictor.answer``; the history then stays as it was."""
        row = self._row(prompt)
        options = {**self._generation, **generation}
        (answer,) = self._predictor.answer_examples([row], overrides=self._overrides, **options)
        self.history.append((prompt, answer.text))
        return self._shown.told(answer)

    def undo(self) -> str:
        """Forget the last question and its answer; return the question. Raises UserError where none was answered."""
        if not self.history:
            raise UserError("nothing was answered yet that could be undone")
        question, _ = self.history.pop()
        return question

    def stream(self, prompt: str, **generation: Any) -> Iterator[str | Answer]:
        """Answer the next question as ``Predictor.stream``; an answer that was left early is not remembered."""
        row = self._row(prompt)
        pieces = self._predictor.stream_example(row, overrides=self._overrides, **{**self._generation, **generation})
        return self._remembering(prompt, pieces)

    def _remembering(self, prompt: str, pieces: Iterator[str | Answer]) -> Iterator[str | Answer]:
        for piece in pieces:
            if isinstance(piece, Answer):
                self.history.append((prompt, piece.text))
                piece = self._shown.told(piece)
            yield piece

    def _row(self, prompt: str) -> Any:
        shown = self._shown
        row = self._predictor.processor.encode(
            shown.sample(prompt, self.history),
            shown.images,
            prompt_only=True,
            prepared=self._images,
            videos=self._videos or shown.videos,
            overrides={**self._predictor.overrides, **self._overrides},
        )
        self._images, self._videos = row.images, row.videos
        return row
