"""Graphs on a disk: the folder that holds them, and onnxruntime's sessions that run them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ullava.errors import UserError, WeightsError
from ullava.modeling.loading.weight_files import read_table, short_reason

NOTE_FILE = "graphs.json"
FOLDER = "graphs"
FORM = 1
PARTS = ("tower", "projector", "words", "language", "language_head", "mask_encoder", "mask_decoder", "box")
"""The graphs of a model, in the order in which an answer runs them."""


def holds_graphs(folder: Path) -> bool:
    """Whether ``folder`` was written by ``ullava convert onnx``."""
    return (folder / NOTE_FILE).is_file()


def onnxruntime() -> Any:
    """The package that runs graphs. Raises UserError where it is not installed."""
    try:
        import onnxruntime as package
    except ImportError as error:
        raise UserError("graphs are run by the package onnxruntime: pip install 'ullava[onnx]'") from error
    return package


class Graph:
    """One graph, ready to run on a CPU with as many threads as torch uses.

    ``inputs`` and ``outputs``: their names in order. Raises UserError without onnxruntime, WeightsError for a file that
    is missing, damaged or has others.
    """

    def __init__(self, file: Path, inputs: tuple[str, ...], outputs: tuple[str, ...]) -> None:
        package = onnxruntime()
        self.file, self.inputs, self.outputs = file, inputs, outputs
        if not file.is_file():
            raise WeightsError(f"{file}: is missing")
        options = package.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = package.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own classes have no base but this
            raise WeightsError(f"{file}: cannot be read: {short_reason(error)}") from error
        found = {kind: tuple(port.name for port in ports) for kind, ports in self._ports().items()}
        for kind, wanted in (("inputs", inputs), ("outputs", outputs)):
            if found[kind] != wanted:
                raise WeightsError(f"{file}: {kind}: {', '.join(found[kind])}; {NOTE_FILE} says {', '.join(wanted)}")

    def _ports(self) -> dict[str, Any]:
        return {"inputs": self._session.get_inputs(), "outputs": self._session.get_outputs()}

    def sizes(self, name: str) -> tuple[int | None, ...]:
        """How long the axes of an input are; None where one is open."""
        (found,) = [port.shape for port in self._session.get_inputs() if port.name == name]
        return tuple(axis if isinstance(axis, int) else None for axis in found)

    def __call__(self, *given: Tensor) -> list[Tensor]:
        """Run on tensors in the order of ``inputs``: tensors on a CPU in the order of ``outputs``, without gradient."""
        arrays = {name: value.detach().numpy() for name, value in zip(self.inputs, given, strict=True)}
        try:
            made = self._session.run(None, arrays)
        except Exception as error:  # as above
            raise WeightsError(f"{self.file}: does not fit the model beside it: {short_reason(error)}") from error
        return [torch.from_numpy(array) for array in made]


def read_graphs(folder: Path) -> dict[str, Graph]:
    """Open the graphs of a folder, by the names of ``PARTS``.

    Raises UserError where ``folder`` has none, WeightsError for a note or a graph that is damaged, and as ``Graph``.
    """
    if not holds_graphs(folder):
        raise UserError(f"{folder}: holds no graphs; write some: ullava convert onnx --from {folder} --out FOLDER")
    onnxruntime()
    file = folder / NOTE_FILE
    table = read_table(file)
    noted = table.get("graphs")
    if table.get("form") != FORM or not isinstance(noted, Mapping) or set(noted) != set(PARTS):
        raise WeightsError(f"{file}: expected form {FORM} and graphs {', '.join(PARTS)}")
    problems = [f"{file}: graphs.{name}: expected inputs and outputs" for name in PARTS if not _is_noted(noted[name])]
    if problems:
        raise WeightsError(problems)
    return {
        name: Graph(graph_file(folder, name), tuple(noted[name]["inputs"]), tuple(noted[name]["outputs"]))
        for name in PARTS
    }


def _is_noted(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("inputs"), Mapping):
        return False
    outputs = entry.get("outputs")
    return isinstance(outputs, list) and all(isinstance(name, str) for name in outputs)


def graph_file(folder: Path, name: str) -> Path:
    """Where a graph lies in its folder; its weights lie beside it."""
    return folder / FOLDER / f"{name}.onnx"
