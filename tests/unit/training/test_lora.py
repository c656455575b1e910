"""Adapters: where they go, what is refused, and that merging changes nothing but names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ullava.config.schema import LoraConfig
from ullava.errors import ConfigError, UserError
from ullava.modeling.construction.stage_settings import change_conversation
from ullava.training.loop.save import save_model
from ullava.training.optim.lora import attach_adapters, load_adapter, merge_adapter, save_adapter
from ullava.training.optim.stages import apply_stage, special_token_ids


def test_unknown_layers_are_refused_with_the_near_name(make_model: Any) -> None:
    model, _ = make_model()
    with pytest.raises(ConfigError) as error:
        attach_adapters(model.language_model, LoraConfig(r=4, target=["q_proj", "v_prok"]), "recipe.yaml")
    expected = "recipe.yaml: lora.target: no linear layer is called 'v_prok'; did you mean 'v_proj'?"
    assert error.value.problems == (expected,)


def test_no_layers_are_refused(make_model: Any) -> None:
    model, _ = make_model()
    with pytest.raises(ConfigError, match="names no layer"):
        attach_adapters(model.language_model, LoraConfig(r=1, target=[]), "recipe.yaml")


def stir(model: Any) -> None:
    """Give the adapters, the heads and the token rows values that no other model has."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("box_head."):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[list(special_token_ids(model))] += 0.5


def save(folder: Path, model: Any, processor: Any, adapters: Any, plan: Any, base: Path | None) -> None:
    save_adapter(
        folder, model=model, processor=processor, adapters=adapters, state=model.state_dict(), base=base,
        trained=plan.trainable, row_tables=plan.row_tables, row_ids=plan.row_ids,
    )  # fmt: skip


@pytest.mark.parametrize("tied", ["true", "false"])
@pytest.mark.parametrize("on_base", [True, False])
def test_merged_model_answers_alike_under_the_plain_names(
    make_model: Any, make_batch: Any, tmp_path: Path, tied: str, on_base: bool
) -> None:
    model, processor = make_model(f"language.config.tie_word_embeddings={tied}")
    save_model(model, processor, tmp_path / "base")
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    adapters = attach_adapters(model.language_model, LoraConfig(r=4, dropout=0.0), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    stir(model)
    batch = make_batch(processor, "shapes_res").inputs.as_kwargs()
    before = model.eval()(**batch)
    folder = tmp_path / "adapter"
    save(folder, model, processor, adapters, plan, tmp_path / "base" if on_base else None)
    kept = set(load_file(folder / "trained.safetensors"))
    assert any(name.startswith("mask_head.projector.") for name in kept)
    assert any(name.startswith("vision.projector.") for name in kept)
    rows = {name for name in kept if name.startswith("rows/")}
    assert len(rows) == (0 if not on_base else 1 if tied == "true" else 2)
    merged, _ = merge_adapter(folder)
    assert set(merged.state_dict()) == set(plain)
    assert any(not torch.equal(value, plain[name]) for name, value in merged.state_dict().items() if "q_proj" in name)
    after = merged(**batch)
    for found, expected in (
        (after.supervised_logits, before.supervised_logits),
        (after.loc.boxes_xyxy_head, before.loc.boxes_xyxy_head),
    ):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after.seg.mask_logits_lowres, before.seg.mask_logits_lowres, atol=1e-3, rtol=1e-4)


def test_a_lora_run_is_taken_up_with_everything_that_it_trained(
    make_model: Any, make_batch: Any, tmp_path: Path
) -> None:
    model, processor = make_model()
    save_model(model, processor, tmp_path / "base")
    adapters = attach_adapters(model.language_model, LoraConfig(r=2), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    stir(model)
    save(tmp_path / "adapter", model, processor, adapters, plan, tmp_path / "base")
    again, _, handle = load_adapter(tmp_path / "adapter", trainable=True)
    assert apply_stage(again, "ground", lora=True).trainable == plan.trainable
    assert handle.peft_config["default"].r == 2
    expected = model.state_dict()
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_what_is_no_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no lora_run.json; name the adapter/ folder"):
        merge_adapter(tmp_path)
    (tmp_path / "lora_run.json").write_text('{"base": "nowhere", "row_ids": []}')
    with pytest.raises(UserError, match="the base nowhere is not there; name it with --base"):
        merge_adapter(tmp_path)
    (tmp_path / "lora_run.json").write_text('{"base": 3')
    with pytest.raises(UserError, match="not the record of a LoRA run"):
        merge_adapter(tmp_path)


def damaged_json(name: str, **changes: Any) -> Any:
    def damage(folder: Path) -> None:
        table = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**table, **changes}))

    return damage


