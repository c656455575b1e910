"""How long an epoch of stage II takes with ``mask_cache``: the first, which makes the maps, and those after it.

SAM ViT-B, as published, at 1024 beside the small language model and tower of ``peer``; random weights, on which the
time does not depend. A sample is read, encoded, collated, run forward and backward; there is no optimizer.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ullava.batching.collate import Collator
from ullava.benchmarks.networks import build_random, peer_config
from ullava.benchmarks.timing import Figure, measure, read_pass, wait_for
from ullava.benchmarks.workload import EXPRESSIONS, prepare
from ullava.config.mask_cache import MaskCacheConfig
from ullava.config.schema import LossConfig, MaskHeadConfig, PartConfig
from ullava.data.loading.encode import EncodedMixture
from ullava.inference.devices import pick_device
from ullava.modeling.construction.mask_caching import use_mask_cache
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

SIDE = 1024
ENCODER: Mapping[str, Any] = {}
"""Sizes of SAM's encoder that are not those of transformers' SamVisionConfig, which are ViT-B's."""
IMAGES = 2
BATCH = 1


def bench_mask_cache(*, repeats: int, threads: int, device: str) -> list[Figure]:
    """Two figures for an image: of the first epoch, and of ``repeats`` later ones; the maps lie in a folder for now."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    place = pick_device(device)
    workload = prepare(IMAGES)
    sam = {"vision_config": {**ENCODER, "image_size": SIDE}, "prompt_encoder_config": {"image_size": SIDE}}
    config = replace(peer_config(SIDE), mask=MaskHeadConfig(sam=PartConfig(config=sam)))
    model, processor = build_random(config, workload.annotations)
    plan = apply_stage(model, "ground", quality_trains=False)
    torch.nn.Module.to(model, place).train()
    plan.set_frozen_to_eval()
    dataset = EncodedMixture(workload.mixture(), processor, keeps_maps=True)
    collate = Collator(processor.tokenizer.pad_token_id)
    objective = GroundingObjective(LossConfig(), processor.masks, model.core.passes().aux_terms)
    losses: list[float] = []

    def epoch() -> float:
        for start in range(0, IMAGES, BATCH):
            model.zero_grad(set_to_none=True)
            rows = [dataset[position] for position in range(start, start + BATCH)]
            inputs, targets = collate(rows).to(place).usable()
            total = objective(model(**inputs.for_losses().as_kwargs()), targets).total
            total.backward()
            losses.append(float(total.detach()))
        wait_for(place)
        return IMAGES

    with tempfile.TemporaryDirectory() as folder:
        use_mask_cache(model, processor, MaskCacheConfig(dir=folder), device=place.type)
        facts: dict[str, Any] = {"side": SIDE, "batch": BATCH, "expressions": EXPRESSIONS}
        first = Figure("epoch 1, maps made and kept", "image", (read_pass(epoch),), facts)
        later = measure("epoch 2, maps read", "image", epoch, repeats=repeats, warm_up=False, **facts)
        kept = sum(path.stat().st_size for path in Path(folder).glob("*/*"))
    per_epoch = IMAGES // BATCH
    compared = zip(losses[:per_epoch], losses[per_epoch : 2 * per_epoch], strict=True)
    told = {
        "times_as_fast": round(first.cpu_ms / later.cpu_ms, 2),
        "bytes_kept_per_image": kept // IMAGES,
        "largest_difference_of_losses": max(abs(one - other) for one, other in compared),
    }
    return [first, replace(later, facts=later.facts | told)]
