"""``ullava convert ullava`` and ``llava`` on small checkpoints in the published layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from released_folder import PIECES, core_config, released_names, small_model, write_shards, write_tokenizer

import ullava
from ullava.modeling.loading.weight_files import read_state_dict
from ullava.text.released_tokenizer import released_tokenizer


def stage_two(folder: Path, *, old: bool = False, seg: int | None = None) -> tuple[dict[str, torch.Tensor], dict]:
    ids = write_tokenizer(folder, without=("[LOC]",) if old else ())
    model = small_model(PIECES + len(ids))
    config = {"model_type": "ullava", "llm_config": core_config(model, ids), "out_dim": 16}
    config |= {"seg_token_idx": ids["[SEG]"] if seg is None else seg}
    config |= {} if old else {"loc_token_idx": ids["[LOC]"]}
    state = released_names(model, old=old)
    write_shards(folder, state, config)
    return state, model.state_dict()


def convert(command, folder: Path, out: Path, *more: str) -> tuple[int, str, str]:
    return command("convert", "ullava", "--from", str(folder), "--out", str(out), *more)


def test_stage_two_with_its_tokenizer_answers(tmp_path, command):
    released = tmp_path / "released"
    _, ours = stage_two(released)
    code, printed, errors = convert(command, released, tmp_path / "made")
    assert code == 0, errors
    assert "sha256" in printed and "started at random: nothing" in printed
    written = read_state_dict(tmp_path / "made")
    assert all(torch.equal(tensor, ours[name]) for name, tensor in written.items())

    predictor = ullava.load(tmp_path / "made", device="cpu")
    processor = predictor.processor
    assert processor.box_frame == "padsq" and processor.max_length == 512
    image = tmp_path / "image.png"
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(image)
    answer = predictor.answer(image, "find the red cup", max_new_tokens=3)
    assert answer.new_tokens <= 3
    text = "Sure. Mask: [SEG]; </s>USER: where"
    reloaded, fresh = (
        tokenizer(text)["input_ids"] for tokenizer in (processor.tokenizer, released_tokenizer(released))
    )
    assert reloaded == fresh


def test_the_layout_before_the_box_head(tmp_path, command):
    """No [LOC] and no box head in the file; the misspelt key left seg_token_idx at its default."""
    _, ours = stage_two(tmp_path / "released", old=True, seg=32007)
    code, printed, errors = convert(command, tmp_path / "released", tmp_path / "made")
    assert code == 0, errors
    assert "started at random: box_head" in printed
    assert "a known slip" in printed and "[LOC]" in printed
    written = read_state_dict(tmp_path / "made")
    table = "language_model.model.embed_tokens.weight"
    old, new = ours[table], written[table]
    assert len(new) == len(old) + 1
    torch.testing.assert_close(new[-1], old.mean(dim=0))
    name = "mask_head.projector.0.weight"
    assert torch.equal(written[name], ours[name])
    config = json.loads((tmp_path / "made" / "config.json").read_text())
    assert config["loc_id"] == len(old) and config["seg_id"] < len(old)


def test_stage_one_needs_a_sam(tmp_path, command):
    ids = write_tokenizer(tmp_path / "core", stage=1)
    model = small_model(PIECES + len(ids))
    state = released_names(model)
    core = {name.removeprefix("llm."): tensor for name, tensor in state.items() if name.startswith("llm.")}
    write_shards(tmp_path / "core", core, core_config(model, ids))
    code, _, errors = convert(command, tmp_path / "core", tmp_path / "made")
    assert code == 2 and "--sam" in errors

    sam = tmp_path / "sam.pth"
    torch.save({k.removeprefix("visual_model."): v for k, v in state.items() if k.startswith("visual_model.")}, sam)
    assert command("convert", "sam", "--from", str(sam), "--out", str(tmp_path / "sam"))[0] == 0
    code, printed, errors = convert(command, tmp_path / "core", tmp_path / "made", "--sam", str(tmp_path / "sam"))
    assert code == 0, errors
    assert "started at random: mask_head.projector, box_head" in printed
    written = read_state_dict(tmp_path / "made")
    ours = model.state_dict()
    name = "mask_head.sam.mask_decoder.iou_token.weight"
    assert torch.equal(written[name], ours[name])
    table = "language_model.model.embed_tokens.weight"
    assert torch.equal(written[table][: PIECES + len(ids)], ours[table])


def test_every_misfit_is_named_at_once(tmp_path, command):
    state, _ = stage_two(tmp_path / "released")
    config = json.loads((tmp_path / "released" / "config.json").read_text())
    state.pop("llm.model.norm.weight")
    state["det_decoder.0.weight"] = torch.zeros(3, 16)
    state["llm.model.stranger"] = torch.zeros(1)
    state["visual_model.stranger"] = torch.zeros(1)
    write_shards(tmp_path / "released", state, config)
    code, _, errors = convert(command, tmp_path / "released", tmp_path / "made")
    assert code == 2
    assert "missing: language_model.model.norm.weight" in errors
    assert "shape: box_head.decoder.0.weight is [3, 16] in the file and [16, 16] in the model" in errors
    assert "unexpected: language_model.model.stranger" in errors
    assert "unexpected: visual_model.stranger" in errors
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "llava"}, "model_type is 'llava'"),
        ({"llm_config": None}, "model_type is 'ullava'"),
    ],
)
def test_another_architecture_is_refused(tmp_path, command, change, words):
    stage_two(tmp_path / "released")
    file = tmp_path / "released" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    code, _, errors = convert(command, tmp_path / "released", tmp_path / "made")
    assert code == 2 and words in errors


def test_a_foreign_tokenizer_is_refused(tmp_path, command):
    stage_two(tmp_path / "released")
    ids = json.loads((tmp_path / "released" / "added_tokens.json").read_text())
    swapped = ids | {"<img_beg>": ids["<vid_beg>"], "<vid_beg>": ids["<img_beg>"]}
    (tmp_path / "released" / "added_tokens.json").write_text(json.dumps(swapped))
    code, _, errors = convert(command, tmp_path / "released", tmp_path / "made")
    assert code == 2 and "IMG_START" in errors and "VID_START" in errors

    write_tokenizer(tmp_path / "short", stage=1)
    code, _, errors = convert(command, tmp_path / "released", tmp_path / "made", "--tokenizer", str(tmp_path / "short"))
    assert code == 2 and "rows" in errors


def test_a_damaged_tokenizer_is_refused(tmp_path, command):
    stage_two(tmp_path / "released")
    (tmp_path / "released" / "tokenizer.model").write_bytes(b"no model")
    code, _, errors = convert(command, tmp_path / "released", tmp_path / "made")
    assert code == 2 and "sentencepiece" in errors
