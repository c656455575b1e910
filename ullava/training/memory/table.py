"""The estimate in words."""

from __future__ import annotations

import torch

from ullava.training.memory.estimate import MemoryEstimate, PartMemory

GIB, MIB = 1 << 30, 1 << 20
LEAST_IN_GIB = 4 * GIB


def table(found: MemoryEstimate) -> list[str]:
    """Lines: what was assumed, a row for every part, what is held beside, and the most in a pass and in a step."""
    unit, word = (GIB, "GiB") if found.total >= LEAST_IN_GIB else (MIB, "MiB")
    settings = found.settings
    computed = "float32" if settings.half is None else f"{_word(settings.half)}, mixed"
    if settings.sharing.whole_dtype is not None:
        computed = f"{_word(settings.sharing.whole_dtype)}, DeepSpeed's"
    lines = [
        f"memory of one process in {word}, computed from sizes, not measured",
        f"  {found.rows} rows of {found.length} tokens and one image of 640 x 480; {found.supervised:.0%} of the words "
        "added are supervised",
        f"  computed in {computed}; layers "
        f"{'recomputed (gradient checkpointing)' if settings.checkpointing else 'not recomputed'}",
        f"  {found.processes} process{'es' if found.processes > 1 else ''}, shared by {settings.sharing.kind}",
    ]
    types = [kind for kind in (torch.float32, torch.bfloat16, torch.float16, torch.uint8)
             if any(part.weights.get(kind) for part in found.parts.values())]  # fmt: skip
    heads = [*(_word(kind) for kind in types), "gradients", "optimizer", "activations", "all"]
    lines.append(f"  {'part':<26}" + "".join(f"{head:>12}" for head in heads))

    def row(name: str, part: PartMemory) -> str:
        values = [*(part.weights.get(kind, 0) for kind in types), part.gradients, part.optimizer, part.activations]
        return f"  {name:<26}" + "".join(f"{value / unit:>12,.2f}" for value in [*values, part.total()])

    lines += [row(name, part) for name, part in found.parts.items()]
    lines += [f"  {name:<26}{size / unit:>{12 * len(heads)},.2f}" for name, size in found.beside.items()]
    width = 12 * len(heads)
    lines.append(f"  {'most within a pass':<26}{found.pass_peak / unit:>{width},.2f}")
    lines.append(f"  {'most within a step':<26}{found.step_peak / unit:>{width},.2f}")
    lines.append(f"  {'training':<26}{found.total / unit:>{width},.2f}")
    if settings.sharing.offloaded:
        lines.append(f"  in the memory of the host: {', '.join(sorted(settings.sharing.offloaded))}")
    if settings.unknown:
        lines.append(f"  training.optim {settings.unknown} is counted as AdamW, with two float32 states")
    if found.activations_unknown:
        lines.append(f"  without activations: {found.activations_unknown}")
    lines.append("  beside it: the context of the device and what its allocator cannot use (about 1 GiB on CUDA)")
    return lines


def _word(dtype: torch.dtype) -> str:
    return "8/4 bits" if dtype == torch.uint8 else str(dtype).removeprefix("torch.")
