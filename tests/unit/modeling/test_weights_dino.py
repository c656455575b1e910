"""GroundingDINO's original layout at small sizes: names written the other way round, independently of the table."""

from __future__ import annotations

import re

import pytest
import torch
from small_detectors import DETECTOR
from transformers import CONFIG_MAPPING, GroundingDinoForObjectDetection

from ullava.errors import WeightsError
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.modeling.weights.grounding_dino import convert_grounding_dino

SWIN = r"^model\.backbone\.conv_encoder\.model\.swin\."
TO_ORIGINAL = (
    (SWIN + r"embeddings\.patch_embeddings\.projection", "backbone.0.patch_embed.proj"),
    (SWIN + r"embeddings\.norm", "backbone.0.patch_embed.norm"),
    (SWIN + r"encoder\.layers\.", "backbone.0.layers."),
    (r"^model\.input_proj_vision", "input_proj"),
    (r"^model\.text_backbone", "bert"),
    (r"^model\.text_projection", "feat_map"),
    (r"^model\.level_embed", "transformer.level_embed"),
    (r"^model\.query_position_embeddings", "transformer.tgt_embed"),
    (r"^model\.encoder_output_bbox_embed", "transformer.enc_out_bbox_embed"),
    (r"^model\.enc_output", "transformer.enc_output"),
    (r"^model\.encoder\.layers\.(\d+)\.deformable_layer", r"transformer.encoder.layers.\1"),
    (r"^model\.encoder\.layers\.(\d+)\.text_enhancer_layer", r"transformer.encoder.text_layers.\1"),
    (r"^model\.encoder\.layers\.(\d+)\.fusion_layer", r"transformer.encoder.fusion_layers.\1"),
    (r"^model\.decoder\.reference_points_head", "transformer.decoder.ref_point_head"),
    (r"^model\.decoder\.layer_norm", "transformer.decoder.norm"),
    (r"^model\.decoder\.", "transformer.decoder."),
)
INSIDE = (
    (r"(backbone.*)layernorm_before", r"\1norm1"),
    (r"(backbone.*)layernorm_after", r"\1norm2"),
    (r"(backbone.*)attention\.relative_position_bias\.", r"\1attn."),
    (r"(backbone.*)attention\.o_proj", r"\1attn.proj"),
    (r"(encoder\.layers.*)self_attn_layer_norm", r"\1norm1"),
    (r"(encoder\.layers.*)final_layer_norm", r"\1norm2"),
    (r"(text_layers.*)layer_norm_before", r"\1norm1"),
    (r"(text_layers.*)layer_norm_after", r"\1norm2"),
    (r"vision_param", "gamma_v"),
    (r"text_param", "gamma_l"),
    (r"(fusion_layers.*)layer_norm_vision", r"\1layer_norm_v"),
    (r"(fusion_layers.*)layer_norm_text", r"\1layer_norm_l"),
    (r"(fusion_layers.*attn\.(?:values_|out_)?)vision_proj", r"\1v_proj"),
    (r"(fusion_layers.*attn\.(?:values_|out_)?)text_proj", r"\1l_proj"),
    (r"(decoder\.layers.*)encoder_attn_text_layer_norm", r"\1catext_norm"),
    (r"(decoder\.layers.*)encoder_attn_text\.", r"\1ca_text."),
    (r"(decoder\.layers.*)encoder_attn_layer_norm", r"\1norm1"),
    (r"(decoder\.layers.*)encoder_attn\.", r"\1cross_attn."),
    (r"(decoder\.layers.*)self_attn_layer_norm", r"\1norm2"),
    (r"(decoder\.layers.*)final_layer_norm", r"\1norm3"),
    (r"(transformer.*)\.fc([12])\.", r"\1.linear\2."),
)
JOINED = (
    (r"(backbone.*)attention\.q_proj\.(\w+)", r"\1attention.{}_proj.\2", ("q", "k", "v"), r"\1attn.qkv.\2"),
    (r"(transformer.*\.)query\.(\w+)", r"\1{}.\2", ("query", "key", "value"), r"\1in_proj_\2"),
)


def small_dino() -> GroundingDinoForObjectDetection:
    torch.manual_seed(5)
    table = dict(DETECTOR)
    model = GroundingDinoForObjectDetection(CONFIG_MAPPING[table.pop("model_type")](**table)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.1)
    return model


