"""The CPU's own ways through SAM give what transformers' modules give, forward and backward."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional
from transformers import SamConfig, SamModel

from ullava.examples import HeadImages
from ullava.modeling.cpu import sam_decoder, sam_encoder
from ullava.modeling.heads.mask_sam import SamMaskHead, SamMaskRules


def random_sam(use_rel_pos: bool = True) -> SamModel:
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 2,
            "num_attention_heads": 3,
            "image_size": 256,
            "patch_size": 8,
            "window_size": 5,
            "global_attn_indexes": [1],
            "mlp_dim": 32,
            "output_channels": 32,
            "num_pos_feats": 16,
            "use_rel_pos": use_rel_pos,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 256, "patch_size": 8},
        mask_decoder_config={"hidden_size": 32, "mlp_dim": 48, "num_attention_heads": 4, "iou_head_hidden_dim": 16},
    )
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def stock_masks(sam, prompts, embeddings, image_of_prompt):
    dense = sam.prompt_encoder.no_mask_embed.weight.reshape(1, -1, 1, 1)
    chosen = embeddings[image_of_prompt]
    masks, quality = sam.mask_decoder(
        image_embeddings=chosen,
        image_positional_embeddings=sam.get_image_wide_positional_embeddings().expand(len(chosen), -1, -1, -1),
        sparse_prompt_embeddings=prompts[:, None, None, :],
        dense_prompt_embeddings=dense.expand_as(chosen),
        multimask_output=False,
    )
    return masks[:, 0, 0], quality[:, 0, 0]


def folded_masks(sam, prompts, embeddings, image_of_prompt):
    dense = sam.prompt_encoder.no_mask_embed.weight[0]
    positions = sam.get_image_wide_positional_embeddings()[0]
    return sam_decoder.decode_folded(sam.mask_decoder, prompts, embeddings, dense, positions, image_of_prompt)


@pytest.fixture
def core_cache(monkeypatch, tmp_path):
    """A function that makes the system tell another size of a core's cache."""

    def tell(told: str | None) -> None:
        file = tmp_path / "size"
        if told is not None:
            file.write_text(told)
        monkeypatch.setattr(sam_encoder, "CACHE_FILE", file)
        sam_encoder.block_numbers.cache_clear()

    yield tell
    sam_encoder.block_numbers.cache_clear()


@pytest.mark.parametrize(
    ("told", "numbers"),
    [("512K\n", 1 << 17), ("1024K\n", 1 << 18), (None, 1 << 18), ("2M\n", 1 << 18), ("8K", 1 << 14)],
)
def test_blocks_are_as_large_as_the_cache(core_cache, told, numbers):
    core_cache(told)
    assert sam_encoder.block_numbers() == numbers


@pytest.mark.parametrize("wide", [True, False])
@pytest.mark.parametrize(("use_rel_pos", "told"), [(True, "1024K"), (True, "64K"), (False, "1024K")])
def test_blockwise_encoder_agrees(use_rel_pos, told, wide, core_cache, monkeypatch):
    core_cache(told)
    monkeypatch.setattr(sam_encoder, "wide_units", lambda: wide)
    monkeypatch.setattr(sam_encoder, "FUSED_QUERIES", 96)  # does not divide the 1024 positions
    sam = random_sam(use_rel_pos)
    pixels = torch.randn(2, 3, 256, 256)
    with torch.no_grad():
        assert sam_encoder.can_block(sam.vision_encoder, pixels.device)
        expected = sam.vision_encoder(pixels).last_hidden_state
        found = sam_encoder.encode_each(sam.vision_encoder, pixels)
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-4)


