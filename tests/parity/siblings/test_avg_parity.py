"""AVG-LLaVA's parts against tensors of the original modules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sibling_cases import agree, folders, read, same_pixels, tensors
from tests.released_words import released_words
from torch.nn import functional

from ullava.losses import answer_nll, ranking_loss
from ullava.modeling.vision.avg_layout import lay_out, plan_canvas, plan_layout, scale_tokens
from ullava.modeling.vision.avg_router import GranularityRouter, choose_words
from ullava.modeling.vision.strategy import EncodeContext
from ullava.modeling.vision.tiles import render_tiles, render_whole


def canvases_of(folder: Path, tile: int) -> list[tuple[int, int]]:
    return [(width // tile, height // tile) for width, height in read(folder)["constructor"]["canvases_wh"]]


@pytest.mark.parametrize("folder", folders("avg_llava", "anyres_geometry"))
def test_canvas(folder: Path) -> None:
    side = min(min(canvas) for canvas in read(folder)["constructor"]["canvases_wh"])
    rows = read(folder, "data.json")
    assert rows
    for row in rows:
        plan = plan_canvas(tuple(row["input"]["size"]), side, canvases_of(folder, side))
        found = [[side * tiles for tiles in plan.grid_cr], list(plan.resized_wh), list(plan.offset_xy)]
        assert found == [row["output"][key] for key in ("canvas", "resized", "offset")], row["input"]


@pytest.mark.parametrize("folder", folders("avg_llava", "anyres_pixels"))
def test_pixels_of_the_crops(folder: Path) -> None:
    side = read(folder)["sizes"]["tile"]
    image = tensors(folder, "inputs")["image"].numpy()
    plan = plan_canvas((image.shape[1], image.shape[0]), side, canvases_of(folder, side))
    crops = np.concatenate([render_whole(image, side)[None], render_tiles(image, plan)])
    same_pixels(crops.transpose(0, 2, 3, 1), tensors(folder, "outputs")["crops"].numpy())


@pytest.mark.parametrize("folder", folders("avg_llava", "scaler"))
def test_scaler(folder: Path) -> None:
    inputs = tensors(folder, "inputs")
    for name, wanted in tensors(folder, "outputs").items():
        grid, level = name.split(".level")
        agree(scale_tokens(inputs[grid], int(level)), wanted, folder)


@pytest.mark.parametrize("folder", folders("avg_llava", "token_layout"))
def test_token_layout(folder: Path) -> None:
    case = read(folder)
    side, grid = case["sizes"]["tile"], case["sizes"]["base_grid"][0]
    for row in read(folder, "data.json"):
        plan = plan_canvas(tuple(row["input"]["size"]), side, canvases_of(folder, side))
        for level in case["constructor"]["levels"]:
            wanted, found = row["output"][str(level)], plan_layout(plan, grid, level, "cells")
            assert (found.num_tokens, found.num_newlines) == (wanted["tokens"], wanted["newlines"]), row["input"]
            if wanted["newlines"] and wanted["cols"][1] > wanted["cols"][0]:
                assert [list(found.rows), list(found.columns)] == [wanted["rows"], wanted["cols"]], row["input"]


@pytest.mark.parametrize("folder", folders("avg_llava", "layout_values"))
def test_layout_values(folder: Path) -> None:
    sizes, inputs = read(folder)["sizes"], tensors(folder, "inputs")
    grid = round(inputs["features"].shape[1] ** 0.5)
    plan = plan_canvas(tuple(sizes["image_wh"]), 336, canvases_of(folder, 336))
    assert [336 * tiles for tiles in plan.grid_cr] == sizes["canvas_wh"]
    for name, wanted in tensors(folder, "outputs").items():
        level = int(name.removeprefix("tokens.level"))
        states = scale_tokens(inputs["features"], level)
        agree(lay_out(states, plan_layout(plan, grid, level, "cells"), inputs["image_newline"]), wanted, folder)


def released_router(folder: Path) -> GranularityRouter:
    sizes = read(folder)["sizes"]
    router = GranularityRouter(
        sizes["d"], sizes["levels"], text_slots=sizes["text_slots"], heads=sizes.get("heads", 8), axis="crops"
    )
    router.load_state_dict(tensors(folder, "weights"))
    return router.eval()


@pytest.mark.parametrize("folder", folders("avg_llava", "router"))
def test_router(folder: Path) -> None:
    case, inputs, wanted = read(folder), tensors(folder, "inputs"), tensors(folder, "outputs")
    router = released_router(folder)
    slots = router.text_slots
    for crops in case["sizes"]["crop_counts"]:
        features = inputs[f"features{crops}"]
        for prompt in case["sizes"]["prompts"]:
            name, words = f"crops{crops}.{prompt}", inputs[f"text_{prompt}"]
            chosen = released_words(features[0], words, inputs[f"mask_{prompt}"], slots)
            agree(chosen.rows, wanted[f"text_rows.{name}"], folder)
            with torch.no_grad():
                logits = router(features, chosen)
                agree(logits, wanted[f"logits.{name}"], folder)
                if f"encoder_out.{name}" in wanted:
                    agree(router.states(features, chosen), wanted[f"encoder_out.{name}"], folder)
            assert router.levels[int(logits.argmax())] == case["expected"][f"level.{name}"]
            ours = choose_words(features[0], words[inputs[f"mask_{prompt}"]], slots)
            valid = min(int(inputs[f"mask_{prompt}"].sum()), slots)
            assert torch.equal(ours.rows[:valid], chosen.rows[:valid])
            assert not ours.rows[valid:].any() and ours.empty.tolist() == [False] * valid + [True] * (slots - valid)


@pytest.mark.parametrize("folder", folders("avg_llava", "visual_path"))
def test_visual_path(folder: Path) -> None:
    """Router, layout and insertion of a batch of different images; insertion is a row of pieces joined here."""
    case, inputs, wanted = read(folder), tensors(folder, "inputs"), tensors(folder, "outputs")
    router, sizes = released_router(folder), case["sizes"]
    table = inputs["embed_tokens.weight"]
    rows = []
    for row, orig_wh in enumerate(sizes["image_wh"]):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        features, words = inputs[f"features{row}"], table[ids[ids >= 0]]
        length = int((inputs["input_ids"][row] != -200).sum())
        padded = torch.cat([words, words.new_zeros(length - len(words), words.shape[1])])
        chosen = released_words(features[0], padded, torch.arange(length) < len(words), router.text_slots)
        with torch.no_grad():
            logits = router(features, chosen)
        agree(logits, wanted["router_logits"][row], folder)
        level = router.levels[int(logits.argmax())]
        assert level == case["expected"]["levels"][row]
        plan = plan_canvas(tuple(orig_wh), case["constructor"]["tile"], canvases_of(folder, 336))
        layout = plan_layout(plan, sizes["grid"][0], level, "cells")
        tokens = lay_out(scale_tokens(features, level), layout, inputs["image_newline"])
        place = int((ids < 0).nonzero())
        rows.append(torch.cat([table[ids[:place]], tokens, table[ids[place + 1 :]]]))
    assert [len(row) for row in rows] == case["expected"]["lengths"]
    agree(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), wanted["inputs_embeds"], folder)


@pytest.mark.parametrize("folder", folders("avg_llava", "router_text"))
def test_words_that_the_router_gets(folder: Path) -> None:
    """In training those asked, else all there are: our rows of words are theirs without what is masked."""
    inputs, wanted = tensors(folder, "inputs"), tensors(folder, "outputs")
    table, ids = inputs["embed_tokens.weight"], inputs["input_ids"]
    shown = inputs["attention_mask"].bool() & (ids >= 0)
    for mode, mask in (("eval", shown), ("train", shown & (inputs["labels"] == -100))):
        length = int(mask.sum(dim=1).max())
        asked = torch.zeros(len(ids), length, dtype=torch.long)
        word_mask = torch.zeros(len(ids), length)
        for row in range(len(ids)):
            words = ids[row][mask[row]]
            asked[row, : len(words)], word_mask[row, : len(words)] = words, 1
        context = EncodeContext((0, 1, 2), (0, 1, 2), functional.embedding(asked, table), word_mask)
        for side in ("left", "right"):
            for row in range(len(ids)):
                theirs = wanted[f"embeds.{mode}.{side}"][row][wanted[f"mask.{mode}.{side}"][row].bool()]
                agree(context.words_of(row), theirs, folder)


@pytest.mark.parametrize("folder", folders("avg_llava", "rglf_loss"))
def test_ranking_loss(folder: Path) -> None:
    inputs, wanted = tensors(folder, "inputs"), tensors(folder, "outputs")
    logits, costs = inputs["router_logits"].requires_grad_(), inputs["nll"]
    terms = [ranking_loss(logits[[row]], costs[[row]]) for row in range(len(costs))]
    for name in ("ce", "rank", "total"):
        agree(torch.stack([getattr(term, name) for term in terms]), wanted[f"row_{name}"], folder)
    whole = ranking_loss(logits, costs)
    agree(whole.total, wanted["batch_total"], folder)
    whole.total.backward()
    agree(logits.grad, wanted["batch_grad"], folder)
    shuffled = torch.randperm(costs.shape[1])
    agree(ranking_loss(logits[:, shuffled], costs[:, shuffled]).total, wanted["batch_total"], folder)


@pytest.mark.parametrize("folder", folders("avg_llava", "answer_nll"))
def test_answer_nll(folder: Path) -> None:
    inputs, wanted = tensors(folder, "inputs"), tensors(folder, "outputs")["per_sample"]
    labels = inputs["labels"][:, 1:]
    row, place = (labels != -100).nonzero(as_tuple=True)
    each = functional.cross_entropy(inputs["logits"][row, place], labels[row, place], reduction="none")
    found = answer_nll(each, row, len(labels))
    # The original's divisor counts a label at the first place too, which nothing predicts.
    counted = (inputs["labels"] != -100).sum(dim=1) / (labels != -100).sum(dim=1)
    given = wanted.isfinite()
    agree(found[given] / counted[given], wanted[given], folder)
    assert bool(found[~given].isnan().all())
