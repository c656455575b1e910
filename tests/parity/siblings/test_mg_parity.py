"""MG-LLaVA's parts against tensors of the original modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sibling_cases import agree, folders, read, same_normalized_pixels, tensors
from torch.nn import functional

from ullava.geometry import plan_view
from ullava.modeling.cores.splice import ExpandedText, VisualItems, splice_visual
from ullava.modeling.pixels import CLIP_MEAN, CLIP_STD, normalize_u8
from ullava.modeling.vision.mg import MgPreprocessor
from ullava.modeling.vision.mg_boxes import boxes_on_view, released_boxes
from ullava.modeling.vision.mg_fusion import ConvGateFusion
from ullava.modeling.vision.mg_pooling import ObjectTokens, upsampling
from ullava.modeling.vision.strategy import ItemNotes
from ullava.structures import DetectedBoxes

KINDS = ("fusion_gate", "fusion_gate_step0", "fusion_gate_concat", "fusion_concat", "fusion_raw_concat")


@pytest.mark.parametrize("folder", folders("mg_llava", *KINDS))
def test_fusion(folder: Path) -> None:
    case, wanted = read(folder), tensors(folder, "outputs")
    sizes = case["sizes"]
    module = ConvGateFusion(case["kind"], sizes["low_dim"], sizes["high_dim"])
    module.load_state_dict(tensors(folder, "weights"))
    inputs = {name: value.requires_grad_() for name, value in tensors(folder, "inputs").items()}
    low = inputs["low_res_feat"]
    fused, gate = module(low, inputs["high_res_feat"])
    agree(fused, wanted["fused"], folder)
    assert fused.shape[-1] == module.width_out
    if "tanh_gate" in wanted:
        agree(gate, wanted["tanh_gate"], folder)
    loss = fused.square().sum()
    agree(loss, wanted["loss"], folder)
    loss.backward()
    for name, parameter in module.named_parameters():
        agree(parameter.grad, wanted[f"grad.{name}"], folder, "tolerance_grads")
    for name, value in inputs.items():
        if f"grad_input.{name}" in wanted:
            agree(value.grad, wanted[f"grad_input.{name}"], folder, "tolerance_grads")
    if case.get("expected", {}).get("fused_equals_low"):
        assert torch.equal(fused, low)


@pytest.mark.parametrize("folder", folders("mg_llava", "fusion_gate_step0"))
def test_own_start_is_that_of_the_original(folder: Path) -> None:
    """What starts as zero there starts as zero here, and only that; no gradient is lost for good."""
    sizes, weights = read(folder)["sizes"], tensors(folder, "weights")
    module = ConvGateFusion("gate", sizes["low_dim"], sizes["high_dim"])
    for name, parameter in module.named_parameters():
        assert bool((parameter != 0).any()) == bool((weights[name] != 0).any()), name
    inputs = tensors(folder, "inputs")
    fused, _ = module(inputs["low_res_feat"], inputs["high_res_feat"])
    assert torch.equal(fused, inputs["low_res_feat"])
    fused.square().sum().backward()
    for name in ("slow_proj", "fast_proj"):
        assert bool((module.get_submodule(name).weight.grad != 0).any()), name


@pytest.mark.parametrize("folder", folders("mg_llava", "object_dense", "object_last_only", "object_multi_level"))
def test_object_tokens(folder: Path) -> None:
    case, wanted, weights = read(folder), tensors(folder, "outputs"), tensors(folder, "weights")
    sizes = case["sizes"]
    kind = {"dense": "pyramid"}.get(case["variant"], case["variant"])
    module = ObjectTokens(kind, sizes["stage_channels"], sizes["d"], embed_boxes=False)
    names = {"bbox_projector.model": "projector", "multi_level_linear": "levels"}
    renamed = {}
    for name, value in weights.items():
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        renamed[name] = value
    module.load_state_dict(renamed)
    inputs = tensors(folder, "inputs")
    maps = [inputs[f"stage{number + 1}"] for number in range(len(sizes["stage_channels"]))]
    boxes = [inputs[f"boxes{row}"] for row in range(len(sizes["box_counts"]))]
    if case["variant"] != "last_only":
        side = maps[0].shape[-1]
        planes = []
        for plane in maps:
            matrix = upsampling(plane.shape[-1], side, plane.device)
            planes.append(matrix @ plane @ matrix.T)
        agree(torch.cat(planes, dim=1), wanted["pyramid"], folder)
    tokens = module(maps, boxes, view_side=768)
    for row, found in enumerate(tokens):
        agree(module.pool([plane[row] for plane in maps], boxes[row], 768), wanted[f"roi_mean{row}"], folder)
        agree(found, wanted[f"tokens{row}"], folder)


@pytest.mark.parametrize("folder", folders("mg_llava", "image_preprocess"))
def test_pixels_of_both_views(folder: Path) -> None:
    sizes, inputs, wanted = read(folder)["sizes"], tensors(folder, "inputs"), tensors(folder, "outputs")
    stages = 4
    patch = sizes["lo"] * 32 // sizes["hi"]
    table = {"patch_size": 4, "hidden_sizes": [8] * stages}
    settings = {"pyramid": table, "max_boxes": 100, "box_rule": "released", "frame_pool": 1}
    preprocessor = MgPreprocessor(sizes["lo"], patch, settings)
    boxes = inputs["boxes"].double().numpy()
    found = DetectedBoxes(boxes, np.linspace(0.9, 0.5, len(boxes)), ("thing",) * len(boxes))
    made = preprocessor.preprocess(inputs["image"].numpy(), ItemNotes(boxes=found))
    high = normalize_u8(torch.from_numpy(made.views["base"])[None], CLIP_MEAN, CLIP_STD, torch.float32)
    same_normalized_pixels(high[0], wanted["hi"])
    low = functional.interpolate(high, (sizes["lo"],) * 2, mode="bilinear", align_corners=False)
    same_normalized_pixels(low[0], wanted["lo"])
    assert torch.equal(torch.from_numpy(made.views["boxes"]), wanted["boxes"])


@pytest.mark.parametrize("folder", folders("mg_llava", "boxes"))
def test_boxes(folder: Path) -> None:
    case = read(folder)
    defaults = case["constructor"]
    for row in read(folder, "data.json"):
        given, wanted = row["input"], row["output"]
        longest = defaults["max_length"]
        boxes, labels = released_boxes(
            given["boxes"],
            given["scores"],
            given["labels"],
            (given["width"], given["height"]),
            case["sizes"]["target_side"],
            limit=given.get("limit_num", defaults["default_limit_num"]),
            limit_mode=given.get("limit_mode", defaults["default_limit_mode"]),
            long_text=given["text_tokens"] >= longest - 50,
        )
        if "raises" in wanted:
            assert 0 < len(boxes) <= len(given["boxes"])
            continue
        assert boxes.tolist() == wanted["boxes"], given["name"]
        assert labels == wanted["labels"], given["name"]
        assert len(boxes) == wanted["tokens"]


@pytest.mark.parametrize("folder", folders("mg_llava", "boxes"))
def test_own_boxes_lie_where_the_original_rounds_them(folder: Path) -> None:
    """Where no cap binds and no coordinate is moved, ours are the same boxes before rounding, cut at the image."""
    side = read(folder)["sizes"]["target_side"]
    compared = 0
    for row in read(folder, "data.json"):
        given, wanted = row["input"], row["output"]
        orig_wh = (given["width"], given["height"])
        shifted = int(max(orig_wh) * (side / max(orig_wh))) != side
        if given["name"] in ("boxes partly outside", "zero-area box", "no boxes") or shifted:
            continue
        if "raises" in wanted or wanted["labels"] != [given["labels"][k] for k in _by_score(given, wanted)]:
            continue
        view = plan_view("pad_center", orig_wh, side)
        ours, dropped = boxes_on_view(given["boxes"], given["scores"], given["labels"], view, limit=1000)
        if len(ours) != len(wanted["boxes"]):
            continue
        compared += 1
        assert dropped == len(given["boxes"]) - len(ours)
        assert np.abs(ours - np.asarray(wanted["boxes"])).max() <= 0.5 + 1e-9, given["name"]
    assert compared >= 4


def _by_score(given: dict[str, list[float]], wanted: dict[str, list[str]]) -> list[int]:
    order = np.argsort(-np.asarray(given["scores"]), kind="stable").tolist()
    return order[: len(wanted["labels"])]


@pytest.mark.parametrize("folder", folders("mg_llava", "splice"))
def test_fused_and_object_tokens_take_the_place_of_their_marker(folder: Path) -> None:
    sizes, inputs, wanted = read(folder)["sizes"], tensors(folder, "inputs"), tensors(folder, "outputs")
    table = torch.cat([inputs["embed_tokens.weight"], torch.zeros(1, sizes["d"])])
    patch = len(table) - 1
    ids = inputs["input_ids"]
    counts = [sizes["image_tokens"] + objects for objects in sizes["object_tokens"]]
    tokens = torch.cat(
        [torch.cat([inputs["image_tokens"][row], inputs[f"object_tokens{row}"]]) for row in range(len(counts))]
    )
    text = ExpandedText(torch.where(ids < 0, patch, ids), inputs["attention_mask"], inputs["labels"])
    items = VisualItems(patch, tokens, counts, range(len(counts)))
    text, embeddings = splice_visual(
        text, lambda rows: functional.embedding(rows, table), [items], pad_id=0, left_pad=False
    )
    mask = wanted["attention_mask"]
    assert torch.equal(text.attention_mask, mask) and torch.equal(text.labels, wanted["labels"])
    agree(embeddings * mask[..., None], wanted["inputs_embeds"] * mask[..., None], folder)
    # transformers counts positions from the mask: those of the original, wherever it looks at a token
    assert torch.equal((mask.cumsum(dim=1) - 1)[mask.bool()], wanted["position_ids"][mask.bool()])
