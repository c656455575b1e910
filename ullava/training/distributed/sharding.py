"""Weights, gradients and optimizer shared out over processes: FSDP2 by ``fully_shard``, and what each way can do.

Hugging Face's Trainer leaves FSDP to accelerate, which skips it on a CPU without a word and trains with DDP. Here
``sharding: fsdp2`` of a recipe calls torch's ``fully_shard`` itself, the same on every device, and ``wrapper_of``
says what a run is really wrapped in. DeepSpeed stays the Trainer's (``training.deepspeed``).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import nn

from ullava.config.schema import TrainRecipe
from ullava.errors import ConfigError, UserError
from ullava.examples import Batch
from ullava.training.distributed.sharded_checkpoint import share_out
from ullava.training.optim.stages import TrainablePlan

SHARDED_CLASS = "FSDP2"


def check_sharding(recipe: TrainRecipe, values: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing that this run's way of sharding cannot do."""
    problems = _launch_problems(recipe, values)
    if recipe.passes == "rank" and (recipe.sharding != "none" or _is_zero3(values)):
        problems.append("passes: rank runs the router by itself, which no process with a share of it can; use ZeRO-2")
    if recipe.optimizer.kind == "muon" and (recipe.sharding != "none" or values.get("deepspeed")):
        problems.append("optimizer.kind: muon needs whole matrices; use adamw with sharding or DeepSpeed")
    if recipe.mask_cache is not None and _is_zero3(values):
        problems.append("mask_cache: under ZeRO-3 every process has to run the mask encoder; use ZeRO-2 or fsdp2")
    if recipe.eval_dataset and _is_zero3(values):
        problems.append("eval_dataset: a process of ZeRO-3 cannot answer alone; evaluate afterwards, or use fsdp2")
    return problems


def check_core(kind: str, recipe: TrainRecipe, values: Mapping[str, Any]) -> list[str]:
    """Return one line for each thing of this run that a core of ``kind`` (``core.kind``) cannot do."""
    problems = []
    if kind == "native" and _is_zero3(values):
        problems.append("training.deepspeed: core native was never run under ZeRO-3; use ZeRO-2 or sharding: fsdp2")
    if kind == "native" and recipe.pretokenized:
        problems.append("pretokenized: core native tokenizes a row with what stands for its images; leave it out")
    return problems


def _launch_problems(recipe: TrainRecipe, values: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the way in which this process was started."""
    problems = []
    launched = "WORLD_SIZE" in os.environ
    if recipe.sharding == "fsdp2":
        if not takes_sharded_models():
            problems.append(
                f"sharding: fsdp2 needs a newer transformers than {version('transformers')}, whose Trainer would wrap "
                "the shares once more; use DDP or DeepSpeed"
            )
        if not launched:
            problems.append("sharding: fsdp2 needs processes: start with torchrun --nproc_per_node N -m ullava train")
        if values.get("deepspeed"):
            problems.append("sharding: fsdp2 and training.deepspeed are two ways of the same; keep one")
        if values.get("fsdp"):
            problems.append("training.fsdp: leave it out; sharding: fsdp2 says it")
    if values.get("deepspeed"):
        if find_spec("deepspeed") is None:
            problems.append("training.deepspeed: the package is not installed: pip install 'ullava[deepspeed]'")
        elif not launched:
            problems.append("training.deepspeed: start with torchrun --nproc_per_node N (1 will do) -m ullava train")
    return problems


def takes_sharded_models() -> bool:
    """Whether the Trainer of this transformers leaves a model that came sharded as it is (5.23 does, 5.17 not)."""
    from transformers import PreTrainedModel

    return hasattr(PreTrainedModel, "is_distributed_loading_by_transformers")


def _is_zero3(values: Mapping[str, Any]) -> bool:
    settings = find_deepspeed(values.get("deepspeed"))
    if isinstance(settings, str):
        from ullava.config.nodes import parse, read_file

        root = parse(read_file(Path(settings)), settings, [])
        table = root.value.get("zero_optimization") if isinstance(root.value, dict) else None
        stage = table.value.get("stage") if table is not None and isinstance(table.value, dict) else None
        return stage is not None and stage.value == 3
    return isinstance(settings, Mapping) and settings.get("zero_optimization", {}).get("stage") == 3


def find_deepspeed(settings: Any) -> Any:
    """Return ``training.deepspeed`` with a path that is not here looked up among the project's ``configs/``.

    Raises ConfigError for a file that is nowhere.
    """
    if not isinstance(settings, str) or Path(settings).is_file():
        return settings
    from ullava.resources import roots

    name = settings.removeprefix("./")
    for root in roots():
        for path in (root / name, root / "configs" / "deepspeed" / name):
            if path.is_file():
                return str(path)
    known = sorted(path.name for root in roots() for path in (root / "configs" / "deepspeed").glob("*.json"))
    raise ConfigError(f"training.deepspeed: no file {settings}; known: {', '.join(known)}")


def shard_model(model: Any, plan: TrainablePlan) -> None:
    """Shard ``model`` in place over all processes: a group for every layer of the language model, one for the rest.

    Those layers run once in every pass of every process. Vision encoder, SAM and heads do not: the rows of one process
    may have no image, or nothing to segment, or images of more shapes than another's. To gather a group, each process
    waits for all others, so these are gathered together, when the pass begins, and stay until its end.
    Word tables of which only some rows train stay whole, because their gradient is masked by a hook that a sharded
    parameter does not call; the Trainer then averages that gradient itself.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    kind = "cpu" if not torch.cuda.is_available() else "cuda"
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("gloo" if kind == "cpu" else "nccl")
    mesh = init_device_mesh(kind, (torch.distributed.get_world_size(),))
    model.to(kind if kind == "cpu" else torch.device(kind, int(os.environ.get("LOCAL_RANK", "0"))))
    whole = {model.get_parameter(name) for name in plan.row_tables}
    for layer in model.core.decoder_layers():
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh, ignored_params=whole)
    model.register_load_state_dict_pre_hook(share_out)


