"""A mask encoder's maps that are kept: the same outputs, no second run of the encoder, no view of an image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from tests.unit.modeling.conftest import build_small, grounded_sample, make_image
from tests.unit.modeling.small_segmenters import build_segmenter

from ullava.batching.collate import Collator
from ullava.config.mask_cache import MaskCacheConfig
from ullava.errors import ConfigError
from ullava.examples import Batch
from ullava.inference.predictor import Predictor
from ullava.media.images import read_image_rgb_u8
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.mask_caching import use_mask_cache
from ullava.modeling.heads.map_store import ENDING
from ullava.modeling.heads.mask_cache import MaskCache
from ullava.structures import Sample
from ullava.training.optim.stages import apply_stage


def lively(made: tuple[Any, Any]) -> tuple[Any, Any]:
    """The same model, its mask head's weights so large that masks depend on the image."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made[0].mask_head.parameters():
            parameter.normal_(std=0.2)
    return made


BUILD: dict[str, Callable[[], tuple[Any, Any]]] = {
    "sam": lambda: lively(build_small()),
    "sam2": lambda: lively(build_segmenter("sam2")),
}
GAVE = ("mask_logits_lowres", "iou_scores")


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Rows about three images on disk, one of them wider than the others."""
    made = []
    for name, count in (("1", 2), ("2", 1), ("3", 1), ("1", 1)):
        width = 70 if name == "3" else 56
        path = tmp_path / f"{name}.png"
        Image.fromarray(make_image(int(name), 40, width)).save(path)
        made.append(replace(grounded_sample(name, count, width=width), images=(path,)))
    return made


def batch_of(processor: Any, samples: list[Sample], files: bool = True) -> Batch:
    rows = [processor.encode(s, [read_image_rgb_u8(path) for path in s.images], files=files) for s in samples]
    return Collator(processor.tokenizer.pad_token_id)(rows)


def seen_by(model: Any) -> list[int]:
    """How many images the mask encoder was run on, a number for each look at the list's end."""
    seen: list[int] = []
    head, encode = model.mask_head, model.mask_head.encode

    def counting(images: Any, rows: torch.Tensor) -> Any:
        seen.append(len(rows))
        return encode(images, rows)

    head.encode = counting
    return seen


def cached(model: Any, processor: Any, folder: Path, **settings: Any) -> MaskCache:
    return use_mask_cache(model, processor, MaskCacheConfig(dir=str(folder / "kept"), **settings), device="cpu")


def outputs(model: Any, batch: Batch) -> list[torch.Tensor]:
    with torch.no_grad():
        seg = model(**batch.usable()[0].as_kwargs()).seg
    return [getattr(seg, name) for name in GAVE]


@pytest.mark.parametrize("kind", BUILD)
def test_outputs_are_those_without_a_cache_and_each_image_is_encoded_once(
    kind: str, tmp_path: Path, samples: list[Sample]
) -> None:
    model, processor = BUILD[kind]()
    wanted = outputs(model, batch_of(processor, samples))
    seen = seen_by(model)
    cache = cached(model, processor, tmp_path)
    first = batch_of(processor, samples[:2])
    assert outputs(model, first)[0].shape[0] == 3 and seen == [2]
    mixed = batch_of(processor, samples[1:3])
    shown = mixed.usable()[0].mask_images
    assert len(shown.pixels) == 1 and len(shown.sizes) == 2 and shown.row_of_image.tolist() == [1, 0]
    found = outputs(model, mixed)
    assert seen == [2, 1]
    for mine, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, theirs[2:4], rtol=0, atol=1e-5)
    processor.masks.view = None  # a view would have to be called
    known = batch_of(processor, samples)
    assert len(known.usable()[0].mask_images.pixels) == 0
    again = outputs(model, known)
    assert seen == [2, 1], "nothing left to encode"
    for mine, theirs in zip(again, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-5)
        assert float(theirs.abs().max()) > 0.01
    assert (cache.counts.found, cache.counts.made, cache.counts.damaged) == (1 + 3, 3, 0)
    assert cache.told() == f"mask_cache: maps of 4 images read, of 3 made and kept ({tmp_path / 'kept'})"


def test_one_image_at_a_time_gives_the_very_same_bits(tmp_path: Path, samples: list[Sample]) -> None:
    model, processor = BUILD["sam"]()
    wanted = [outputs(model, batch_of(processor, [sample])) for sample in samples]
    cached(model, processor, tmp_path)
    for turn in range(2):
        found = [outputs(model, batch_of(processor, [sample])) for sample in samples]
        assert all(torch.equal(m, w) for f, o in zip(found, wanted, strict=True) for m, w in zip(f, o, strict=True)), (
            turn
        )


def test_half_precision_stays_close(tmp_path: Path, samples: list[Sample]) -> None:
    model, processor = BUILD["sam"]()
    wanted = outputs(model, batch_of(processor, samples))
    cached(model, processor, tmp_path, dtype="float16")
    outputs(model, batch_of(processor, samples))
    found = outputs(model, batch_of(processor, samples))
    assert not torch.equal(found[0], wanted[0])
    for mine, theirs in zip(found, wanted, strict=True):
        assert mine.dtype == theirs.dtype
        torch.testing.assert_close(mine, theirs, rtol=2e-3, atol=2e-3)


