"""Mask heads with a memory of frames: transformers' own masks over a clip, both ways, several things at once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.modeling.conftest import make_image
from tests.unit.modeling.small_segmenters import ENCODERS, SIDE, WIDTH, build_segmenter, sizes, write_segmenter
from torch import nn
from transformers import Sam2VideoInferenceSession
from transformers.models.edgetam_video.modeling_edgetam_video import EdgeTamVideoInferenceSession

from ullava.errors import ConfigError, UserError, WeightsError
from ullava.examples import HeadImages
from ullava.modeling.heads import mask_table
from ullava.modeling.heads.mask_contract import video_head
from ullava.modeling.heads.mask_table import MASK_HEADS
from ullava.modeling.heads.outputs import ABSENT_LOGIT

KINDS = ["sam2", "edgetam"]
SESSIONS = {"sam2": Sam2VideoInferenceSession, "edgetam": EdgeTamVideoInferenceSession}
WIDE = (8, 16, 24, 32)
LENGTH = 8
"""Longer than the memory: the earliest frames fall out of it."""


class Maps(nn.Module):
    """Four maps of an image, as EdgeTAM's encoder wants them of its backbone (timm's RepViT, which is not needed)."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Conv2d(3, width, 2**level, 2**level) for level, width in zip((2, 3, 4, 5), WIDE, strict=True)
        )

    def forward(self, pixels: torch.Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=[stage(pixels) for stage in self.stages], hidden_states=None)


@pytest.fixture
def without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    """EdgeTAM on another backbone: its memory is the same whichever there is."""
    stand_in = SimpleNamespace(from_config=lambda _: Maps())
    monkeypatch.setattr("transformers.models.edgetam.modeling_edgetam.AutoModel", stand_in)
    monkeypatch.setitem(ENCODERS["edgetam"], "backbone_config", {"model_type": "resnet"})
    monkeypatch.setitem(ENCODERS["edgetam"], "backbone_channel_list", list(WIDE[::-1]))
    row = replace(MASK_HEADS["edgetam_video", "own"], package=None)
    monkeypatch.setattr(mask_table, "MASK_HEADS", {**MASK_HEADS, ("edgetam_video", "own"): row})


def clip(length: int = LENGTH) -> HeadImages:
    frames = torch.stack([torch.from_numpy(make_image(70 + n, SIDE, SIDE)).permute(2, 0, 1) for n in range(length)])
    return HeadImages(pixels=frames, sizes=torch.full((length, 2), SIDE), row_of_image=torch.arange(length))


def ours_over(head: Any, shown: HeadImages, states: torch.Tensor, order: range) -> list[Any]:
    """Our masks of all things at once, frame after frame in ``order``; the first is prompted."""
    features = head.embed(shown, torch.arange(LENGTH))
    tracked = [head.start(head.taken(features, torch.tensor([order[0]])), states)]
    for number in order[1:]:
        tracked.append(head.step(head.taken(features, torch.tensor([number])), tracked[-1].memory))
    return tracked


def theirs_over(network: Any, kind: str, pixels: torch.Tensor, sparse: torch.Tensor, order: range) -> list[Any]:
    """transformers' own tracker on frames in ``order``; the first is prompted by ``sparse`` [C]."""
    network.mask_decoder.dynamic_multimask_via_stability = False
    session = SESSIONS[kind](dtype=torch.float32)
    thing = session.obj_id_to_idx(1)
    # Two points: transformers then answers with the decoder's one mask, as a state is answered here. What is seen of
    # them is the state alone.
    two = {"point_coords": torch.zeros(1, 1, 2, 2), "point_labels": torch.ones(1, 1, 2, dtype=torch.int32)}
    session.add_point_inputs(thing, order[0], two)
    session.obj_with_new_inputs = [1]
    own, dense = network.prompt_encoder.forward, network.prompt_encoder.no_mask_embed.weight.view(1, -1, 1, 1)
    made = []
    for place, number in enumerate(order):
        network.prompt_encoder.forward = own if place else lambda **_: (sparse[None, None, None], dense)
        made.append(network(session, frame_idx=number, frame=pixels[number][None], reverse=order.step < 0))
    network.prompt_encoder.forward = own
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_masks_over_a_clip_are_those_of_transformers_own_tracker(kind: str, tmp_path: Path, without_timm: None) -> None:
    theirs = write_segmenter(kind, tmp_path, video=True)
    model, _ = build_segmenter(f"{kind}_video", {"path": str(tmp_path)})
    head = model.mask_head.eval()
    shown, states = clip(), torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(value)[:, None, None] for value in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    pixels = (shown.pixels / 255 - mean) / std
    forward, backward = range(LENGTH), range(5, -1, -1)
    with torch.no_grad():
        told = torch.stack([step.masks.presence_logits for step in ours_over(head, shown, states, forward)]).flatten()
        middle = told.sort().values[LENGTH - 1 : LENGTH + 1].mean()
        for network in (theirs, head.sam):  # so that things are seen in some frames and gone in others
            network.mask_decoder.pred_obj_score_head.proj_out.bias.sub_(middle)
        for order in (forward, backward):
            tracked = ours_over(head, shown, states, order)
            gone = 0
            for thing, sparse in enumerate(head.projector(states)):
                wanted = theirs_over(theirs, kind, pixels, sparse, order)
                for step, output in zip(tracked, wanted, strict=True):
                    presence, mask = step.masks.presence_logits[thing], step.masks.mask_logits_lowres[thing]
                    torch.testing.assert_close(presence, output.object_score_logits.reshape(()), rtol=1e-3, atol=1e-4)
                    gone += int(presence <= 0)
                    mask = torch.full_like(mask, ABSENT_LOGIT) if presence <= 0 else mask
                    torch.testing.assert_close(mask, output.pred_masks.reshape(mask.shape), rtol=1e-3, atol=1e-3)
            assert 0 < gone < 2 * len(order), "some frames show the thing and some do not"
        anew = head.decode(states, head.embed(shown, torch.arange(LENGTH)), torch.full((2,), order[0]))
    torch.testing.assert_close(anew.mask_logits_lowres, tracked[0].masks.mask_logits_lowres)