def is_sharded(model: nn.Module) -> bool:
    """Return whether ``model`` itself is under FSDP2."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


@contextmanager
def unshared_gradients(model: Any) -> Iterator[None]:
    """Sum the gradients of a model under FSDP2 in this process for now; the next pass outside of this shares them."""
    model.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        model.set_requires_gradient_sync(True)


def wrapper_of(trainer: Any) -> str:
    """Say what a run is wrapped in: ``DeepSpeed ZeRO-n``, ``FSDP2``, ``DistributedDataParallel`` or ``nothing``.

    Told from the objects themselves, never from settings. Call after training began.
    """
    wrapped = trainer.model_wrapped
    if hasattr(wrapped, "zero_optimization_stage"):
        return f"DeepSpeed ZeRO-{wrapped.zero_optimization_stage()}"
    if is_sharded(trainer.model):
        return SHARDED_CLASS
    return type(wrapped).__name__ if wrapped is not trainer.model else "nothing"


def whole_state(trainer: Any) -> dict[str, torch.Tensor]:
    """Return the model's full state dict; every process has to call this, the first one gets the content.

    Where weights were gathered, tied names are left out: the copies are not one tensor any more.
    """
    if is_sharded(trainer.model):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        gathered: dict[str, Any] = get_model_state_dict(trainer.model, options=options)
    elif trainer.is_deepspeed_enabled:
        gathered = dict(trainer.accelerator.get_state_dict(trainer.deepspeed) or {})  # the first process has it alone
    else:
        return dict(trainer.model.state_dict())
    tied = set(trainer.model.all_tied_weights_keys)
    return {name: value for name, value in gathered.items() if name not in tied}


@contextmanager
def whole_weights(model: nn.Module) -> Iterator[None]:
    """Have all weights of a model under FSDP2 in every process, so that each can answer alone; shares again at the end.

    Every process has to come here. Gradients and the optimizer stay in shares.
    """
    from torch.distributed.fsdp import FSDPModule

    groups = [module for module in model.modules() if isinstance(module, FSDPModule)]
    for group in groups:
        group.set_reshard_after_forward(False, recurse=False)
        group.unshard()
    try:
        yield
    finally:
        for group in groups:
            group.reshard()
            group.set_reshard_after_forward(group is not model, recurse=False)


def _parts_of(batch: Batch) -> dict[str, bool]:
    """What a batch has: each of these runs parts of the model that no other does."""
    inputs, targets = batch.inputs, batch.targets
    return {
        "images": inputs is not None and inputs.images is not None,
        "videos": inputs is not None and inputs.videos is not None,
        "masks": targets is not None and len(targets.masks) > 0,
        "boxes": targets is not None and len(targets.boxes_xyxy_head) > 0,
    }


def check_step(trainer: Any, batch: Batch) -> None:
    """Refuse batches of one step that have different parts under ZeRO-3, whose processes would wait without end.

    It gathers the weights of each part when it runs. Every process has to come here. Raises UserError.
    """
    stage3 = trainer.is_deepspeed_enabled and trainer.model_wrapped.zero_optimization_stage() == 3
    if trainer.args.world_size == 1 or not stage3:
        return
    mine = _parts_of(batch)
    everybody = [mine] * trainer.args.world_size
    torch.distributed.all_gather_object(everybody, mine)
    unlike = [part for part in mine if len({has[part] for has in everybody}) > 1]
    if unlike:
        raise UserError(
            f"step {trainer.state.global_step + 1}: some processes have {', '.join(unlike)} in their rows and others "
            "none, for which ZeRO-3 would wait without end; use sharding: fsdp2, ZeRO-2, or data that always has them"
        )


def leave_together(trainer: Any) -> None:
    """End a run of several processes: none leaves before the first one has written.

    FSDP2's groups are taken down by hand; left to the interpreter's exit, gloo aborts the process.
    """
    if trainer.args.world_size > 1:
        torch.distributed.barrier()
        if is_sharded(trainer.model):
            torch.distributed.destroy_process_group()


def end_process(status: int = 0) -> NoReturn:
    """Leave a process whose run was sharded, at once and with ``status``; everything is written by now.

    gloo's threads may still hold on to a group that was taken down; the interpreter's own exit then aborts a run that
    is complete, now and then ("terminate called without an active exception").
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
