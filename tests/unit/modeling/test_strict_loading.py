from __future__ import annotations

import pytest
import torch
from torch import nn

from ullava.errors import WeightsError
from ullava.modeling.loading.strict_loading import find_misfits, load_strict


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.head = nn.Linear(3, 4, bias=False)
        self.head.weight = self.embed.weight


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))


def test_fitting_weights_are_copied_and_cast():
    source, target = network().bfloat16(), network()
    load_strict(target, source.state_dict())
    assert target[0].weight.dtype == torch.float32
    assert torch.equal(target[0].weight, source[0].weight.float())


def test_every_misfit_is_named_at_once_and_nothing_is_changed():
    target = network()
    before = target[0].bias.clone()
    state = network().state_dict()
    state["1.wieght"] = state.pop("1.weight")
    state["0.weight"] = torch.zeros(9, 9)
    state["extra"] = torch.zeros(5)
    with pytest.raises(WeightsError) as caught:
        load_strict(target, state)
    assert caught.value.problems == (
        "missing: 1.weight [2, 4]; did you mean '1.wieght'?",
        "unexpected: 1.wieght [2, 4]; did you mean '1.weight'?",
        "unexpected: extra [5]",
        "shape: 0.weight is [9, 9] in the file and [4, 3] in the model",
    )
    assert torch.equal(target[0].bias, before)


def test_ignorable_keys_may_be_there():
    state = network().state_dict()
    state["deep.rotary_emb.inv_freq"] = torch.zeros(2)
    assert find_misfits(network(), state, ("*.rotary_emb.inv_freq",)) == []
    assert len(find_misfits(network(), state)) == 1


def test_a_tied_weight_may_be_left_out_but_not_both():
    state = Tied().state_dict()
    for name in ("embed.weight", "head.weight"):
        target = Tied()
        load_strict(target, {name: state[name]})
        assert torch.equal(target.head.weight, state[name])
        assert torch.equal(target.embed.weight, state[name])
    assert len(find_misfits(Tied(), {})) == 2


def test_a_model_without_memory_takes_the_tensors():
    with torch.device("meta"):
        target = network()
    state = network().state_dict()
    load_strict(target, state)
    assert target[0].weight.data_ptr() == state["0.weight"].data_ptr()


def test_among_many_keys_the_nearest_has_the_same_ending():
    target = nn.ModuleDict({f"layer{number}": nn.Linear(1, 1) for number in range(40)})
    state = {f"model.{name}": tensor for name, tensor in target.state_dict().items()}
    problems = find_misfits(target, state)
    assert "missing: layer7.bias [1]; did you mean 'model.layer7.bias'?" in problems
    assert len(problems) == 160
