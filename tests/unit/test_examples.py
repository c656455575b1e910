"""The typed records between data and model: their flat form, moving, and what is refused."""

from __future__ import annotations

import pytest
import torch

from ullava.errors import UserError
from ullava.examples import (
    BadSample,
    Batch,
    HeadImages,
    Instructions,
    ModelInputs,
    PatchNames,
    Targets,
    VisualInputs,
    is_model_input,
    mapped,
)


def everything() -> ModelInputs:
    """Inputs with every part."""
    ids = torch.arange(6).view(2, 3)
    return ModelInputs(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        labels=ids,
        images=VisualInputs(
            views={"base": torch.zeros(1, 3, 4, 4), "tiles": [torch.zeros(2, 3, 4, 4)]},
            index=torch.tensor([0, 0]),
            counts=torch.tensor([[1, 2], [1, 2]]),
            row=torch.tensor([0, 1]),
        ),
        videos=VisualInputs(
            views={"base": torch.zeros(1, 8, 3, 4, 4), "frames": torch.zeros(1, 2)}, index=torch.tensor([0])
        ),
        mask_images=HeadImages(
            pixels=torch.zeros(1, 3, 8, 8), sizes=torch.tensor([[8, 8]]), row_of_image=torch.tensor([0])
        ),
        box_images=HeadImages(
            pixels=torch.zeros(1, 3, 6, 6), sizes=torch.tensor([[6, 6]]), row_of_image=torch.tensor([0])
        ),
        instructions=Instructions(ids=ids, mask=torch.ones_like(ids), grounded=torch.tensor([True, False])),
        patches=PatchNames(words=torch.zeros(1, 2, 1), image=torch.tensor([0])),
        content_only=True,
        overrides={"keep": 1},
        generator=torch.Generator(),
    )


def test_the_flat_form_and_back() -> None:
    inputs = everything()
    flat = inputs.as_kwargs()
    assert {"pixel_values", "pixel_values_tiles", "pixel_values_videos", "pixel_values_videos_frames"} <= flat.keys()
    assert all(is_model_input(key) for key in flat)
    again = ModelInputs.from_kwargs(flat)
    assert again.as_kwargs().keys() == flat.keys()
    assert all(again.as_kwargs()[key] is value for key, value in flat.items()), "nothing is copied"
    assert set(again.videos.views) == {"base", "frames"}, "a video's views are not an image's"
    assert ModelInputs().as_kwargs() == {}


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("pixel_valuess", "the model reads no 'pixel_valuess'; did you mean 'pixel_values'"),
        ("image_indx", "the model reads no 'image_indx'; did you mean 'image_index'"),
        ("token_type_ids", "the model reads no 'token_type_ids'"),
    ],
)
def test_a_key_that_the_model_does_not_read_is_refused(key: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelInputs.from_kwargs({"input_ids": torch.zeros(1, 1), key: torch.zeros(1)})
    assert ModelInputs.from_kwargs({key: None}).as_kwargs() == {}, "what is not given is no problem"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("pixel_values",), "the batch holds pixel_values but no image_index"),
        (("image_index",), "the batch holds image_index but no pixel_values"),
        (("pixel_values_videos",), "the batch holds pixel_values_videos but no video_index"),
        (("sam_pixel_values", "sam_index"), "the batch holds sam_pixel_values, sam_index but no sam_sizes"),
        (("patch_words",), "the batch holds patch_words but no patch_image"),
    ],
)
def test_a_part_that_is_not_whole_is_refused(keys: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        ModelInputs.from_kwargs({key: torch.zeros(1) for key in keys})


def test_moving_keeps_what_is_shared_and_what_is_no_tensor() -> None:
    mask = torch.ones(2, 2)
    targets = Targets(masks=[mask, mask], boxes_xyxy_head=torch.zeros(0, 4), images=2)
    batch = Batch(inputs=everything(), targets=targets, names=("a", "b"), bad_samples=(BadSample("c", "torn"),))
    made = mapped(batch, lambda tensor: tensor.to("meta"))
    assert made.targets.masks[0] is made.targets.masks[1], "one tensor stays one"
    moved = [value for value in made.inputs.as_kwargs().values() if isinstance(value, torch.Tensor)]
    assert len(moved) > 15 and all(value.device.type == "meta" for value in moved)
    assert made.inputs.images.views["tiles"][0].device.type == "meta"
    assert (made.names, made.bad_samples, made.inputs.overrides) == (
        batch.names,
        batch.bad_samples,
        batch.inputs.overrides,
    )
    here = batch.to("cpu")
    assert here.inputs.input_ids is batch.inputs.input_ids, "a tensor that lies there is not copied"


def test_a_batch_without_a_usable_row_names_the_reasons() -> None:
    batch = Batch(inputs=None, targets=None, bad_samples=(BadSample("a/train/3", "torn"),))
    with pytest.raises(UserError, match="no sample of this batch is usable: a/train/3: torn"):
        batch.usable()
