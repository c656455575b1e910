"""Makes the Auto classes and pipelines of transformers know our models, whichever package is imported first.

``import ullava`` imports neither torch nor transformers. So where transformers' modules of Auto classes are not there
yet, a finder waits for them. What is registered then are stand-ins, which import nothing either (half of transformers
is still being imported at that moment): they bring in the real classes when a saved folder is first opened, and those
register themselves (ullava.modeling.construction.auto). The pipeline ``referring-segmentation``
(ullava.plugins.referring_segmentation) is registered as itself, behind transformers' module of pipelines.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

MODEL_TYPE = "ullava"
AUTO_CONFIG = "transformers.models.auto.configuration_auto"
AUTO_PROCESSOR = "transformers.models.auto.processing_auto"
PIPELINES = "transformers.pipelines"
AWAITED = (AUTO_CONFIG, AUTO_PROCESSOR, PIPELINES)


def register_when_needed() -> None:
    """Register our stand-ins where transformers' Auto classes are loaded, and as soon as they are where not."""
    missing = [name for name in AWAITED if name not in sys.modules]
    for name in AWAITED:
        if name not in missing:
            _register(sys.modules[name])
    if missing and not any(isinstance(finder, _Waiting) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Waiting(missing))


def _register(module: ModuleType) -> None:
    if module.__name__ == AUTO_CONFIG:
        module.AutoConfig.register(MODEL_TYPE, _Config, exist_ok=True)
    elif module.__name__ == PIPELINES:
        importlib.import_module("ullava.plugins.referring_segmentation")  # registers itself
    else:
        module.AutoProcessor.register(_Config, UllavaProcessor, exist_ok=True)


def _real(name: str) -> Any:
    return getattr(importlib.import_module("ullava.modeling.construction.auto"), name)


class _Config:
    """Stands for ``UllavaConfig``."""

    model_type = MODEL_TYPE

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return _real("UllavaConfig")(*args, **kwargs)

    @classmethod
    def from_dict(cls, *args: Any, **kwargs: Any) -> Any:
        return _real("UllavaConfig").from_dict(*args, **kwargs)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        return _real("UllavaConfig").from_pretrained(*args, **kwargs)


class UllavaProcessor:
    """Stands for the processor; transformers finds it by this name, which a saved folder holds."""

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Open a saved folder with the real class."""
        return _real("UllavaProcessor").from_pretrained(*args, **kwargs)


class _Waiting(MetaPathFinder):
    """Finds the modules it waits for as everybody else does, once each, and has ours registered behind them."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = set(names)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in self.names:
            return None
        self.names.remove(fullname)
        if not self.names:
            sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Followed(spec.loader)
        return spec


class _Followed(Loader):
    """Another loader, after which our stand-ins are registered."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self.loader.exec_module(module)
        _register(module)
