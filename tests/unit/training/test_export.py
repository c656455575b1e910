"""A system without its language model answers as the whole one does, and refuses any other language model."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer, LlamaConfig

from ullava.config.load import load_config
from ullava.config.schema import LoraConfig, ModelConfig
from ullava.modeling.construction.auto import load_folder
from ullava.modeling.construction.build import build_model
from ullava.training.loop.save import save_model
from ullava.training.optim.lora import attach_adapters, save_adapter
from ullava.training.optim.stages import apply_stage, special_token_ids

Command = Callable[..., tuple[int, str, str]]
ROOT = Path(__file__).resolve().parents[3]
LAYERS = 2


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def system(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A model.yaml whose language model is a pretrained folder beside it, of more layers than are used."""
    torch.manual_seed(7)
    words = AutoTokenizer.from_pretrained(str(ROOT / "models" / "tiny" / "tokenizer"))
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    rows = len(words) - 3  # the last of our tokens are rows of their own
    config = LlamaConfig(**sizes, vocab_size=rows, tie_word_embeddings=request.param, initializer_range=0.1)
    folder = tmp_path / "models" / "photo"
    AutoModelForCausalLM.from_config(config).to(torch.float16).save_pretrained(folder / "language")
    from tests.unit.training.conftest import MODEL

    start, end = MODEL.index("language:"), MODEL.index("tokenizer:")
    text = f"{MODEL[:start]}language: {{path: language, num_layers: {LAYERS}}}\n{MODEL[end:]}weights: weights\n"
    (folder / "model.yaml").write_text(text)
    return folder / "model.yaml"


def trained(system: Path, folder: Path) -> tuple[Any, Any]:
    """Build the system, give all that a LoRA run trains other values, and save its adapter folder; the model itself."""
    torch.manual_seed(0)
    model, processor = build_model(load_config(ModelConfig, system), system.parent)
    assert {value.dtype for value in model.parameters()} == {torch.float32}
    adapters = attach_adapters(model.language_model, LoraConfig(r=4, dropout=0.0), "recipe.yaml")
    plan = apply_stage(model, "ground", lora=True)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or name.startswith("box_head."):
                parameter.normal_(generator=torch.Generator().manual_seed(1))
        for table in {model.get_input_embeddings().weight, model.get_output_embeddings().weight}:
            table[list(special_token_ids(model))] += 0.5
    save_adapter(
        folder, model=model, processor=processor, adapters=adapters, state=model.state_dict(), base=None,
        trained=plan.trainable, row_tables=plan.row_tables, row_ids=plan.row_ids,
    )  # fmt: skip
    return model.eval(), processor


def export(command: Command, source: Path, system: Path) -> tuple[int, str, str]:
    out, language = system.parent / "weights", system.parent / "language"
    return command("convert", "without_language", "--from", str(source), "--language", str(language), "--out", str(out))


@pytest.fixture
def exported(system: Path, tmp_path: Path, command: Command) -> tuple[Any, Any, Path]:
    model, processor = trained(system, tmp_path / "adapter")
    code, printed, errors = export(command, tmp_path / "adapter", system)
    assert code == 0, errors
    assert "stored whole of the language model: nothing" in printed
    return model, processor, system.parent / "weights"


