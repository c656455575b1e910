"""``ullava eval`` from the command line, and the recipes that come with the project."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from answering import Perfect

from ullava.config.load import load_config
from ullava.config.schema import EvalRecipe
from ullava.errors import ConfigError
from ullava.evaluation.run import check_entries, own_device
from ullava.evaluation.table import result_table

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> Perfect:
    """The model that ``ullava eval`` loads, whatever its name."""
    model = Perfect()
    monkeypatch.setattr("ullava.inference.load.load", lambda *_, **__: model)
    return model


def test_a_recipe_from_the_command_line(command: Command, perfect: Perfect, world: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("configs/eval/shapes.yaml", "--model", "tiny", f"data_root={world}", "--out", str(out))
    code, shown, errors = command("eval", *arguments)
    assert code == 0, errors
    assert "shapes_instances" in shown and "protocol generate" in shown
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["model"] == "tiny"
    assert [result["task"] for result in metrics["results"]] == [
        *("res", "rec", "gres", "semantic", "instance", "salient", "caption", "vqa", "text", "res")
    ]
    code, printed, _ = command("eval", *arguments, "--json")
    assert code == 0
    assert json.loads(printed) == metrics


def test_overrides_of_the_vision_encoder_are_part_of_what_was_measured(
    command: Command, perfect: Perfect, world: Path, tmp_path: Path
) -> None:
    arguments = ("eval", "eval_caption", f"data_root={world}", "--out", str(tmp_path / "out"))
    assert command(*arguments, "overrides={granularity: 36}")[0] == 0
    assert perfect.overrides == {"granularity": 36}
    code, _, errors = command(*arguments, "overrides={granularity: 144}")
    assert code == 2 and "granularity" in errors


def test_results_lie_below_runs_by_default(
    command: Command, perfect: Perfect, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("eval", "eval_caption", f"data_root={world}")[0] == 0
    assert (tmp_path / "runs/eval/eval_caption/metrics.json").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no_such_recipe",), "no_such_recipe"),
        (("eval_vqa", "protocol=generat"), "did you mean 'generate'"),
        (("eval_vqa", "batch_sizes=3"), "did you mean 'batch_size'"),
        (("eval_vqa", "dataset.shapes_vqa.portion=0.5"), "portion"),
        (("eval_vqa", "dataset.shapes_vqa.split=val"), "no split 'val'"),
        (("eval_vqa", "dataset.shapes_vqa.task=res"), "not 'res'"),
        (("eval_vqa", "data_root=nowhere"), "no such annotation file"),
        (("eval_res", "dataset.refcoco_val.split=null"), "say which one; known: train, val, testA, testB"),
    ],
)
def test_user_errors_are_one_line_and_code_2(
    command: Command, perfect: Perfect, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    code, shown, errors = command("eval", *arguments, "--out", str(tmp_path / "out"))
    assert code == 2
    assert message in errors
    assert shown == ""
    assert not (tmp_path / "out").exists()


def test_a_batch_of_none_is_refused(command: Command, perfect: Perfect, world: Path, tmp_path: Path) -> None:
    code, _, errors = command("eval", "eval_vqa", f"data_root={world}", "batch_size=0", "--out", str(tmp_path / "o"))
    assert code == 2 and "batch_size" in errors
    assert not (tmp_path / "o").exists()


def test_every_recipe_of_ours_is_sound(root: Path) -> None:
    recipes = sorted((root / "configs" / "eval").glob("*.yaml"))
    assert len(recipes) >= 7
    for path in recipes:
        check_entries(load_config(EvalRecipe, path))


def test_problems_of_all_entries_are_told_at_once(recipe: Callable[..., EvalRecipe]) -> None:
    plan = recipe("{shapes_res: {weight: 2}, no_such: {}, refcoco: {}}")
    with pytest.raises(ConfigError) as caught:
        check_entries(plan)
    assert len(caught.value.problems) == 3


def test_the_command_does_not_import_torch_to_be_configured() -> None:
    code = "import sys, ullava.cli.eval; raise SystemExit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", ["eval_res", "eval_rec", "eval_salient"])
def test_the_scripts_call_the_same_code(root: Path, name: str, tmp_path: Path) -> None:
    script = root / "evaluation" / f"{name}.py"
    assert len(script.read_text(encoding="utf-8").splitlines()) <= 40
    arguments = [sys.executable, str(script), "--cfg_path", "eval_vqa", "batch_sizes=3", "--out", str(tmp_path / "o")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, cwd=root)
    assert done.returncode == 2
    assert "did you mean 'batch_size'" in done.stderr


def test_a_process_takes_its_own_accelerator() -> None:
    assert own_device("cpu", {"LOCAL_RANK": "1"}) == "cpu"
    assert own_device("auto", {}) == "auto"


def test_the_table_shows_intervals() -> None:
    result = {"dataset": "d", "split": "val", "task": "res", "n": 3, "skipped": 1, "metrics": {"cIoU": 51.239}}
    head = {"model": "m", "protocol": "generate"}
    assert "cIoU 51.24 [50.00, 52.00]" in result_table(head | {"results": [result | {"intervals": {"cIoU": [50, 52]}}]})
    assert "nothing to score" in result_table(head | {"results": [result | {"metrics": {}}]})


def test_a_full_disk_is_one_line_and_the_run_goes_on_later(
    command: Command, perfect: Perfect, world: Path, tmp_path: Path, full_disk: Any
) -> None:
    line = ("eval", "configs/eval/shapes.yaml", "--model", "tiny", f"data_root={world}")
    assert command(*line, "--out", str(tmp_path / "whole"))[0] == 0
    with full_disk(30_000):
        code, _, errors = command(*line, "--out", str(tmp_path / "out"))
    assert code == 2 and "Traceback" not in errors
    named = f"error: {tmp_path / 'out' / 'predictions.jsonl'}: cannot be written (File too large)"
    assert [text for text in errors.splitlines() if text.startswith("error: ")] == [named]
    assert not any(path.name.startswith(".") for path in (tmp_path / "out").iterdir())
    assert command(*line, "--out", str(tmp_path / "out"))[0] == 0
    for name in ("metrics.json", "predictions.jsonl"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_full_disk_is_found_before_the_model_is_loaded(
    command: Command, world: Path, tmp_path: Path, full_disk: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ullava.inference.load.load", lambda *_, **__: pytest.fail("the model was loaded"))
    with full_disk(1000):
        code, _, errors = command("eval", "eval_caption", f"data_root={world}", "--out", str(tmp_path / "out"))
    assert (code, errors) == (2, f"error: {tmp_path / 'out'}: cannot be written (File too large)\n")
    assert not (tmp_path / "out").exists()
