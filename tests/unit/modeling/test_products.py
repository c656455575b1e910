"""Products by oneDNN are torch's own linear layers, up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from ullava.modeling.cpu import products


def operands(transposed: bool):
    torch.manual_seed(0)
    inputs, weight, bias = torch.randn(6, 5, 24), torch.randn(7, 24), torch.randn(7)
    if transposed:
        inputs = torch.randn(24, 6).T
        weight = torch.randn(24, 7).T
    return inputs, weight, bias


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("available", [False, True])
def test_linear_agrees_whatever_the_layout(monkeypatch, transposed, available):
    if available and not products._available():
        pytest.skip("this build of torch has no oneDNN, or the processor no AVX-512")
    monkeypatch.setattr(products, "_available", lambda: available)
    inputs, weight, bias = operands(transposed)
    base = torch.randn(6, 7)
    with torch.no_grad():
        torch.testing.assert_close(products.linear(inputs, weight), functional.linear(inputs, weight))
        torch.testing.assert_close(products.linear(inputs, weight, bias), functional.linear(inputs, weight, bias))
        plain = inputs if inputs.dim() == 2 else inputs[:, 0]
        kept = base.clone()
        torch.testing.assert_close(products.linear_added(base, plain, weight), base + plain @ weight.T)
        assert torch.equal(base, kept)


def test_narrow_units_leave_it_to_blas(monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    products._available.cache_clear()
    assert not products._available()
    products._available.cache_clear()


def test_gradients_flow_where_they_are_kept():
    inputs, weight, bias = operands(False)
    weight.requires_grad_()
    products.linear(inputs, weight, bias).sum().backward()
    assert weight.grad is not None and weight.grad.abs().sum() > 0


def test_a_wrapped_layer_is_called():
    class Doubled(nn.Linear):
        def forward(self, inputs):
            return 2 * super().forward(inputs)

    layer, doubled = nn.Linear(24, 7), Doubled(24, 7)
    doubled.load_state_dict(layer.state_dict())
    inputs = torch.randn(3, 24)
    with torch.no_grad():
        torch.testing.assert_close(products.apply_linear(layer, inputs), layer(inputs))
        torch.testing.assert_close(products.apply_linear(doubled, inputs), 2 * layer(inputs))


def test_no_rows_and_half_precision_go_torchs_way():
    layer = nn.Linear(24, 7)
    with torch.no_grad():
        assert products.apply_linear(layer, torch.zeros(0, 24)).shape == (0, 7)
        assert products.apply_linear(layer.bfloat16(), torch.zeros(2, 24, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
def test_words_of_few_rows_are_those_of_the_head(monkeypatch, rows):
    monkeypatch.setattr(products, "wide_units", lambda: False)
    products._available.cache_clear()
    torch.manual_seed(0)
    head, states = nn.Linear(24, 70, bias=False), torch.randn(rows, 1, 24)
    ways = []
    monkeypatch.setattr(products.torch, "mm", lambda *given, made=torch.mm: ways.append(1) or made(*given))
    with torch.no_grad():
        torch.testing.assert_close(products.words_of_few(head, states), head(states))
        assert len(ways) == (1 < rows <= 16)
    words = products.words_of_few(head, states.requires_grad_())
    assert words.requires_grad and len(ways) == (1 < rows <= 16)
    products._available.cache_clear()