def cut(name: str) -> Any:
    def damage(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: len(content) // 2])

    return damage


def lacks_a_tensor(name: str, word: str) -> Any:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / name)
        tensors.pop(next(key for key in sorted(tensors) if word in key))
        save_file(tensors, folder / name, metadata={"format": "pt"})

    return damage


DAMAGES = [
    (cut("lora_run.json"), "lora_run.json"),
    (damaged_json("lora_run.json", base=5), "lora_run.json"),
    (damaged_json("lora_run.json", row_ids=[1, 2]), "row_ids: not those of"),
    (damaged_json("lora_run.json", row_ids=[10**6] * 11), "row_ids: not those of"),
    (lambda folder: (folder / "adapter_config.json").unlink(), "adapter_config.json: is not there"),
    (cut("adapter_config.json"), "adapter_config.json:"),
    (damaged_json("adapter_config.json", peft_type="LORAX"), "adapter_config.json"),
    (damaged_json("adapter_config.json", r="four"), "adapter_config.json"),
    (damaged_json("adapter_config.json", r=3), "adapter_config.json"),
    (damaged_json("adapter_config.json", target_modules=["q_proj"]), "not as adapter_config.json says"),
    (damaged_json("adapter_config.json", target_modules=[]), "adapter_config.json"),
    (damaged_json("adapter_config.json", megatron_config={"a": 1}, megatron_core="evil"), "names Python to import"),
    (lambda folder: (folder / "adapter_model.safetensors").unlink(), "adapter_model.safetensors: no such file"),
    (cut("adapter_model.safetensors"), "adapter_model.safetensors: is cut off"),
    (lacks_a_tensor("adapter_model.safetensors", "lora_B"), "not as adapter_config.json says"),
    (lambda folder: (folder / "trained.safetensors").unlink(), "trained.safetensors: no such file"),
    (cut("trained.safetensors"), "trained.safetensors: is cut off"),
    (cut("system/config.json"), "system/config.json:"),
    (damaged_json("system/config.json", vision_feature_layer="x"), "vision_feature_layer: expected a whole number"),
    (cut("system/tokenizer.json"), "system/tokenizer.json"),
    (damaged_json("system/processor_config.json", patch=3), "system/processor_config.json: patch: 3"),
]


def test_a_damaged_adapter_is_named(make_model: Any, tmp_path: Path) -> None:
    model, processor = make_model()
    save_model(model, processor, tmp_path / "base")
    adapters = attach_adapters(model.language_model, LoraConfig(r=2), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    save(tmp_path / "adapter", model, processor, adapters, plan, tmp_path / "base")
    for number, (damage, said) in enumerate(DAMAGES):
        folder = Path(shutil.copytree(tmp_path / "adapter", tmp_path / str(number)))
        damage(folder)
        with pytest.raises(UserError) as caught:
            load_adapter(folder)
        assert said in caught.value.problems[0] and str(folder) in caught.value.problems[0], (number, caught.value)


def test_a_merged_model_knows_where_its_answers_end(make_model: Any, tmp_path: Path) -> None:
    """The format's own sign ends an answer too, and only the tokenizer and the format tell which that is."""
    model, processor = make_model()
    processor.tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    model.language_model.resize_token_embeddings(len(processor.tokenizer))
    model.config.text_config.vocab_size = len(processor.tokenizer)
    change_conversation(model, processor, "chatml")
    ends = model.generation_config.eos_token_id
    assert len(ends) == 2
    save_model(model, processor, tmp_path / "base")
    adapters = attach_adapters(model.language_model, LoraConfig(r=2), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    save(tmp_path / "adapter", model, processor, adapters, plan, tmp_path / "base")
    assert merge_adapter(tmp_path / "adapter")[0].generation_config.eos_token_id == ends
