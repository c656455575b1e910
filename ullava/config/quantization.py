"""The one list of how linear layers may be held in fewer bits: flags, recipes and ``ullava.load`` all read it."""

from __future__ import annotations

from typing import Literal, get_args

Quantization = Literal["int8", "nf4"]
"""``int8``: a whole number of 8 bits and a scale for each row. ``nf4``: 4 bits, QLoRA's NormalFloat."""
QUANTIZATIONS: tuple[str, ...] = get_args(Quantization)
BITS = {"int8": 8, "nf4": 4}
EXTRA = "quantize"
"""The extra of pyproject.toml with bitsandbytes, which has the layers that a CPU has not of its own."""


def unknown(kind: str) -> str:
    """What to say of a ``kind`` that there is none of. The nearest name would be a wrong hint: int8 for int4."""
    return f"no kind '{kind}'; there are {', '.join(f'{name} ({BITS[name]} bits)' for name in QUANTIZATIONS)}"