def to_original(model: GroundingDinoForObjectDetection) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        if re.search(r"swin\.layernorm\.", name):
            continue
        stage = re.fullmatch(r".*hidden_states_norms\.stage(\d+)\.(\w+)", name)
        if stage:
            state[f"backbone.0.norm{int(stage[1]) - 1}.{stage[2]}"] = tensor
            continue
        for pattern, replacement in TO_ORIGINAL:
            changed = re.sub(pattern, replacement, name)
            if changed != name:
                name = changed
                break
        for pattern, replacement in INSIDE:
            name = re.sub(pattern, replacement, name)
        state[name] = tensor
    for pattern, other, parts, joined in JOINED:
        for name in [name for name in state if re.fullmatch(pattern, name)]:
            match = re.fullmatch(pattern, name)
            assert match is not None
            names = [match.expand(other.format(part)) for part in parts]
            state[match.expand(joined)] = torch.cat([state.pop(part) for part in names])
    table = "backbone.0.layers.0.blocks.0.attn.relative_position_index"
    return state | {table: torch.zeros(4, 4, dtype=torch.long), "label_enc.weight": torch.zeros(3, 2)}


@pytest.fixture(scope="module")
def original() -> GroundingDinoForObjectDetection:
    return small_dino()


def test_names_are_the_originals(original):
    """A few names as they stand in the released file, against slips that both tables could share."""
    state = to_original(original)
    for name in (
        "backbone.0.layers.0.blocks.0.attn.qkv.weight",
        "backbone.0.layers.0.downsample.reduction.weight",
        "backbone.0.norm0.weight",
        "transformer.encoder.fusion_layers.0.attn.values_l_proj.weight",
        "transformer.encoder.text_layers.0.self_attn.in_proj_weight",
        "transformer.decoder.layers.1.ca_text.in_proj_bias",
        "transformer.decoder.layers.1.catext_norm.weight",
        "transformer.decoder.bbox_embed.0.layers.2.bias",
        "transformer.enc_output_norm.weight",
        "bert.encoder.layer.0.attention.self.query.weight",
        "input_proj.0.0.weight",
    ):
        assert name in state


def test_the_same_network_comes_back(original, tmp_path, command):
    prefixed = {f"module.{name}": tensor for name, tensor in to_original(original).items()}
    torch.save({"model": prefixed}, tmp_path / "groundingdino_swint_ogc.pth")
    out = tmp_path / "detector"
    arguments = ["--from", str(tmp_path / "groundingdino_swint_ogc.pth"), "--out", str(out)]
    code, printed, errors = command("convert", "grounding_dino", *arguments, "--heads", "2", "--text-heads", "2")
    assert code == 0, errors
    assert "sha256" in printed
    assert read_state_dict(out)
    converted = GroundingDinoForObjectDetection.from_pretrained(str(out)).eval()
    mine, theirs = converted.state_dict(), original.state_dict()
    assert mine.keys() == theirs.keys()
    unread = "swin.layernorm."
    assert all(torch.equal(mine[name], theirs[name]) for name in theirs if unread not in name)
    words = torch.tensor([[101, 7, 8, 1012, 102]])
    inputs = {
        "pixel_values": torch.rand(1, 3, 64, 64),
        "input_ids": words,
        "attention_mask": torch.ones_like(words),
        "token_type_ids": torch.zeros_like(words),
    }
    with torch.no_grad():
        expected, found = original(**inputs), converted(**inputs)
    torch.testing.assert_close(found.pred_boxes, expected.pred_boxes)
    # The longest text is in no tensor; it is 256 in the released files.
    longest = expected.logits.shape[-1]
    torch.testing.assert_close(found.logits[..., :longest], expected.logits)
    assert converted.config.max_text_len == 256


def test_a_damaged_file_names_every_key(original):
    state = to_original(original)
    state.pop("feat_map.bias")
    state["feat_map.weight"] = torch.zeros(3, 3)
    state["stranger.weight"] = torch.zeros(1)
    with pytest.raises(WeightsError) as caught:
        convert_grounding_dino(state, heads=2, text_heads=2)
    text = "\n".join(caught.value.problems)
    assert "missing: model.text_projection.bias" in text
    assert "shape: model.text_projection.weight is [3, 3]" in text
    assert "unexpected: stranger.weight" in text


def test_wrong_heads_are_refused(original):
    with pytest.raises(WeightsError, match="7 heads do not go"):
        convert_grounding_dino(to_original(original), heads=7, text_heads=2)


def test_another_architecture_is_refused():
    with pytest.raises(WeightsError, match="is this a GroundingDINO checkpoint"):
        convert_grounding_dino({"lm_head.weight": torch.zeros(2, 2)})
