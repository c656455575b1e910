"""One of many processes that answer shards: it holds a loaded model. Knows nothing of how it is called."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ullava.atomic_write import refusal
from ullava.errors import UserError
from ullava.inference.answering import answer_batches
from ullava.inference.batch import check_images, check_rows
from ullava.inference.shards import Shard, ShardFolder


@dataclass(frozen=True, slots=True)
class Order:
    """What every worker is told. ``here``: the folder that paths of questions are seen from; ``out``: an absolute one.

    ``loading``: options of ``ullava.load``. ``settings``: part of every record, with how answers are chosen (see
    ``answer_one``). ``boxes``, ``detector`` with ``classes``: where boxes come from, see ``with_boxes``. ``draw``:
    whether overlays are written.
    """

    model: str
    here: Path
    out: Path
    settings: Mapping[str, Any]
    overrides: Mapping[str, Any]
    batch_size: int = 16
    loading: Mapping[str, Any] = field(default_factory=dict)
    boxes: Path | None = None
    detector: Path | None = None
    classes: str | None = None
    draw: bool = True


@dataclass(frozen=True, slots=True)
class Told:
    """How it went: what is to mend (nothing: done), and how long it took."""

    problems: tuple[str, ...] = ()
    seconds: float = 0.0


class ShardWorker:
    """Loads the model of an order when first asked, then checks and answers shards of it."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self._loaded: tuple[Any, Any] | None = None

    def load(self) -> Told:
        """Load the model, so that the first shard does not wait for it."""
        return self._told(self._models)

    def check(self, shard: Shard) -> Told:
        """Decode every image of a shard and make every row, as one process does before its first answer."""

        def check() -> None:
            loaded, _ = self._models()
            sizes = check_images(shard.questions, quiet=True)
            check_rows(loaded.processor, shard.questions, sizes, self.order.overrides)

        return self._told(check)

    def answer(self, shard: Shard) -> Told:
        """Answer a shard and write its overlays and, at the end, its file."""

        def answer() -> None:
            _, predictor = self._models()
            order = self.order
            folder = ShardFolder(order.out, order.settings)
            overlays = folder.overlays if order.draw else None
            batches = answer_batches(predictor, shard.questions, overlays, order.settings, order.batch_size)
            folder.write(shard, [record for batch in batches for record in batch])

        return self._told(answer)

    # ------------------------------------------------------------
    def _models(self) -> tuple[Any, Any]:
        """Return the predictor, and what looks for boxes before it answers (or the predictor again)."""
        if self._loaded is None:
            from ullava.inference.box_sources import with_boxes
            from ullava.inference.load import load

            order = self.order
            for folder, name in ((order.here, "the folder that the command runs in"), (order.out, "--out")):
                if not folder.is_dir():
                    raise UserError(f"{folder}: {name} is not on {socket.gethostname()}: all machines have to share it")
            os.chdir(order.here)
            loaded = load(order.model, **order.loading)
            loaded.check_length(order.settings["max_new_tokens"])
            loaded.overrides = order.overrides
            self._loaded = loaded, with_boxes(loaded, order.boxes, order.detector, order.classes)
        return self._loaded

    def _told(self, do: Callable[[], object]) -> Told:
        """Do it; what a person can mend is told, since errors lose their parts on the way between processes."""
        begun = time.monotonic()
        try:
            do()
        except UserError as error:
            return Told(error.problems)
        except OSError as error:
            refused = refusal(error)
            if refused is None:
                raise
            return Told((f"{refused.filename or self.order.out}: cannot be read or written ({refused.strerror})",))
        return Told(seconds=time.monotonic() - begun)