def test_it_holds_what_was_trained_and_answers_as_the_whole(exported: tuple[Any, Any, Path], make_batch: Any) -> None:
    model, processor, folder = exported
    note = json.loads((folder / "language.json").read_text())
    assert (note["path"], note["num_layers"], note["revision"]) == ("../language", LAYERS, None)
    assert str(folder.parent) not in (folder / "config.json").read_text(), "no path of this machine"
    stored = load_file(folder / "trained.safetensors")
    tables = {name for name in stored if name.startswith("rows/")}
    assert (
        not any(name.startswith("language_model.") for name in stored) and not (folder / "model.safetensors").exists()
    )
    assert len(tables) == (1 if model.config.tie_word_embeddings else 2)
    known = json.loads((folder.parent / "language" / "config.json").read_text())["vocab_size"]
    expected = sorted({*special_token_ids(model), *range(known, len(processor.tokenizer))})
    assert list(note["rows"].values()) == [expected] * len(tables)
    assert any(name.startswith("mask_head.") for name in stored) and any(name.startswith("vision.") for name in stored)
    matrices = [value for name, value in stored.items() if value.ndim > 1 and "positional_embedding" not in name]
    assert matrices and all(value.dtype == torch.bfloat16 for value in matrices)

    loaded, _ = load_folder(folder, torch.float32)
    with torch.no_grad():  # what was stored in bfloat16, put back into the whole model
        for name, value in model.state_dict(keep_vars=True).items():
            inner = name.replace(".base_layer.", ".")
            if ".lora_" in name or inner in stored and value.ndim > 1:
                value.copy_(value.to(torch.bfloat16).float())
            elif f"rows/{inner}" in stored:
                rows = note["rows"][inner]
                value[rows] = value[rows].to(torch.bfloat16).float()
    merged = copy.deepcopy(model.language_model)
    for part in merged.modules():
        if hasattr(part, "merge") and hasattr(part, "base_layer"):
            part.merge()
    whole = {name.replace(".base_layer.", "."): value for name, value in merged.state_dict().items()}
    for name, value in loaded.language_model.state_dict().items():
        differ = (value != whole[name]).nonzero()[:, 0].unique()
        assert torch.equal(value, whole[name]), (name, differ, (value - whole[name]).abs().max(), rows)
    batch = make_batch(processor, "shapes_res").inputs.as_kwargs()
    with torch.no_grad():
        ours, whole = loaded(**batch), model(**batch)
    torch.testing.assert_close(ours.supervised_logits, whole.supervised_logits, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.seg.mask_logits_lowres, whole.seg.mask_logits_lowres, atol=1e-3, rtol=1e-4)
    half, _ = load_folder(folder, torch.bfloat16)
    assert {value.dtype for value in half.parameters()} == {torch.bfloat16}
    assert half.language_model.model.rotary_emb.inv_freq.dtype == torch.float32


def test_a_saved_model_goes_without_as_well(system: Path, tmp_path: Path, command: Command) -> None:
    torch.manual_seed(0)
    model, processor = build_model(load_config(ModelConfig, system), system.parent)
    with torch.no_grad():
        cast(Any, model.language_model).model.layers[1].mlp.up_proj.weight[0] += 1
        cast(Any, model.language_model).model.layers[1].mlp.down_proj.weight += 1
    save_model(model, processor, tmp_path / "model")
    code, printed, errors = export(command, tmp_path / "model", system)
    assert code == 0, errors
    assert "stored whole of the language model: language_model.model.layers.1.mlp.down_proj.weight" in printed
    loaded, _ = load_folder(system.parent / "weights", torch.float32)
    for name, value in model.language_model.state_dict().items():
        found = loaded.language_model.state_dict()[name]
        torch.testing.assert_close(found, value, atol=1e-9, rtol=2**-8)
        if "down_proj" not in name and "up_proj" not in name and "embed" not in name and "head" not in name:
            assert torch.equal(found, value), name


def test_it_is_loaded_by_name_and_trained_on(
    exported: tuple[Any, Any, Path], system: Path, recipe_file: Path, command: Command, tmp_path: Path
) -> None:
    import ullava

    assert ullava.load(system).model.config.text_config.num_hidden_layers == LAYERS
    lora = "lora={r: 2, alpha: 4, dropout: 0.0, target: [q_proj]}"
    settings = (f"model={system}", f"init={system}", "stage=ground", lora, "training.max_steps=1")
    code, _, errors = command("train", str(recipe_file), *settings, "--out", str(tmp_path / "run"))
    assert code == 0, errors
    assert (tmp_path / "run" / "model" / "model.safetensors").is_file()
    assert not (tmp_path / "run" / "model" / "language.json").exists()
    code, _, errors = command(
        "convert", "merge", "--from", str(tmp_path / "run" / "adapter"), "--out", str(tmp_path / "merged")
    )
    assert code == 0, errors
    assert (
        load_file(tmp_path / "merged" / "model.safetensors").keys()
        == load_file(tmp_path / "run" / "model" / "model.safetensors").keys()
    )


