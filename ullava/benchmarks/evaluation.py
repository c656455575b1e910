"""How long an expression takes in evaluation, and a token in free generation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from ullava.benchmarks.networks import Network
from ullava.benchmarks.timing import Figure, measure
from ullava.benchmarks.workload import EXPRESSIONS, Workload
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.build import build_dataset
from ullava.data.collate import Collator
from ullava.data.encode import read_images
from ullava.evaluation.ledger import RunFolder, Shard
from ullava.evaluation.protocol import DatasetRun
from ullava.inference.predictor import Predictor

BATCH_EXPRESSIONS = 12
NEW_TOKENS = 24
PROMPTS = (1, 8)


def bench_evaluation(network: Network, workload: Workload, *, pictures: int, repeats: int) -> list[Figure]:
    """Time ``ullava eval``'s own loop, teacher-forced: pictures read, masks at picture size, metrics, lines written.

    Three expressions share a picture, one expression to a prompt.
    """
    side = network.processor.sam_side
    entry = DatasetEntry(limit=pictures)
    dataset = build_dataset(workload.descriptor, entry, workload.folder)
    recipe = EvalRecipe(dataset={workload.descriptor: entry}, protocol="teacher_forced", batch_size=BATCH_EXPRESSIONS)
    predictor = Predictor(network.model, network.processor)

    def evaluate() -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = DatasetRun(predictor, dataset, "bench", recipe, RunFolder(Path(folder), Shard()))
            run.run({}, {}, progress=False)
        return pictures * EXPRESSIONS

    return [
        measure(
            f"expression evaluated, SAM {side}",
            "expression",
            evaluate,
            repeats=repeats,
            protocol="teacher_forced",
            pictures=pictures,
            batch=BATCH_EXPRESSIONS,
            includes="reading, encoding, forward, masks at picture size, metrics, predictions written",
        )
    ]


def bench_generation(network: Network, workload: Workload, *, repeats: int) -> list[Figure]:
    """Time ``NEW_TOKENS`` greedy tokens for one prompt and for several, each with its own picture, masks included."""
    dataset = build_dataset(workload.descriptor, DatasetEntry(limit=max(PROMPTS)), workload.folder)
    processor, model = network.processor, network.model
    collate = Collator(processor.tokenizer.pad_token_id, padding_side="left")
    samples = [dataset.queries(index)[0] for index in range(max(PROMPTS))]
    rows = [processor.encode(s, read_images(s.images, s.name), prompt_only=True) for s in samples]
    figures = []
    for prompts in PROMPTS:
        batch = _tensors(collate(rows[:prompts]), model.device)

        def generate(batch: dict[str, Any] = batch, prompts: int = prompts) -> float:
            model.generate_grounded(batch, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
            return prompts * NEW_TOKENS

        figures.append(
            measure(
                f"token generated, {prompts} prompt(s) at once, SAM {processor.sam_side}",
                "token",
                generate,
                repeats=repeats,
                prompts=prompts,
                new_tokens_each=NEW_TOKENS,
                prompt_tokens=int(batch["input_ids"].shape[1]),
                includes="encoding the pictures, the prompt and the masks of [SEG] tokens, if any come",
            )
        )
    return figures


def _tensors(batch: dict[str, Any], device: torch.device) -> dict[str, Any]:
    return {
        key: value.to(device)
        for key, value in batch.items()
        if isinstance(value, torch.Tensor) and key not in ("labels", "boxes_xyxy_head", "original_sizes")
    }
