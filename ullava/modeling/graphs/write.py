"""``ullava convert onnx``: the networks of a saved model as ONNX graphs, by torch's exporter."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ullava.atomic_write import write_json
from ullava.errors import UserError, WeightsError
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.saved_folder import read_saved_config
from ullava.modeling.graphs.parts import GraphPart, parts_of, refuse_unfit
from ullava.modeling.graphs.sessions import FOLDER, FORM, NOTE_FILE, Graph, graph_file
from ullava.modeling.loading.weight_files import short_reason
from ullava.modeling.weights.conversion import write_folder

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TRACED = {"I": 2, "P": 4, "B": 2, "L": 3, "T": 5, "K": 3}
"""Lengths of the open axes in the pass that is traced; none is 1, which torch would take for a fixed one."""
TRIED = ({**TRACED, "I": 1, "B": 1, "L": 1, "K": 1}, {"I": 3, "P": 9, "B": 3, "L": 7, "T": 0, "K": 5})
"""Those that a written graph is tried with: one of everything with a past, several without."""
TOLERANCE = 1e-3
"""How far an output may be from torch's, as a share of its largest number."""


def convert_onnx(source: Path, out: Path) -> Path:
    """Write the graphs of the saved model in ``source`` and all else that it needs to the new folder ``out``.

    Every graph is run beside the network that it was made of, with other sizes than it was traced with.

    Raises UserError for a model that no graphs can be made of (a line for each reason), and without the packages that
    write and run them; WeightsError for a graph whose numbers are not the network's.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"graphs are written with the packages {', '.join(missing)}: pip install 'ullava[onnx]'")
    refuse_unfit(read_saved_config(source))

    def write(draft: Path) -> dict[str, Any]:
        model, processor = load_folder(source, torch.float32)
        model.requires_grad_(False)
        (draft / FOLDER).mkdir()
        noted, furthest = {}, 0.0
        for part in parts_of(model):
            _write_graph(part, graph_file(draft, part.name))
            furthest = max(furthest, _tried(part, graph_file(draft, part.name)))
            noted[part.name] = {
                "inputs": {port.name: list(port.axes) for port in part.inputs},
                "outputs": list(part.outputs),
            }
        write_json(draft / NOTE_FILE, {"form": FORM, "graphs": noted})
        model.config.text_config.name_or_path = ""  # a place on this machine is nothing to a graph
        model.config.save_pretrained(str(draft))
        model.generation_config.save_pretrained(str(draft))
        processor.save_pretrained(str(draft))
        written = sum(file.stat().st_size for file in (draft / FOLDER).iterdir())
        return {"kind": "onnx", "graphs": list(noted), "bytes": written, "furthest": f"{furthest:.1e}"}

    # Of a model without its language model those are no usual files of weights, and some lie one level down.
    return write_folder(out, source, write, sorted(source.rglob("*.safetensors")))


def _write_graph(part: GraphPart, file: Path) -> None:
    """Trace one part and save it, its weights beside it. Raises UserError where torch cannot."""
    axes: list[Any] = [dict.fromkeys(port.open_axes(), torch.export.Dim.DYNAMIC) for port in part.inputs]
    arguments = inspect.signature(part.module.forward).parameters.values()
    single = sum(argument.kind is not argument.VAR_POSITIONAL for argument in arguments)
    if single < len(arguments):
        axes[single:] = [tuple(axes[single:])]
    try:
        with torch.no_grad(), _quiet():
            made: Any = torch.onnx.export(
                part.module,
                part.examples(TRACED),
                dynamo=True,
                dynamic_shapes=tuple(axes),
                input_names=[port.name for port in part.inputs],
                output_names=list(part.outputs),
                verbose=False,
            )
            made.save(str(file), external_data=True)
    except torch.onnx.OnnxExporterError as error:
        raise UserError(f"{part.name}: torch cannot write this network as a graph: {short_reason(error)}") from error


def _tried(part: GraphPart, file: Path) -> float:
    """Run a graph and its network; return how far they are apart at the most. Raises WeightsError where that is far."""
    graph = Graph(file, tuple(port.name for port in part.inputs), part.outputs)
    furthest = 0.0
    for seed, sizes in enumerate(TRIED, start=1):
        given = part.examples(sizes, seed)
        with torch.inference_mode():
            told = part.module(*given)
        for name, wanted, made in zip(
            part.outputs, told if isinstance(told, tuple) else (told,), graph(*given), strict=True
        ):
            apart = float((made - wanted).abs().max() / wanted.abs().max().clamp(min=1e-6))
            if made.shape != wanted.shape or not apart <= TOLERANCE:
                raise WeightsError(f"{file.name}: {name}: differs from the network's by {apart:.1e} of its largest")
            furthest = max(furthest, apart)
    return furthest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep to itself what the exporter says of packages that are not here and of its own old parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
