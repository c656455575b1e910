"""A whole system at its true sizes on random weights: for measurements where the weights themselves are not at hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ullava.config.schema import ModelConfig
from ullava.config.site import Site
from ullava.modeling.construction.build import new_network, settled_processor
from ullava.modeling.construction.outline import describe
from ullava.modeling.heads.box_table import load_box_words
from ullava.modeling.model.ullava import UllavaForConditionalGeneration
from ullava.modeling.processing.processor import UllavaProcessor

TABLE = 1_048_573
"""Numbers that are drawn once. A prime, so that no two rows of a matrix are the same part of the table."""


def build_random(
    config: ModelConfig, folder: Path, dtype: torch.dtype, site: Site | None = None
) -> tuple[UllavaForConditionalGeneration, UllavaProcessor]:
    """Build the model of a ``model.yaml`` (below ``folder``) and its processor; no weights are read, of no part.

    The weights are random and made in ``dtype``: 7 billion fit a machine of 24 GB in bfloat16. ``site``, errors: see
    ``ullava.modeling.construction.outline.outline``; UserError also where this machine cannot hold them.
    """
    written = site or Site(folder / "model.yaml")
    system = describe(config, folder, site)
    with DrawsFromTable():
        model = new_network(system, written, pretrained=(), dtype=dtype)
    model.tie_weights()
    processor = settled_processor(model, system, written)
    load_box_words(processor, config.box, folder)
    return model.eval(), processor


class DrawsFromTable(TorchDispatchMode):
    """Normal and uniform numbers come from a table, one part after the other, wherever torch fills a tensor within.

    Each weight is drawn two or three times while a network of transformers is made: several minutes for billions of
    them, where copying takes seconds. The distributions stay as they are, what is drawn repeats after ``TABLE`` values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._drawn = {torch.ops.aten.normal_.default: torch.randn, torch.ops.aten.uniform_.default: torch.rand}
        self._tables: dict[tuple[Any, torch.dtype], torch.Tensor] = {}
        self._place = 0

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Fill a tensor on the CPU from the table; everything else is left to torch."""
        given = dict(kwargs or {})
        if func not in self._drawn or given.get("generator") is not None or not _is_plain(args[0]):
            return func(*args, **given)
        tensor = args[0]
        first = args[1] if len(args) > 1 else 0.0  # the mean, or the lower end
        second = args[2] if len(args) > 2 else 1.0  # the deviation, or the upper end
        scale = second if func is torch.ops.aten.normal_.default else second - first
        self._fill(tensor.view(-1), self._table(func, tensor.dtype), scale, first)
        return tensor

    def _table(self, func: Any, dtype: torch.dtype) -> torch.Tensor:
        if (func, dtype) not in self._tables:
            self._tables[func, dtype] = self._drawn[func](TABLE, dtype=torch.float32).to(dtype)
        return self._tables[func, dtype]

    def _fill(self, flat: torch.Tensor, table: torch.Tensor, scale: float, shift: float) -> None:
        done = 0
        while done < len(flat):
            part = table[self._place :][: len(flat) - done]
            torch.mul(part, scale, out=flat[done : done + len(part)])
            done += len(part)
            self._place = (self._place + len(part)) % TABLE
        if shift:
            flat.add_(shift)


def _is_plain(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in the memory of the CPU, in one piece, and holds real numbers."""
    return tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.is_floating_point()
