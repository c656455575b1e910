"""The stage I model: images, videos and plain text in one batch, both projectors, gradients."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_cases import folders, read
from gradient_check import check_gradients, rows_with_gradient
from released_models import convert, small_sam, tensors
from torch import Tensor
from torch.nn import functional

from ullava.errors import UserError

PARTS = ("all_rows", "without_text_row")


class Core:
    """One variant of a case: the converted model and its inputs."""

    def __init__(self, folder: Path, variant: str, out: Path) -> None:
        self.case = read(folder)
        self.variant = self.case["variants"][variant]
        self.inputs = tensors(folder, "inputs.safetensors")
        self.expected = tensors(folder, self.variant["outputs"])
        self.model = convert(folder / self.variant["checkpoint"], out / "model", "--sam", str(small_sam(out / "sam")))

    def rows(self, part: str) -> list[int]:
        return [row for row, kind in enumerate(self.case["rows"]) if part == "all_rows" or kind != "text"]

    def batch(self, rows: list[int]) -> dict[str, Tensor]:
        """Model inputs of some rows; the n-th image (video) belongs to the n-th row of that kind."""
        kinds = self.case["rows"]
        image = [kinds[:row].count("image") for row in rows if kinds[row] == "image"]
        video = [kinds[:row].count("video") for row in rows if kinds[row] == "video"]
        return {
            "input_ids": self.inputs["input_ids"][rows],
            "attention_mask": self.inputs["attention_mask"][rows].long(),
            "pixel_values": self.inputs["images"],
            "image_index": torch.tensor(image, dtype=torch.long),
            "pixel_values_videos": self.inputs["videos"].permute(0, 2, 1, 3, 4),
            "video_index": torch.tensor(video, dtype=torch.long),
        }

    def loss(self, batch: dict[str, Tensor], rows: list[int]) -> Tensor:
        output = self.model(labels=self.inputs["labels"][rows], **batch)
        return functional.cross_entropy(output.supervised_logits, output.targets)

    def close(self, found: Tensor, expected: Tensor, what: str) -> None:
        torch.testing.assert_close(found, expected, rtol=0, atol=self.case["tolerances"][what])


def variants() -> list[Any]:
    found = []
    for parameter in folders("stage1_forward"):
        folder = parameter.values[0]
        names = read(folder)["variants"] if not parameter.marks else ["any"]
        found += [pytest.param((folder, name), id=f"{parameter.id}-{name}", marks=parameter.marks) for name in names]
    return found


def with_quirk() -> list[Any]:
    """The variants for which a case gives the figure of an image without a place."""
    found = []
    for entry in variants():
        folder, name = entry.values[0]
        if entry.marks or read(folder)["variants"][name]["checkpoint"] == quirk_of(folder)["checkpoint"]:
            found.append(entry)
    return found


def quirk_of(folder: Path) -> dict[str, Any]:
    return read(folder)["quirk_image_without_placeholder"]


@pytest.fixture(scope="module")
def cores() -> dict[Any, Core]:
    return {}


@pytest.fixture
def core(request: pytest.FixtureRequest, cores: dict[Any, Core], tmp_path_factory: pytest.TempPathFactory) -> Core:
    if request.param not in cores:
        cores[request.param] = Core(*request.param, tmp_path_factory.mktemp("core"))
    return cores[request.param]


EVERY = pytest.mark.parametrize("core", variants(), indirect=True)


@EVERY
def test_logits_and_states(core: Core) -> None:
    rows = core.rows("all_rows")
    with torch.no_grad():
        output = core.model(output_hidden_states=True, **core.batch(rows))
    real = core.inputs["attention_mask"].bool()
    core.close(output.logits[real], core.expected["logits"][real], "logits_atol")
    core.close(output.hidden_states[-1][real], core.expected["last_hidden_state"][real], "hidden_atol")


@EVERY
def test_every_kind_of_row_alone_says_the_same(core: Core) -> None:
    for row in core.rows("all_rows"):
        with torch.no_grad():
            logits = core.model(**core.batch([row])).logits[0]
        real = core.inputs["attention_mask"][row].bool()
        core.close(logits[real], core.expected["logits"][row][real], "logits_atol")


@EVERY
def test_tower_and_video_features(core: Core) -> None:
    vision = core.model.vision
    with torch.no_grad():
        core.close(vision.patch_states(core.inputs["images"]), core.expected["image_features"], "features_atol")
        video = vision.encode_video({"base": core.inputs["videos"].permute(0, 2, 1, 3, 4)})
        expected = vision.projector(core.expected["video_features"])
    assert video.counts == (core.case["video_tokens"],) * core.case["n_video_rows"]
    core.close(video.tokens, expected.flatten(0, 1), "hidden_atol")


@EVERY
@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("from_scratch", [True, False])
def test_loss_and_gradients(core: Core, part: str, from_scratch: bool) -> None:
    """With projector_from_scratch the original trains projector and markers only, by detaching all other words."""
    expected = core.variant["gradients"][f"projector_from_scratch={str(from_scratch).lower()}/{part}"]
    model, rows = core.model, core.rows(part)
    model.config.marker_gradient_only = from_scratch
    try:
        model.zero_grad()
        loss = core.loss(core.batch(rows), rows)
        assert loss.item() == pytest.approx(expected["loss"], abs=core.case["tolerances"]["loss_atol"])
        loss.backward()
        assert check_gradients(model, expected, core.case["tolerances"], "", ()) == len(expected["params"])
        table = model.get_input_embeddings().weight.grad
        assert rows_with_gradient(table) == expected["embedding_rows_with_gradient"]
        for row, norm in expected["embedding_row_norms"].items():
            slack = core.case["tolerances"]["grad_atol"] + core.case["tolerances"]["grad_rtol"] * norm
            assert table[int(row)].norm().item() == pytest.approx(norm, abs=slack)
    finally:
        model.zero_grad()
        model.config.marker_gradient_only = False


@pytest.mark.parametrize("core", with_quirk(), indirect=True)
def test_a_image_without_a_place(core: Core) -> None:
    """The original gives it to the next row that has a place. Ours says which image each place shows, or refuses."""
    quirk = core.case["quirk_image_without_placeholder"]
    rows = [core.case["rows"].index("text"), len(core.case["rows"]) - 1]
    batch = core.batch(rows)
    atol = core.case["tolerances"]["loss_atol"]
    with torch.no_grad():
        assert core.loss(batch, rows).item() == pytest.approx(quirk["loss_if_row_3_sees_image_1"], abs=atol)
        shifted = batch | {"image_index": torch.tensor([0])}
        assert core.loss(shifted, rows).item() == pytest.approx(quirk["original_loss"], abs=atol)
        with pytest.raises(UserError, match="placeholders"):
            core.loss(batch | {"image_index": torch.tensor([0, 1])}, rows)
