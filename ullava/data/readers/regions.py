"""Named regions in parallel lists (PACO, Pascal-Part): ``{image_path, classes: [str], annotations: [{...}]}``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ullava.data.readers.base import QAPair, Reader, draw, query, training_turns
from ullava.data.readers.record import Record, left_to_right
from ullava.errors import did_you_mean
from ullava.structures import Sample


class RegionsReader(Reader):
    """One question a name; a name that several annotations share is answered with all of them, from left to right."""

    layout = "regions"
    tasks = ("res", "rec")
    default_template = "SEG.json"

    def texts(self, value: dict[str, Any]) -> Sequence[str]:
        """Return the names, each once."""
        return list(dict.fromkeys(value["classes"]))

    def sample(self, index: int, rng: np.random.Generator) -> Sample:
        """Return one image with up to ``turns`` of its names."""
        record = self.record(index, self.name(index))
        groups = self._groups(record)
        names = list(groups)
        asks = [
            self._qa_pair(name, groups[name]) for name in (names[k] for k in draw(rng, len(names), self.origin.turns))
        ]
        truth = {key: asks[0].truth[key] for key in ("height", "width")}
        turns = training_turns(asks, self.templates(), rng)
        return Sample(record.sample, self.id, self.task, (self.image(record),), turns, truth)

    def queries(self, index: int) -> list[Sample]:
        """Return one query a name; ``truth`` has it as ``class``."""
        record = self.record(index, self.name(index))
        image = self.image(record)
        asks = [self._qa_pair(name, parts) for name, parts in self._groups(record).items()]
        return [query(self, f"{record.sample}/{place}", image, ask) for place, ask in enumerate(asks)]

    def _groups(self, record: Record) -> dict[str, list[Record]]:
        names, parts = record.names("classes"), record.parts("annotations")
        if len(names) != len(parts):
            record.fail(f"{len(names)} classes, but {len(parts)} annotations; the lists have to be parallel")
        groups: dict[str, list[Record]] = {}
        for name, part in zip(names, parts, strict=True):
            if self.origin.classes and name.lower() not in self.origin.classes:
                part.fail(f"unknown class '{name}'{did_you_mean(name.lower(), self.origin.classes)}")
            groups.setdefault(name, []).append(part)
        if len({part.size_hw() for part in parts}) > 1:
            record.fail("the annotations give different sizes of the image")
        return groups

    def _qa_pair(self, name: str, parts: list[Record]) -> QAPair:
        size = parts[0].size_hw()
        regions = left_to_right([part.region(name.lower(), size, self.task != "rec") for part in parts])
        return QAPair(name, regions, {"class": name, "height": size[0], "width": size[1]})
