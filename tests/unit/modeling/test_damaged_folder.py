"""A saved model, damaged in every way: one line that names the file and what is wrong in it, or the model it was."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.unit.modeling.conftest import build_small

from ullava.errors import UserError
from ullava.modeling.construction.auto import load_folder

Damage = Callable[[Path], None]

CONFIG, GENERATION, PROCESSOR = "config.json", "generation_config.json", "processor_config.json"
WORDS, WORDS_CONFIG, TEMPLATE = "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
TEXT_FILES = (CONFIG, GENERATION, PROCESSOR, WORDS, WORDS_CONFIG, TEMPLATE)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A very small model, its weights in one file."""
    folder = tmp_path_factory.mktemp("saved")
    model, processor = build_small()
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model, its weights in several files with an index."""
    folder = tmp_path_factory.mktemp("sharded")
    model, processor = build_small()
    model.save_pretrained(folder, max_shard_size="200KB")
    processor.save_pretrained(folder)
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    return folder


def gone(name: str) -> Damage:
    return lambda folder: next(folder.glob(name)).unlink()


def cut(name: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        file = next(folder.glob(name))
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * share)])

    return damage


def holds(name: str, content: bytes) -> Damage:
    return lambda folder: (folder / name).write_bytes(content) and None


def put(name: str, dotted: str, value: Any) -> Damage:
    """Another value of one key of a JSON file; ``...`` takes the key away."""

    def damage(folder: Path) -> None:
        table = json.loads((folder / name).read_text())
        *parents, last = dotted.split(".")
        inner = table
        for key in parents:
            inner = inner[key]
        if value is ...:
            del inner[last]
        else:
            inner[last] = value
        (folder / name).write_text(json.dumps(table))

    return damage


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return damage


def file_damages() -> Iterator[tuple[str, Damage, str]]:
    """Whole files: (name, damage, file that the line has to name)."""
    for name in (*TEXT_FILES, WEIGHTS):
        yield f"{name} gone", gone(name), name.removesuffix(".safetensors")
        yield f"{name} empty", cut(name, 0), name
        yield f"{name} half", cut(name, 0.5), name
        yield f"{name} no text", holds(name, b"\xff\xfe\x00\x81" * 9), name
        if name not in (TEMPLATE, WEIGHTS):
            yield f"{name} end cut", cut(name, 0.98), name
            yield f"{name} a list", holds(name, b"[1, 2]"), name
            yield f"{name} a word", holds(name, b'"word"'), name
            yield f"{name} null", holds(name, b"null"), name
            yield f"{name} nested", holds(name, b"[" * 20000), name
            yield f"{name} empty table", holds(name, b"{}"), name
    yield f"{TEMPLATE} syntax", holds(TEMPLATE, b"{% for m in messages %}{{ m }}"), TEMPLATE
    yield f"{TEMPLATE} words alone", holds(TEMPLATE, b"hello"), TEMPLATE
    yield f"{TEMPLATE} unknown filter", holds(TEMPLATE, b"{{ messages | nothing }}"), TEMPLATE
    yield f"{TEMPLATE} attribute", holds(TEMPLATE, b"{{ messages.x.y }}"), TEMPLATE


def value_damages() -> Iterator[tuple[str, str, Any]]:
    """Single keys: (file, dotted key, value)."""
    for key in ("strategy", "vision_feature_layer", "image_aspect_ratio", "spatial_merge_size", "text_config",
                "vision_config", "sam_config", "seg_id", "box_kind", "box_frame", "box_sigmoid", "mask_score",
                "vision_settings", "detector_config"):  # fmt: skip
        yield CONFIG, key, ...
        yield CONFIG, key, [1]
    for key, value in (
        ("model_type", "llama"), ("model_type", 3), ("model_type", ...), ("strategy", "clip-mlp"), ("strategy", "avg"),
        ("vision_feature_layer", "x"), ("vision_feature_layer", 99), ("vision_feature_layer", True),
        ("projector", "mlp3x"), ("spatial_merge_size", 0),
        ("spatial_merge_size", 2), ("video_frames", 0), ("box_kind", "boxes"), ("box_kind", "grounding_dino_query"),
        ("box_width", -1), ("box_width", 64), ("seg_id", 5), ("seg_id", "5"), ("loc_id", 10**9), ("eos_token_id", 7),
        ("eos_token_id", "</s>"), ("pad_token_id", 3), ("head_state", "last"), ("vision_settings.frame_grid", 0),
        ("vision_settings.frame_grid", "2"), ("vision_settings", {"frame_gird": 2}), ("max_text_length", None),
        ("text_config", None), ("text_config", {}), ("text_config.model_type", "lama"),
        ("text_config.model_type", "t5"),
        ("text_config.model_type", ...), ("text_config.hidden_size", "32"), ("text_config.hidden_size", 48),
        ("text_config.hidden_size", -32), ("text_config.hidden_size", 10**7), ("text_config.num_hidden_layers", 10**9),
        ("text_config.num_hidden_layers", 1), ("text_config.num_hidden_layers", 3), ("text_config.vocab_size", 100),
        ("text_config.num_attention_heads", 0), ("text_config.num_attention_heads", 3),
        ("text_config.num_attention_heads", ...), ("text_config.num_key_value_heads", ...),
        ("text_config.hidden_act", "silly"), ("text_config.tie_word_embeddings", ...),
        ("text_config.rope_parameters", {"rope_type": "none"}), ("text_config.rms_norm_eps", "small"),
        ("vision_config.model_type", "siglip"), ("vision_config.image_size", 64), ("vision_config.patch_size", 0),
        ("vision_config.patch_size", ...), ("vision_config.num_hidden_layers", 10**8),
        ("vision_config.hidden_size", 2.5),
        ("sam_config.vision_config.window_size", -2), ("sam_config.vision_config.global_attn_indexes", [9]),
        ("sam_config.vision_config", []), ("sam_config.vision_config.image_size", 64),
        ("sam_config.vision_config.num_hidden_layers", None), ("sam_config.prompt_encoder_config.hidden_size", 16),
        ("sam_config.mask_decoder_config.num_hidden_layers", ...), ("detector_config", {"model_type": "llama"}),
        ("auto_map", {"AutoConfig": "evil.Evil"}), ("quantization_config", {"quant_method": "awq"}),
    ):  # fmt: skip
        yield CONFIG, key, value
    for key in (
        "strategy",
        "image_side",
        "patch",
        "box",
        "settings",
        "system",
        "max_length",
        "answer",
        "spatial_merge_size",
    ):
        yield PROCESSOR, key, ...
        yield PROCESSOR, key, None
    for key, value in (("image_side", 64), ("image_side", "32"), ("patch", 0), ("strategy", "slime"), ("max_length", 0),
                       ("max_length", "long"), ("answer", "last"), ("box", {"kind": "boxes"}), ("sam_side", 1024),
                       ("video_frames", 10**9), ("mask_score", 1), ("as_released", "no")):  # fmt: skip
        yield PROCESSOR, key, value
    for key, value in (("eos_token", ...), ("eos_token", 5), ("eos_token", "[PAD]"), ("pad_token", ...),
                       ("auto_map", {"AutoTokenizer": ["evil.Evil", None]}), ("tokenizer_class", 5)):  # fmt: skip
        yield WORDS_CONFIG, key, value
    for key, value in (("model", ...), ("model", {}), ("model.type", "None"), ("model.vocab", ...), ("model.vocab", []),
                       ("model.merges", [["a", "nothing"]]), ("added_tokens", []), ("added_tokens", {}),
                       ("pre_tokenizer", {"type": "None"}), ("decoder", 5)):  # fmt: skip
        yield WORDS, key, value
    for key, value in (("eos_token_id", ...), ("eos_token_id", 99), ("eos_token_id", "x"), ("pad_token_id", [[]])):
        yield GENERATION, key, value


def weight_damages() -> Iterator[tuple[str, Damage, str]]:
    table = "language_model.model.embed_tokens.weight"
    yield "a tensor gone", weights(lambda found: found.pop("box_head.decoder.0.bias")), "missing weight box_head"
    yield "another name", weights(lambda found: found.update(extra=found.pop("box_head.decoder.0.bias"))), "extra"
    yield "a shape", weights(lambda found: found.update({table: found[table][:-1].clone()})), "another shape"
    yield "a type", weights(lambda found: found.update({table: found[table].long()})), "is of type I64"
    yield "none", weights(lambda found: found.clear()), WEIGHTS.removesuffix(".safetensors")
    yield "half of all", weights(lambda found: [found.pop(name) for name in sorted(found)[::2]]), "missing weight"


FILES = list(file_damages())
VALUES = list(value_damages())
TENSORS = list(weight_damages())


@functools.cache
def answer_of_whole(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """The same of a folder that no test changes."""
    return answer_of(folder)


def answer_of(folder: Path) -> tuple[dict[str, torch.Tensor], str]:
    """All that a loaded folder decides: its weights, and how a question is written down."""
    model, processor = load_folder(folder, torch.float32)
    prompt = processor.tokenizer("Segment the red circle. [SEG]")["input_ids"]
    return dict(model.state_dict()), f"{prompt} {processor.chat_template} {model.generation_config.eos_token_id}"


def refused_or_sound(folder: Path, whole: Path, names: str) -> str:
    """Load a damaged folder; return '' where it is the whole one still, else the line that names what is wrong."""
    try:
        tensors, words = answer_of(folder)
    except UserError as error:
        line = error.problems[0]
        assert len(error.problems) < 200 and all("\n" not in problem for problem in error.problems)
        assert names in line and str(folder) in line, line
        return line
    wanted, said = answer_of_whole(whole)
    assert words == said and tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[name], wanted[name]) for name in wanted)
    return ""


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_there_are_many_damages() -> None:
    assert len(FILES) + len(VALUES) + len(TENSORS) > 190


@pytest.mark.parametrize(("damage", "names"), [entry[1:] for entry in FILES], ids=[entry[0] for entry in FILES])
def test_a_damaged_file_is_named(folder: Path, damage: Damage, names: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_folder(folder, torch.float32)
    assert names in caught.value.problems[0] and str(folder) in caught.value.problems[0]


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        pytest.param(n, k, v, id=f"{n} {k} {str(v)[:20]}", marks=[pytest.mark.exhaustive] if place % 3 else [])
        for place, (n, k, v) in enumerate(VALUES)
    ],
)
def test_a_wrong_value_is_named_or_does_no_harm(folder: Path, saved: Path, name: str, key: str, value: Any) -> None:
    put(name, key, value)(folder)
    line = refused_or_sound(folder, saved, "")
    said = key.rpartition(".")[2] in line or name in line or "weight" in line or WORDS in line
    assert not line or said, line


@pytest.mark.parametrize(("damage", "names"), [entry[1:] for entry in TENSORS], ids=[entry[0] for entry in TENSORS])
def test_wrong_weights_are_named(folder: Path, damage: Damage, names: str) -> None:
    damage(folder)
    with pytest.raises(UserError) as caught:
        load_folder(folder, torch.float32)
    assert any(names in line for line in caught.value.problems), caught.value.problems[0]


def test_a_cut_file_is_named_with_its_line(folder: Path) -> None:
    (folder / CONFIG).write_text('{\n "aspect": "pad",\n "merge": 1')
    with pytest.raises(UserError, match=r"config\.json:3: cannot be read as JSON"):
        load_folder(folder, torch.float32)


@pytest.mark.parametrize(
    ("damage", "names"),
    [
        (gone(INDEX), "no model.safetensors and no"),
        (cut(INDEX, 0.5), INDEX),
        (holds(INDEX, b"{}"), "weight_map"),
        (holds(INDEX, b'{"weight_map": {"a": "../model.safetensors"}}'), "not a file of the same folder"),
        (holds(INDEX, b'{"weight_map": {"a": "model-00009-of-00009.safetensors"}}'), "is not there"),
        (gone("model-00002-of-*"), "is not there"),
        (cut("model-00001-of-*", 0.7), "model-00001-of"),
        (put(INDEX, "weight_map", {}), INDEX),
    ],
)  # fmt: skip
def test_a_damaged_index_is_named(sharded: Path, tmp_path: Path, damage: Damage, names: str) -> None:
    folder = Path(shutil.copytree(sharded, tmp_path / "model"))
    damage(folder)
    with pytest.raises(UserError, match=".") as caught:
        load_folder(folder, torch.float32)
    assert names in caught.value.problems[0], caught.value.problems[0]


def test_whole_folders_load(saved: Path, sharded: Path) -> None:
    one, other = answer_of(saved), answer_of(sharded)
    assert one[1] == other[1] and all(torch.equal(one[0][name], other[0][name]) for name in one[0])


def test_the_command_ends_with_one_line(
    command: Callable[..., tuple[int, str, str]], folder: Path, tmp_path: Path
) -> None:
    put(CONFIG, "vision_feature_layer", "x")(folder)
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    code, _, err = command("predict", "--model", str(folder), "--image", str(tmp_path / "a.png"), "--prompt", "Hello.")
    assert code == 2 and err.splitlines()[-1].startswith("error: ") and "Traceback" not in err
    assert "vision_feature_layer: expected a whole number, got 'x'" in err
