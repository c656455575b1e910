"""Mask heads with an encoder of SAM 2's family: transformers' own masks, in training and answers alike."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tests.unit.modeling.conftest import SMALL, batch_of, build_small, grounded_sample, make_image
from tests.unit.modeling.small_segmenters import SIDE, build_segmenter, has_timm, head, sizes, write_segmenter

from ullava.batching.collate import Collator
from ullava.config.load import parse_text
from ullava.config.schema import HeadsConfig, LossConfig, ModelConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError, WeightsError
from ullava.examples import HeadImages
from ullava.inference.predictor import Predictor
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.fresh_heads import build_fresh_heads
from ullava.modeling.heads import mask_table
from ullava.modeling.heads.vision_view import StretchedViewRules
from ullava.structures import Sample, Turn
from ullava.training.loop.init import _shape
from ullava.training.optim.objective import GroundingObjective
from ullava.training.optim.stages import apply_stage, assign_parts, unread_names

KINDS = [
    "sam2",
    "sam3_tracker",
    pytest.param("edgetam", marks=pytest.mark.skipif(not has_timm(), reason="EdgeTAM's encoder is timm's RepViT")),
]
GAVE = ("mask_logits_lowres", "iou_scores", "presence_logits")


def counted(model: Any) -> list[int]:
    """How many images each pass of the mask head's encoder saw."""
    seen: list[int] = []
    model.mask_head.sam.vision_encoder.register_forward_pre_hook(
        lambda _module, given, _named: seen.append(len(given[0])), with_kwargs=True
    )
    return seen


