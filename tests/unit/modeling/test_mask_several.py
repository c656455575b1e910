"""Several masks of one state: SAM's own for prompts that may mean several things, and that of a box beside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.unit.modeling.small_sam2 import build_sam2
from tests.unit.modeling.small_segmenters import build_segmenter
from transformers import SamConfig

from ullava.errors import UserError
from ullava.examples import HeadImages
from ullava.modeling.heads.mask_sam import SamMaskHead

BOXES = torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 2.0, 60.0, 50.0], [0.0, 0.0, 64.0, 64.0]])
IMAGE = torch.tensor([0, 1, 0])


def sam_head() -> Any:
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        mask_decoder_config={"hidden_size": 16, "mlp_dim": 32, "num_attention_heads": 2, "iou_head_hidden_dim": 16},
    )  # fmt: skip
    return SamMaskHead(config, 24).eval()


def sam2_head() -> Any:
    return build_segmenter("sam2")[0].eval().mask_head


def embedded(head: Any) -> tuple[Any, torch.Tensor]:
    """What the head makes of two random images, and three states."""
    generator = torch.Generator().manual_seed(1)
    views = torch.randint(0, 256, (2, 3, 64, 64), generator=generator, dtype=torch.uint8)
    images = HeadImages(pixels=views, sizes=torch.tensor([[64, 64], [64, 64]]), row_of_image=torch.arange(2))
    states = torch.randn(3, head.projector[0].in_features, generator=generator)
    return head.embed(images, torch.arange(2)), states


def sam3_head() -> Any:
    return build_segmenter("sam3_tracker")[0].eval().mask_head


@pytest.mark.parametrize("make", [sam_head, sam2_head, sam3_head])
@torch.no_grad()
def test_the_masks_are_transformers_own_for_the_same_prompt(make: Any) -> None:
    head = make()
    features, states = embedded(head)
    several, boxed = head.several(states, features, IMAGE), head.several(states, features, IMAGE, BOXES)
    one = head.decode(states, features, IMAGE)
    assert several.mask_logits_lowres.shape == (3, 3, *head.plane_hw) and several.scores.shape == (3, 3)
    assert boxed.mask_logits_lowres.shape == (3, 1, *head.plane_hw) and boxed.scores.shape == (3, 1)
    assert head.coarse_map(features).shape[:2] == (2, head.map_width)
    corners, dense = head.sam.prompt_encoder(None, None, BOXES[:, None], None)
    prompts = head.projector(states)
    maps = [features] if isinstance(features, torch.Tensor) else features
    for number, image in enumerate(IMAGE.tolist()):
        own = [plane[image : image + 1] for plane in maps]
        more = {"high_resolution_features": own[:-1]} if len(own) > 1 else {}
        for found, sparse, many in (
            (several, prompts[number][None, None, None], True),
            (boxed, torch.cat([prompts[number][None], corners[number, 0]])[None, None], False),
        ):
            masks, quality, *_ = head.sam.mask_decoder(
                image_embeddings=own[-1],
                image_positional_embeddings=head.sam.get_image_wide_positional_embeddings(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense[:1],
                multimask_output=many,
                **more,
            )
            assert float(masks.abs().max()) > 0
            torch.testing.assert_close(found.mask_logits_lowres[number], masks[0, 0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.scores[number], quality[0, 0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(boxed.mask_logits_lowres[:, 0], one.mask_logits_lowres, rtol=1e-2)


def test_a_head_without_them_says_so() -> None:
    head = build_sam2()[0].mask_head
    assert not head.makes_several
    for boxes, name in ((None, "multimask"), (BOXES, "box")):
        with pytest.raises(UserError, match=f"candidates: {name}: this model's mask head decodes one mask a state"):
            head.several(torch.zeros(3, 8), None, IMAGE, boxes)
