"""Which dataclass a YAML file of the project is written for, told from its name and its keys."""

from __future__ import annotations

from pathlib import Path

from ullava.config import nodes, old_form
from ullava.config.comparison import CompareRecipe
from ullava.config.load import EXTENDS
from ullava.config.schema import DatasetConfig, EvalRecipe, ModelConfig, TrainRecipe

AnyConfig = type[ModelConfig] | type[DatasetConfig] | type[TrainRecipe] | type[EvalRecipe] | type[CompareRecipe]

# Settings of a launcher (DeepSpeed, accelerate) are read by that launcher, not by us.
LAUNCHER_FOLDERS = ("deepspeed", "accelerate")


def config_class(path: Path) -> AnyConfig | None:
    """Return the dataclass that ``load_config`` should read ``path`` into; None for the settings of a launcher.

    A recipe in u-LLaVA's form does what its task says. One of ours that names a ``stage`` (itself or in the file that
    it extends) trains, one that names ``contenders`` compares; any other evaluates.

    Raises:
        ConfigError: the file is missing or is not YAML.
    """
    if path.parent.name in LAUNCHER_FOLDERS:
        return None
    if path.name == "model.yaml":
        return ModelConfig
    if path.name == "dataset.yaml":
        return DatasetConfig
    root = nodes.parse(nodes.read_file(path), str(path), [])
    if old_form.is_old_form(root):
        return TrainRecipe if old_form.trains(root) else EvalRecipe
    keys = _top_keys(path)
    if "contenders" in keys:
        return CompareRecipe
    return TrainRecipe if keys & {"stage", "training", "loss", "lora"} else EvalRecipe


def _top_keys(path: Path, follow: bool = True) -> set[str]:
    root = nodes.parse(nodes.read_file(path), str(path), [])
    if not isinstance(root.value, dict):
        return set()
    keys = set(root.value)
    link = root.value.get(EXTENDS)
    if follow and link is not None and isinstance(link.value, str) and (path.parent / link.value).is_file():
        keys |= _top_keys(path.parent / link.value, follow=False)
    return keys