@pytest.mark.parametrize("kind", KINDS)
def test_masks_are_those_of_transformers_own_network_for_the_same_prompt(kind: str, tmp_path: Path) -> None:
    theirs = write_segmenter(kind, tmp_path)
    model, processor = build_segmenter(kind, {"path": str(tmp_path)})
    head = model.mask_head
    if kind == "sam3_tracker":  # without the map of its detector, theirs adds the empty memory where the authors do
        layers = theirs.vision_encoder.neck.fpn_layers
        assert len(layers) == 4 and len(head.encoder.neck.fpn_layers) == 3
        theirs.vision_encoder.neck.fpn_layers = layers[:3]
    states, image = torch.randn(3, 32), torch.tensor([1, 0, 1])
    views = torch.stack([torch.from_numpy(processor.masks.view(make_image(seed, 50, 30))) for seed in (1, 2)])
    assert views.shape == (2, 3, SIDE, SIDE) and views.dtype == torch.uint8
    given = HeadImages(pixels=views, sizes=torch.full((2, 2), SIDE), row_of_image=torch.arange(2))
    with torch.no_grad():
        ours = head.decode(states, head.embed(given, torch.arange(2)), image)
        sparse, dense = head.projector(states), theirs.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
        stated = ((0.5,) * 3,) * 2 if kind == "sam3_tracker" else ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        mean, std = (torch.tensor(value)[:, None, None] for value in stated)
        pixels = (views / 255 - mean) / std
        theirs.mask_decoder.dynamic_multimask_via_stability = False
        for number in range(3):
            prompt = (sparse[number][None, None, None], dense)
            theirs.prompt_encoder.forward = lambda prompt=prompt, **_: prompt
            made = theirs(pixel_values=pixels[image[number]][None], multimask_output=False)
            for mine, wanted in (
                (ours.mask_logits_lowres, made.pred_masks),
                (ours.scores, made.iou_scores),
                (ours.presence_logits, made.object_score_logits),
            ):
                assert mine is not None and float(wanted.abs().max()) > 0
                torch.testing.assert_close(mine[number], wanted.reshape(mine[number].shape), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(ours.mask_logits_lowres[0], ours.mask_logits_lowres[1], rtol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_it_trains_saves_and_sees_every_image_once(kind: str, tmp_path: Path) -> None:
    model, processor = build_segmenter(kind)
    given = [grounded_sample("1", 2), grounded_sample("2", 1), grounded_sample("1", 1)]
    batch = batch_of(processor, given)
    seen = counted(model)
    with torch.no_grad():
        before = model(**batch.inputs.as_kwargs())
        alone = model(**batch_of(processor, given[1:2]).inputs.as_kwargs())
    assert seen == [2, 1], "two distinct images, each of them encoded once"
    assert before.seg.mask_logits_lowres.shape == (4, 16, 16) and before.seg.image.tolist() == [0, 0, 1, 0]
    assert float(before.seg.presence_logits.min()) > 0, "at first, things are there"
    for name in GAVE:
        torch.testing.assert_close(getattr(alone.seg, name)[0], getattr(before.seg, name)[2], rtol=1e-4, atol=1e-5)

    plan = apply_stage(model, "scratch")
    model.train()
    output = model(**batch.inputs.as_kwargs())
    terms = GroundingObjective(LossConfig(iou_score=0.2), processor.masks)(output, batch.targets)
    terms.total.backward()
    assert terms["presence"].item() > 0 and terms["dice"].item() > 0
    reached = {name for name, value in model.named_parameters() if value.grad is not None}
    assert reached == plan.trainable == set(assign_parts(model)) - unread_names(model)
    assert any(float(model.get_parameter(name).grad.abs().sum()) > 0 for name in reached if "sam.vision" in name)
    model.eval()

    with torch.no_grad():
        before = model(**batch.inputs.as_kwargs())  # an encoder with batch statistics has moved on
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, processor_again = load_folder(tmp_path, torch.float32)
    after = again(**batch_of(processor_again, given).inputs.as_kwargs())
    for name in GAVE:
        torch.testing.assert_close(getattr(after.seg, name), getattr(before.seg, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_encoder_rests_unless_the_recipe_says_otherwise(kind: str) -> None:
    model, processor = build_segmenter(kind)
    batch = batch_of(processor, [grounded_sample("3", 2)])
    plan = apply_stage(model, "ground")
    trained = {row.part for row in plan.rows if row.trained}
    assert {"SAM mask decoder", "SAM quality head", "SAM presence head", "mask projector"} <= trained
    assert not {"SAM image encoder", "SAM prompt encoder", "never read"} & trained
    model.train()
    plan.set_frozen_to_eval()
    assert not model.mask_head.sam.vision_encoder.training
    shown = batch.inputs.mask_images
    fine, middle, coarse = model.mask_head.embed(shown, torch.arange(1))
    assert fine.requires_grad and middle.requires_grad, "their projections are the decoder's"
    assert not coarse.requires_grad, "no graph is kept of what does not train"
    before = {name: value.clone() for name, value in model.mask_head.named_parameters()}
    optimizer = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    output = model(**batch.inputs.as_kwargs())
    GroundingObjective(LossConfig(), processor.masks)(output, batch.targets).total.backward()
    optimizer.step()
    moved = {name for name, value in model.mask_head.named_parameters() if not torch.equal(value, before[name])}
    assert {"sam.mask_decoder.conv_s0.weight", "projector.0.weight"} <= moved
    assert not any(name.startswith(("sam.vision_encoder", "sam.prompt_encoder", "sam.no_memory")) for name in moved)

    apply_stage(model, "ground", parts={"SAM image encoder": True})
    assert model.mask_head.embed(shown, torch.arange(1))[2].requires_grad
    assert model.mask_head.sam.no_memory_embedding.requires_grad


def test_what_is_generated_has_the_masks_of_the_pass_that_is_given_its_words() -> None:
    model, processor = build_segmenter("sam2")
    sample = grounded_sample("3", 2)
    told = model(**batch_of(processor, [sample]).inputs.as_kwargs()).seg
    prompt = processor.encode(sample, [make_image(3, 40, 56)], prompt_only=True)
    wanted = processor.encode(sample, [make_image(3, 40, 56)]).input_ids[len(prompt.input_ids) :].tolist()
    inputs, _ = Collator(processor.tokenizer.pad_token_id, "left")([prompt]).usable()
    place = iter(wanted)
    seen = counted(model)

    def say(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([next(place)]), 0.0)

    made = model.generate_grounded(inputs, max_new_tokens=len(wanted), logits_processor=[say], do_sample=False)
    assert seen == [1]
    for name in GAVE:
        torch.testing.assert_close(getattr(made.seg, name), getattr(told, name), rtol=1e-3, atol=1e-4)


def test_rows_without_masks_and_without_images_reach_all_that_trains() -> None:
    model, processor = build_segmenter("sam2")
    apply_stage(model, "scratch")
    model.train()
    caption = replace(grounded_sample("4"), turns=(Turn("<image>What is there?", "A thing."),), task="caption")
    alone = Sample("5", "test", "text", (), (Turn("What is red?", "A color."),))
    for given in ([caption], [alone], [caption, alone]):
        batch = batch_of(processor, given)
        GroundingObjective(LossConfig(), processor.masks)(
            model(**batch.inputs.as_kwargs()), batch.targets
        ).total.backward()
        assert not {name for name, value in model.named_parameters() if value.requires_grad and value.grad is None}
        model.zero_grad()


def test_answers_carry_masks_of_the_original_size_and_none_of_what_is_not_there(tmp_path: Path) -> None:
    model, processor = build_segmenter("sam2")
    Image.fromarray(make_image(8, 40, 56)).save(tmp_path / "8.png")
    sample = replace(grounded_sample("8", 2), images=(tmp_path / "8.png",))
    with torch.no_grad():
        seg = model(**batch_of(processor, [grounded_sample("8", 2)]).inputs.as_kwargs()).seg
        (there,) = Predictor(model, processor).teacher_forced([sample])
        model.mask_head.sam.mask_decoder.pred_obj_score_head.proj_out.bias.fill_(-9.0)
        (gone,) = Predictor(model, processor).teacher_forced([sample])
    assert [thing.mask.shape for thing in there.objects] == [(40, 56)] * 2
    wanted = seg.iou_scores * seg.presence_logits.sigmoid()
    assert [thing.mask_score for thing in there.objects] == pytest.approx(wanted.tolist(), rel=1e-3)
    assert gone.objects == () and gone.not_found == tuple(thing.phrase for thing in there.objects)


def test_the_whole_image_fills_the_square() -> None:
    rules = StretchedViewRules(SIDE)
    image = make_image(1, 64, 128)
    image[:, 64:] = 255
    view = rules.view(image)
    assert view.shape == (3, SIDE, SIDE) and (view[:, :, 33:] == 255).all() and view[:, :, :31].mean() < 200
    plane = torch.zeros(1, 16, 16)
    plane[:, :, 8:] = 1.0
    found = rules.to_original(plane, (64, 128))
    assert found.shape == (1, 64, 128) and float(found[..., :56].max()) == 0 and float(found[..., 72:].min()) == 1
    assert rules.covered(plane, (64, 128)).shape == (1, 16, 16)


@pytest.mark.parametrize("kind", KINDS)
def test_of_a_checkpoint_for_videos_only_what_images_need_is_taken(kind: str, tmp_path: Path) -> None:
    theirs = write_segmenter(kind, tmp_path, video=True).state_dict()
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == f"{kind}_video"
    model, _ = build_segmenter(kind, {"path": str(tmp_path)})
    taken = model.mask_head.sam.state_dict()
    assert taken and all(torch.equal(value, theirs[name]) for name, value in taken.items())
    assert any(name.startswith("memory_attention.") for name in theirs.keys() - taken.keys())
    assert model.config.mask_part.model_type == kind
    assert model.config.mask_part.mask_decoder_config.model_type == f"{kind}_mask_decoder"


def test_of_sam_3_as_it_is_published_the_tracker_and_the_encoder_are_taken(tmp_path: Path) -> None:
    theirs = write_segmenter("sam3_tracker", tmp_path, video=True)
    named = {  # the whole of SAM 3: its detector shares the backbone and has a neck of its own
        name.replace("vision_encoder.backbone.", "detector_model.vision_encoder.backbone.").replace(
            "vision_encoder.neck.", "tracker_neck."
        )
        if name.startswith("vision_encoder.")
        else f"tracker_model.{name}": value.contiguous()
        for name, value in theirs.state_dict().items()
    }
    named["detector_model.vision_encoder.neck.fpn_layers.0.proj1.weight"] = torch.ones(2)
    named["detector_model.text_encoder.final_layer_norm.weight"] = torch.ones(2)
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    sizes_of_all = {"model_type": "sam3_video", "detector_config": {}, "tracker_config": theirs.config.to_dict()}
    (tmp_path / "config.json").write_text(json.dumps(sizes_of_all))
    model, _ = build_segmenter("sam3_tracker", {"path": str(tmp_path)})
    taken, stored = model.mask_head.sam.state_dict(), theirs.state_dict()
    assert taken and all(torch.equal(value, stored[name]) for name, value in taken.items())
    assert model.config.sam3_tracker_config.vision_config.scale_factors == [4.0, 2.0, 1.0]
    del named["tracker_model.no_memory_embedding"]
    save_file(named, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="missing weight no_memory_embedding"):
        build_segmenter("sam3_tracker", {"path": str(tmp_path)})


@pytest.mark.parametrize("video", [False, True])
def test_weights_that_lack_something_or_hold_more_are_refused_by_name(video: bool, tmp_path: Path) -> None:
    write_segmenter("sam2", tmp_path, video=video)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    weights["mask_decoder.strange.weight"] = torch.zeros(2)
    del weights["no_memory_embedding"], weights["vision_encoder.neck.convs.1.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        build_segmenter("sam2", {"path": str(tmp_path)})
    assert caught.value.problems == (
        f"{tmp_path}: missing weight no_memory_embedding",
        f"{tmp_path}: missing weight vision_encoder.neck.convs.1.weight",
        f"{tmp_path}: unexpected weight mask_decoder.strange.weight",
    )


def test_a_folder_of_another_kind_and_sizes_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    write_segmenter("sam2", tmp_path)
    with pytest.raises(UserError, match="a 'sam2', where a 'sam' is needed"):
        build_small((f"mask={{sam: {{path: {tmp_path}}}}}",))
    for key, value, said in (
        ("prompt_encoder_config.image_size", 72, "72 is no multiple of patch_size 16"),
        ("prompt_encoder_config.image_size", 128, "backbone_feature_sizes: .* has to equal 4, 2 and 1 times"),
        ("vision_config.fpn_hidden_size", 16, "fpn_hidden_size: 16 has to equal prompt_encoder_config.hidden_size"),
        ("vision_config.backbone_channel_list", [1, 2, 3, 4], "embed_dim_per_stage of backbone_config from its end"),
        ("mask_decoder_config.num_attention_heads", 32, "num_attention_heads: 32 heads do not divide 16"),
        ("mask_decoder_config.mlp_dims", 32, "mlp_dims: unknown key; did you mean 'mlp_dim'"),
    ):
        refuse_size("sam2", key, value, said)
    for key, value, said in (
        (
            "vision_config.scale_factors",
            [4.0, 2.0, 0.5],
            "has to equal what the decoder reads, which is .4.0, 2.0, 1.0",
        ),
        ("vision_config.backbone_config.image_size", 128, "128 has to equal prompt_encoder_config.image_size"),
        ("vision_config.backbone_config.patch_size", 8, "8 has to equal prompt_encoder_config.patch_size"),
        ("vision_config.backbone_config.num_attention_heads", 3, "vision_config"),
    ):
        refuse_size("sam3_tracker", key, value, said)


def refuse_size(kind: str, key: str, value: Any, said: str) -> None:
    """A fresh segmenter with one size changed is refused, and the line says so."""
    table = copy.deepcopy(sizes(kind))
    *parts, name = key.split(".")
    part = table
    for step in parts:
        part = part[step]
    part[name] = value
    with pytest.raises(ConfigError, match=said):
        build_segmenter(kind, {"config": table})


def test_it_takes_the_place_of_another_mask_head(tmp_path: Path) -> None:
    write_segmenter("sam2", tmp_path)
    mask = head("sam2", {"path": str(tmp_path)}).removeprefix("mask=")
    heads = parse_text(HeadsConfig, f"mask: {mask}\ntext: {{max_length: 256}}\n", "heads")
    model, processor = build_fresh_heads(*build_small(), heads, Path(), site=Site(Path("recipe.yaml"), "reinit_heads"))
    assert model.config.sam_config is None and model.config.mask_kind == processor.mask_kind == "sam2"
    assert processor.sam_side == processor.masks.side == SIDE
    stored = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, stored[name]) for name, value in model.mask_head.sam.state_dict().items())
    batch = batch_of(processor, [grounded_sample("1", 2)])
    assert model(**batch.inputs.as_kwargs()).seg.presence_logits.shape == (2,)
    own, other = (_shape(found.config, "none") for found in (model, build_small()[0]))
    assert own["mask head model_type"] == "sam2_hiera_det_model" and own["mask_kind"] != other["mask_kind"]


def test_a_saved_folder_whose_heads_do_not_fit_is_refused(tmp_path: Path) -> None:
    model, processor = build_segmenter("sam2")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    table = json.loads(config.read_text())
    for change, said in (
        ({"sam2_config": None}, "sam2_config: is missing, but the mask head is a sam2"),
        ({"mask_encoder": "vision"}, "sam2_config.model_type: a 'sam2', but with mask_encoder vision it is a 'sam2_"),
        ({"mask_kind": "edgetam"}, "edgetam_config: is missing, but the mask head is a edgetam"),
        ({"mask_kind": "edgetam", "mask_encoder": "vision"}, "a mask head edgetam has the encoder own, not vision"),
    ):
        config.write_text(json.dumps(table | change))
        with pytest.raises(UserError, match=said):
            load_folder(tmp_path, torch.float32)


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_table, "find_spec", lambda _name: None)
    with pytest.raises(
        ConfigError, match=r"mask.kind: edgetam needs the package timm: pip install 'ullava\[edgetam\]'"
    ):
        build_segmenter("edgetam", {"path": "nowhere"})


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("{kind: sam2, sam: {config: {}}}", "kind sam2 needs the table sam2"),
        ("{kind: edgetam, encoder: vision, edgetam: {config: {}}}", "kind edgetam has an encoder of its own"),
        ("{kind: edgetam, edgetam: {path: x}, sam2: {path: x}}", "kind edgetam takes no table sam2"),
        ("{kind: sam2, score: mean_probability, sam2: {path: x}}", "kind sam2 scores by iou_head"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(table: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_text(ModelConfig, SMALL, "small", (f"mask={table}",))
