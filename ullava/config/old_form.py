"""Recipes in the form that u-LLaVA's own YAML has, read as ours (docs/training.md; its configs of 2024 and 2025).

Top-level keys ``model``, ``task``, ``processor``, ``dataset``, ``eval_dataset``, ``training``. The tree of one form is
turned into the tree of the other, node by node, so that every message still names the file and line that a person
wrote. ``ullava.config.old_model`` does the table ``model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ullava import resources
from ullava.config import nodes
from ullava.config.nodes import Node, Scalar
from ullava.config.old_model import OldModel, read_model, table
from ullava.errors import did_you_mean

TOP = ("model", "task", "processor", "dataset", "eval_dataset", "training")
TRAINS, EVALUATES = "image_text_pretrain", "image_text_evaluate"
TASK = ("type", "collator_type")
COLLATORS = (
    "base_collator",
    "image_collator",
    "video_collator",
    "image_video_collator",
    "segmentation_collator",
    "grounding_collator",
)
PROCESSORS: Mapping[str, tuple[str, ...]] = {
    "clip_image": ("path", "image_size", "aspect_ratio"),
    "video_train": ("n_frm", "image_size", "mean", "std", "min_scale", "max_scale"),
    "video_eval": ("n_frm", "image_size", "mean", "std", "min_scale", "max_scale"),
    "gif_train": ("n_frm", "image_size", "mean", "std", "min_scale", "max_scale"),
}
DRAWS_FRAMES = ("video_train", "gif_train")
"""Processors that draw half of a clip's frames from each half; ``video_eval`` takes them at equal steps."""
ENTRY = ("data_type", "image_token_len", "build_info", "vis_processor")
BUILD = ("anno_dir", "image_dir", "template_root", "portion")
DATA_TYPES = ("image", "gif", "video")
BUILDERS: Mapping[str, tuple[str, str]] = {
    **{name: (name, "train") for name in ("llava_cc3m", "llava_instruct", "llava_seg", "sqa", "tgif")},
    **{name: (name, "train") for name in ("refcoco", "refcoco+", "refcocog", "refclef")},
    **{f"{name}_{split}": (name, split) for name in ("refcoco", "refcoco+") for split in ("val", "testA", "testB")},
    **{f"refcocog_{split}": ("refcocog", split) for split in ("val", "test")},
    **{name: (name, "train") for name in ("ade20k", "cocostuff", "paco_lvis", "pascal_part", "msra_10k", "msra_b")},
    **{name: (name, "val") for name in ("dut_omron", "duts_te", "ecssd")},
}
"""What u-LLaVA calls a builder -> our dataset and its split."""
CHATTING = ("llava_cc3m", "llava_instruct", "llava_seg", "sqa", "tgif")

RENAMED = {"evaluation_strategy": "eval_strategy", "warmup_ratio": "warmup_steps"}
DROPPED = {
    "remove_unused_columns": "the collator's columns are all used",
    "cache_dir": "annotations are cached beside their files",
    "include_inputs_for_metrics": "the metrics read the answers",
    "model_max_length": "",
    "output_dir": "",
}


def is_old_form(root: Node) -> bool:
    """Say whether a recipe is written in u-LLaVA's form: ``model``, ``task`` or ``processor`` is a table there."""
    if not isinstance(root.value, dict):
        return False
    return any(isinstance(root.value[key].value, dict) for key in ("model", "task", "processor") if key in root.value)


def trains(root: Node) -> bool:
    """Say whether a document of the old form is for training (its task decides; without one, whether it has data)."""
    kind = _at(_at(root, "task"), "type")
    if kind is not None and kind.value in (TRAINS, EVALUATES):
        return kind.value == TRAINS
    return _at(root, "dataset") is not None


def explain(path: Path) -> list[str] | None:
    """Return what the translation of the file ``path`` changes or leaves out, in words; None for a file of our form."""
    root = nodes.parse(nodes.read_file(path), str(path), [])
    if not is_old_form(root):
        return None
    notes: list[str] = []
    translate(root, [], notes)
    return notes


def translate(root: Node, problems: list[str], notes: list[str] | None = None) -> Node:
    """Return the tree of a recipe in our form. ``problems`` gets what is wrong, ``notes`` what is different."""
    return _Translation(root, problems, [] if notes is None else notes).recipe()


