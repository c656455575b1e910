"""A small random model on disk, for tests of the way from a command line to files (what it says is noise)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ullava.config.schema import (
    BoxHeadConfig,
    LanguageConfig,
    MaskHeadConfig,
    ModelConfig,
    PartConfig,
    TextConfig,
    VisionConfig,
)


def random_model_config() -> ModelConfig:
    """Every part at a size that runs in milliseconds."""
    tower = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 32, "patch_size": 8,
    }  # fmt: skip
    sam = {
        "vision_config": {
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "image_size": 64, "patch_size": 16, "mlp_dim": 32, "window_size": 2, "global_attn_indexes": [0],
            "num_pos_feats": 8,
        },
        "prompt_encoder_config": {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 4},
        "mask_decoder_config": {
            "hidden_size": 16, "mlp_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    }  # fmt: skip
    language = {
        "model_type": "llama", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    return ModelConfig(
        name="random",
        language=LanguageConfig(config=language),
        tokenizer="tokenizer",
        vision=VisionConfig(tower=PartConfig(config=tower)),
        mask=MaskHeadConfig(sam=PartConfig(config=sam)),
        box=BoxHeadConfig(width=16),
        text=TextConfig(max_length=200),
    )


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a saved model whose answers are noise."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from ullava.modeling.construction.build import build_model

    folder = tmp_path_factory.mktemp("random-model")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: number for number, letter in enumerate(letters)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="[PAD]")
    fast.save_pretrained(folder / "tokenizer")
    torch.manual_seed(0)
    model, processor = build_model(random_model_config(), folder)
    model.save_pretrained(folder / "weights")
    processor.save_pretrained(folder / "weights")
    return folder / "weights"
