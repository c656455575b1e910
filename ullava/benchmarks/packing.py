"""What ``packing`` saves: the share of real tokens in a batch, and a training step with and without it.

A mixture of words alone and of questions about images, half of each, through the same reader, processor and collator as
real data. Its lengths have a long tail, as those of instruction data do: a dialogue of words is log-normal, one about
an image has the image's tokens and few words. The networks of ``peer``, with the words of ``tiny``, random weights.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ullava import resources
from ullava.batching.collate import Collator
from ullava.benchmarks.networks import peer_config
from ullava.benchmarks.timing import Figure, measure, wait_for
from ullava.benchmarks.workload import LOOKS, THINGS, image_rgb_u8
from ullava.config.schema import DatasetEntry, LanguageConfig, LossConfig, TextConfig
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.examples import Batch, Example
from ullava.inference.devices import pick_device
from ullava.modeling.construction.build import build_model
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage

BATCH = 16
BATCHES = 5
STEPS = 1
"""Of the batches, how many are timed."""
TOKENS = 2048
WORDS_MEDIAN, WORDS_SPREAD = 120, 0.9
"""Of the answers in words alone: the median, and the standard deviation of the logarithm."""
WORDS_MOST = 400
SIDE = 64

DESCRIPTOR = """\
name: Words and questions about images
layout: llava_json
task: vqa
splits: {drawn: {annotations: dialogues.json, images: .}}
license: Apache-2.0 (drawn by this project)
source: drawn by `ullava bench`
"""


def bench_packing(*, repeats: int, threads: int, device: str) -> list[Figure]:
    """Two figures for a dialogue of a step, forward and backward: in a row of its own, and packed."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    place = pick_device(device)
    with tempfile.TemporaryDirectory() as folder:
        write_dialogues(Path(folder), BATCH * BATCHES)
        mixture = build_mixture({str(Path(folder) / "dataset.yaml"): DatasetEntry(turns=0)}, Path(folder), seed=0)
        model, processor = _network()
        dataset = EncodedMixture(mixture, processor)
        rows = [dataset[position] for position in range(BATCH * BATCHES)]
    groups = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
    plan = apply_stage(model, "ground", quality_trains=False)
    torch.nn.Module.to(model, place).train()
    plan.set_frozen_to_eval()
    objective = GroundingObjective(LossConfig(), processor.masks, model.core.passes().aux_terms)
    figures, losses = [], []
    for what, tokens in (("a row for each dialogue", None), (f"packed, {TOKENS} tokens a row", TOKENS)):
        batches = [Collator(processor.tokenizer.pad_token_id, tokens=tokens)(group) for group in groups]
        judged: list[float] = []

        def steps(batches: Sequence[Batch] = batches, judged: list[float] = judged) -> float:
            for batch in batches[:STEPS]:
                inputs, targets = batch.to(place).usable()
                model.zero_grad(set_to_none=True)
                total = objective(model(**inputs.for_losses().as_kwargs()), targets).total
                total.backward()
                judged.append(float(total.detach()))
            wait_for(place)
            return BATCH * STEPS

        facts = {"real_tokens": round(real_share(batches), 4), "batch": BATCH, "rows": _rows(batches)}
        figures.append(measure(what, "dialogue", steps, repeats=repeats, warm_up=False, **facts))
        losses.append(judged[0])
    told = {
        "times_as_fast": round(figures[0].cpu_ms / figures[1].cpu_ms, 2),
        "difference_of_losses": abs(losses[0] - losses[1]),
        "tokens_of_a_dialogue": _quartiles(rows),
    }
    return [figures[0], replace(figures[1], facts=figures[1].facts | told)]


def real_share(batches: Sequence[Batch]) -> float:
    """Return how many places of the batches hold a token of a dialogue, of all."""
    masks = [cast(Tensor, batch.usable()[0].attention_mask) for batch in batches]
    return float(sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks))


def write_dialogues(folder: Path, count: int) -> None:
    """Write so many dialogues, every second one about an image, with a descriptor, from a fixed seed."""
    rng = np.random.default_rng(0)
    records: list[dict[str, Any]] = []
    for number in range(count):
        turns = int(rng.integers(1, 4))
        words = float(np.clip(rng.lognormal(np.log(WORDS_MEDIAN), WORDS_SPREAD), 8, WORDS_MOST))
        asked = [("human", _words(rng, 10)) for _ in range(turns)]
        record: dict[str, Any] = {"id": f"{number:05d}"}
        if number % 2:
            record["image"] = f"{number:05d}.jpg"
            Image.fromarray(image_rgb_u8(rng)).save(folder / record["image"])
            asked[0] = ("human", "<image>\n" + asked[0][1])
        told = [_words(rng, 8 if number % 2 else 1 + int(words / turns)) for _ in range(turns)]
        record["conversations"] = [
            {"from": who, "value": text}
            for question, answer in zip(asked, told, strict=True)
            for who, text in (question, ("gpt", answer))
        ]
        records.append(record)
    (folder / "dialogues.json").write_text(json.dumps(records), encoding="utf-8")
    (folder / "dataset.yaml").write_text(DESCRIPTOR, encoding="utf-8")


def _words(rng: np.random.Generator, count: int) -> str:
    return " ".join(rng.choice([*THINGS, *LOOKS], count).tolist()) + "."


def _network() -> tuple[Any, Any]:
    config = peer_config(SIDE)
    tiny = resources.find("models", "tiny").parent
    language = {**(config.language.config or {}), "max_position_embeddings": 2 * TOKENS}
    return build_model(
        replace(
            config,
            language=LanguageConfig(config=language),
            tokenizer=str(tiny / "tokenizer"),
            text=TextConfig(template="vicuna_v1", max_length=2 * TOKENS),
        ),
        tiny,
    )


def _rows(batches: Sequence[Batch]) -> list[int]:
    return [len(cast(Tensor, batch.usable()[0].input_ids)) for batch in batches]


def _quartiles(rows: Sequence[Any]) -> list[int]:
    lengths = [len(row.input_ids) for row in rows if isinstance(row, Example)]
    return [int(value) for value in np.quantile(lengths, [0, 0.25, 0.5, 0.75, 1])]