@pytest.mark.parametrize("system", [True], indirect=True)
@pytest.mark.parametrize("held", [(), ("base_dtype=bfloat16", "training.bf16=true")], ids=["whole", "half"])
def test_its_adapters_go_on(
    exported: tuple[Any, Any, Path],
    system: Path,
    recipe_file: Path,
    command: Command,
    tmp_path: Path,
    held: tuple[str, ...],
) -> None:
    """At a learning rate of 0 the same folder comes out again; other ranks are refused by name.

    A frozen base held in half precision is saved as it was read.
    """
    folder = exported[2]
    targets = json.loads((folder / "adapters" / "adapter_config.json").read_text())["target_modules"]
    asked = (f"model={folder}", f"init={folder / 'adapters'}", "stage=ground", "training.max_steps=1")
    lora = f"lora={{r: R, alpha: {LoraConfig(r=4).alpha}, dropout: 0.0, target: [{', '.join(targets)}]}}"
    run = ("train", str(recipe_file), *asked, *held, "training.learning_rate=0.0")
    code, _, errors = command(*run, lora.replace("R", "2"), "--out", str(tmp_path / "no"))
    assert code == 2 and "lora.r 4, not 2" in errors
    code, _, errors = command(*run, lora.replace("R", "4"), "--out", str(tmp_path / "run"))
    assert code == 0, errors
    saved = load_file(tmp_path / "run" / "adapter" / "trained.safetensors")
    assert {value.dtype for value in saved.values() if value.is_floating_point()} == {torch.float32}
    if held:  # the adapter of that run holds its base itself
        again = [f"init={tmp_path / 'run' / 'adapter'}" if word.startswith("init=") else word for word in run]
        code, _, errors = command(*again, lora.replace("R", "4"), "--out", str(tmp_path / "again"))
        assert code == 0, errors
        twice = load_file(tmp_path / "again" / "adapter" / "trained.safetensors")
        assert twice.keys() == saved.keys() and all(torch.equal(value, saved[key]) for key, value in twice.items())
    before = load_file(folder / "trained.safetensors")
    adapters = load_file(folder / "adapters" / "adapter_model.safetensors")
    shutil.rmtree(folder)
    code, _, errors = export(command, tmp_path / "run" / "adapter", system)
    assert code == 0, errors
    for old, name in ((before, "trained.safetensors"), (adapters, "adapters/adapter_model.safetensors")):
        new = load_file(folder / name)
        assert new.keys() == old.keys() and all(torch.equal(new[key], value) for key, value in old.items())


def other_weights(folder: Path) -> None:
    file = folder.parent / "language" / "model.safetensors"
    weights = load_file(file)
    weights["model.layers.0.mlp.up_proj.weight"] += 1
    save_file(weights, file, metadata={"format": "pt"})


def changed(name: str, act: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        table = json.loads((folder / name).read_text())
        act(table)
        (folder / name).write_text(json.dumps(table))

    return damage


def lost(folder: Path) -> None:
    weights = load_file(folder / "trained.safetensors")
    weights.pop(next(name for name in sorted(weights) if name.startswith("box_head.")))
    save_file(weights, folder / "trained.safetensors", metadata={"format": "pt"})


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (lambda folder: shutil.rmtree(folder.parent / "language"), "`shells/setup.sh` makes"),
    (other_weights, "holds another language model than"),
    (changed("language.json", lambda note: note.pop("sha256")), "sha256: is missing"),
    (changed("language.json", lambda note: note.update(num_layers=1)), "num_layers: 1, but config.json has 2"),
    (changed("language.json", lambda note: note.update(rows={})), "rows: not the tables"),
    (
        changed("language.json", lambda note: [rows.pop() for rows in note["rows"].values()]),
        "language model does not have so",
    ),
    (lost, "missing weight box_head."),
    (lambda folder: (folder / "adapters" / "adapter_model.safetensors").unlink(), "adapter_model.safetensors"),
]


@pytest.mark.parametrize("system", [True], indirect=True)
@pytest.mark.parametrize(("damage", "words"), DAMAGES)
def test_another_language_model_or_a_damaged_folder_is_refused(
    exported: tuple[Any, Any, Path], command: Command, tmp_path: Path, damage: Callable[[Path], Any], words: str
) -> None:
    folder = exported[2]
    damage(folder)
    code, _, errors = command(
        "predict", "--model", str(folder), "--prompt", "What is this?", "--out", str(tmp_path / "o")
    )
    told = [line for line in errors.splitlines() if "error: " in line]
    assert code == 2 and len(told) == 1 and words in told[0], errors


@pytest.mark.parametrize("system", [True], indirect=True)
def test_transformers_alone_begins_nothing_at_random(exported: tuple[Any, Any, Path]) -> None:
    with pytest.raises(OSError, match="model.safetensors"):
        AutoModelForImageTextToText.from_pretrained(str(exported[2]))


@pytest.mark.parametrize("system", [True], indirect=True)
def test_a_language_model_that_it_was_not_trained_on_is_refused(system: Path, tmp_path: Path, command: Command) -> None:
    trained(system, tmp_path / "adapter")
    config = LlamaConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, vocab_size=300
    )
    language = system.parent / "language"
    shutil.rmtree(language)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_()
    model.save_pretrained(language)
    code, _, errors = export(command, tmp_path / "adapter", system)
    assert code == 2 and "no weight of it is in this model" in errors
