"""How long an expression takes in evaluation, and a token in free generation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import cast

import torch

from ullava.batching.collate import Collator
from ullava.benchmarks.networks import Network
from ullava.benchmarks.timing import Figure, measure
from ullava.benchmarks.workload import EXPRESSIONS, Workload
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.loading.build import build_dataset
from ullava.data.loading.encode import read_images
from ullava.evaluation.protocol import DatasetRun
from ullava.evaluation.result_store import RunFolder, Shard
from ullava.examples import ModelInputs
from ullava.inference.predictor import Predictor

BATCH_EXPRESSIONS = 12
NEW_TOKENS = 24
PROMPTS = (1, 8)


def bench_evaluation(network: Network, workload: Workload, *, images: int, repeats: int) -> list[Figure]:
    """Time ``ullava eval``'s own loop, teacher-forced: images read, masks at image size, metrics, lines written.

    Three expressions share an image, one expression to a prompt.
    """
    side = network.processor.sam_side
    entry = DatasetEntry(limit=images)
    dataset = build_dataset(workload.descriptor, entry, workload.folder)
    recipe = EvalRecipe(dataset={workload.descriptor: entry}, protocol="teacher_forced", batch_size=BATCH_EXPRESSIONS)
    predictor = Predictor(network.model, network.processor)

    def evaluate() -> float:
        with tempfile.TemporaryDirectory() as folder:
            run = DatasetRun(predictor, dataset, "bench", recipe, RunFolder(Path(folder), Shard()))
            run.run({}, {}, progress=False)
        return images * EXPRESSIONS

    return [
        measure(
            f"expression evaluated, SAM {side}",
            "expression",
            evaluate,
            repeats=repeats,
            protocol="teacher_forced",
            images=images,
            batch=BATCH_EXPRESSIONS,
            includes="reading, encoding, forward, masks at image size, metrics, predictions written",
        )
    ]


def bench_generation(network: Network, workload: Workload, *, repeats: int) -> list[Figure]:
    """Time ``NEW_TOKENS`` greedy tokens for one prompt and for several, each with its own image, masks included."""
    dataset = build_dataset(workload.descriptor, DatasetEntry(limit=max(PROMPTS)), workload.folder)
    processor, model = network.processor, network.model
    collate = Collator(processor.tokenizer.pad_token_id, padding_side="left")
    samples = [dataset.queries(index)[0] for index in range(max(PROMPTS))]
    rows = [processor.encode(s, read_images(s.images, s.name), prompt_only=True) for s in samples]
    figures = []
    for prompts in PROMPTS:
        inputs, _ = collate(rows[:prompts]).to(model.device).usable()

        def generate(inputs: ModelInputs = inputs, prompts: int = prompts) -> float:
            model.generate_grounded(inputs, max_new_tokens=NEW_TOKENS, min_new_tokens=NEW_TOKENS, do_sample=False)
            return prompts * NEW_TOKENS

        figures.append(
            measure(
                f"token generated, {prompts} prompt(s) at once, SAM {processor.sam_side}",
                "token",
                generate,
                repeats=repeats,
                prompts=prompts,
                new_tokens_each=NEW_TOKENS,
                prompt_tokens=cast(torch.Tensor, inputs.input_ids).shape[1],
                includes="encoding the images, the prompt and the masks of [SEG] tokens, if any come",
            )
        )
    return figures