def test_what_lies_on_the_image_is_drawn_the_same_without_the_padding():
    sam = random_sam()
    head = SamMaskHead(sam.config, 16).eval()
    head.sam = sam
    torch.manual_seed(2)
    states, embeddings, places = torch.randn(3, 16), torch.randn(2, 32, 32, 32), torch.tensor([1, 0, 1])
    resized, original = (150, 256), (117, 200)
    with torch.no_grad():
        every = head.decode(states, embeddings, places)
        upper = head.decode(states, embeddings, places, content_hw=(150, 256))
    whole, quality = every.mask_logits_lowres, every.scores
    part, same_quality = upper.mask_logits_lowres, upper.scores
    assert torch.equal(quality, same_quality) and part.shape == whole.shape == (3, 128, 128)
    assert (part[:, 80:] == 0).all() and torch.equal(part[:, :80], whole[:, :80]), (
        "19 cells of 32 hold 150 of 256; and one"
    )
    rules = SamMaskRules(256)
    assert rules.content_hw(original) == resized
    drawn = [rules.to_original(masks, original) for masks in (whole, part)]
    assert drawn[0].shape == (3, 117, 200) and torch.equal(*drawn)
    square = functional.interpolate(whole[:, None], (256, 256), mode="bilinear")[..., :150, :]
    expected = functional.interpolate(square, original, mode="bilinear")[:, 0]
    torch.testing.assert_close(drawn[0], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk_numbers", [1, 1 << 20])
def test_folded_decoder_agrees_forward_and_backward(monkeypatch, chunk_numbers):
    monkeypatch.setattr(sam_decoder, "CHUNK_NUMBERS", chunk_numbers)
    sam = random_sam()
    image_of_prompt = torch.tensor([1, 0, 1])
    results = []
    for decode in (stock_masks, folded_masks):
        torch.manual_seed(1)
        prompts, embeddings = torch.randn(3, 32, requires_grad=True), torch.randn(2, 32, 32, 32, requires_grad=True)
        sam.zero_grad()
        masks, quality = decode(sam, prompts, embeddings, image_of_prompt)
        (masks.square().mean() + quality.sum()).backward()
        own = {
            name: parameter.grad
            for name, parameter in sam.mask_decoder.named_parameters()
            if parameter.grad is not None
        }
        results.append((masks.detach(), quality.detach(), prompts.grad, embeddings.grad, own))
    (*expected, their_gradients), (*found, our_gradients) = results
    assert expected[0].std() > 0.1
    for theirs, ours in zip(expected, found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3)
    for name, theirs in their_gradients.items():
        if name not in our_gradients:
            # The other mask tokens, and key biases that add the same to every score, get nothing but rounding noise.
            assert theirs.abs().max() < 1e-4, name
            continue
        torch.testing.assert_close(
            our_gradients[name], theirs, atol=1e-4 * float(theirs.abs().max()) + 1e-6, rtol=1e-3, msg=name
        )


def test_no_prompt_gives_no_mask():
    masks, quality = folded_masks(random_sam(), torch.zeros(0, 32), torch.zeros(1, 32, 32, 32), torch.zeros(0).long())
    assert masks.shape == (0, 128, 128)
    assert quality.shape == (0,)


def test_stock_modules_are_used_elsewhere():
    sam = random_sam()
    here, prompts = torch.device("cpu"), torch.zeros(1, 32)
    assert not sam_encoder.can_block(sam.vision_encoder, here)
    with torch.no_grad():
        assert sam_encoder.can_block(sam.vision_encoder, here)
        assert not sam_encoder.can_block(sam.vision_encoder, torch.device("meta"))
        assert not sam_encoder.can_block(random_sam().bfloat16().vision_encoder, here)
        with torch.autocast("cpu", torch.bfloat16):
            assert not sam_encoder.can_block(sam.vision_encoder, here)
            assert not sam_decoder.can_fold(sam.mask_decoder, prompts)
    assert not sam_decoder.can_fold(sam.mask_decoder, prompts.bfloat16())
    assert sam_decoder.can_fold(sam.mask_decoder, prompts)


def test_mask_head_takes_the_fast_way_and_gives_the_same(monkeypatch):
    head = SamMaskHead(random_sam().config, 8)
    head.sam.load_state_dict(random_sam().state_dict())
    torch.manual_seed(2)
    pixels = torch.randint(0, 256, (1, 3, 220, 256), dtype=torch.uint8)
    states, first = torch.randn(2, 8), torch.zeros(2, dtype=torch.long)
    images = HeadImages(pixels=pixels, sizes=torch.tensor([[200, 256]]), row_of_image=torch.tensor([0]))
    with torch.no_grad():
        fast = head.decode(states, head.embed(images, first[:1]), first)
        monkeypatch.setattr("ullava.modeling.cpu.sam.can_block", lambda *_: False)
        monkeypatch.setattr("ullava.modeling.cpu.sam.can_fold", lambda *_: False)
        stock = head.decode(states, head.embed(images, first[:1]), first)
    for ours, theirs in ((fast.mask_logits_lowres, stock.mask_logits_lowres), (fast.scores, stock.scores)):
        torch.testing.assert_close(ours, theirs, atol=2e-4 * float(theirs.abs().max()), rtol=1e-3)
