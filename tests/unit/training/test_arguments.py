"""The ``training`` table against the installed transformers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ullava.errors import ConfigError
from ullava.training.loop.arguments import RENAMED, RESERVED, build_training_arguments, check_training_keys

Write = Callable[[str, str], Path]


def build(write: Write, text: str, evaluates: bool = False) -> Any:
    path = write("recipe.yaml", "model: tiny\ntraining:\n" + text)
    table = yaml.safe_load(path.read_text())["training"] or {}
    return build_training_arguments(table, recipe=path, folder=path.parent / "out", evaluates=evaluates)


def problems(write: Write, text: str, evaluates: bool = False) -> list[str]:
    with pytest.raises(ConfigError) as error:
        build(write, text, evaluates)
    return [line.replace(str(write("recipe.yaml", "")), "recipe.yaml") for line in error.value.problems]


def test_defaults_suit_a_cpu(write: Write) -> None:
    args = build(write, "  use_cpu: true\n")
    assert args.report_to == []
    assert args.remove_unused_columns is False
    assert args.dataloader_pin_memory is False
    assert args.eval_strategy == "no"
    assert args.output_dir.endswith("out")


def test_an_eval_dataset_is_evaluated_each_epoch(write: Write) -> None:
    assert build(write, "  use_cpu: true\n", evaluates=True).eval_strategy == "epoch"


def test_bfloat16_is_allowed_on_a_cpu(write: Write) -> None:
    args = build(write, "  use_cpu: true\n  bf16: true\n")
    assert args.bf16 and args.device.type == "cpu"


@pytest.mark.parametrize("fast", [True, False])
def test_auto_computes_in_bfloat16_where_that_is_fast(
    write: Write, monkeypatch: pytest.MonkeyPatch, *, fast: bool
) -> None:
    monkeypatch.setattr("ullava.inference.devices.is_bfloat16_fast", lambda device: fast and device.type == "cpu")
    assert build(write, "  use_cpu: true\n  bf16: auto\n").bf16 is fast


def test_numbers_written_as_text_are_numbers(write: Write) -> None:
    args = build(write, "  use_cpu: true\n  learning_rate: 2e-5\n  num_train_epochs: 3\n")
    assert args.learning_rate == pytest.approx(2e-5)


def test_a_bare_no_is_a_strategy(write: Write) -> None:
    args = build(write, "  use_cpu: true\n  eval_strategy: no\n  save_strategy: no\n", evaluates=True)
    assert (args.eval_strategy, args.save_strategy) == ("no", "no")


def test_a_misspelt_name_is_refused_with_line_and_hint(write: Write) -> None:
    found = problems(write, "  use_cpu: true\n  lerning_rate: 1.0e-3\n")
    assert found == [
        "recipe.yaml:4: training.lerning_rate: not a TrainingArguments name; did you mean 'learning_rate'?"
    ]


def test_every_problem_is_reported_at_once(write: Write) -> None:
    found = problems(write, "  warmup_rato: 1\n  bf16: maybe\n  output_dir: x\n  seed: 1.5\n")
    assert [line.split(": ")[0] for line in found] == [f"recipe.yaml:{number}" for number in (3, 4, 5, 6)]


@pytest.mark.parametrize("key", sorted(RESERVED))
def test_what_the_run_decides_cannot_be_set(write: Write, key: str) -> None:
    assert f"training.{key}: not yours to set: {RESERVED[key]}" in problems(write, f"  {key}: true\n")[0]


def test_old_names_are_translated_in_the_message(write: Write) -> None:
    from transformers import TrainingArguments

    gone = [key for key in RENAMED if key not in TrainingArguments.__dataclass_fields__]
    assert "evaluation_strategy" in gone
    values, found = check_training_keys(dict.fromkeys(gone, 1), recipe=Path("absent.yaml"))
    assert values == {}
    for key, line in zip(gone, found, strict=True):
        assert line.endswith(f"now: {RENAMED[key]}")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: fast", "expected a number, found 'fast'"),
        ("bf16: maybe", "expected true or false, found 'maybe'"),
        ("seed: true", "expected a whole number, found True"),
        ("max_steps: 1.5", "expected a whole number, found 1.5"),
    ],
)
def test_wrong_types_are_refused(write: Write, line: str, expected: str) -> None:
    assert problems(write, f"  {line}\n")[0] == f"recipe.yaml:3: training.{line.split(':')[0]}: {expected}"


def test_what_the_library_refuses_names_the_recipe(write: Write) -> None:
    found = problems(write, "  use_cpu: true\n  lr_scheduler_type: zigzag\n")
    assert found[0].startswith("recipe.yaml:2: training: ") and "zigzag" in found[0]


def test_evaluation_without_a_dataset_is_refused(write: Write) -> None:
    found = problems(write, "  use_cpu: true\n  eval_strategy: epoch\n")
    assert found == ["recipe.yaml:4: training.eval_strategy: the recipe has no eval_dataset"]


def test_fsdp_on_a_cpu_is_refused_not_ignored(write: Write) -> None:
    found = problems(write, "  use_cpu: true\n  fsdp: full_shard\n")
    assert found[0].startswith("recipe.yaml:4: training.fsdp: accelerate ignores it on a CPU")


def test_a_key_of_the_command_line_is_said_to_be_there(write: Write) -> None:
    path = write("recipe.yaml", "training:\n  seed: 1\n")
    _, found = check_training_keys({"sed": 1}, recipe=path)
    assert found == ["command line: training.sed: not a TrainingArguments name; did you mean 'seed'?"]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("per_device_train_batch_size", "null", "expected a whole number, found nothing"),
        ("per_device_train_batch_size", "0", "has to be 1 or more, found 0"),
        ("per_device_train_batch_size", "1.5", "expected a whole number, found 1.5"),
        ("per_device_train_batch_size", "[4]", "expected a whole number, found [4]"),
        ("per_device_train_batch_size", "1000000000", "has to be 65536 or less, found 1000000000"),
        ("per_device_eval_batch_size", "-1", "has to be 1 or more, found -1"),
        ("gradient_accumulation_steps", "null", "expected a whole number, found nothing"),
        ("dataloader_num_workers", "null", "expected a whole number, found nothing"),
        ("dataloader_num_workers", "100000", "has to be 1024 or less, found 100000"),
        ("learning_rate", "null", "expected a number, found nothing"),
        ("learning_rate", ".nan", "has to be a finite number, found nan"),
        ("learning_rate", "-.inf", "has to be a finite number, found -inf"),
        ("learning_rate", "-1.0e-3", "has to be 0 or more, found -0.001"),
        ("learning_rate", "true", "expected a number, found True"),
        ("num_train_epochs", "0", "has to be above 0, found 0"),
        ("num_train_epochs", "{a: 1}", "expected a number, found {'a': 1}"),
        ("adam_beta1", "1.0", "has to be below 1, found 1.0"),
        ("seed", "-1", "has to be 0 or more, found -1"),
        ("seed", "null", "expected a whole number, found nothing"),
        ("logging_steps", "0", "has to be above 0, found 0"),
        ("use_cpu", "null", "expected true or false, found nothing"),
        ("bf16", "7", "expected true or false, found 7"),
        ("report_to", "{a: 1}", ""),
    ],
)
def test_values_that_no_run_can_have_are_refused(write: Write, key: str, value: str, reason: str) -> None:
    (found,) = problems(write, f"  {key}: {value}\n")
    assert found.startswith("recipe.yaml:") and reason in found, found
    if reason:
        assert found == f"recipe.yaml:3: training.{key}: {reason}"


def test_every_number_of_the_library_refuses_what_is_no_number(write: Write) -> None:
    from transformers import TrainingArguments

    from ullava.training.loop.arguments import _members, _type_hints

    numbers = [key for key, hint in _type_hints(TrainingArguments).items() if _members(hint) & {int, float}]
    assert len(numbers) >= 25
    for key in set(numbers) - set(RESERVED):
        for value in (float("nan"), float("inf"), [1], {"a": 1}, "many", True):
            _, told = check_training_keys({key: value}, recipe=Path("none.yaml"))
            assert len(told) == 1, (key, value)


def test_what_cannot_be_reported_to_is_named(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = "recipe.yaml:4: training.report_to: unknown 'tensorbord'; did you mean 'tensorboard'?"
    assert problems(write, "  use_cpu: true\n  report_to: [tensorbord]\n") == [expected]
    module = "transformers.integrations.integration_utils.get_available_reporting_integrations"
    monkeypatch.setattr(module, lambda: [])
    expected = "recipe.yaml:4: training.report_to: wandb is not installed here"
    assert problems(write, "  use_cpu: true\n  report_to: wandb\n") == [expected]
