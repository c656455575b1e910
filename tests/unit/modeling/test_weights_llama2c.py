"""A real small language model in llama2.c's layout says its golden text; damaged files are refused."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from ullava.errors import WeightsError
from ullava.modeling.weights.llama2c import convert_llama2c, halves_from_pairs

STEPS = 200


def test_golden_story(shared_dir: Path, tmp_path: Path, command):
    folder = shared_dir / "realdata" / "llm_stories260K"
    golden = json.loads((shared_dir / "realdata" / "GOLDENS.json").read_text(encoding="utf-8"))
    out = tmp_path / "stories"
    arguments = ["--from", str(folder / "stories260K.bin"), "--tokenizer", str(folder / "tok512.model")]
    code, _, errors = command("convert", "llama2c", *arguments, "--out", str(out))
    assert code == 0, errors
    model = LlamaForCausalLM.from_pretrained(str(out)).eval()
    model.generation_config.eos_token_id = None
    tokenizer = AutoTokenizer.from_pretrained(str(out))
    with torch.no_grad():
        start = torch.tensor([[tokenizer.bos_token_id]])
        ids = model.generate(start, do_sample=False, max_new_tokens=STEPS, pad_token_id=0)
    text = tokenizer.decode(ids[0, 1:], skip_special_tokens=False).strip()
    expected = golden["stories260K_greedy_200_steps"]["text"].strip()
    assert len(expected) > 400
    assert text == expected


def test_rotary_pairs_become_halves():
    rows = torch.arange(8.0)[:, None]  # two heads of four dimensions: pairs (0, 1) and (2, 3)
    assert halves_from_pairs(rows, 2).flatten().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


@pytest.mark.parametrize("content", [b"", b"\0" * 12, struct.pack("<7i", 8, 8, 1, 2, 2, 16, 4) + b"\0" * 40])
def test_damaged_files_are_refused(tmp_path: Path, content: bytes):
    (tmp_path / "model.bin").write_bytes(content)
    with pytest.raises(WeightsError, match="model.bin"):
        convert_llama2c(tmp_path / "model.bin")
