"""``compat: ullava_v1``: one key for all in which u-LLaVA's first release differs from ours (docs/released_weights.md).

It stands in a model.yaml, in ``reinit_heads`` of a training recipe, or in a recipe. Before the tree becomes a
dataclass, the keys that the switch stands for are written into it, so that nothing else has to know of the switch. A
key that is there keeps its value, but for ``frames``: u-LLaVA has its own of each of our ways. A recipe's switch covers
what the recipe spells out itself (``system``, ``reinit_heads``); a model that it names has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ullava.config.nodes import Node, Scalar
from ullava.config.schema import EvalRecipe, HeadsConfig, ModelConfig, TrainRecipe

KEY, VALUE = "compat", "ullava_v1"

WORDS: Mapping[str, Scalar] = {"text.as_released": True, "text.answer": "name_last"}
REGRESSED: Mapping[str, Scalar] = {"box.frame": "padsq", "box.sigmoid": False}
"""Of a box head that regresses, the only kind that u-LLaVA has."""
MODEL: Mapping[str, Scalar] = {"marker_gradient_only": True}
LOSS: Mapping[str, Scalar] = {"loss.box_divide_twice": True}
EVALUATION: Mapping[str, Scalar] = {"counting": "as_released"}
FOREGROUND = "white"
FRAMES: Mapping[Scalar, str] = {
    None: "original_uniform",
    "uniform": "original_uniform",
    "head_tail": "original_head_tail",
}
"""``frames`` of a data set's entry -> u-LLaVA's way of the same."""

DEFECTS: Mapping[type[Any], Sequence[tuple[str, Scalar]]] = {
    ModelConfig: (("marker_gradient_only", True), ("text.as_released", True)),
    TrainRecipe: (("loss.box_divide_twice", True), ("system.marker_gradient_only", True)),
    EvalRecipe: (("counting", "as_released"),),
}
"""Keys that only make sense together, by the file that they stand in: they are taken, and the switch is named."""


def expand(cls: type[Any], root: Node) -> Node:
    """Return the tree with the keys that its switch stands for; the same tree where it has none.

    ``cls`` is what the tree will be. A switch of another value is left for the loader to refuse.
    """
    write = _WRITERS.get(cls)
    switch = _at(root, KEY)
    if cls is TrainRecipe and isinstance(root.value, dict):
        passed = {KEY: switch} if _is_on(switch) and switch is not None else {}
        for key, inner in (("system", ModelConfig), ("reinit_heads", HeadsConfig)):
            child = root.value.get(key)
            if child is not None and isinstance(child.value, dict):
                own = Node(child.where, {**passed, **child.value})
                root = Node(root.where, {**_table(root), key: expand(inner, own)})
    if write is None or switch is None or not _is_on(switch):
        return root
    return write(root, switch)


def single_keys(cls: type[Any], root: Node) -> list[str]:
    """Return a line for each key of the tree that reproduces one defect of u-LLaVA's, where the switch is not there."""
    if _at(root, KEY) is not None:
        return []
    found = []
    for dotted, value in DEFECTS.get(cls, ()):
        node: Node | None = root
        for key in dotted.split("."):
            node = _at(node, key)
        if node is not None and node.value == value:
            found.append(f"{node.where}: {dotted}: one of u-LLaVA's old ways; {KEY}: {VALUE} brings them all")
    return found


def _model(root: Node, switch: Node) -> Node:
    return _heads(_with(root, switch, MODEL), switch)


def _heads(root: Node, switch: Node) -> Node:
    kind = _at(_at(root, "box"), "kind")
    regresses = kind is None or kind.value == "regression"
    return _with(root, switch, {**WORDS, **(REGRESSED if regresses else {})})


def _training(root: Node, switch: Node) -> Node:
    """A recipe without a table ``loss`` goes on with the weights of ``init`` (ullava.training.loop.init)."""
    loss = _at(root, "loss")
    root = _with(root, switch, LOSS) if loss is not None and loss.value is not None else root
    return _entries(_entries(root, "dataset", switch), "eval_dataset", switch)


def _evaluation(root: Node, switch: Node) -> Node:
    return _entries(_with(root, switch, EVALUATION), "dataset", switch)


_WRITERS: Mapping[type[Any], Callable[[Node, Node], Node]] = {
    ModelConfig: _model,
    HeadsConfig: _heads,
    TrainRecipe: _training,
    EvalRecipe: _evaluation,
}


def _entries(root: Node, section: str, switch: Node) -> Node:
    """Let the data sets of a section be read as u-LLaVA reads them."""
    table = _at(root, section)
    if table is None or not isinstance(table.value, dict):
        return root
    made = {}
    for name, entry in table.value.items():
        if isinstance(entry.value, dict):
            frames = entry.value.get("frames")
            asked = frames.value if frames is not None and not isinstance(frames.value, dict | list) else None
            own = {"foreground": _node(switch, FOREGROUND), **entry.value}
            if asked in FRAMES:
                own["frames"] = _node(switch, FRAMES[asked])
            entry = Node(entry.where, own)
        made[name] = entry
    return Node(root.where, {**_table(root), section: Node(table.where, made)})


def _with(root: Node, switch: Node, values: Mapping[str, Scalar]) -> Node:
    """Write ``values`` (by dotted key) where the tree has nothing."""
    for dotted, value in values.items():
        root = _filled(root, switch, dotted.split("."), value)
    return root


def _filled(node: Node, switch: Node, path: Sequence[str], value: Scalar) -> Node:
    if not isinstance(node.value, dict):
        return node  # the loader says what is wrong with it
    first, *rest = path
    there = node.value.get(first)
    if rest:
        inner = there if there is not None else Node(switch.where, {})
        return Node(node.where, {**node.value, first: _filled(inner, switch, rest, value)})
    return node if there is not None else Node(node.where, {**node.value, first: _node(switch, value)})


def _node(place: Node, value: Scalar) -> Node:
    return Node(place.where, value, str(value))


def _is_on(switch: Node | None) -> bool:
    return switch is not None and switch.value == VALUE


def _at(node: Node | None, key: str) -> Node | None:
    return node.value.get(key) if node is not None and isinstance(node.value, dict) else None


def _table(node: Node) -> dict[str, Node]:
    return node.value if isinstance(node.value, dict) else {}
