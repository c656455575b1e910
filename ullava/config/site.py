"""Where a table of a YAML file stands, for messages about keys that only a library can judge."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ullava.config.load import place


@dataclass(frozen=True, slots=True)
class Site:
    """The table under the dotted ``key`` (none: all) of the YAML ``file``; as text it is ``file:line: key``."""

    file: Path
    key: str = ""

    def of(self, key: str) -> Site:
        """Return the site of ``key`` in this table."""
        return Site(self.file, f"{self.key}.{key}" if self.key else key)

    def __str__(self) -> str:
        return f"{place(self.file, self.key)}: {self.key}" if self.key else str(self.file)
