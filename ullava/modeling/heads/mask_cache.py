"""Which entry of a store belongs to an image, and how often that spared the mask encoder its work.

The name of an entry is made of all that the maps depend on: the bytes of the image's file, the view, the encoder's
weights and sizes, and what it is run with (type, autocast, kind of device, versions). Whatever of that changes, the
maps are made anew under another name, never used wrongly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from ullava import __version__
from ullava.atomic_write import refusal
from ullava.examples import MaskEntry
from ullava.given_files import open_plain
from ullava.modeling.heads.map_store import DamagedEntryError, MapStore
from ullava.modeling.heads.mask_contract import MaskRules

FORMAT = 1
DIGEST_BYTES = 20
_NOT_IN_SIZES = ("transformers_version", "dtype", "torch_dtype", "_name_or_path", "architectures")
"""Keys of a config that change nothing of what a network makes."""


@dataclass(slots=True)
class CacheCounts:
    """Images of a process. ``found``: maps were there; ``made``: the encoder made them, and they are kept now;
    ``damaged``: of those, how many had an entry that was not whole; ``not_kept``: the disk refused them.
    """

    found: int = 0
    made: int = 0
    damaged: int = 0
    not_kept: int = 0

    def values(self) -> list[int]:
        """The numbers, in order."""
        return [getattr(self, entry.name) for entry in fields(self)]


class MaskCache:
    """``look_up`` is the processor's, before an image is resized, and ``keep`` the mask head's, once it was encoded.

    ``group``: what all entries have in common, see ``encoder_key``.
    """

    def __init__(self, store: MapStore, group: str) -> None:
        self.store = store
        self.group = group
        self.counts = CacheCounts()

    def look_up(self, file: Path, view_hw: tuple[int, int]) -> MaskEntry:
        """The entry of the image in ``file``, with its maps where they are kept; ``view_hw``: see MaskEntry.

        Raises DataError for a file that cannot be read.
        """
        with open_plain(file, what="image") as opened:
            digest = hashlib.blake2b(opened.read(), digest_size=DIGEST_BYTES).hexdigest()
        name = f"{self.group}/{digest}"
        try:
            return MaskEntry(name, view_hw, self.store.read(name))
        except DamagedEntryError:
            return MaskEntry(name, view_hw, damaged=True)

    def keep(self, entries: Sequence[MaskEntry | None], maps: Sequence[Tensor]) -> None:
        """Keep maps [n, C, h, w] of n images; None: of an image that has no entry, because it is no file as it is.

        A disk that refuses is told once and counted. Raises UserError for maps that cannot be kept as was asked for.
        """
        for row, entry in enumerate(entries):
            if entry is None:
                continue
            if entry.damaged and not self.counts.damaged:
                print(f"mask_cache: {self.store.path(entry.name)} is damaged; it and others like it are made anew")
            self.counts.damaged += entry.damaged
            try:
                self.store.write(entry.name, [level[row] for level in maps], again=entry.damaged)
            except OSError as error:
                refused = refusal(error)
                if refused is None:
                    raise
                if not self.counts.not_kept:
                    print(f"mask_cache: {self.store.folder} takes no more ({refused.strerror}); going on without")
                self.counts.not_kept += 1
            else:
                self.counts.made += 1

    def told(self, counts: CacheCounts | None = None) -> str:
        """One line for people; ``counts``: of several processes, None = of this one."""
        counts = counts or self.counts
        damaged = f", {counts.damaged} of them because their entry was damaged" if counts.damaged else ""
        refused = f", {counts.not_kept} not kept" if counts.not_kept else ""
        return (
            f"mask_cache: maps of {counts.found:,} images read, of {counts.made:,} made and kept{damaged}{refused} "
            f"({self.store.folder})"
        )


def encoder_key(encoder: nn.Module, rules: MaskRules, store: MapStore, run_with: dict[str, Any]) -> str:
    """All that the maps depend on beside the image, as a short name. ``run_with``: device and autocast."""
    config = getattr(encoder, "config", None)
    sizes = {} if config is None else config.to_dict()
    told = {
        "format": FORMAT,
        "versions": [__version__, torch.__version__, transformers.__version__],
        "view": rules.view_name,
        "sizes": {name: value for name, value in sizes.items() if name not in _NOT_IN_SIZES},
        "attention": getattr(config, "_attn_implementation", None),
        "kept_in": str(store.dtype),
        **run_with,
    }
    digest = hashlib.blake2b(json.dumps(told, sort_keys=True, default=str).encode(), digest_size=DIGEST_BYTES)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
