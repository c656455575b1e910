"""Converted weights against the packages they come from; both need torchvision, so an environment of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ullava.modeling.weights.clip import convert_clip
from ullava.modeling.weights.sam import convert_sam

pytestmark = pytest.mark.slow


def package(name: str) -> Any:
    """Import a package that cannot be imported without torchvision."""
    try:
        return __import__(name, fromlist=["*"])
    except (ImportError, RuntimeError, AttributeError) as error:
        pytest.skip(f"needs an environment with {name} and torchvision: {error}")


def randomize(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.1)


def test_segment_anything_gives_the_same_masks() -> None:
    package("torchvision")
    build = package("segment_anything.build_sam")
    sam = build._build_sam(
        encoder_embed_dim=32, encoder_depth=2, encoder_num_heads=2, encoder_global_attn_indexes=[1]
    ).eval()
    randomize(sam)
    converted = convert_sam(
        {name: tensor for name, tensor in sam.state_dict().items() if not name.startswith("pixel_")}
    )
    pixels = torch.randn(1, 3, sam.image_encoder.img_size, sam.image_encoder.img_size)
    point = torch.tensor([[[300.0, 500.0]]])
    with torch.no_grad():
        embedding = sam.image_encoder(pixels)
        torch.testing.assert_close(converted.vision_encoder(pixels).last_hidden_state, embedding, rtol=1e-4, atol=1e-4)
        sparse, dense = sam.prompt_encoder(points=(point, torch.ones(1, 1)), boxes=None, masks=None)
        masks, quality = sam.mask_decoder(
            image_embeddings=embedding,
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )
        found = converted(image_embeddings=embedding, input_points=point[:, None], multimask_output=True)
    torch.testing.assert_close(found.pred_masks[0], masks, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(found.iou_scores[0], quality, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("quick", "activation"), [(True, "quick_gelu"), (False, "gelu")])
def test_open_clip_gives_the_same_features(quick: bool, activation: str) -> None:
    package("torchvision")
    open_clip = package("open_clip.model")
    model = open_clip.CLIP(
        embed_dim=24,
        vision_cfg={"image_size": 28, "patch_size": 7, "width": 64, "layers": 2, "head_width": 32},
        text_cfg={"context_length": 8, "vocab_size": 50, "width": 32, "heads": 2, "layers": 1},
        quick_gelu=quick,
    ).eval()
    randomize(model)
    made = convert_clip(model.state_dict(), heads=2, activation=activation)
    assert any(name.startswith("transformer.") for name in made.left_out)
    pixels = torch.randn(2, 3, 28, 28)
    with torch.no_grad():
        expected = model.visual(pixels)
        found = made.model(pixels).pooler_output @ model.visual.proj
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
