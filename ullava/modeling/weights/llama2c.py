"""llama2.c's binary files (version 0: seven integers, then float32 tables) -> ``LlamaForCausalLM``.

The file turns neighboring pairs of a head's dimensions, transformers its first half against its second, so the rows of
query and key tables change places.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from ullava.errors import WeightsError
from ullava.given_files import read_plain
from ullava.modeling.loading.strict_loading import load_strict

HEADER = struct.Struct("<7i")
EPSILON = 1e-5
FIELDS = ("dim", "hidden_dim", "n_layers", "n_heads", "n_kv_heads", "vocab_size", "seq_len")


def convert_llama2c(file: Path) -> LlamaForCausalLM:
    """Read a language model.

    Raises:
        WeightsError: no such file, sizes that cannot be, or a file that is shorter or longer than its sizes say.
    """
    content = read_plain(file, error=WeightsError)
    if len(content) < HEADER.size:
        raise WeightsError(f"{file}: {len(content)} bytes, too short for llama2.c's header")
    sizes = dict(zip(FIELDS, HEADER.unpack_from(content), strict=True))
    tied, sizes["vocab_size"] = sizes["vocab_size"] > 0, abs(sizes["vocab_size"])
    if min(sizes.values()) < 1 or sizes["dim"] % sizes["n_heads"] or sizes["n_heads"] % sizes["n_kv_heads"]:
        raise WeightsError(f"{file}: no file of llama2.c, its header says {sizes}")
    shapes = _layout(sizes, tied)
    wanted = HEADER.size + 4 * sum(int(np.prod(shape)) for _, shape in shapes)
    if len(content) != wanted:
        raise WeightsError(f"{file}: {len(content)} bytes, the sizes in its header want {wanted}")
    numbers = torch.frombuffer(bytearray(content[HEADER.size :]), dtype=torch.float32)
    if not bool(numbers.isfinite().all()):
        raise WeightsError(f"{file}: holds NaN or infinity: these weights are of a run that failed")
    tables, place = {}, 0
    for name, shape in shapes:
        length = int(np.prod(shape))
        tables[name] = numbers[place : place + length].reshape(shape).clone()
        place += length
    model = LlamaForCausalLM(_config(sizes, tied))
    load_strict(model, _named(tables, sizes, tied))
    return model.eval()


def _layout(sizes: dict[str, int], tied: bool) -> list[tuple[str, tuple[int, ...]]]:
    """Tables in the order of the file; ``cos`` and ``sin`` are old tables of the rotation, computed anew today."""
    dim, hidden, layers = sizes["dim"], sizes["hidden_dim"], sizes["n_layers"]
    head = dim // sizes["n_heads"]
    keys = head * sizes["n_kv_heads"]
    turns = (sizes["seq_len"], head // 2)
    order: list[tuple[str, tuple[int, ...]]] = [
        ("embed", (sizes["vocab_size"], dim)),
        ("attention_norm", (layers, dim)),
        ("q", (layers, dim, dim)),
        ("k", (layers, keys, dim)),
        ("v", (layers, keys, dim)),
        ("o", (layers, dim, dim)),
        ("mlp_norm", (layers, dim)),
        ("gate", (layers, hidden, dim)),
        ("down", (layers, dim, hidden)),
        ("up", (layers, hidden, dim)),
        ("norm", (dim,)),
        ("cos", turns),
        ("sin", turns),
    ]
    return order if tied else [*order, ("head", (sizes["vocab_size"], dim))]


def _config(sizes: dict[str, int], tied: bool) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=sizes["dim"],
        intermediate_size=sizes["hidden_dim"],
        num_hidden_layers=sizes["n_layers"],
        num_attention_heads=sizes["n_heads"],
        num_key_value_heads=sizes["n_kv_heads"],
        max_position_embeddings=sizes["seq_len"],
        rms_norm_eps=EPSILON,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
    )


def _named(tables: dict[str, Tensor], sizes: dict[str, int], tied: bool) -> dict[str, Tensor]:
    names = {
        "attention_norm": "input_layernorm",
        "q": "self_attn.q_proj",
        "k": "self_attn.k_proj",
        "v": "self_attn.v_proj",
        "o": "self_attn.o_proj",
        "mlp_norm": "post_attention_layernorm",
        "gate": "mlp.gate_proj",
        "down": "mlp.down_proj",
        "up": "mlp.up_proj",
    }
    tensors = {"model.embed_tokens.weight": tables["embed"], "model.norm.weight": tables["norm"]}
    tensors["lm_head.weight"] = tables["embed"] if tied else tables["head"]
    heads = {"q": sizes["n_heads"], "k": sizes["n_kv_heads"]}
    for key, name in names.items():
        for layer, table in enumerate(tables[key]):
            turned = halves_from_pairs(table, heads[key]) if key in heads else table
            tensors[f"model.layers.{layer}.{name}.weight"] = turned
    return tensors


def halves_from_pairs(table: Tensor, heads: int) -> Tensor:
    """Rows [heads * d, n] whose rotary pairs are neighbors -> pairs half a head apart."""
    width = len(table) // heads
    return table.view(heads, width // 2, 2, -1).transpose(1, 2).reshape(table.shape).contiguous()
