"""``config:`` tables of a model.yaml: every wrong value is told with file, line and key, or gives a sound network."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.unit.modeling.conftest import ROOT, SMALL, build_small
from transformers import AutoTokenizer

from ullava.config.load import load_config
from ullava.config.schema import ModelConfig
from ullava.config.site import Site
from ullava.errors import ConfigError, UserError
from ullava.modeling.construction import part_configs, trial
from ullava.modeling.construction.build import build_model, to_model_config
from ullava.text.tokens import add_special_tokens

Table = dict[str, Any]
Keys = tuple[str, ...]

WRONG: tuple[Any, ...] = (
    None, "x", "", -1, 0, 10**9, 10**30, 0.5, -0.5, math.inf, math.nan, True, [], [1], [None], {}, {"a": 1}
)  # fmt: skip
PARTS = ("language", "vision", "mask", "box")


def whole_table() -> Table:
    """The small model, with a small detector."""
    table: Table = yaml.safe_load(SMALL)
    box: Table = yaml.safe_load((ROOT / "models/tiny_query/model.yaml").read_text(encoding="utf-8"))["box"]
    return table | {"box": box}


def values_below_config(table: Table, keys: Keys = ()) -> Iterator[Keys]:
    """The keys of all values below any ``config``."""
    for key, value in table.items():
        if "config" in (*keys, key):
            yield (*keys, key)
        if isinstance(value, dict):
            yield from values_below_config(value, (*keys, key))


def changed(table: Table, keys: Keys, value: Any) -> Table:
    made = copy.deepcopy(table)
    inner = made
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    return made


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    found = AutoTokenizer.from_pretrained(str(ROOT / "models/tiny/tokenizer"))
    add_special_tokens(found)
    return found


@pytest.fixture
def refused(tmp_path: Path, tokenizer: Any) -> Callable[[Table], str | None]:
    """What is said of a model.yaml with this content (the first line), None where there is a network."""

    def ask(table: Table) -> str | None:
        file = tmp_path / "model.yaml"
        file.write_text(yaml.safe_dump(table), encoding="utf-8")
        try:
            config = to_model_config(load_config(ModelConfig, file), ROOT, tokenizer, Site(file))
        except UserError as error:
            assert not isinstance(error.__cause__, MemoryError)
            return error.problems[0].replace(str(file), "model.yaml")
        assert config.text_config.hidden_size > 0
        return None

    return ask


@pytest.mark.parametrize("wrong_values", [1, pytest.param(4, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("part", PARTS)
def test_every_mutation_is_told_with_its_line_or_sound(
    part: str, wrong_values: int, refused: Callable[[Table], str | None]
) -> None:
    """Each value of each table takes some of the wrong values in turn, so that all parts see all of them."""
    table = whole_table()
    places = [keys for keys in values_below_config(table) if keys[0] == part]
    tried = told = 0
    for number, keys in enumerate(places):
        for wrong in (WRONG[(wrong_values * number + step) % len(WRONG)] for step in range(wrong_values)):
            problem = refused(changed(table, keys, wrong))
            tried += 1
            if problem is None:
                continue
            told += 1
            file, line, key, reason = problem.split(":", 3)
            assert file == "model.yaml" and line.isdigit(), problem
            assert key.strip().startswith(".".join(keys[: keys.index("config")])), (keys, wrong, problem)
            assert reason.strip() and len(problem) < 600
    least = {"language": 8, "vision": 7, "mask": 22, "box": 30}[part]
    assert tried >= wrong_values * least and told > 0.6 * tried


@pytest.mark.parametrize(
    ("keys", "value", "problem"),
    [
        ("language.config.hidden_size", "big", ": Field 'hidden_size' expected int, got str"),
        ("language.config.hidden_size", None, ": Field 'hidden_size' expected int, got NoneType"),
        ("language.config.hidden_size", 10**9, ": 1000000000 is too large: 134217728 at most"),
        ("language.config.num_hidden_layers", 0, ": has to be 1 or more, not 0"),
        ("language.config.num_hidden_layers", 10**6, ": 1000000 is too large: 1024 at most"),
        ("language.config.num_attention_heads", 3, ": 3 heads do not divide hidden_size 32"),
        ("language.config.num_key_value_heads", 3, ": 3: "),
        ("language.config.initializer_range", -0.1, ": has to be 0 or more, not -0.1"),
        ("language.config.initializer_range", math.nan, ": has to be a finite number, not nan"),
        ("vision.tower.config.num_attention_heads", 5, ": 5 heads do not divide hidden_size 32"),
        ("vision.tower.config.patch_size", [8, 8], ": expected a whole number, got [8, 8]"),
        ("mask.sam.config.vision_config", 3, ": expected keys with values, got 3"),
        ("mask.sam.config.vision_config.image_size", 30, ": 30 is no multiple of patch_size 8"),
        ("mask.sam.config.vision_config.output_channels", 16, ": 16 has to equal prompt_encoder_config.hidden_size"),
        ("mask.sam.config.vision_config.num_pos_feats", 8, ": 8 has to equal half of prompt_encoder_config.hidden"),
        ("mask.sam.config.vision_config.global_attn_indexes", [7], ": 7 is none of 2 layers"),
        (
            "mask.sam.config.prompt_encoder_config.patch_size",
            4,
            ": 4 has to equal vision_config.patch_size, which is 8",
        ),
        ("box.detector.config.encoder_attention_heads", 7, ": 7 heads do not divide d_model 64"),
        ("box.detector.config.dropout", 1.5, ": has to be 0 or more and below 1, not 1.5"),
        ("box.detector.config.model_type", "llama", ": unknown 'llama'; known: grounding-dino, mm-grounding-dino"),
        ("box.detector.config.backbone_config.num_heads", [2], ": 1 num_heads for 3 depths"),
        ("box.detector.config.backbone_config.model_type", "swan", ": unknown 'swan'; did you mean 'swin'?"),
        ("box.detector.config.num_queries", 10**6, ": 1000000 is more than an image has places (10000)"),
    ],
)
def test_what_is_said(keys: str, value: Any, problem: str, refused: Callable[[Table], str | None]) -> None:
    told = refused(changed(whole_table(), tuple(keys.split(".")), value))
    assert told is not None
    assert told.split(": ", 1)[1].startswith(keys + problem), told


def test_values_that_only_fail_together_are_both_named(refused: Callable[[Table], str | None]) -> None:
    told = refused(changed(whole_table(), ("box", "detector", "config", "num_feature_levels"), 1))
    assert told is not None and "num_feature_levels" in told and "backbone_config.out_indices" in told


def test_the_line_is_that_of_the_file_that_is_extended(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SMALL.replace("heads: 4,\n           num_key", "heads: 3,\n           num_key"))
    file = tmp_path / "model.yaml"
    file.write_text("extends: base.yaml\nname: over\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        build_model(load_config(ModelConfig, file), ROOT, site=Site(file))
    assert caught.value.problems == (
        f"{tmp_path / 'base.yaml'}:4: language.config.num_attention_heads: 3 heads do not divide hidden_size 32",
    )


def test_weights_that_no_memory_holds_are_refused_before_any_is_made(tmp_path: Path) -> None:
    table = changed(whole_table(), ("language", "config", "hidden_size"), 1 << 17)
    file = tmp_path / "model.yaml"
    file.write_text(yaml.safe_dump(table), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"parameters take [\d,]+ GB, this machine has"):
        build_model(load_config(ModelConfig, file), ROOT, site=Site(file))


def test_settings_of_the_vision_encoder_are_told_with_their_line(tmp_path: Path) -> None:
    file = tmp_path / "model.yaml"
    file.write_text(
        yaml.safe_dump(changed(yaml.safe_load(SMALL), ("vision", "spatial_merge_size"), 3)), encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"model.yaml:\d+: vision.spatial_merge_size 3: the tower's grid of 4 x 4"):
        build_model(load_config(ModelConfig, file), ROOT, site=Site(file))


@pytest.fixture
def untried(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """As in a process that has tried nothing yet; the list takes the config of every trial."""
    ran: list[Any] = []
    run = trial._try_network
    monkeypatch.setattr(part_configs, "_SOUND", set())
    monkeypatch.setattr(trial, "_HELD", set())
    monkeypatch.setattr(trial, "_VOLUMES", {})
    monkeypatch.setattr(trial, "_try_network", lambda config: ran.append(config) or run(config))
    return ran


def test_the_same_values_are_tried_once(untried: list[Any], refused: Callable[[Table], str | None]) -> None:
    assert refused(whole_table()) is None
    first = len(untried)
    assert first == len(PARTS)
    assert refused(whole_table()) is None and len(untried) == first
    wider = ("mask", "sam", "config", "vision_config", "mlp_dim")
    assert refused(changed(whole_table(), wider, 56)) is None
    assert len(untried) == first + 1 and untried[-1].vision_config.mlp_dim == 56


def test_what_was_refused_is_tried_and_refused_again(
    untried: list[Any], refused: Callable[[Table], str | None]
) -> None:
    table = changed(whole_table(), ("language", "config", "num_key_value_heads"), 3)
    told = refused(table)
    assert told is not None and ": 3: " in told
    assert refused(table) == told


def test_checking_draws_no_random_numbers(untried: list[Any], refused: Callable[[Table], str | None]) -> None:
    torch.manual_seed(3)
    assert refused(whole_table()) is None
    drawn = torch.rand(4)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(4))


def test_a_part_that_was_kept_in_half_precision_is_built_in_the_type_of_the_model(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, vocab_size=1200)
    LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True)).half().save_pretrained(str(tmp_path / "half"))
    model, _ = build_small((f"language={{path: {tmp_path / 'half'}}}",))
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
