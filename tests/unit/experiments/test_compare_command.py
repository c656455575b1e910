"""Models compared on a very small world: what each spends, what it chose, and a report that goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.unit.modeling.conftest import build_small

from ullava.cli.main import main
from ullava.config.comparison import CompareRecipe
from ullava.config.load import parse_text
from ullava.errors import ConfigError
from ullava.experiments.comparison_report import draw_figure, figures_of, table_of
from ullava.experiments.kept_cells import DIMMED, cells_of, lit
from ullava.inference.predictor import Predictor

VISION_ENCODERS = {
    "avg": ("vision.strategy=avg", "vision.avg={text_slots: 6, heads: 4}"),
    "slime": ("vision.strategy=slime", "vision.slime={local_side: 2, heads: 4, top_p: 0.6}"),
}


@pytest.fixture(scope="module")
def contest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two saved models, a world and the recipes of a comparison."""
    folder = tmp_path_factory.mktemp("contest")
    for name, overrides in VISION_ENCODERS.items():
        model, processor = build_small(overrides)
        model.save_pretrained(folder / name)
        processor.save_pretrained(folder / name)
    draw = ["data", "draw", "--images", "2", "--seed", "3", "--world", "detail", "--out", str(folder / "world")]
    assert main(draw) == 0
    (folder / "asked.yaml").write_text(
        "max_new_tokens: 2\nbatch_size: 8\ndataset:\n  shapes_vqa: {}\n  shapes_res: {limit: 2}\n", encoding="utf-8"
    )
    (folder / "run").mkdir()
    (folder / "run" / "metrics.json").write_text(
        json.dumps({"training": {"steps": 7, "seconds": 9.0, "budget": {"clock": "cpu", "spent": 8.0}}})
    )
    lines = [
        f"recipe: {folder / 'asked.yaml'}",
        f"data_root: {folder / 'world'}",
        "images: 2",
        "contenders:",
        f"  avg: {{model: {folder / 'avg'}, runs: [{folder / 'run'}]}}",
        f"  avg_low: {{model: {folder / 'avg'}, overrides: {{granularity: 4}}}}",
        f"  slime: {{model: {folder / 'slime'}}}",
    ]
    (folder / "compare.yaml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def report(contest: Path) -> Path:
    """The output of the comparison, made in two goes."""
    out = contest / "out"
    line = ["compare", str(contest / "compare.yaml"), "--out", str(out)]
    assert main([*line, "--only", "avg", "slime"]) == 0
    assert [row["label"] for row in rows_of(out)] == ["avg", "slime"]
    before = {path: path.read_bytes() for path in out.rglob("cost.json")}
    assert main(line) == 0
    assert {path: path.read_bytes() for path in before} == before  # measured once
    return out


def rows_of(out: Path) -> list[dict]:
    return json.loads((out / "comparison.json").read_text())["contenders"]


def test_every_contender_is_told_with_what_it_spends(report: Path) -> None:
    rows = {row["label"]: row for row in rows_of(report)}
    assert list(rows) == ["avg", "avg_low", "slime"]
    for row in rows.values():
        assert set(figures_of(row)) >= {"vqa accuracy", "res cIoU"}
        cost = row["cost"]
        assert cost["encode_ms"] > 0 and cost["answer_ms"] > cost["encode_ms"]
        assert cost["visual_tokens"]["low"] <= cost["visual_tokens"]["mean"] <= cost["visual_tokens"]["high"]
        assert set(cost["tokens_by_kind"]) >= {"res", "texture"}
    assert rows["avg_low"]["cost"]["visual_tokens"]["mean"] < 1 + rows["avg"]["cost"]["visual_tokens"]["mean"]
    assert set(rows["avg_low"]["cost"]["levels_by_kind"]["texture"]) == {"4"}
    assert all(0 < share <= 1 for share in rows["slime"]["cost"]["kept_share_by_kind"].values())
    assert rows["avg"]["training"] == [
        {"run": rows["avg"]["training"][0]["run"], "steps": 7, "seconds": 9.0, "clock": "cpu", "spent": 8.0}
    ]


def test_bad_samples_within_the_budget_cost_nothing(
    contest: Path, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    world = tmp_path / "world"
    shutil.copytree(contest / "world", world, ignore=shutil.ignore_patterns("*.ullava-cache"))
    first, *others = sorted((world / "images").iterdir())
    first.write_bytes(b"torn")
    asked = tmp_path / "asked.yaml"
    asked.write_text((contest / "asked.yaml").read_text() + "bad_sample_budget: 99\n", encoding="utf-8")
    line = ["compare", str(contest / "compare.yaml"), f"recipe={asked}", f"data_root={world}", "--only", "avg"]
    code, _, error = command(*line, "--out", str(tmp_path / "out"))
    assert code == 0, error
    (row,) = rows_of(tmp_path / "out")
    assert row["results"][0]["skipped"] > 0 and 0 < row["cost"]["questions"] <= row["results"][0]["n"]
    for image in others:
        image.write_bytes(b"torn")
    code, _, error = command(*line, "--out", str(tmp_path / "none"))
    assert code == 2 and "Traceback" not in error
    assert "error: images: 2: no usable question with one image" in error.splitlines()[-1]


def test_the_report_is_a_table_and_a_image(report: Path) -> None:
    lines = (report / "comparison.md").read_text().splitlines()
    assert len(lines) == 5 and lines[2].startswith("| avg |") and lines[2].endswith("| 7 | 8 |")
    assert all(line.count("|") == lines[0].count("|") for line in lines)
    with Image.open(report / "comparison.png") as figure:
        assert figure.width > 600 and figure.height > 900
    with Image.open(report / "slime" / "kept.png") as kept:
        assert kept.width > kept.height
    assert not (report / "avg" / "kept.png").exists()


def test_a_figure_needs_no_choices(tmp_path: Path) -> None:
    cost = {"visual_tokens": {"mean": 64.0}, "encode_ms": 1.0, "answer_ms": 2.0}
    results = [{"task": "res", "metrics": {"cIoU": 40.0, "P@0.5": 30.0}}]
    row = {"label": "one", "model": "m", "overrides": {}, "training": [], "results": results, "cost": cost}
    draw_figure([row], tmp_path / "a.png")
    assert (tmp_path / "a.png").is_file() and "| one | 64.0 | 1.0 | 2.0 | 40.0 | 30.0 |" in table_of([row])


def test_kept_cells_stay_lit(contest: Path) -> None:
    predictor = Predictor(*build_small(VISION_ENCODERS["slime"]))
    cells = cells_of(predictor, (64, 64))
    assert len(cells) == 4 * 2 * 2
    image = np.full((64, 64, 3), 200, np.uint8)
    seen = lit(image, cells[[0]])
    assert (seen[:16, :16] == 200).all() and (seen[20:, 20:] == round(200 * DIMMED)).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--only", "slim"], "did you mean 'slime'?"),
        (["contenders.avg.model=nowhere"], "contender avg: "),
        (["contenders={}"], "nothing to compare"),
        (["contenders={a/b: {model: x}}"], "letters, digits"),
        (["images=0"], "1 or more"),
        (["recipe=tiny_quick"], "unknown key"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    contest: Path, tmp_path: Path, change: list[str], message: str, command: Callable[..., tuple[int, str, str]]
) -> None:
    code, _, error = command("compare", str(contest / "compare.yaml"), "--out", str(tmp_path / "out"), *change)
    assert code == 2 and message in error and not (tmp_path / "out").exists()


def test_a_recipe_of_a_comparison_is_told_by_its_keys() -> None:
    recipe = parse_text(CompareRecipe, "recipe: detail\ncontenders: {a: {model: m}}")
    assert recipe.contenders["a"].overrides == {} and recipe.images == 40
    with pytest.raises(ConfigError, match="required key is missing"):
        parse_text(CompareRecipe, "recipe: detail")
