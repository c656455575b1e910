"""Videos in a batch: T + P tokens each, any mixture with images and words, batch = single, generation = one pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image

from ullava.batching.collate import Collator
from ullava.errors import SampleError, UserError
from ullava.examples import ModelInputs
from ullava.modeling.vision.clip_mlp import merge_patches, pool_frames
from ullava.modeling.vision.strategy import EncodeContext
from ullava.structures import Clip, Sample, Turn
from ullava.text.conversation import with_videos

WORDS = Sample("words", "test", "text", (), (Turn("How are you?", "Fine."),))


def film(seed: int, length: int = 8) -> np.ndarray:
    return np.stack([make_image(100 * seed + number, 30, 44) for number in range(length)])


def clip_sample(name: str, count: int = 1, answer: str = "It moves left.") -> Sample:
    clips = tuple(Clip(Path(f"{name}-{number}.gif")) for number in range(count))
    return Sample(name, "test", "vqa", (), (Turn("<video>" * count + "What happens?", answer),), videos=clips)


def rows(processor: Any, samples: list[Sample], prompt_only: bool = False) -> list[Any]:
    return [
        processor.encode(
            sample,
            [make_image(number) for _ in sample.images],
            videos=[film(len(clip.path.name) + ord(clip.path.name[0])) for clip in sample.videos],
            prompt_only=prompt_only,
        )
        for number, sample in enumerate(samples)
    ]


def collate(processor: Any, samples: list[Sample], prompt_only: bool = False) -> dict[str, Any]:
    side = "left" if prompt_only else "right"
    batch = Collator(processor.tokenizer.pad_token_id, side)(rows(processor, samples, prompt_only))  # type: ignore[arg-type]
    kept = batch.inputs.as_kwargs()
    if prompt_only:
        del kept["labels"]
    return kept


def test_a_video_gives_a_token_for_each_frame_and_each_patch(small: tuple[Any, Any]) -> None:
    model, processor = small
    (row,) = rows(processor, [clip_sample("a")])
    ids, tokens = row.input_ids.tolist(), processor.token_ids
    start = ids.index(tokens["video_start_id"])
    patches = (model.config.vision_config.image_size // model.config.vision_config.patch_size) ** 2
    length = processor.video_frames + patches
    assert ids[start + 1 : start + 1 + length] == [tokens["video_patch_id"]] * length
    assert ids[start + 1 + length] == tokens["video_end_id"] and ids.count(tokens["video_patch_id"]) == length
    assert row.videos[0].count.low == row.videos[0].count.high == length
    assert tokens["image_patch_id"] not in ids


def test_temporal_tokens_come_first_and_are_pooled_before_the_projector(small: tuple[Any, Any]) -> None:
    model, processor = small
    frames = torch.from_numpy(np.stack([make_image(number, 32, 32) for number in range(6)])).permute(0, 3, 1, 2)
    vision = model.vision
    output = vision.encode_video({"base": frames.unflatten(0, (2, 3))})
    states = vision.patch_states(
        torch.from_numpy(np.asarray(frames, dtype=np.float32))
        .div(255)
        .sub(torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None])
        .div(torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None])
    )
    second = states[3:]
    expected = torch.cat([torch.stack([frame.mean(0) for frame in second]), (second[0] + second[1] + second[2]) / 3])
    assert output.counts == (19, 19)
    torch.testing.assert_close(output.tokens[19:], vision.projector(expected), rtol=1e-4, atol=1e-5)


def test_pooling_keeps_time_and_place_apart() -> None:
    states = torch.zeros(1, 2, 3, 1)
    states[0, 1, 2] = 6.0
    assert pool_frames(states).flatten().tolist() == [0.0, 2.0, 0.0, 0.0, 3.0]
    assert merge_patches(states[0, :, :, 0:1].repeat(1, 1, 1), 1).shape == (2, 3, 1)


def test_joined_patches_give_fewer_tokens() -> None:
    model, processor = build_small(("vision.spatial_merge_size=2", "vision.video_frames=3"))
    assert processor.video_frames == model.config.video_frames == 3
    example = processor.encode(clip_sample("a"), [], videos=[film(1, 3)])
    assert example.videos[0].count.low == 3 + 4
    batch = Collator(processor.tokenizer.pad_token_id)([example])
    assert model.core.encode_videos(batch.inputs).counts == (7,)


def test_a_frame_can_give_a_grid_of_temporal_tokens() -> None:
    states = torch.arange(2 * 16, dtype=torch.float32).view(1, 2, 16, 1)  # two frames of 4 x 4 patches
    tokens = pool_frames(states, 2).flatten()
    assert tokens[:4].tolist() == [2.5, 4.5, 10.5, 12.5], "upper left, upper right, lower left, lower right"
    assert tokens[4:8].tolist() == [18.5, 20.5, 26.5, 28.5] and len(tokens) == 2 * 4 + 16
    assert torch.equal(tokens[8:], pool_frames(states).flatten()[2:]), "spatial tokens are the same"
    grid = "vision.clip_mlp={frame_grid: 2}"
    model, processor = build_small((grid, "vision.video_frames=3"))
    patches = processor.vision.num_tokens
    example = processor.encode(clip_sample("a"), [], videos=[film(1, 3)])
    assert example.videos[0].count.low == 3 * 4 + patches
    batch = Collator(processor.tokenizer.pad_token_id)([example])
    assert model.core.encode_videos(batch.inputs).counts == (3 * 4 + patches,)
    with pytest.raises(UserError, match="frame_grid 3: a grid of 4 x 4 tokens cannot be cut so"):
        build_small(("vision.clip_mlp={frame_grid: 3}",))
    with pytest.raises(UserError, match="table clip_mlp belongs to strategy clip_mlp, not to conv"):
        build_small((grid, "vision.strategy=conv"))


def test_any_mixture_is_the_same_as_each_alone(small: tuple[Any, Any]) -> None:
    model, processor = small
    both = Sample(
        "both", "test", "vqa", (Path("p.png"),), (Turn("<image>and<video>?", "Both."),), videos=(Clip(Path("v.gif")),)
    )
    samples = [clip_sample("a"), grounded_sample("b", 1), WORDS, clip_sample("c", 2), both, clip_sample("a")]
    output = model(**collate(processor, samples))
    assert output.seg.row.tolist() == [1] and output.loc.image.tolist() == [0]
    together = []
    for number, sample in enumerate(samples):
        example = rows(processor, samples)[number]
        batch = Collator(processor.tokenizer.pad_token_id)([example])
        alone = model(**batch.inputs.as_kwargs())
        together.append(alone.supervised_logits)
        assert sample.name == example.name
    torch.testing.assert_close(output.supervised_logits, torch.cat(together), rtol=1e-4, atol=1e-4)


def test_equal_clips_travel_once(small: tuple[Any, Any]) -> None:
    _, processor = small
    batch = collate(processor, [clip_sample("a"), clip_sample("b"), clip_sample("a")])
    assert batch["pixel_values_videos"].shape == (2, 8, 3, 32, 32) and batch["pixel_values_videos"].dtype == torch.uint8
    assert batch["video_index"].tolist() == [0, 1, 0]
    drawn = Sample("a", "test", "vqa", (), (Turn("<video>?", "."),), videos=(Clip(Path("a-0.gif"), "head_tail", 1),))
    assert len(collate(processor, [clip_sample("a"), drawn])["pixel_values_videos"]) == 2


def test_answers_do_not_depend_on_who_shares_the_batch(small: tuple[Any, Any]) -> None:
    model, processor = small
    samples = [clip_sample("a"), WORDS, grounded_sample("b", 1), clip_sample("cc")]
    together = model.generate_grounded(
        ModelInputs.from_kwargs(collate(processor, samples, prompt_only=True)), max_new_tokens=6, do_sample=False
    )
    assert len(set(map(tuple, together.new_ids.tolist()))) > 1
    for number in (0, 3):
        alone = model.generate_grounded(
            ModelInputs.from_kwargs(collate(processor, samples[number : number + 1], prompt_only=True)),
            max_new_tokens=6,
            do_sample=False,
        )
        assert alone.new_ids[0].tolist() == together.new_ids[number].tolist()[: alone.new_ids.shape[1]]


def test_frames_matter_and_so_does_their_order(small: tuple[Any, Any]) -> None:
    model, processor = small
    batch = collate(processor, [clip_sample("a")])
    forward = model(**batch).logits
    backward = model(**batch | {"pixel_values_videos": batch["pixel_values_videos"].flip(1)}).logits
    assert not torch.allclose(forward, backward, atol=1e-5)


def test_a_row_with_a_video_trains_tower_and_projector() -> None:
    model, processor = build_small()
    model.train()
    output = model(**collate(processor, [clip_sample("a")]))
    (output.supervised_logits.logsumexp(dim=-1).sum() + output.idle).backward()
    assert model.vision.projector[0].weight.grad.abs().sum() > 0
    assert model.vision.tower.embeddings.patch_embedding.weight.grad.abs().sum() > 0
    assert all(parameter.grad is not None for parameter in model.mask_head.parameters() if parameter.requires_grad)


def test_a_processor_saved_before_there_were_videos_learns_their_place(small: tuple[Any, Any], tmp_path: Path) -> None:
    _, processor = small
    processor.save_pretrained(tmp_path)
    template = tmp_path / "chat_template.jinja"
    now = template.read_text(encoding="utf-8")
    start, end = now.index("{%- elif part['type'] == 'video'"), now.index("{%- else -%}{{ part['text'] }}")
    template.write_text(now[:start] + now[end:], encoding="utf-8")
    assert "<vid_beg>" not in template.read_text(encoding="utf-8")
    loaded = type(processor).from_pretrained(str(tmp_path))
    assert loaded.chat_template == now
    assert with_videos("{{ messages }}") == "{{ messages }}" and with_videos(None) is None
    loaded.encode(clip_sample("a"), [], videos=[film(1)])


def test_what_does_not_fit_is_refused(small: tuple[Any, Any]) -> None:
    model, processor = small
    sample = clip_sample("a")
    with pytest.raises(SampleError, match="a: 1 <video> markers, 0 videos"):
        processor.encode(sample, [])
    with pytest.raises(SampleError, match=r"a-0.gif: 7 frames, the model sees 8"):
        processor.encode(sample, [], videos=[film(1, 7)])
    with pytest.raises(SampleError, match="2 <video> markers, 1 videos"):
        twice = Sample("a", "test", "vqa", (), (Turn("<video><video>?", "."),), videos=sample.videos)
        processor.encode(twice, [], videos=[film(1)])
    batch = collate(processor, [sample])
    with pytest.raises(UserError, match="the batch no videos"):
        model(**{key: value for key, value in batch.items() if "video" not in key})
    with pytest.raises(UserError, match="takes no override"):
        model.vision.encode_video({"base": batch["pixel_values_videos"]}, EncodeContext(overrides={"frames": 2}))
    template = processor.chat_template
    try:
        processor.chat_template = template.replace("part['type'] == 'video'", "false")
        with pytest.raises(SampleError, match="chat template has no place for videos"):
            processor.encode(sample, [], videos=[film(1)])
    finally:
        processor.chat_template = template
