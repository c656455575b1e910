"""How Hugging Face's Trainer comes to our rows and to the weights of a checkpoint, by hooks that torch offers."""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import Trainer
from transformers.trainer_utils import seed_worker


def build_loader(dataset: Dataset[Any], sampler: Any, trainer: Trainer) -> DataLoader[Any]:
    """Return a loader over ``sampler``'s positions with the recipe's ``training.dataloader_*`` and batch size."""
    args = trainer.args
    return DataLoader(
        dataset,
        batch_size=args.train_batch_size,
        sampler=sampler,
        collate_fn=trainer.data_collator,
        drop_last=args.dataloader_drop_last,
        num_workers=args.dataloader_num_workers,
        pin_memory=args.dataloader_pin_memory,
        persistent_workers=args.dataloader_persistent_workers,
        multiprocessing_context=args.dataloader_multiprocessing_context,
        prefetch_factor=args.dataloader_prefetch_factor,
        worker_init_fn=partial(seed_worker, num_workers=args.dataloader_num_workers, rank=args.process_index),
    )


def forget_tied(model: nn.Module, result: Any) -> None:
    """Take tied weights, which a checkpoint holds once, from the names that ``load_state_dict`` calls missing.

    A hook for ``register_load_state_dict_post_hook``: Hugging Face would warn of them at every resume. All others are
    compared by name and shape before (``ullava.training.loop.resume.check_weights``).
    """
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    result.missing_keys[:] = [name for name in result.missing_keys if name not in tied]
