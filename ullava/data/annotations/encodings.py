"""Text files in the encoding that was said, UTF-8 where nothing was: never guessed, and refused by file, line and byte.

Text that is read in the wrong encoding becomes other letters without any error (``猫`` becomes ``çŒ«``), so a wrong
guess would put wrong words into a dataset. Only what is certain is taken from the file: its byte-order mark.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from ullava.errors import DataError, did_you_mean
from ullava.given_files import read_plain

UTF_8 = "utf-8"
OFTEN = ("utf-8", "utf-16", "gbk", "gb18030", "big5", "shift_jis", "euc-kr", "cp1252", "cp1251", "latin-1")
"""Encodings that a misspelled name is compared with; every text encoding of Python is taken."""
LONGEST_MARK = 4
"""A byte-order mark has at most so many bytes; the first piece of a file has to be as long."""
_HINT = "; save it as UTF-8, or say how it is written when you import it, for example --encoding gbk or cp1252"
_MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF16_LE, "utf-16"),
          (codecs.BOM_UTF16_BE, "utf-16"))  # fmt: skip


def check_encoding(name: str) -> str:
    """Return the name of a text encoding as Python writes it; DataError where there is none of this name."""
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, ValueError, UnicodeError) as error:
        raise DataError(f"--encoding: no text encoding is called '{name}'{did_you_mean(name, OFTEN)}") from error


class StreamDecoder:
    """Decodes a file piece by piece. A byte-order mark of UTF-8 is passed over.

    Raises DataError, naming line and byte, for bytes that ``encoding`` does not have, and for a file that is UTF-8 by
    its own account while another encoding was said.
    """

    def __init__(self, path: Path, encoding: str = UTF_8) -> None:
        self.path = path
        self.encoding = encoding
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._utf_8 = encoding == UTF_8
        self._bytes = 0
        self._lines = 1

    def decode(self, raw: bytes) -> str:
        """Return the text of the next bytes; b'' ends the file."""
        if not self._bytes:
            self._look_at_start(raw)
            if self._utf_8 and raw.startswith(codecs.BOM_UTF8):
                self._bytes = len(codecs.BOM_UTF8)
                raw = raw[len(codecs.BOM_UTF8) :]
        waiting = self._decoder.getstate()[0]
        try:
            text = self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            # ``error.start`` counts from the bytes that waited for their character's end.
            line = self._lines + (waiting + raw)[: error.start].count(b"\n")
            byte = self._bytes - len(waiting) + error.start
            name, hint = ("UTF-8", _HINT) if self._utf_8 else (self.encoding, "")
            raise DataError(f"{self.path}:{line}: not {name} text near byte {byte}{hint}") from error
        self._bytes += len(raw)
        self._lines += text.count("\n")
        return text

    def _look_at_start(self, raw: bytes) -> None:
        if self._utf_8:
            found = next((name for mark, name in _MARKS if raw.startswith(mark)), None)
            if found is None and b"\0" in raw[:4]:
                found = "utf-16-le" if raw[1:2] == b"\0" else "utf-16-be"
            if found is not None:
                raise DataError(
                    f"{self.path}:1: not UTF-8 text near byte 0 but {found}; save it as UTF-8, or say "
                    f"--encoding {found} when you import it"
                )
        elif raw.startswith(codecs.BOM_UTF8):
            raise DataError(f"{self.path}:1: begins with the mark of UTF-8, but --encoding {self.encoding} was said")


def read_text(path: Path, encoding: str = UTF_8) -> str:
    """Return the text of a file; DataError where it cannot be read or is not of this encoding."""
    raw = read_plain(path)
    stream = StreamDecoder(path, encoding)
    return stream.decode(raw) + (stream.decode(b"") if raw else "")
