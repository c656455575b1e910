"""A book of tensors that have sizes and types but no memory: how much a pass would hold at any moment.

Weights and pixels are fake (torch's FakeTensorMode: storages on the meta device), numbers that decide about sizes (ids,
labels, places) are real, so that the very code that trains runs as it is: masks of real numbers are read, everything
that a fake tensor goes into is fake. Every storage that an operation makes is entered with its bytes under the part of
the model that is at work, and struck out when nothing holds it any more.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRADIENTS = "gradients"
"""The label of what lies at a parameter as its gradient."""
_aten = torch.ops.aten


class Ledger(TorchDispatchMode):
    """Follow what operations hold while this is active; ``fake`` is the mode that the fake tensors belong to.

    ``rest``: the label of what no part makes. ``gradient_share``: how much of a gradient stays in this process.
    ``peak``: the most bytes at one moment, by label. What was there before (weights, pixels) is not counted.
    """

    def __init__(self, fake: FakeTensorMode, rest: str, gradient_share: float = 1.0) -> None:
        super().__init__()
        self.fake = fake
        self.gradient_share = gradient_share
        self.held: Counter[str] = Counter()
        self.peak: dict[str, int] = {}
        self._most = 0
        self._labels: list[str] = [rest]
        self._known: dict[int, tuple[Any, str, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """Run an operation, on fake tensors where it has any, and enter what it made."""
        kwargs = kwargs or {}
        if any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            made = self._faked(func, list(args), kwargs)
        else:
            made = func(*args, **kwargs)
        for leaf in tree_leaves(made):
            if isinstance(leaf, Tensor):
                self._enter(leaf)
        return made

    def _faked(self, func: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
        packet = func.overloadpacket
        if packet in (_aten.index, _aten.index_put, _aten.index_put_, _aten._unsafe_index_put):
            args[1] = [place for entry in args[1] for place in _as_numbers(entry)]
        with self.fake:
            if packet is _aten.masked_scatter_backward:
                return cast(Tensor, args[0]).new_empty(args[2])
            made = func(*args, **kwargs)
        changed = args[0] if args and isinstance(args[0], Tensor) else None
        if changed is not None and not isinstance(changed, FakeTensor) and func._schema.is_mutable:
            return changed  # a real tensor that fake values were written into: its size is all that is asked for
        return made

    def _enter(self, made: Tensor) -> None:
        storage = made.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size, label = storage.nbytes(), self._labels[-1]
        self._known[key] = (weakref.ref(storage, lambda _: self._strike_out(key)), label, size)
        self.held[label] += size
        self._look()

    def _strike_out(self, key: int) -> None:
        _, label, size = self._known.pop(key)
        self.held[label] -= size

    def _look(self) -> None:
        total = self.held.total()
        if total > self._most:
            self._most = total
            self.peak = {label: size for label, size in self.held.items() if size}

    def leave_out(self, tensors: Iterable[Tensor]) -> None:
        """Count nothing for what is there already: operations give views of weights."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._known[storage._cdata] = (storage, "", 0)

    @contextmanager
    def labelled(self, labels: Mapping[nn.Module, str], model: nn.Module) -> Iterator[None]:
        """Enter what is made within a module under its label, and gradients of ``model`` under ``GRADIENTS``."""
        handles: list[Any] = []
        for module, label in labels.items():
            handles.append(module.register_forward_pre_hook(lambda *_, label=label: self._labels.append(label)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        for parameter in model.parameters():
            if parameter.requires_grad:
                handles.append(parameter.register_post_accumulate_grad_hook(self._is_gradient))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _leave(self, *_: Any) -> None:
        self._labels.pop()

    def _is_gradient(self, parameter: Tensor) -> None:
        gradient = parameter.grad
        key = -1 if gradient is None else gradient.untyped_storage()._cdata
        if key in self._known:
            held, label, size = self._known[key]
            kept = round(size * self.gradient_share)
            self._known[key] = (held, GRADIENTS, kept)
            self.held[label] -= size
            self.held[GRADIENTS] += kept


def _as_numbers(index: Tensor | None) -> tuple[Tensor | None, ...]:
    """A mask as the numbers of its places, which say how many there are; anything else as it is."""
    if index is None or index.dtype not in (torch.bool, torch.uint8) or isinstance(index, FakeTensor):
        return (index,)
    return tuple(index.nonzero(as_tuple=True))