def test_a_released_checkpoint_has_to_be_whole(tmp_path: Path) -> None:
    write_segmenter("sam2", tmp_path, video=True)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["memory_attention.layer_norm.bias"], weights["no_object_pointer"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError) as caught:
        build_segmenter("sam2_video", {"path": str(tmp_path)})
    assert list(caught.value.problems) == [
        f"{tmp_path}: missing weight memory_attention.layer_norm.bias",
        f"{tmp_path}: missing weight no_object_pointer",
    ]


def test_a_memory_of_other_sizes_is_refused_by_its_key() -> None:
    table = sizes("sam2_video") | {"memory_attention_rope_feat_sizes": [8, 8]}
    with pytest.raises(ConfigError, match=r"config\.memory_attention_rope_feat_sizes.*which is \[4, 4\]"):
        build_segmenter("sam2_video", {"config": table})


def test_a_head_without_a_memory_refuses_a_clip_by_name() -> None:
    model, _ = build_segmenter("sam2")
    with pytest.raises(UserError, match=r"mask\.kind sam2 has no memory of frames.*sam2_video"):
        video_head(model.mask_head, "sam2")


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_that_is_repeated_is_read_beside_the_memory(kind: str, without_timm: None) -> None:
    torch.manual_seed(5)
    once, _ = build_segmenter(f"{kind}_video")
    again, _ = build_segmenter(f"{kind}_video", None, "mask.repeat_prompt=true")
    again.load_state_dict(once.state_dict())
    assert again.config.mask_repeat_prompt and not once.config.mask_repeat_prompt
    shown, states = clip(), torch.randn(2, 32, generator=torch.Generator().manual_seed(1))
    first, second = once.mask_head.eval(), again.mask_head.eval()
    with torch.no_grad():
        plain, repeated = (ours_over(head, shown, states, range(LENGTH)) for head in (first, second))
        torch.testing.assert_close(plain[0].masks.mask_logits_lowres, repeated[0].masks.mask_logits_lowres)
        assert not torch.allclose(plain[1].masks.mask_logits_lowres, repeated[1].masks.mask_logits_lowres, atol=1e-3)

        fine, middle, coarse, places = (
            plane.expand(2, *plane.shape[1:]) for plane in second.embed(shown, torch.tensor([1]))
        )
        recalled = second._recalled(coarse, places, repeated[0].memory)
        wanted = second.read([fine, middle, recalled], second.projector(states)[:, None, None]).masks
        torch.testing.assert_close(repeated[1].masks.mask_logits_lowres, wanted.mask_logits_lowres)

        others = ours_over(second, shown, states.flip(0) * 2, range(LENGTH))
        swapped = replace(repeated[3].memory, prompt=others[3].memory.prompt)
        frame = second.embed(shown, torch.tensor([4]))
        moved = second.step(frame, swapped).masks.mask_logits_lowres
        assert not torch.allclose(moved, repeated[4].masks.mask_logits_lowres, atol=1e-3)
    gradients = replace(repeated[0].memory, prompt=torch.ones(2, 1, 1, WIDTH, requires_grad=True))
    assert second.detached(gradients).prompt is gradients.prompt, "a prompt is no step of the memory"


def test_a_prompt_is_repeated_beside_a_memory_alone() -> None:
    with pytest.raises(ConfigError, match="kind sam2 has no memory of frames beside which a prompt could be repeated"):
        build_segmenter("sam2", None, "mask.repeat_prompt=true")
