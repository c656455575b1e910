"""How long a training step takes: forward, criterion and backward of stage ``ground``, without optimizer."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import torch

from ullava.batching.collate import Collator
from ullava.benchmarks.networks import Network
from ullava.benchmarks.timing import Figure, measure, peak_memory_mib, wait_for
from ullava.benchmarks.workload import EXPRESSIONS, Workload
from ullava.config.schema import LossConfig
from ullava.data.loading.encode import EncodedMixture
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

BATCH = 4
STEPS = 2


def bench_training(network: Network, workload: Workload, *, repeats: int) -> list[Figure]:
    """Time steps of ``BATCH`` images with three questions each, masks judged at image size."""
    model, processor = network.model, network.processor
    plan = apply_stage(model, "ground", quality_trains=False)
    model.train()
    plan.set_frozen_to_eval()
    dataset = EncodedMixture(workload.mixture(), processor)
    collate = Collator(processor.tokenizer.pad_token_id)
    batches = [
        collate([dataset[i] for i in range(k, k + BATCH)]).to(model.device).usable()
        for k in range(0, STEPS * BATCH, BATCH)
    ]
    objective = GroundingObjective(LossConfig(), processor.masks, model.core.passes().aux_terms)

    def steps() -> float:
        for inputs, targets in batches:
            model.zero_grad(set_to_none=True)
            output = model(**inputs.for_losses().as_kwargs())
            objective(output, targets).total.backward()
        wait_for(model.device)
        return len(batches)

    figure = measure(
        f"step, forward and backward, SAM {processor.sam_side}",
        "step",
        steps,
        repeats=repeats,
        batch=BATCH,
        expressions=EXPRESSIONS,
        tokens=cast(torch.Tensor, batches[0][0].input_ids).shape[1],
        trainable=sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad),
        optimizer="none",
        frozen="tower, SAM image and prompt encoder, SAM quality head",
    )
    peak_mib = round(peak_memory_mib())
    model.zero_grad(set_to_none=True)
    model.eval()
    return [replace(figure, facts=figure.facts | {"peak_memory_mib": peak_mib})]
