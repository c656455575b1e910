"""Graphs on a disk: the folder that holds them, and the sessions of onnxruntime or OpenVINO that run them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
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


class Session(Protocol):
    """One graph in the hands of what runs it, on a CPU, in as many threads as torch uses.

    ``inputs``, ``outputs``: its names, in order.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def sizes(self, name: str) -> tuple[int | None, ...]:
        """How long the axes of an input are; None where one is open."""
        ...

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """Arrays in the order of ``inputs`` -> those of ``outputs``."""
        ...


def onnxruntime() -> Any:
    """The package that runs graphs. Raises UserError where it is not installed."""
    try:
        import onnxruntime as package
    except ImportError as error:
        raise UserError("graphs are run by the package onnxruntime: pip install 'ullava[onnx]'") from error
    return package


def openvino() -> Any:
    """The other package that runs graphs. Raises UserError where it is not installed."""
    try:
        import openvino as package
    except ImportError as error:
        raise UserError("runtime openvino needs its package: pip install 'ullava[openvino]'") from error
    return package


class OnnxSession:
    """A graph run by onnxruntime; see Session."""

    def __init__(self, file: Path) -> None:
        package = onnxruntime()
        options = package.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self._session = package.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(port.name for port in self._session.get_inputs())
        self.outputs = tuple(port.name for port in self._session.get_outputs())

    def sizes(self, name: str) -> tuple[int | None, ...]:
        """See Session."""
        (found,) = [port.shape for port in self._session.get_inputs() if port.name == name]
        return tuple(axis if isinstance(axis, int) else None for axis in found)

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See Session."""
        made: list[NDArray[Any]] = self._session.run(None, dict(zip(self.inputs, arrays, strict=True)))
        return made


class OpenVinoSession:
    """A graph run by OpenVINO, in float32 like the file, whatever the processor would rather have; see Session."""

    def __init__(self, file: Path) -> None:
        settings = {
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "INFERENCE_PRECISION_HINT": "f32",
            "KV_CACHE_PRECISION": "f32",
        }
        self._model = openvino().Core().compile_model(str(file), "CPU", settings)
        self.inputs = tuple(port.any_name for port in self._model.inputs)
        self.outputs = tuple(port.any_name for port in self._model.outputs)

    def sizes(self, name: str) -> tuple[int | None, ...]:
        """See Session."""
        axes = self._model.input(name).partial_shape
        return tuple(axis.get_length() if axis.is_static else None for axis in axes)

    def run(self, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """See Session. Raises ValueError for a shape that the graph does not take: OpenVINO computes something then."""
        for port, array in zip(self._model.inputs, arrays, strict=True):
            if not port.partial_shape.compatible(openvino().PartialShape(list(array.shape))):
                raise ValueError(f"{port.any_name}: expected {port.partial_shape}, not {list(array.shape)}")
        made = self._model(list(arrays), share_inputs=False, share_outputs=False)
        return [made[port] for port in self._model.outputs]


SESSIONS: Mapping[str, tuple[Callable[[], Any], Callable[[Path], Session]]] = {
    "onnx": (onnxruntime, OnnxSession),
    "openvino": (openvino, OpenVinoSession),
}
"""By runtime: what brings its package, and what opens a graph with it."""


class Graph:
    """One graph, ready to run on a CPU.

    ``inputs`` and ``outputs``: their names in order. Raises UserError without the package of ``runtime``, WeightsError
    for a file that is missing, damaged or has others.
    """

    def __init__(self, file: Path, inputs: tuple[str, ...], outputs: tuple[str, ...], runtime: str = "onnx") -> None:
        package, open_session = SESSIONS[runtime]
        package()
        self.file, self.inputs, self.outputs = file, inputs, outputs
        if not file.is_file():
            raise WeightsError(f"{file}: is missing")
        try:
            self._session = open_session(file)
        except Exception as error:  # the classes of these packages have no base but this
            raise WeightsError(f"{file}: cannot be read: {short_reason(error)}") from error
        found = {"inputs": self._session.inputs, "outputs": self._session.outputs}
        for kind, wanted in (("inputs", inputs), ("outputs", outputs)):
            if found[kind] != wanted:
                raise WeightsError(f"{file}: {kind}: {', '.join(found[kind])}; {NOTE_FILE} says {', '.join(wanted)}")

    def sizes(self, name: str) -> tuple[int | None, ...]:
        """How long the axes of an input are; None where one is open."""
        return self._session.sizes(name)

    def __call__(self, *given: Tensor) -> list[Tensor]:
        """Run on tensors in the order of ``inputs``: tensors on a CPU in the order of ``outputs``, without gradient."""
        arrays = [value.detach().numpy() for _, value in zip(self.inputs, given, strict=True)]
        try:
            made = self._session.run(arrays)
        except Exception as error:  # as above
            raise WeightsError(f"{self.file}: does not fit the model beside it: {short_reason(error)}") from error
        return [torch.from_numpy(array) for array in made]


def read_graphs(folder: Path, runtime: str = "onnx") -> dict[str, Graph]:
    """Open the graphs of a folder, by the names of ``PARTS``, with the package of ``runtime``.

    Raises UserError where ``folder`` has none, WeightsError for a note or a graph that is damaged, and as ``Graph``.
    """
    if not holds_graphs(folder):
        raise UserError(f"{folder}: holds no graphs; write some: ullava convert onnx --from {folder} --out FOLDER")
    SESSIONS[runtime][0]()
    file = folder / NOTE_FILE
    table = read_table(file)
    noted = table.get("graphs")
    if table.get("form") != FORM or not isinstance(noted, Mapping) or set(noted) != set(PARTS):
        raise WeightsError(f"{file}: expected form {FORM} and graphs {', '.join(PARTS)}")
    problems = [f"{file}: graphs.{name}: expected inputs and outputs" for name in PARTS if not _is_noted(noted[name])]
    if problems:
        raise WeightsError(problems)
    return {
        name: Graph(graph_file(folder, name), tuple(noted[name]["inputs"]), tuple(noted[name]["outputs"]), runtime)
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
