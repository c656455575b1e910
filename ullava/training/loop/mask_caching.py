"""A training run's side of ``mask_cache``: whether it can have one, and what it tells of it at the end."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch

from ullava.config.mask_cache import MaskCacheConfig
from ullava.errors import ConfigError
from ullava.modeling.construction.mask_caching import use_mask_cache
from ullava.modeling.heads.mask_cache import CacheCounts, MaskCache
from ullava.training.optim.stages import SAM_ENCODER, TrainablePlan


def cache_masks(model: Any, processor: Any, config: MaskCacheConfig, plan: TrainablePlan, args: Any) -> MaskCache:
    """``use_mask_cache`` for a run with TrainingArguments ``args``. Raises ConfigError where ``plan`` trains the
    encoder, and as there.
    """
    if any(row.part == SAM_ENCODER and row.trained for row in plan.rows):
        raise ConfigError(
            f"mask_cache: the {SAM_ENCODER} trains in stage {plan.stage}, so what it makes of an image changes with "
            f"every step; leave mask_cache out, or set parts: {{{SAM_ENCODER}: false}}"
        )
    autocast = "bfloat16" if args.bf16 else "float16" if args.fp16 else None
    return use_mask_cache(model, processor, config, device=args.device.type, autocast=autocast)


def cache_report(cache: MaskCache, trainer: Any) -> dict[str, int]:
    """What the caches of all processes counted since the run was started or gone on with; printed by the first one."""
    totals = torch.tensor(cache.counts.values(), device=trainer.args.device)
    if trainer.args.world_size > 1:
        totals = trainer.accelerator.reduce(totals, reduction="sum")
    counts = CacheCounts(*totals.tolist())
    if trainer.is_world_process_zero():
        print(cache.told(counts))
    return asdict(counts)
