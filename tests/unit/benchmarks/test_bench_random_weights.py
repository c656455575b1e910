"""``ullava bench predict --random-weights``: config files alone make a system, and its answer runs every stage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from PIL import Image
from tests.hub_cache import TOKENIZER, offline_cache, put_in_cache
from tests.unit.modeling.conftest import SMALL
from tests.unit.modeling.native_models import HEADS, NATIVES, write_processor

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig
from ullava.errors import ConfigError
from ullava.modeling.construction import trial
from ullava.modeling.construction.random_weights import TABLE, DrawsFromTable, build_random
from ullava.text.answers import split_objects

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(variable, "1")
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "image.png"
    Image.new("RGB", (56, 40), (200, 90, 30)).save(path)
    return path


@pytest.fixture
def in_cache(tmp_path: Path) -> Iterator[Path]:
    """A model.yaml whose language model is in the Hub's cache, by its config and tokenizer alone."""
    system = yaml.safe_load(SMALL)
    part = tmp_path / "part"
    shutil.copytree(TOKENIZER, part)
    (part / "config.json").write_text(json.dumps({**system["language"]["config"], "vocab_size": 3000}))
    put_in_cache(tmp_path / "cache", "maker/words", part)
    system |= {"language": {"path": "maker/words"}, "tokenizer": "maker/words"}
    path = tmp_path / "model.yaml"
    path.write_text(yaml.safe_dump(system))
    with offline_cache(tmp_path / "cache"):
        yield path


def report(command: Command, model: Path, image: Path, *more: str) -> dict[str, Any]:
    asked = ("--model", str(model), "--image", str(image), "--repeats", "1", "--random-weights", "--json", *more)
    code, printed, said = command("bench", "predict", *asked)
    assert code == 0, said
    return dict(json.loads(printed))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_config_files_alone_make_an_answer_of_every_stage(
    command: Command, in_cache: Path, image: Path, dtype: str
) -> None:
    told = report(command, in_cache, image, *(() if dtype == "float32" else ("--dtype", dtype)))
    assert told["weights"] == "random" and told["dtype"] == dtype and told["build_s"] > 0 and "load_s" not in told
    assert {"vision encoder", "prefill", "decode", "mask encoder", "mask decoder", "box head"} <= set(told["stages_ms"])
    (thing,) = split_objects(told["text"])
    assert (thing.seg_ordinal, thing.loc_ordinal) == (0, 0) and told["objects"] == 1 and told["new_tokens"] > 5


def test_weights_are_made_in_their_type_at_published_sizes(in_cache: Path) -> None:
    model, processor = build_random(load_config(ModelConfig, in_cache), in_cache.parent, torch.bfloat16)
    assert {value.dtype for value in model.parameters()} == {
        torch.bfloat16
    } and torch.get_default_dtype() is torch.float32
    assert model.get_input_embeddings().weight.shape[0] == max(3000, len(processor.tokenizer))
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert all(bool(value.isfinite().all()) for value in model.parameters())
    again, _ = build_random(load_config(ModelConfig, in_cache), in_cache.parent, torch.float32)
    assert {name for name, _ in again.named_parameters()} == {name for name, _ in model.named_parameters()}


def test_a_native_core_answers_too(command: Command, tmp_path: Path, image: Path) -> None:
    core = {"kind": "native", "config": NATIVES["gemma3"].config}
    core["processor"] = str(write_processor("gemma3", tmp_path / "processor"))
    model = tmp_path / "model.yaml"
    model.write_text(yaml.safe_dump({"name": "native", "core": core}) + HEADS)
    told = report(command, model, image)
    assert "[SEG]" in told["text"] and told["objects"] == 1 and "mask decoder" in told["stages_ms"]


def test_what_cannot_be_measured_is_one_line(command: Command, in_cache: Path, image: Path) -> None:
    asked = ("bench", "predict", "--model", str(in_cache), "--image", str(image), "--random-weights")
    for more in (("--quantize", "int8"), ("--runtime", "onnx")):
        code, _, said = command(*asked, *more)
        assert code != 0 and said.count("\n") == 1 and "leave --quantize and --runtime out" in said
    in_cache.write_text(in_cache.read_text().replace("maker/words", "maker/absent"))
    code, _, said = command(*asked)
    assert code != 0 and "language.path" in said and "maker/absent" in said and "Traceback" not in said
    code, _, said = command("bench", "eval", "--random-weights")
    assert code != 0 and "--random-weights belongs to 'ullava bench predict'" in said


def test_the_type_decides_whether_memory_suffices(in_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config(ModelConfig, in_cache)
    model, _ = build_random(config, in_cache.parent, torch.bfloat16)
    holds = SimpleNamespace(total=3 * sum(value.numel() for value in model.parameters()))
    monkeypatch.setattr(trial.psutil, "virtual_memory", lambda: holds)
    build_random(config, in_cache.parent, torch.bfloat16)
    with pytest.raises(ConfigError, match="this machine has"):
        build_random(config, in_cache.parent, torch.float32)


def test_a_table_has_the_distributions_of_torch() -> None:
    made = torch.empty(1100, 1000, dtype=torch.bfloat16)
    with DrawsFromTable():
        torch.nn.init.normal_(made, 2.0, 0.5)
        between = torch.empty(TABLE + 7).uniform_(-3.0, 1.0)
        shown_once = torch.empty(4, 4).normal_()
        by_columns = torch.empty(64, 32).t().normal_()
    assert made.float().mean().item() == pytest.approx(2.0, abs=0.01)
    assert made.float().std().item() == pytest.approx(0.5, abs=0.01)
    assert -3.0 <= between.min().item() < -2.99 and 0.99 < between.max().item() <= 1.0
    assert between.mean().item() == pytest.approx(-1.0, abs=0.01)
    assert len(shown_once.unique()) == 16 and by_columns.std().item() == pytest.approx(1.0, abs=0.1)
    assert not torch.equal(made[0], made[1])
