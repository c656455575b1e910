"""What a run leaves at its end: the model for ``ullava.load`` and, of a LoRA run, the adapter folder beside it."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Any, cast

import torch

from ullava.atomic_write import whole_folder
from ullava.modeling.construction.auto import load_unmerged_folder
from ullava.modeling.loading.adapters import LORA_MARK
from ullava.training.distributed.sharding import is_sharded, whole_state
from ullava.training.loop.init import Start
from ullava.training.optim.base_dtype import is_mixed
from ullava.training.optim.lora import HEADS, is_adapter, load_adapter, merge_adapter, save_adapter
from ullava.training.reporting.folder import RunFolder


def save_run(trainer: Any, start: Start, folder: RunFolder) -> None:
    """Write ``model/`` and, with adapters, ``adapter/``. Every process has to call this; the first one writes.

    Each is there whole or not at all, and what was there before stays until then.
    """
    state = whole_state(trainer)
    if not trainer.is_world_process_zero():
        return
    if start.adapters is None:
        save_model(start.model, start.processor, folder.model, state)
        return
    plan = trainer.plan
    trained = set(plan.trainable)
    if start.fresh_heads:
        trained |= {name for name in state if name.startswith(HEADS)}
    if start.source is not None and is_mixed(start.model):
        state = _unrounded(start, state, trained)
    with whole_folder(folder.adapter) as draft:
        save_adapter(
            draft,
            model=start.model,
            processor=start.processor,
            adapters=start.adapters,
            state=state,
            base=start.base.resolve() if start.base is not None else None,
            trained=trained,
            row_tables=plan.row_tables,
            row_ids=plan.row_ids,
        )
    if is_sharded(start.model) or trainer.is_deepspeed_enabled or is_mixed(start.model):
        if trainer.is_deepspeed_enabled:
            from transformers.integrations.deepspeed import unset_hf_deepspeed_config

            unset_hf_deepspeed_config()  # else the model that is built here would be partitioned as well
        merged, _ = merge_adapter(folder.adapter)
        save_model(merged, start.processor, folder.model)
    else:
        start.adapters.merge_and_unload()
        save_model(start.model, start.processor, folder.model)


def _unrounded(start: Start, state: Mapping[str, torch.Tensor], trained: Set[str]) -> dict[str, torch.Tensor]:
    """``state`` with every weight that did not train as it was read: a run without a base saves those too."""
    source = cast(Path, start.source)
    model, _, _ = load_adapter(source) if is_adapter(source) else load_unmerged_folder(source)
    before = {name: value for name, value in model.state_dict().items() if LORA_MARK not in name}
    own = {name for name, _ in (*start.model.named_parameters(), *start.model.named_buffers())}
    kept = {name: value for name, value in state.items() if name in before or name in own}  # no scales of fewer bits
    return kept | {name: value for name, value in before.items() if name in kept and name not in trained}


def save_model(model: Any, processor: Any, folder: Path, state: Mapping[str, torch.Tensor] | None = None) -> None:
    """Write weights and processor to a temporary folder, then put it in the place of ``folder``."""
    with whole_folder(folder) as draft:
        model.save_pretrained(str(draft), state_dict=None if state is None else dict(state))
        processor.save_pretrained(str(draft))
