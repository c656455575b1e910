from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import SamConfig, SamModel

from ullava.errors import WeightsError
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.modeling.weights.conversion_parts import convert_sam_file
from ullava.modeling.weights.sam import convert_sam, sam_config_of

# transformers' name -> Meta's, written the other way round and independently of the table under test.
TO_META = (
    (r"^vision_encoder\.patch_embed\.projection\.", "image_encoder.patch_embed.proj."),
    (r"^vision_encoder\.layers\.(\d+)\.layer_norm(\d)", r"image_encoder.blocks.\1.norm\2"),
    (r"^vision_encoder\.layers\.", "image_encoder.blocks."),
    (r"^vision_encoder\.neck\.conv1", "image_encoder.neck.0"),
    (r"^vision_encoder\.neck\.layer_norm1", "image_encoder.neck.1"),
    (r"^vision_encoder\.neck\.conv2", "image_encoder.neck.2"),
    (r"^vision_encoder\.neck\.layer_norm2", "image_encoder.neck.3"),
    (r"^vision_encoder\.pos_embed", "image_encoder.pos_embed"),
    (r"^shared_image_embedding\.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    (r"^prompt_encoder\.point_embed\.", "prompt_encoder.point_embeddings."),
    (r"mask_embed\.conv1", "mask_downscaling.0"),
    (r"mask_embed\.layer_norm1", "mask_downscaling.1"),
    (r"mask_embed\.conv2", "mask_downscaling.3"),
    (r"mask_embed\.layer_norm2", "mask_downscaling.4"),
    (r"mask_embed\.conv3", "mask_downscaling.6"),
    (r"transformer\.layer_norm_final_attn", "transformer.norm_final_attn"),
    (r"(transformer\.layers\.\d+)\.layer_norm", r"\1.norm"),
    (r"upscale_conv1", "output_upscaling.0"),
    (r"upscale_layer_norm", "output_upscaling.1"),
    (r"upscale_conv2", "output_upscaling.3"),
    (r"(mlps\.\d|iou_prediction_head)\.layers\.0", r"\1.layers.1"),
    (r"(mlps\.\d|iou_prediction_head)\.proj_in", r"\1.layers.0"),
    (r"(mlps\.\d|iou_prediction_head)\.proj_out", r"\1.layers.2"),
)


def tiny_sam() -> SamModel:
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 24,
            "num_hidden_layers": 3,
            "num_attention_heads": 3,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 3,
            "global_attn_indexes": [2],
            "mlp_dim": 40,
            "output_channels": 16,
            "num_pos_feats": 8,
        },
        prompt_encoder_config={"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 12},
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 20,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 28,
            "num_multimask_outputs": 2,
        },
    )
    model = SamModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.2)
    return model


def to_meta(model: SamModel) -> dict[str, torch.Tensor]:
    state = {}
    for name, tensor in model.state_dict().items():
        if name == "prompt_encoder.shared_embedding.positional_embedding":
            continue
        for pattern, replacement in TO_META:
            changed = re.sub(pattern, replacement, name)
            if changed != name:
                name = changed
                break
        state[name] = tensor
    return state


@pytest.fixture(scope="module")
def original() -> SamModel:
    return tiny_sam()


def test_converted_model_gives_the_same_masks(original):
    converted = convert_sam(to_meta(original), decoder_heads=4)
    inputs = {
        "pixel_values": torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)),
        "input_points": torch.tensor([[[[20.0, 30.0]]]]),
        "input_labels": torch.tensor([[[1]]]),
        "input_boxes": None,
    }
    with torch.no_grad():
        expected, found = original(**inputs), converted(**inputs)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.iou_scores, expected.iou_scores)


def test_sizes_are_read_off_the_tensors(original):
    config = sam_config_of(to_meta(original), decoder_heads=4)
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        expected, found = getattr(original.config, part).to_dict(), getattr(config, part).to_dict()
        assert {key: found[key] for key in expected} == expected, part


def test_every_key_must_fit(original):
    state = to_meta(original)
    state["image_encoder.blocks.0.attn.gate"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="attn.gate"):
        convert_sam(state, decoder_heads=4)
    state = to_meta(original)
    del state["prompt_encoder.mask_downscaling.6.bias"]
    state["mask_decoder.iou_token.weight"] = torch.zeros(1, 17)
    with pytest.raises(WeightsError) as caught:
        convert_sam(state, decoder_heads=4)
    assert len(caught.value.problems) == 2
    state["text_encoder.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError, match="no part of segment-anything"):
        convert_sam(state, decoder_heads=4)


def test_something_else_is_named_as_such():
    with pytest.raises(WeightsError, match="is this a segment-anything checkpoint"):
        convert_sam({"lm_head.weight": torch.zeros(2, 2)})


def test_names_and_sizes_of_a_real_original(shared_dir: Path):
    """The goldens hold a SAM saved under Meta's own names inside a whole u-LLaVA."""
    state = read_state_dict(shared_dir / "parity" / "ullava" / "stage2_forward" / "checkpoint")
    prefix = "visual_model."
    config = convert_sam({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}).config
    assert config.vision_config.window_size == 5
    assert config.vision_config.global_attn_indexes == [1]
    assert config.vision_config.num_attention_heads == 4
    assert config.mask_decoder_config.iou_head_hidden_dim == 40


def test_a_converted_original_sees_what_the_original_saw(shared_dir: Path):
    folder = shared_dir / "parity" / "ullava" / "stage2_forward"
    state = read_state_dict(folder / "checkpoint")
    prefix = "visual_model."
    model = convert_sam({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    inside = load_file(folder / "intermediates.safetensors")
    with torch.no_grad():
        embeddings = model.vision_encoder(load_file(folder / "inputs.safetensors")["images_sam"]).last_hidden_state
        positions = model.get_image_wide_positional_embeddings()
    torch.testing.assert_close(embeddings, inside["sam_image_embedding"], atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(positions, inside["sam_dense_pe"], atol=1e-5, rtol=1e-5)


def test_all_missing_keys_are_told_at_once(original):
    decoder = {name: value for name, value in to_meta(original).items() if name.startswith("mask_decoder.")}
    with pytest.raises(WeightsError) as caught:
        convert_sam(decoder)
    assert len(caught.value.problems) == 7
    assert all(problem.startswith(("missing: image_encoder.", "missing: prompt_")) for problem in caught.value.problems)


@pytest.mark.parametrize("prefix", ["module.", "sam_model.", "model.module."])
def test_the_prefix_of_a_wrapper_is_named_first(tmp_path, original, prefix):
    torch.save({"state_dict": {prefix + name: value for name, value in to_meta(original).items()}}, tmp_path / "a.pth")
    with pytest.raises(WeightsError) as caught:
        convert_sam_file(tmp_path / "a.pth", tmp_path / "out", 4)
    assert f"names begin with '{prefix}'" in caught.value.problems[0]
    missing = "a.pth: missing: mask_decoder.mask_tokens.weight; is this a segment-anything checkpoint?"
    assert any(problem.endswith(missing) for problem in caught.value.problems)
    assert not (tmp_path / "out").exists()


def test_weights_of_a_failed_run_are_not_converted(tmp_path, original):
    broken = to_meta(original)
    broken["image_encoder.pos_embed"] = broken["image_encoder.pos_embed"] * float("nan")
    torch.save(broken, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.pth: image_encoder\.pos_embed holds NaN"):
        convert_sam_file(tmp_path / "a.pth", tmp_path / "out", 4)