def test_gradients_are_those_without_a_cache(tmp_path: Path, samples: list[Sample]) -> None:
    model, processor = BUILD["sam2"]()
    apply_stage(model, "ground")

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        seg = model(**batch_of(processor, samples).usable()[0].as_kwargs()).seg
        (seg.mask_logits_lowres.square().mean() + seg.iou_scores.sum()).backward()
        return {
            name: value.grad.clone() for name, value in model.mask_head.named_parameters() if value.grad is not None
        }

    wanted = gradients()
    cached(model, processor, tmp_path)
    gradients()
    found = gradients()
    assert set(found) == set(wanted) and "sam.mask_decoder.conv_s0.weight" in wanted
    assert not any(name.startswith("sam.vision_encoder") for name in wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5)


def test_a_damaged_entry_is_told_once_and_made_anew(
    tmp_path: Path, samples: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = BUILD["sam"]()
    cache = cached(model, processor, tmp_path)
    wanted = outputs(model, batch_of(processor, samples))
    entries = sorted((tmp_path / "kept").glob(f"*/*{ENDING}"))
    assert len(entries) == 3
    for path in entries[:2]:
        path.write_bytes(path.read_bytes()[:-40])
    assert all(torch.equal(m, w) for m, w in zip(outputs(model, batch_of(processor, samples)), wanted, strict=True))
    assert cache.counts.damaged == 2 and cache.counts.found == 1 and cache.counts.made == 5
    out = capsys.readouterr().out.splitlines()
    assert len(out) == 1 and str(entries[0].parent) in out[0] and out[0].endswith("it and others like it are made anew")
    assert "5 made and kept, 2 of them because their entry was damaged" in cache.told()
    outputs(model, batch_of(processor, samples))
    assert cache.counts.damaged == 2 and cache.counts.found == 4


def test_a_disk_that_refuses_is_told_once_and_nothing_is_lost(
    tmp_path: Path, samples: list[Sample], full_disk: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    model, processor = BUILD["sam"]()
    wanted = outputs(model, batch_of(processor, samples))
    cache = cached(model, processor, tmp_path)
    with full_disk(500):
        found = outputs(model, batch_of(processor, samples))
    assert torch.equal(found[0], wanted[0])
    assert cache.counts.not_kept == 3 and cache.counts.made == 0 and ", 3 not kept" in cache.told()
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith(f"mask_cache: {tmp_path / 'kept'} takes no more (") and line.endswith("going on without")


def test_images_that_are_no_files_have_no_entry(tmp_path: Path, samples: list[Sample]) -> None:
    model, processor = BUILD["sam"]()
    cache = cached(model, processor, tmp_path)
    outputs(model, batch_of(processor, samples, files=False))
    Predictor(model, processor).answer(make_image(1), "Segment the things.", max_new_tokens=2)
    assert not list((tmp_path / "kept").glob(f"*/*{ENDING}")) and cache.counts.values() == [0, 0, 0, 0]


def test_the_file_counts_and_not_its_name(tmp_path: Path, samples: list[Sample]) -> None:
    model, processor = BUILD["sam"]()
    cache = cached(model, processor, tmp_path)
    before = outputs(model, batch_of(processor, samples[:1]))
    copy = tmp_path / "copy.png"
    copy.write_bytes((tmp_path / "1.png").read_bytes())
    outputs(model, batch_of(processor, [replace(samples[0], images=(copy,))]))
    assert (cache.counts.found, cache.counts.made) == (1, 1)
    (tmp_path / "1.png").write_bytes((tmp_path / "2.png").read_bytes())
    after = outputs(model, batch_of(processor, samples[:1]))
    assert (cache.counts.found, cache.counts.made) == (1, 2)
    assert not torch.allclose(before[0], after[0])


def test_the_group_is_made_of_weights_view_type_and_device(tmp_path: Path) -> None:
    model, processor = build_small()

    def group(**settings: Any) -> str:
        config = MaskCacheConfig(dir=str(tmp_path / "kept"), dtype=settings.pop("dtype", "float32"))
        return use_mask_cache(model, processor, config, **{"device": "cpu", **settings}).group

    first = group()
    assert group() == first
    groups = {first, group(dtype="float16"), group(device="cuda"), group(autocast="bfloat16")}
    processor.masks.side += 8
    groups.add(group())
    processor.masks.side -= 8
    model.mask_head.projector[0].weight.data.add_(1)
    assert group() == first, "nothing but the encoder"
    model.mask_head.sam.vision_encoder.patch_embed.projection.weight.data[0, 0, 0, 0] += 1e-3
    groups.add(group())
    groups.add((model.to(torch.bfloat16), group())[1])
    assert len(groups) == 7


@pytest.mark.parametrize("kind", BUILD)
def test_a_saved_model_has_the_group_that_it_had_before(kind: str, tmp_path: Path) -> None:
    model, processor = BUILD[kind]()
    before = cached(model, processor, tmp_path).group
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again, processor_again = load_folder(tmp_path / "model", torch.float32)
    assert processor_again.mask_cache is None
    assert cached(again, processor_again, tmp_path).group == before


def test_a_head_without_an_encoder_is_refused(tmp_path: Path) -> None:
    model, processor = build_small(
        (
            "vision.tower={config: {model_type: efficientnet_lite, image_size: 64}}",
            "mask={kind: sam2, encoder: vision, sam2: {config: {hidden_size: 32, mlp_dim: 32, "
            "num_attention_heads: 2, iou_head_hidden_dim: 16}}}",
        )
    )
    with pytest.raises(ConfigError, match="mask_cache: the mask head reads the vision tower's maps and has no encoder"):
        cached(model, processor, tmp_path)
    assert not (tmp_path / "kept").exists()
