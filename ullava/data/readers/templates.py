"""Question templates: JSON lists of strings such as ``<image>Segment <class>.``; the first is the evaluation prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ullava.errors import DataError
from ullava.given_files import read_plain
from ullava.resources import folder
from ullava.text.tokens import IMAGE_MARKER, REGION_MARKER

PHRASE_MARKER = "<class>"


@dataclass(frozen=True, slots=True)
class Templates:
    """The templates of one role. ``source`` is the file they come from."""

    texts: tuple[str, ...]
    source: Path

    @classmethod
    def load(cls, path: Path, with_phrase: bool = True, may_point: bool = False) -> Templates:
        """Read and check a template file; raises DataError with one line for each wrong entry.

        ``with_phrase``: whether every template has to hold ``<class>`` exactly once, or must not hold it at all.
        ``may_point``: it may hold ``<region>`` once instead, for the region where the thing is.
        """
        try:
            texts = json.loads(read_plain(path, what="template file").decode("utf-8"))
        except ValueError as error:
            line = f":{error.lineno}" if isinstance(error, json.JSONDecodeError) else ""
            raise DataError(f"{path}{line}: not a readable JSON list ({error})") from error
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{path}: a template file is a JSON list of strings with at least one entry")
        problems = [
            f"{path}: entry {number} ({text!r}): {reason}"
            for number, text in enumerate(texts)
            if (reason := _complaint(text, with_phrase, may_point))
        ]
        if problems:
            raise DataError(problems)
        return cls(tuple(texts), path)

    @property
    def first(self) -> str:
        """The fixed prompt of evaluation."""
        return self.texts[0]

    def pick(self, rng: np.random.Generator) -> str:
        """Draw a template."""
        return self.texts[int(rng.integers(len(self.texts)))]

    @staticmethod
    def fill(template: str, phrase: str = "") -> str:
        """Return the question: the template with ``phrase`` in the place of ``<class>``."""
        return template.replace(PHRASE_MARKER, phrase)


def find_templates(name: str, with_phrase: bool, may_point: bool = False) -> Templates:
    """Load ``SEG.json`` (from the project's own templates) or ``some/folder/SEG.json`` (a path).

    A path below ``datasets/templates/`` that is not there is looked up among the project's own, so that recipes run
    from any folder.
    """
    path = Path(name)
    own = folder("datasets") / "templates"
    if "/" not in name or (path.parent == Path("datasets/templates") and not path.is_file()):
        path = own / path.name
    return Templates.load(path, with_phrase, may_point)


def _complaint(text: str, with_phrase: bool, may_point: bool) -> str:
    if not text.startswith(IMAGE_MARKER) or text.count(IMAGE_MARKER) != 1:
        return f"has to start with {IMAGE_MARKER}, and hold it once"
    named, pointed = text.count(PHRASE_MARKER), text.count(REGION_MARKER)
    if with_phrase and pointed and not may_point:
        return f"holds {REGION_MARKER}, which is for data whose questions are about one thing each (layout refer)"
    if with_phrase and pointed and (named or pointed > 1):
        return f"has to hold {REGION_MARKER} once, and no {PHRASE_MARKER} with it"
    if with_phrase and not pointed and named != 1:
        return f"has to hold {PHRASE_MARKER} once, where the expression goes"
    if not with_phrase and PHRASE_MARKER in text:
        return f"must not hold {PHRASE_MARKER}: questions of this role name nothing"
    return "" if text.removeprefix(IMAGE_MARKER).strip() else "asks nothing"
