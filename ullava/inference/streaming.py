"""An answer's words as they come: the model generates in a thread of its own, the caller reads at leisure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from transformers.generation import BaseStreamer

from ullava.inference.generation import Decoding
from ullava.structures import Answer


class _LeftError(Exception):
    """Nobody reads on."""


class _Tokens(BaseStreamer):
    """Puts new ids on a queue; ends the generation where ``left`` is set."""

    def __init__(self, queue: SimpleQueue[Any], left: Event) -> None:
        self.queue = queue
        self.left = left
        self.prompt_passed = False

    def put(self, value: Any) -> None:
        """Take the prompt first, then the ids [1] of one step."""
        if self.left.is_set():
            raise _LeftError
        if self.prompt_passed:
            self.queue.put(value.tolist())
        self.prompt_passed = True

    def end(self) -> None:
        """Nothing is held back here."""


def stream_words(
    answer: Callable[[BaseStreamer], Answer], decode: Callable[[Sequence[int]], str], decoding: Decoding
) -> Iterator[str | Answer]:
    """Yield the words of one answer as they come, and at last the Answer; the words joined are its text.

    ``answer`` generates with a streamer; ``decode``: new ids -> words. An error of the generation is raised here.
    Leaving early ends the generation at its next token.
    """
    queue: SimpleQueue[Any] = SimpleQueue()
    left = Event()

    def work() -> None:
        try:
            queue.put(answer(_Tokens(queue, left)))
        except _LeftError:
            return
        except BaseException as error:  # whatever it is, the reader has to know
            queue.put(error)

    thread = Thread(target=work, name="ullava-stream", daemon=True)
    thread.start()
    try:
        ids: list[int] = []
        shown = ""
        while not isinstance(item := queue.get(), Answer):
            if isinstance(item, BaseException):
                raise item
            ids += item
            settled = decoding.settled(decode(ids))
            if len(settled) > len(shown):
                yield settled[len(shown) :]
                shown = settled
        if item.text[len(shown) :]:
            yield item.text[len(shown) :]
        yield item
    finally:
        left.set()
        thread.join()
