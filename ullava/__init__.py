"""ullava: one model that answers in words, masks and boxes.

Importing this package imports neither torch nor transformers; ``ullava.load`` brings them in when it is first used.
After it, the Auto classes of transformers know our models, whichever of the two is imported first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ullava.registration import register_when_needed

if TYPE_CHECKING:
    from ullava.inference.load import load as load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

register_when_needed()

_LAZY = {"load": "ullava.inference.load"}


def __getattr__(name: str) -> Any:
    """Import a public name on first use (PEP 562)."""
    if name not in _LAZY:
        raise AttributeError(f"module 'ullava' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    """List the lazy names too."""
    return sorted({*globals(), *_LAZY})
