"""Linear layers in 8 and 4 bits: how near they are, which ones they are, and what a machine cannot do."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from ullava.errors import UserError
from ullava.modeling.construction import quantized
from ullava.modeling.construction.quantized import check_quantization, quantizable, quantize_model
from ullava.modeling.cpu.int8 import Int8Linear

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_eight_bits_are_near_the_whole_layer(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 40)
    inputs = torch.randn(2, 7, 96)
    inputs[0, 0, 3] = 300.0  # an outlier must not blur what stands beside it
    made = Int8Linear(layer)(inputs.to(dtype))
    assert made.dtype == dtype and made.shape == (2, 7, 40)
    wanted = layer(inputs.to(dtype).float())
    error = (made.float() - wanted).norm(dim=-1) / wanted.norm(dim=-1)
    assert 0 < float(error.max().detach()) < 0.01
    assert (
        sum(value.numel() * value.element_size() for value in Int8Linear(layer).state_dict().values()) < 96 * 40 + 400
    )


def test_rows_of_nothing_and_of_zeros() -> None:
    layer = nn.Linear(16, 8)
    assert Int8Linear(layer)(torch.zeros(0, 3, 16)).shape == (0, 3, 8)
    torch.testing.assert_close(Int8Linear(layer)(torch.zeros(2, 16)), layer.bias.detach().expand(2, 8))


def small(tower: str) -> Any:
    layer = nn.ModuleDict(
        {"up": nn.Linear(4, 8), "norm": nn.LayerNorm(8), "lora_A": nn.ModuleDict({"x": nn.Linear(4, 2)})}
    )
    model: Any = nn.ModuleDict({"layers": nn.ModuleList([layer]), "lm_head": nn.Linear(8, 9, bias=False)})
    model[tower] = nn.Sequential(nn.Linear(4, 4))
    model["mask_head"] = nn.Linear(4, 4)
    part = SimpleNamespace(kind="tower", prefixes=("tower.",))
    model.core = SimpleNamespace(decoder_layers=lambda: model["layers"], parts=lambda: (part,))
    return model


def test_word_tables_heads_projectors_and_adapters_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [name for name, _ in quantizable(small("tower"))] == ["layers.0.up"]
    monkeypatch.setattr(quantized, "LARGE_TOWER", 16)
    assert [name for name, _ in quantizable(small("tower"))] == ["layers.0.up", "tower.0"]
    assert [name for name, _ in quantizable(small("projector"))] == ["layers.0.up"]


def test_four_bits_are_for_large_layers_above_where_masks_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes", reason="bitsandbytes (extra quantize) is not installed")
    torch.manual_seed(0)
    model = small("tower")
    sizes = [(256, 256), (256, 256), (128, 128), (257, 256)]
    model["layers"] = nn.ModuleList(nn.ModuleDict({"up": nn.Linear(*size)}) for size in sizes)
    model.core.decoder_layers = lambda: model["layers"]
    model.config = SimpleNamespace(grounding_layer=1)
    whole = [layer["up"] for layer in model["layers"]]
    quantize_model(model, "nf4", CPU)
    kinds = [type(layer["up"]) for layer in model["layers"]]
    assert kinds == [Int8Linear, bitsandbytes.nn.Linear4bit, Int8Linear, Int8Linear]
    for layer, before in zip(model["layers"], whole, strict=True):
        inputs = torch.randn(5, before.in_features)
        wanted = before(inputs)
        few = 0.01 if type(layer["up"]) is Int8Linear else 0.15
        assert 0 < float((layer["up"](inputs) - wanted).norm() / wanted.norm()) < few


def test_what_a_machine_cannot_do_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def told(kind: str, device: torch.device) -> str:
        with pytest.raises(UserError) as refused:
            check_quantization(kind, device)
        (problem,) = refused.value.problems
        return problem

    check_quantization("int8", CPU)
    assert told("int4", CPU) == "quantize: no kind 'int4'; there are int8 (8 bits), nf4 (4 bits)"
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    assert told("nf4", CPU) == "quantize: nf4 on cpu needs bitsandbytes: pip install 'ullava[quantize]'"
    assert "int8 on cuda needs bitsandbytes" in told("int8", torch.device("cuda:1"))
    monkeypatch.setattr(quantized, "find_spec", lambda name: object())
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", SimpleNamespace(supported_torch_devices={"cuda"}))
    assert told("nf4", CPU) == "quantize: bitsandbytes is for cuda, not for cpu"
    monkeypatch.setitem(__import__("sys").modules, "bitsandbytes", None)
    assert told("nf4", CPU).startswith("quantize: bitsandbytes cannot be used here: ")