class _Translation:
    """One document on its way. ``self.problems`` and ``self.notes`` fill up."""

    def __init__(self, root: Node, problems: list[str], notes: list[str]) -> None:
        self.root = root
        self.problems = problems
        self.notes = notes

    def recipe(self) -> Node:
        top = table(self.root, "", TOP, self.problems)
        training = table(top.get("training"), "training", None, self.problems)
        processors = self._processors(top.get("processor"))
        self._task(top.get("task"))
        if "model" not in top:
            self.problems.append(f"{self.root.where}: model: required key is missing")
            return Node(self.root.where, {})
        length = training.get("model_max_length")
        model = read_model(top["model"], processors, length, self.problems, self.notes)
        if not trains(self.root):
            return self._evaluation(top, model)
        made: dict[str, Node] = dict(model.keys)
        made["dataset"] = self._entries(top.get("dataset"), "dataset", model, processors)
        if "eval_dataset" in top:
            made["eval_dataset"] = self._entries(top["eval_dataset"], "eval_dataset", model, processors)
            made["eval_protocol"] = _node(top["eval_dataset"], "teacher_forced")
            self.notes.append("eval_protocol: teacher_forced, as u-LLaVA evaluates; one expression to a prompt")
        made["training"] = Node(self.root.where, self._training(training))
        if "output_dir" in training and training["output_dir"].value:
            made["output"] = training["output_dir"]
        return Node(self.root.where, made)

    def _evaluation(self, top: Mapping[str, Node], model: OldModel) -> Node:
        entries = top.get("eval_dataset", top.get("dataset"))
        made = {"model": model.keys["model"]} if "model" in model.keys else {}
        processors = self._processors(top.get("processor"), quiet=True)
        made["dataset"] = self._entries(entries, "eval_dataset", model, processors)
        made["protocol"] = Node(self.root.where, "teacher_forced")
        self.notes.append("protocol: teacher_forced, as u-LLaVA evaluates; one expression to a prompt")
        return Node(self.root.where, made)

    def _task(self, node: Node | None) -> None:
        found = table(node, "task", TASK, self.problems)
        for key, known in (("type", (TRAINS, EVALUATES)), ("collator_type", COLLATORS)):
            if key in found and found[key].value not in known:
                self._complain(found[key], f"task.{key}", f"'{found[key].value}' is unknown", known)
        if "collator_type" in found:
            self.notes.append("task.collator_type: one collator serves every mixture")

    def _processors(self, node: Node | None, quiet: bool = False) -> dict[str, dict[str, Node]]:
        problems = [] if quiet else self.problems
        found: dict[str, dict[str, Node]] = {}
        for name, child in table(node, "processor", tuple(PROCESSORS), problems).items():
            found[name] = table(child, f"processor.{name}", PROCESSORS.get(name, ()), problems)
        return found

    def _entries(
        self, node: Node | None, section: str, model: OldModel, processors: Mapping[str, Mapping[str, Node]]
    ) -> Node:
        made: dict[str, Node] = {}
        for name, child in table(node, section, None, self.problems).items():
            where = f"{section}.{name}"
            if name not in BUILDERS:
                self.problems.append(f"{child.where}: {where}: unknown dataset{did_you_mean(name, BUILDERS)}")
                continue
            fields = table(child, where, ENTRY, self.problems)
            self._token_len(fields.get("image_token_len"), where, model)
            for key, known in (("data_type", DATA_TYPES), ("vis_processor", tuple(processors))):
                if key in fields and fields[key].value not in known:
                    self._complain(fields[key], f"{where}.{key}", f"'{fields[key].value}' is unknown", known)
            entry = made[name] = self._entry(name, child, fields.get("build_info"), where, section == "dataset")
            drawn = fields.get("vis_processor")
            if drawn is not None and drawn.value in DRAWS_FRAMES and isinstance(entry.value, dict):
                entry.value["frames"] = _node(drawn, "head_tail")
                self.notes.append(f"{where}.vis_processor: frames are drawn as there, but not cropped at random")
        return Node(node.where if node is not None else self.root.where, made)

    def _token_len(self, node: Node | None, where: str, model: OldModel) -> None:
        if node is None or model.tokens is None or node.value == model.tokens:
            return
        self.problems.append(
            f"{node.where}: {where}.image_token_len: {node.value} is wrong; {model.tokens_why}, so it is {model.tokens}"
        )

    def _entry(self, name: str, node: Node, build: Node | None, where: str, training: bool) -> Node:
        fields = table(build, f"{where}.build_info", BUILD, self.problems)
        dataset, split = BUILDERS[name]
        made = {"dataset": _node(node, dataset), "split": _node(node, split)}
        if "anno_dir" not in fields:
            self.problems.append(f"{(build or node).where}: {where}.build_info.anno_dir: required key is missing")
        else:
            made["annotations"] = fields["anno_dir"]
            if "image_dir" in fields:
                made["images"] = fields["image_dir"]
        if fields.get("template_root") is not None and fields["template_root"].value is not None:
            if name in CHATTING:
                self.notes.append(f"{where}.build_info.template_root: not read; a conversation has its own questions")
            else:
                made["template"] = _template(fields["template_root"])
        share = fields.get("portion")
        if share is not None and isinstance(share.value, int | float):
            if share.value > 1:
                self.notes.append(f"{where}.build_info.portion: {share.raw} is 1, as it was in u-LLaVA")
            elif share.value < 1 and not training:
                self.problems.append(
                    f"{share.where}: {where}.build_info.portion: an evaluation is of all; in a recipe of our own "
                    "form 'limit' keeps the first records"
                )
            elif share.value < 1:
                made["portion"] = share
        return Node(node.where, made)

    def _training(self, fields: Mapping[str, Node]) -> dict[str, Node]:
        made: dict[str, Node] = {}
        for key, child in fields.items():
            if key in DROPPED:
                if DROPPED[key]:
                    self.notes.append(f"training.{key}: not needed: {DROPPED[key]}")
            elif key == "tf32" and child.value is False:
                continue
            else:
                made[RENAMED.get(key, key)] = child
        for old, new in RENAMED.items():
            if old in fields:
                self.notes.append(f"training.{old}: now {new}")
        if "warmup_ratio" in fields and "warmup_steps" in fields:
            self.problems.append(f"{fields['warmup_ratio'].where}: training.warmup_ratio: warmup_steps is there too")
        return made

    def _complain(self, node: Node, dotted: str, message: str, known: tuple[str, ...]) -> None:
        self.problems.append(f"{node.where}: {dotted}: {message}{did_you_mean(str(node.value), known)}")


def _at(node: Node | None, key: str) -> Node | None:
    return node.value.get(key) if node is not None and isinstance(node.value, dict) else None


def _node(place: Node, value: Scalar) -> Node:
    return Node(place.where, value, str(value))


def _template(node: Node) -> Node:
    """Return the template's path; one that is not here but carries the name of a template of ours is that one."""
    path = Path(str(node.value))
    own = resources.folder("datasets") / "templates" / path.name
    ours = not path.is_file() and path.parent.name == "templates" and own.is_file()
    return Node(node.where, path.name if ours else str(path), node.raw)
