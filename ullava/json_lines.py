"""JSON Lines, the same wherever they are read: a line ends at a line feed and nowhere else, and may begin with a BOM.

``str.splitlines`` would also cut at U+2028, U+0085 and others, which JSON allows inside a string.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

_BOM = b"\xef\xbb\xbf"


def numbered_lines(source: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 1, line) of a file opened in binary mode, without line ends, BOM and blank lines."""
    for number, line in enumerate(source, start=1):
        bare = (line.removeprefix(_BOM) if number == 1 else line).strip(b" \t\r\n")
        if bare:
            yield number, bare


def parse_line(line: bytes) -> Any:
    """Return the value of one line. Raises ValueError, with the reason in words, for anything that is not JSON."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"is not UTF-8 text (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not JSON that we read (nested too deeply)") from None
    except ValueError:
        raise ValueError("not JSON that we read (a number of thousands of digits)") from None
