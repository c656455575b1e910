"""The salient object with a reason: ``{image_path, label_path, gpt: {reason, tag}}``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ullava.data.readers.base import QAPair, Reader, query, training_turns
from ullava.errors import DataError
from ullava.geometry import mask_to_box_xyxy_px
from ullava.media.images import read_foreground
from ullava.structures import Region, Sample
from ullava.text.phrases import turn_fault

UNNAMED = "salient object"
"""What the object is called where a record has no ``gpt`` (the benchmarks' own test sets)."""


class SalientPngReader(Reader):
    """One question an image; the answer closes with the reason, where there is one."""

    layout = "salient_png"
    tasks = ("salient",)
    default_template = "SS.json"
    has_phrase = False

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the object's name with the reason."""
        words = value.get("gpt", {"tag": UNNAMED, "reason": ""})
        return [f"{words['tag']} {words['reason']}"]

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return one image with its one question."""
        name = self.name(index)
        image, ask = self._qa_pair(index, name)
        turns = training_turns([ask], self.templates(), rng)
        return Sample(name, self.id, self.task, image, turns, ask.truth)

    def queries(self, index: int) -> list[Sample]:
        """Return the one query of this image; ``truth`` has ``tag`` and ``reason``."""
        name = self.name(index)
        image, ask = self._qa_pair(index, name)
        return [query(self, f"{name}/0", image[0], ask)]

    def _qa_pair(self, index: int, name: str) -> tuple[tuple[Path], QAPair]:
        record = self.record(index, name)
        tag, reason = UNNAMED, ""
        if "gpt" in record.value:
            words = record.part(record.value["gpt"], "gpt")
            tag, reason = words.name("tag"), words.text("reason")
            fault = turn_fault(reason, answer=True)
            if fault:
                words.fail(f"'reason' {fault}")
        try:
            mask = read_foreground(self.image(record, "label_path"), self.origin.foreground_above)
        except DataError as error:
            record.fail(str(error))
        record.check_size(mask.shape, "the mask")
        box = mask_to_box_xyxy_px(mask)
        if box is None:
            record.fail(f"the mask {record.text('label_path')} has no pixel")
        truth = {"tag": tag, "reason": reason, "height": mask.shape[0], "width": mask.shape[1]}
        return (self.image(record),), QAPair("", (Region(tag.lower(), mask, box),), truth, closing=reason)
