"""Low-rank adapters on the language model alone. Heads, projectors and the special-token rows stay trainable."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from ullava.config.schema import LoraConfig
from ullava.errors import ConfigError, did_you_mean


def attach_adapters(language_model: nn.Module, config: LoraConfig, where: str) -> Any:
    """Put adapters into the linear layers that ``config.target`` names; return peft's handle on them.

    The layers are replaced in place, so the model around ``language_model`` needs no wrapper and keeps its class.
    Raises ConfigError (at ``where``) for a target that no linear layer is called.
    """
    import peft

    linear = {name.rsplit(".", 1)[-1] for name, part in language_model.named_modules() if isinstance(part, nn.Linear)}
    problems = [
        f"{where}: lora.target: no linear layer is called '{name}'{did_you_mean(name, linear)}"
        for name in config.target
        if name not in linear
    ]
    if config.r < 1:
        problems.append(f"{where}: lora.r: has to be at least 1, not {config.r}")
    if not config.target:
        problems.append(f"{where}: lora.target: names no layer")
    if problems:
        raise ConfigError(problems)
    settings = peft.LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,
        lora_dropout=config.dropout,
        target_modules=list(config.target),
        bias="none",
    )
    return peft.get_peft_model(language_model, settings)


def save_and_merge(adapters: Any, folder: Path) -> None:
    """Write the adapters alone to ``folder``, then fold them into the language model, which is plain again."""
    adapters.save_pretrained(str(folder))
    adapters.merge_and_unload()
