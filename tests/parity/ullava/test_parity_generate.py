"""Greedy answers of the stage II model: ids exactly, then masks and boxes of all that the dialogue speaks of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import folders, read
from released_models import image_batch, stage_two, tensors

from ullava.examples import ModelInputs
from ullava.modeling.heads.mask_sam import SamMaskRules
from ullava.modeling.model.ullava import UllavaForConditionalGeneration


def checkpoint_case(folder: Path) -> Path:
    """The stage II case whose checkpoint the answers come from."""
    return (folder / read(folder)["checkpoint"]).resolve().parent


def prompts() -> list[Any]:
    found = []
    for parameter in folders("generate"):
        folder = parameter.values[0]
        entries = range(len(read(folder)["prompts"])) if not parameter.marks else [0]
        found += [
            pytest.param(folder, number, id=f"{parameter.id}-{number}", marks=parameter.marks) for number in entries
        ]
    return found


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, UllavaForConditionalGeneration]:
    class Models(dict[Path, UllavaForConditionalGeneration]):
        def __missing__(self, folder: Path) -> UllavaForConditionalGeneration:
            self[folder] = stage_two(folder, tmp_path_factory.mktemp("generate") / "model")
            return self[folder]

    return Models()


@pytest.mark.parametrize(("folder", "number"), prompts())
def test_greedy_answer(folder: Path, number: int, models: dict[Path, UllavaForConditionalGeneration]) -> None:
    case = read(folder)
    prompt = case["prompts"][number]
    source = checkpoint_case(folder)
    given, expected = tensors(folder, "inputs.safetensors"), tensors(folder, "outputs.safetensors")
    name, inputs_of = prompt["name"], prompt["inputs_of"]
    batch = image_batch(given[f"{inputs_of}.images"], given[f"{inputs_of}.images_sam"], [prompt["resized_hw"]])
    batch["input_ids"] = given[f"{inputs_of}.input_ids"]
    greedy = {"do_sample": False, "max_new_tokens": prompt["max_new_tokens"]}
    model = models[source]
    found = model.generate_grounded(ModelInputs.from_kwargs(batch), read_history=True, **greedy)
    ids = found.new_ids[0].tolist()
    assert ids == prompt["new_ids"]
    assert [*batch["input_ids"][0].tolist(), *ids] == expected[f"{name}.output_ids"][0].tolist()

    rules = SamMaskRules(read(source)["sam"]["image_size"])
    full = rules.to_original(found.seg.mask_logits_lowres, prompt["size_hw"])
    atol = case["tolerances"]
    assert len(full) == prompt["n_masks"]
    torch.testing.assert_close(full, expected[f"{name}.mask_logits"], rtol=0, atol=atol["mask_logits_atol"])
    shares = (full > 0).float().mean(dim=(1, 2)).tolist()
    assert shares == pytest.approx(prompt["mask_foreground_share"], abs=1e-3)
    boxes = expected[f"{name}.boxes"]
    assert len(found.loc.boxes_xyxy_head) == prompt["n_boxes"]
    torch.testing.assert_close(found.loc.boxes_xyxy_head, boxes, rtol=0, atol=atol["boxes_atol"])

    # By default only what the new answer says is read.
    new = model.generate_grounded(ModelInputs.from_kwargs(batch), **greedy)
    tokens = case["token_ids"]
    assert len(new.seg.row) == ids.count(tokens["[SEG]"])
    assert len(new.loc.row) == ids.count(tokens["[LOC]"])
    latest = found.seg.mask_logits_lowres[prompt["n_masks"] - len(new.seg.row) :]
    torch.testing.assert_close(new.seg.mask_logits_lowres, latest, rtol=1e-4, atol=atol["mask_logits_atol"])
