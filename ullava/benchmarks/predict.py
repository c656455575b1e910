"""One question about one image: how long loading, every stage of an answer and drawing it take, and the memory.

Meant for a process of its own (``ullava bench predict``): the peak of memory is that of the whole process.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from ullava.benchmarks.timing import peak_memory_mib, surroundings
from ullava.config.quantization import Quantization
from ullava.errors import UserError
from ullava.resources import find
from ullava.stage_clock import STAGES, measured_stages

PHOTO = "photo_examples"
PROMPT = "Segment the person."
DRAWING = "draw"


def bench_predict(
    model: str,
    image: str | None,
    prompt: str,
    *,
    repeats: int,
    threads: int,
    device: str,
    started: float,
    quantize: Quantization | None = None,
    runtime: str = "torch",
    dtype: str = "auto",
    random_weights: bool = False,
) -> dict[str, Any]:
    """Load ``model``, ask ``prompt`` of ``image`` once and then ``repeats`` times, and draw each answer.

    ``image``: None = the first of the photographs that ship with the repository. ``started``: ``time.perf_counter()``
    when the process began to import what the answer needs. ``runtime``, ``dtype``: see ``ullava.load``.
    ``random_weights``: the model is built at its true sizes, nothing of it is loaded, and what it answers is prescribed
    (``ullava.benchmarks.random_answer``). Returns seconds (medians over the repeats) and MiB.
    Raises UserError for a model or an image that cannot be read.
    """
    if random_weights and (quantize is not None or runtime != "torch"):
        raise UserError("--random-weights measures networks of torch as they are: leave --quantize and --runtime out")
    import torch

    beside = ("ullava.benchmarks.random_answer",) if random_weights else ()
    for module in ("ullava.inference.predictor", "ullava.modeling.construction.auto", *beside):
        import_module(module)  # what a first load would bring in: transformers, mostly
    torch.set_num_threads(threads)
    imported = time.perf_counter()
    predictor = _predictor(model, device, dtype, quantize, runtime, random_weights)
    loaded = time.perf_counter()
    resting = round(peak_memory_mib(), 1)
    path = image or str(first_photo())
    first_s, passes = _passes(predictor, path, _ask(predictor, path, prompt, random_weights), repeats)
    answer = passes[-1][2]
    report: dict[str, Any] = {"benchmark": "predict", "model": model, "image": path, "prompt": prompt}
    report |= {"quantize": quantize} if quantize else {}
    report |= {"weights": "random"} if random_weights else {}
    report |= {"runtime": runtime, "device": predictor.device.type, "dtype": _dtype_of(predictor)}
    report |= surroundings(threads, repeats)
    report |= {
        "import_s": round(imported - started, 3),
        "build_s" if random_weights else "load_s": round(loaded - imported, 3),
        "first_answer_s": round(first_s, 3),
        "answer_s": round(statistics.median(seconds for seconds, _, _ in passes), 3),
        "stages_ms": _medians([stages for _, stages, _ in passes]),
        "new_tokens": answer.new_tokens,
        "objects": len(answer.objects),
        "text": answer.text,
        "weights_mib": weights_mib(predictor.model),
        "memory_loaded_mib": resting,
        "memory_peak_mib": round(peak_memory_mib(), 1),
    }
    return report


def _predictor(
    model: str, device: str, dtype: str, quantize: Quantization | None, runtime: str, random_weights: bool
) -> Any:
    """What answers; see ``bench_predict``."""
    if random_weights:
        from ullava.benchmarks.random_answer import random_predictor

        return random_predictor(model, device, dtype)
    from ullava.inference.load import load

    return load(model, device=device, dtype=dtype, quantize=quantize, runtime=runtime)


def _ask(predictor: Any, path: str, prompt: str, random_weights: bool) -> Callable[[], Any]:
    """How the question is asked once."""
    if not random_weights:
        return partial(predictor.answer, path, prompt)
    from ullava.benchmarks.random_answer import prescribed_answer, prescribed_ids

    return partial(prescribed_answer, predictor, path, prompt, prescribed_ids(predictor, path, prompt))


def _passes(
    predictor: Any, path: str, ask: Callable[[], Any], repeats: int
) -> tuple[float, list[tuple[float, Mapping[str, float], Any]]]:
    """Seconds of a first answer, and of the next ones: seconds, those of each stage (drawing too), the answer."""
    from ullava.benchmarks.timing import wait_for

    wait = None if predictor.device.type == "cpu" else partial(wait_for, predictor.device)
    passes: list[tuple[float, Mapping[str, float], Any]] = []
    for _ in range(repeats + 1):
        with measured_stages(wait) as clock:
            begun = time.perf_counter()
            answer = ask()
            answered = time.perf_counter()
            with clock.run(DRAWING):
                _draw(answer, path)
        passes.append((answered - begun, clock.seconds, answer))
    return passes[0][0], passes[1:]


def first_photo() -> Path:
    """The first of the photographs that ship with the repository. Raises UserError where they are not there."""
    folder = find("datasets", PHOTO).parent / "images"
    photos = sorted(folder.glob("*.jpg"))
    if not photos:
        raise UserError(f"no photographs in {folder}; name one with --image")
    return photos[0]


def weights_mib(network: Any) -> float:
    """MiB of the parameters and buffers of a network, tied ones once."""
    held = {value.data_ptr(): value for value in (*network.parameters(), *network.buffers())}
    return round(sum(value.numel() * value.element_size() for value in held.values()) / 2**20, 1)


def table(report: Mapping[str, Any]) -> str:
    """The report as lines of text."""
    stages = report["stages_ms"]
    lines = [f"{report['model']}: {report['prompt']}  ->  {report['text']}"]
    lines += [f"  {name:<16}{stages[name]:>10.1f} ms" for name in (*STAGES, DRAWING) if name in stages]
    for name in (name for name in ("import_s", "load_s", "build_s", "first_answer_s", "answer_s") if name in report):
        lines.append(f"  {name.removesuffix('_s').replace('_', ' '):<16}{report[name]:>10.2f} s")
    if report["weights_mib"]:  # graphs hold theirs themselves
        lines.append(f"  weights         {report['weights_mib']:>10,.0f} MiB")
    lines.append(f"  memory          {report['memory_loaded_mib']:>10,.0f} MiB loaded, "
                 f"{report['memory_peak_mib']:,.0f} at the most")  # fmt: skip
    kind = f"{report['weights']} weights, {report['dtype']}" if "weights" in report else report["dtype"]
    lines.append(f"  {report['new_tokens']} new tokens, {report['objects']} objects; {kind}; "
                 f"{report['threads']} thread(s), {report['device']}: {report['processor']}")  # fmt: skip
    return "\n".join(lines)


def _draw(answer: Any, path: str) -> None:
    from ullava.inference.screen import screen_overlay

    screen_overlay(path, answer.objects)


def _dtype_of(predictor: Any) -> str:
    return str(predictor.model.dtype).removeprefix("torch.")


def _medians(passes: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = [name for name in (*STAGES, DRAWING) if any(name in stages for stages in passes)]
    return {name: round(1000 * statistics.median(stages.get(name, 0.0) for stages in passes), 2) for name in names}
