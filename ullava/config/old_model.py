"""The table ``model`` of u-LLaVA's own YAML: which weights, which heads, which stage (docs/training.md).

No weights are opened; of a folder only ``config.json`` is read, to tell what it is and how many visual tokens it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ullava import resources
from ullava.config.nodes import Node, Scalar
from ullava.errors import UserError, did_you_mean
from ullava.geometry.patches import patch_grid_side

CORE, GROUND = "ullava_core", "ullava"
KEYS: Mapping[str, tuple[str, ...]] = {
    CORE: (
        "arch", "llm_path", "vision_encoder", "projector_type", "vision_hidden_layer", "projector_from_scratch",
        "conv_type",
    ),
    GROUND: (
        "arch", "llm_path", "sam_pretrained", "conv_type", "lora_r", "lora_alpha", "lora_dropout",
        "lora_target_modules", "train_mask_decoder", "out_dim", "ce_loss_weight", "bce_loss_weight",
        "dice_loss_weight", "l1_loss_weight", "iou_loss_weight", "image_size", "grounding_path",
    ),
}  # fmt: skip
TEMPLATES = {"conv_simple": "simple", "conv_sep2": "vicuna_v1", "conv_llama2": "llama2"}
PROJECTORS = {"mlp": "linear", "mlp2x": "mlp2x"}
ASPECTS = {"pad": "pad"}
LOSSES = {
    "ce_loss_weight": "ce",
    "bce_loss_weight": "bce",
    "dice_loss_weight": "dice",
    "l1_loss_weight": "l1",
    "iou_loss_weight": "giou",
}
SYSTEM_WORDS = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
"""The public sentence of Vicuna 1.1 that ``conv_sep2`` begins with."""
NO_HEADS: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 32, "output_channels": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8, "mlp_dim": 48, "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 16,
    },
    "prompt_encoder_config": {"hidden_size": 32, "image_size": 32, "patch_size": 8},
    "mask_decoder_config": {"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 2, "iou_head_hidden_dim": 32},
}  # fmt: skip
"""Stage I has no masks. Our model always has a mask head; this one is as small as it gets, and stage II replaces it."""
STAGE_KEY = "trained_stage"
CLIP_SIDE, CLIP_PATCH = 224, 32
"""What transformers takes where a CLIP config does not say."""


@dataclass
class OldModel:
    """``keys`` are the keys of a recipe of ours; ``tokens`` an image gives, and why; None where nobody can tell."""

    keys: dict[str, Node] = field(default_factory=dict)
    tokens: int | None = None
    tokens_why: str = ""


def table(node: Node | None, dotted: str, known: Iterable[str] | None, problems: list[str]) -> dict[str, Node]:
    """Return the children of a mapping; a key that is not ``known`` (if any) or a node of another kind is a problem."""
    if node is None or node.value is None:
        return {}
    if not isinstance(node.value, dict):
        problems.append(f"{node.where}: {dotted or 'document'}: expected keys with values")
        return {}
    names = None if known is None else list(known)
    made = {}
    for key, child in node.value.items():
        if names is not None and key not in names:
            inner = f"{dotted}.{key}" if dotted else key
            problems.append(f"{child.where}: {inner}: unknown key{did_you_mean(key, names)}")
        else:
            made[key] = child
    return made


def read_model(
    node: Node,
    processors: Mapping[str, Mapping[str, Node]],
    max_length: Node | None,
    problems: list[str],
    notes: list[str],
) -> OldModel:
    """Translate ``model``. ``processors`` give the view, ``max_length`` is ``training.model_max_length``."""
    return _Model(node, processors, max_length, problems, notes).read()


class _Model:
    def __init__(
        self,
        node: Node,
        processors: Mapping[str, Mapping[str, Node]],
        max_length: Node | None,
        problems: list[str],
        notes: list[str],
    ) -> None:
        self.node = node
        self.problems = problems
        self.notes = notes
        self.max_length = max_length
        self.processors = processors
        self.made = OldModel()
        arch = node.value.get("arch") if isinstance(node.value, dict) else None
        self.arch = str(arch.value) if arch is not None else GROUND
        if self.arch not in KEYS:
            self._complain(arch or node, "arch", f"'{self.arch}' is unknown{did_you_mean(self.arch, KEYS)}")
        self.fields = table(node, "model", KEYS.get(self.arch), problems)

    def read(self) -> OldModel:
        source = self.fields.get("llm_path")
        if self.arch not in KEYS:
            return self.made
        if source is None or not isinstance(source.value, str):
            self._complain(source or self.node, "llm_path", "names no folder")
            return self.made
        kind, config = self._look(source)
        if kind == "ours":
            self._from_ours(source, config)
        elif kind == "language" and self.arch == CORE:
            self._core(source)
        elif kind == "language":
            self._complain(source, "llm_path", f"{source.value} is a language model; arch ullava starts from stage I")
        self._stage()
        self._sizes(config if kind == "ours" else {})
        return self.made

    # ------------------------------------------------------------ what llm_path is
    def _look(self, source: Node) -> tuple[str, dict[str, Any]]:
        path = Path(str(source.value))
        if (path / "config.json").is_file():
            config = _json(path / "config.json")
            if config.get("model_type") not in (CORE, GROUND):
                return "language", config
            if "text_config" in config:
                return "ours", config
            self._complain(
                source,
                "llm_path",
                f"{path} holds weights as they were released; turn them into ours once: "
                f"ullava convert ullava --from {path} --out FOLDER",
            )
            return "nothing", {}
        try:
            found = resources.find("models", str(source.value))
        except UserError:
            self._complain(source, "llm_path", f"no config.json in {path}, and no model of that name")
            return "nothing", {}
        weights = found.parent / "weights" / "config.json"
        if weights.is_file():
            return "ours", _json(weights)
        self._complain(source, "llm_path", f"the model {source.value} has no weights to start from")
        return "nothing", {}

    # ------------------------------------------------------------ the two stages
    def _core(self, source: Node) -> None:
        """Stage I from a language model and a tower."""
        tower = self.fields.get("vision_encoder")
        if tower is None or not (Path(str(tower.value)) / "config.json").is_file():
            self._complain(tower or self.node, "vision_encoder", "no folder with a config.json of a CLIP tower")
            return
        config = _json(Path(str(tower.value)) / "config.json")
        self._count(config.get("vision_config", config), 1, str(tower.value))
        vision = {
            "tower": _tree(tower, {"path": str(tower.value)}),
            "vision_feature_layer": self.fields.get("vision_hidden_layer", _tree(self.node, -1)),
            "projector": self._one_of("projector_type", PROJECTORS, "mlp"),
            "image_aspect_ratio": self._aspect(),
        }
        frames = self._frames()
        if frames is not None:
            vision["video_frames"] = frames
        system = {
            "name": _tree(source, Path(str(source.value)).name),
            "language": _tree(source, {"path": str(source.value)}),
            "tokenizer": source,
            "vision": Node(self.node.where, dict(vision)),
            "mask": _tree(self.node, {"sam": {"config": NO_HEADS}}),
            "box": _tree(self.node, {"width": 32}),
            "text": self._text("conv_simple"),
        }
        self.made.keys |= {
            "model": source,
            "system": Node(self.node.where, dict(system)),
            "init": _tree(source, "scratch"),
        }

    def _from_ours(self, source: Node, config: dict[str, Any]) -> None:
        self.made.keys |= {"model": source, "init": source}
        path = str(source.value)
        self._count(config.get("vision_config", {}), int(config.get("spatial_merge_size", 1)), path)
        if self.arch == CORE:
            self.notes.append(f"model: goes on from {path}, whose tower, view and conversation stay")
            return
        if config.get(STAGE_KEY) != "align":
            self.notes.append(f"model: {path} has its own heads, view and conversation; sam_pretrained is not read")
            return
        sam = self._sam()
        if sam is None:
            return
        heads = {
            "mask": _tree(sam, {"sam": {"path": str(sam.value)}}),
            "box": _tree(self.node, {"frame": "padsq", "sigmoid": False}),
            "image_aspect_ratio": self._aspect(),
            "text": self._text("conv_sep2"),
        }
        self.made.keys["reinit_heads"] = Node(self.node.where, dict(heads))

    def _sam(self) -> Node | None:
        """Return the folder of the converted SAM: what is named, or what lies beside a ``.pth`` under its name."""
        node = self.fields.get("sam_pretrained")
        if node is None or not isinstance(node.value, str):
            self._complain(node or self.node, "sam_pretrained", "names no SAM, and stage I has none")
            return None
        path = Path(node.value)
        folder = path.with_suffix("") if path.suffix in (".pth", ".pt", ".bin") else path
        if (folder / "config.json").is_file():
            width = _json(folder / "config.json").get("prompt_encoder_config", {}).get("hidden_size", 256)
            wanted = self.fields.get("out_dim")
            if wanted is not None and wanted.value != width:
                self._complain(wanted, "out_dim", f"{wanted.value} is wrong; the prompts of {folder} are {width} wide")
            return Node(node.where, str(folder), str(folder))
        reason = f"no converted SAM in {folder}; make it once: ullava convert sam --from {path} --out {folder}"
        self._complain(node, "sam_pretrained", reason)
        return None

    def _stage(self) -> None:
        """Set ``stage``, ``parts``, ``lora`` and ``loss`` (the released training scripts)."""
        keys = self.made.keys
        if self.arch == CORE:
            scratch = self.fields.get("projector_from_scratch")
            aligned = scratch is None or scratch.value is True
            keys["stage"] = _tree(scratch or self.node, "align" if aligned else "ground")
            if not aligned:
                off = ("SAM mask decoder", "mask projector", "box head")
                keys["parts"] = _tree(self.node, dict.fromkeys(off, False))
            return
        keys["stage"] = _tree(self.node, "ground")
        rank = self.fields.get("lora_r")
        if rank is not None and not isinstance(rank.value, int):
            self._complain(rank, "lora_r", f"expected a whole number, got '{rank.value}'")
        elif rank is not None and isinstance(rank.value, int) and rank.value > 0:
            keys["lora"] = self._lora(rank)
            keys["parts"] = _tree(rank, {"vision projector": False, "language head": True})
        weights = {ours: self.fields[theirs] for theirs, ours in LOSSES.items() if theirs in self.fields}
        if weights:
            keys["loss"] = Node(self.node.where, dict(weights))
        decoder = self.fields.get("train_mask_decoder")
        if decoder is not None and decoder.value is False:
            self.notes.append("model.train_mask_decoder: false had no effect in u-LLaVA and has none here: it trains")

    def _lora(self, rank: Node) -> Node:
        made = {"r": rank}
        for theirs, ours in (("lora_alpha", "alpha"), ("lora_dropout", "dropout")):
            if theirs in self.fields:
                made[ours] = self.fields[theirs]
        names = self.fields.get("lora_target_modules")
        if names is not None:
            words = [word.strip() for word in str(names.value).split(",") if word.strip()]
            made["target"] = _tree(names, words)
        return Node(rank.where, dict(made))

    # ------------------------------------------------------------ view, words, counts
    def _aspect(self) -> Node:
        ratio = self.processors.get("clip_image", {}).get("aspect_ratio")
        if ratio is None or ratio.value is None:
            return _tree(self.node, "crop")
        if ratio.value not in ASPECTS:
            known = did_you_mean(str(ratio.value), ASPECTS)
            self.problems.append(f"{ratio.where}: processor.clip_image.aspect_ratio: '{ratio.value}' is unknown{known}")
        return _tree(ratio, "pad")

    def _frames(self) -> Node | None:
        found = [
            fields["n_frm"] for name, fields in self.processors.items() if name != "clip_image" and "n_frm" in fields
        ]
        return found[0] if found else None

    def _text(self, default: str) -> Node:
        template = self._one_of("conv_type", TEMPLATES, default)
        words = {"template": template}
        if template.value == "vicuna_v1":
            words["system"] = _tree(self.node, SYSTEM_WORDS)
        if self.max_length is not None:
            words["max_length"] = self.max_length
        return Node(template.where, dict(words))

    def _one_of(self, key: str, known: Mapping[str, str], default: str) -> Node:
        node = self.fields.get(key)
        value = default if node is None else str(node.value)
        if value not in known:
            self._complain(node or self.node, key, f"'{value}' is unknown{did_you_mean(value, known)}")
            value = default
        return _tree(node or self.node, known[value])

    def _count(self, vision: Mapping[str, Any], spatial_merge_size: int, name: str) -> None:
        side, patch = int(vision.get("image_size", CLIP_SIDE)), int(vision.get("patch_size", CLIP_PATCH))
        self.made.tokens = patch_grid_side(side, patch, spatial_merge_size) ** 2
        joined = f", {spatial_merge_size} x {spatial_merge_size} of them joined" if spatial_merge_size > 1 else ""
        self.made.tokens_why = f"{name} sees {side} x {side} pixels in patches of {patch}{joined}"
        size = self.processors.get("clip_image", {}).get("image_size")
        if size is not None and size.value != side:
            self.notes.append(f"processor.clip_image.image_size: {size.value} is not read (it never was); it is {side}")

    def _sizes(self, config: Mapping[str, Any]) -> None:
        """Hold ``n_frm`` against the frames that an existing model was made for."""
        frames = self._frames()
        trained = config.get("video_frames")
        if frames is not None and trained is not None and frames.value != trained:
            self.problems.append(f"{frames.where}: processor: n_frm {frames.value} is wrong; the model sees {trained}")
        if "grounding_path" in self.fields:
            self.notes.append("model.grounding_path: not read; a box head on GroundingDINO is part of a model.yaml")
        if "image_size" in self.fields:
            self.notes.append("model.image_size: not read (it never was); SAM's own config says it")

    def _complain(self, node: Node, key: str, message: str) -> None:
        self.problems.append(f"{node.where}: model.{key}: {message}")


def _tree(place: Node, value: Any) -> Node:
    """Return plain values as nodes that are all said to stand where ``place`` does."""
    if isinstance(value, Mapping):
        return Node(place.where, {key: _tree(place, child) for key, child in value.items()})
    if isinstance(value, list):
        return Node(place.where, [_tree(place, child) for child in value])
    scalar: Scalar = value
    return Node(place.where, scalar, str(value))


def _json(path: Path) -> dict[str, Any]:
    """Read a JSON object. Raises UserError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable JSON object ({error})") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: not a JSON object")
    return content
