"""Grouping, batching, resuming, sharding and bad samples, on a synthetic world with stand-ins for the model."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from answering import Breaking, Crowded, Perfect, Picky, Silent, Wobbly, images_of

from ullava.config.schema import EvalRecipe
from ullava.data.readers.base import TaskDataset
from ullava.errors import ConfigError, DataError
from ullava.evaluation.batching import Query, image_groups, pack
from ullava.evaluation.protocol import stored_questions
from ullava.evaluation.result_store import Shard, read_lines
from ullava.evaluation.run import evaluate
from ullava.structures import Answer, Sample, Turn

Make = Callable[..., EvalRecipe]
Open = Callable[[EvalRecipe], dict[str, TaskDataset]]

ALL = (
    "{shapes_res: {}, shapes_rec: {dataset: shapes_res, task: rec}, shapes_gres: {}, shapes_semantic: {}, "
    "shapes_instances: {}, shapes_salient: {}, shapes_caption: {}, shapes_vqa: {}, shapes_text: {}}"
)


def figures(metrics: dict[str, Any] | None) -> dict[str, dict[str, float]]:
    assert metrics is not None
    return {result["dataset"]: result["metrics"] for result in metrics["results"]}


# ---------------------------------------------------------------- figures
def test_a_perfect_model_has_full_marks_in_every_task(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe(ALL)
    metrics = evaluate(Perfect(), datasets(plan), plan, tmp_path, progress=False)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    for label, found in figures(metrics).items():
        for name, value in found.items():
            if name in ("MAE", "CIDEr", "meanE", "perplexity", "ECE", "AURC"):
                continue
            assert value == pytest.approx(100.0), (label, name)
    assert figures(metrics)["shapes_salient"]["MAE"] == 0.0
    assert figures(metrics)["shapes_gres"]["AURC"] == 0.0 and figures(metrics)["shapes_gres"]["ECE"] == pytest.approx(
        5.0
    )
    assert figures(metrics)["shapes_caption"]["CIDEr"] == pytest.approx(1000.0)
    tasks = {result["dataset"]: result["task"] for result in metrics["results"]}
    assert (tasks["shapes_rec"], tasks["shapes_gres"]) == ("rec", "gres")


def test_a_silent_model_misses_everything_but_what_is_not_there(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe(ALL)
    metrics = evaluate(Silent(), datasets(plan), plan, tmp_path, progress=False)
    found = figures(metrics)
    assert found["shapes_res"]["cIoU"] == found["shapes_res"]["gIoU"] == 0.0
    assert found["shapes_rec"] == {"Acc@0.5": 0.0, "Acc@0.75": 0.0, "Acc@0.9": 0.0, "mAcc": 0.0, "mIoU": 0.0}
    assert (found["shapes_gres"]["N-acc"], found["shapes_gres"]["T-acc"]) == (100.0, 0.0)
    assert found["shapes_instances"]["AP"] == found["shapes_semantic"]["mIoU"] == found["shapes_vqa"]["accuracy"] == 0.0
    assert found["shapes_caption"]["facts"] == 0.0


def test_teacher_forcing_is_another_protocol(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}, shapes_gres: {}, shapes_vqa: {}}", protocol="teacher_forced")
    model = Perfect()
    metrics = evaluate(model, datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None and metrics["protocol"] == "teacher_forced"
    found = figures(metrics)
    assert found["shapes_res"]["cIoU"] == found["shapes_gres"]["cIoU"] == 100.0
    # What the given answer gives away is no merit of the model.
    assert "N-acc" not in found["shapes_gres"] and found["shapes_vqa"] == {}
    assert metrics["results"][2]["note"] and not any("vqa" in name for name in model.asked)


def test_captions_alone_are_searched_with_beams(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {limit: 2}, shapes_caption: {limit: 3}}", caption_beams=3)
    model = Perfect()
    evaluate(model, datasets(plan), plan, tmp_path, progress=False)
    assert len(model.searched) == 3 < len(model.asked)
    assert {name.split("/")[0] for name in (sample.name for sample in model.searched)} == {"shapes_caption"}


@pytest.mark.parametrize("protocol", ["generate", "teacher_forced"])
def test_reference_answers_of_words_are_read(recipe: Make, datasets: Open, tmp_path: Path, protocol: str) -> None:
    plan = recipe("{shapes_text: {}, shapes_vqa: {}}", protocol=protocol)
    metrics = evaluate(Perfect(), datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None
    text = metrics["results"][0]
    assert text["metrics"]["perplexity"] == pytest.approx(math.exp(0.5))
    assert ("accuracy" in text["metrics"]) == ("details" in text or protocol == "generate") == (protocol == "generate")
    assert "perplexity" not in figures(metrics)["shapes_vqa"]


def test_predictions_hold_what_the_design_says(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}")
    evaluate(Perfect(), datasets(plan), plan, tmp_path, progress=False)
    records = list(read_lines(tmp_path / "predictions.jsonl"))
    assert {"id", "dataset", "task", "image", "prompt", "answer", "objects", "scores"} <= records[0].keys()
    assert {"phrase", "span", "box_xyxy_px", "score", "mask"} <= records[0]["objects"][0].keys()
    assert records[0]["scores"]["iou"] == 1.0
    assert len({record["id"] for record in records}) == len(records)


# ---------------------------------------------------------------- grouping and batches
def test_a_image_is_encoded_once(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}", batch_size=20)
    model = Perfect()
    evaluate(model, datasets(plan), plan, tmp_path, progress=False)
    seen = [path for batch in model.batches for path in images_of(batch)]
    assert len(seen) == len(set(seen)) == 8
    assert all(len(batch) <= 20 or len(images_of(batch)) == 1 for batch in model.batches)
    assert any(len(images_of(batch)) > 1 for batch in model.batches)


def test_scattered_annotations_of_a_image_meet(recipe: Make, datasets: Open, world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "world"
    shutil.copytree(world, copy, ignore=shutil.ignore_patterns("*.ullava-cache"))
    path = copy / "annotations" / "res.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(records[::2] + records[1::2]), encoding="utf-8")
    plan = recipe(f"{{shapes_res: {{data_root: {copy}}}}}")
    groups = image_groups(datasets(plan)["shapes_res"])
    assert sorted(index for group in groups for index in group) == list(range(len(records)))
    assert len(groups) == 8
    assert any(group != list(range(group[0], group[0] + len(group))) for group in groups)


def test_words_without_a_image_are_no_group(recipe: Make, datasets: Open) -> None:
    plan = recipe("{shapes_text: {}}")
    assert image_groups(datasets(plan)["shapes_text"]) == [[index] for index in range(8)]


def test_whole_groups_are_packed() -> None:
    def group(size: int) -> list[Query]:
        return [Query(0, n, size, Sample("n", "d", "text", (), (Turn("q", "a"),))) for n in range(size)]

    packed = pack([group(n) for n in (2, 2, 1, 9, 3)], batch_size=4)
    assert [[len(part) for part in batch] for batch in packed] == [[2, 2], [1], [9], [3]]


def test_reading_ahead_changes_nothing(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    for workers in (0, 2):
        plan = recipe("{shapes_res: {}, shapes_text: {}}", num_workers=workers, batch_size=8)
        evaluate(Wobbly(), datasets(plan), plan, tmp_path / str(workers), progress=False)
    assert (tmp_path / "0/predictions.jsonl").read_bytes() == (tmp_path / "2/predictions.jsonl").read_bytes()


def test_a_batch_that_does_not_fit_is_halved(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}")
    model = Crowded(most=5)
    metrics = evaluate(model, datasets(plan), plan, tmp_path, progress=False)
    assert figures(metrics)["shapes_res"]["cIoU"] == 100.0
    assert max(len(batch) for batch in model.batches) <= 5
    with pytest.raises(RuntimeError, match="out of memory"):
        evaluate(Crowded(most=0), datasets(plan), plan, tmp_path / "none", progress=False)


# ---------------------------------------------------------------- resume and shards
def test_an_interrupted_run_goes_on_where_it_was(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe(ALL, batch_size=8)
    whole = evaluate(Wobbly(), datasets(plan), plan, tmp_path / "whole", progress=False)
    with pytest.raises(KeyboardInterrupt):
        evaluate(Breaking(6), datasets(plan), plan, tmp_path / "part", progress=False)
    stored = {(r["dataset"], r["id"]) for r in read_lines(tmp_path / "part/predictions.jsonl")}
    assert stored
    assert not (tmp_path / "part/metrics.json").exists()
    with (tmp_path / "part/predictions.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"id": "cut')
    second = Wobbly()
    resumed = evaluate(second, datasets(plan), plan, tmp_path / "part", progress=False)
    assert resumed == whole
    names = ("metrics.json", "predictions.jsonl")
    for name in names:
        assert (tmp_path / "part" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    total = len(list(read_lines(tmp_path / "whole/predictions.jsonl")))
    assert len(second.asked) == total - len(stored)


def test_a_finished_run_asks_nothing_again(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe(ALL)
    first = evaluate(Wobbly(), datasets(plan), plan, tmp_path, progress=False)
    model = Wobbly()
    assert evaluate(model, datasets(plan), plan, tmp_path, progress=False) == first
    assert model.asked == []


def test_two_processes_give_what_one_gives(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe(ALL, batch_size=8)
    whole = evaluate(Wobbly(), datasets(plan), plan, tmp_path / "one", progress=False)
    models = [Wobbly(), Wobbly()]
    shared = tmp_path / "two"
    assert evaluate(models[1], datasets(plan), plan, shared, shard=Shard(1, 2), progress=False) is None
    assert (shared / "predictions.rank1.jsonl").exists()
    assert evaluate(models[0], datasets(plan), plan, shared, shard=Shard(0, 2), progress=False) == whole
    for name in ("metrics.json", "predictions.jsonl"):
        assert (shared / name).read_bytes() == (tmp_path / "one" / name).read_bytes()
    for label in ("res", "gres", "vqa"):
        names = [{n for n in model.asked if n.startswith(f"shapes_{label}/")} for model in models]
        assert names[0] and names[1] and not names[0] & names[1]


def test_another_number_of_processes_may_go_on(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}", batch_size=4)
    whole = evaluate(Wobbly(), datasets(plan), plan, tmp_path / "one", progress=False)
    for rank in (0, 1, 2):
        with pytest.raises(KeyboardInterrupt):
            evaluate(Breaking(1), datasets(plan), plan, tmp_path / "n", shard=Shard(rank, 3), progress=False)
    assert evaluate(Wobbly(), datasets(plan), plan, tmp_path / "n", progress=False) == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"protocol": "teacher_forced"}, 'protocol was "generate"'),
        ({"max_new_tokens": 5}, "max_new_tokens was 128"),
        ({"caption_beams": 3}, "caption_beams was null, is now 3"),
        ({"entries": "{shapes_res: {limit: 3}}"}, "data.shapes_res.limit"),
        ({"entries": "{shapes_res: {task: rec}}"}, 'data.shapes_res.task was "res", is now "rec"'),
    ],
)
def test_another_recipe_does_not_go_on(
    recipe: Make, datasets: Open, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    plan = recipe("{shapes_res: {}}")
    evaluate(Perfect(), datasets(plan), plan, tmp_path, progress=False)
    other = recipe(change.pop("entries", "{shapes_res: {}}"), **change)
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        evaluate(Perfect(), datasets(other), other, tmp_path, progress=False)


def test_another_model_does_not_go_on_but_other_speed_does(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}")
    evaluate(Perfect(), datasets(plan), plan, tmp_path, progress=False)
    with pytest.raises(ConfigError, match=r"model\.weights"):
        evaluate(Silent(), datasets(plan), plan, tmp_path, progress=False)
    faster = recipe("{shapes_res: {}}", batch_size=3, num_workers=1, bootstrap=5)
    metrics = evaluate(Perfect(), datasets(faster), faster, tmp_path, progress=False)
    assert metrics is not None and metrics["results"][0]["intervals"]["cIoU"] == [100.0, 100.0]


# ---------------------------------------------------------------- bad samples
def test_bad_samples_stop_the_run_above_the_budget(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_vqa: {}}")
    with pytest.raises(DataError, match="bad_sample_budget is 0"):
        evaluate(Picky("000002.jpg"), datasets(plan), plan, tmp_path, progress=False)
    assert not (tmp_path / "metrics.json").exists()


def test_bad_samples_within_the_budget_are_named_and_counted(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_vqa: {}}", bad_sample_budget=8)
    model = Picky("000002.jpg")
    metrics = evaluate(model, datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None
    result = metrics["results"][0]
    assert (result["n"], result["skipped"]) == (56, 8)
    bad = list(read_lines(tmp_path / "bad_samples.jsonl"))
    assert [entry["sample"] for entry in bad] == [f"shapes_vqa/drawn/2/{n}" for n in range(8)]
    assert bad[0]["reason"] == "the image cannot be read"
    # Once the image is mended, the same run takes it in.
    mended = Perfect()
    metrics = evaluate(mended, datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None and metrics["results"][0]["n"] == 64
    assert metrics["results"][0]["skipped"] == 0
    assert len(mended.asked) == 8
    assert not (tmp_path / "bad_samples.jsonl").exists()


def test_records_that_cannot_be_read_are_bad_samples(recipe: Make, datasets: Open, world: Path, tmp_path: Path) -> None:
    copy = tmp_path / "world"
    shutil.copytree(world, copy, ignore=shutil.ignore_patterns("*.ullava-cache"))
    path = copy / "annotations" / "res.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    records[1]["segmentation"] = []
    path.write_text(json.dumps(records), encoding="utf-8")
    plan = recipe(f"{{shapes_res: {{data_root: {copy}}}}}", bad_sample_budget=1)
    metrics = evaluate(Perfect(), datasets(plan), plan, tmp_path / "out", progress=False)
    assert metrics is not None and metrics["results"][0]["skipped"] == 1
    (bad,) = read_lines(tmp_path / "out/bad_samples.jsonl")
    assert (bad["dataset"], bad["item"], bad["sample"]) == ("shapes_res", 1, "shapes_res/drawn/1")
    assert "res.json" in bad["reason"]


class Choosing(Wobbly):
    """Looks closely at every other question; of two images, at one of them."""

    def say(self, sample: Sample) -> Answer:
        level = 64 if len(self.asked) % 2 else 16
        return replace(super().say(sample), chosen={"granularity": (level,)})


def test_figures_are_told_apart_by_what_the_vision_encoder_chose(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}, shapes_vqa: {}}", batch_size=1)
    metrics = evaluate(Choosing(), datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None
    for result in metrics["results"]:
        parts = result["by_choice"]["granularity"]
        assert set(parts) <= {"16", "64"} and sum(part["n"] for part in parts.values()) == result["n"]
    parts = metrics["results"][0]["by_choice"]["granularity"]
    assert len(parts) == 2
    records = [record for record in read_lines(tmp_path / "predictions.jsonl") if record["dataset"] == "shapes_res"]
    for level, part in parts.items():
        mine = [record["scores"] for record in records if record["chosen"] == {"granularity": [int(level)]}]
        assert len(mine) == part["n"]
        cut, joined = (sum(row[name] for row in mine) for name in ("intersection", "union"))
        assert part["metrics"]["cIoU"] == pytest.approx(100 * cut / joined)


def test_nothing_is_told_of_choices_where_there_are_none(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}")
    metrics = evaluate(Wobbly(), datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None and "by_choice" not in metrics["results"][0]
    assert "chosen" not in next(iter(read_lines(tmp_path / "predictions.jsonl")))


GOOD = {"dataset": "a", "item": 0, "query": 1, "queries": 2, "scores": {}}


def test_stored_predictions_are_counted() -> None:
    assert stored_questions([GOOD], ["a"], Path("p.jsonl")) == {"a": ({0: {1}}, {0: 2})}


@pytest.mark.parametrize("wrong", [{}, GOOD | {"item": "0"}, GOOD | {"dataset": "b"}, GOOD | {"scores": None}])
def test_a_line_that_is_no_prediction_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(DataError, match=r"p.jsonl:2: is not a prediction of this evaluation"):
        stored_questions([GOOD, wrong], ["a"], Path("p.jsonl"))


@pytest.mark.parametrize("protocol", ["generate", "teacher_forced"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_of_bad_samples_alone_is_counted(
    recipe: Make, datasets: Open, world: Path, tmp_path: Path, protocol: str, workers: int
) -> None:
    """Records that cannot be read, one image's and then all of them: batches without any question."""
    copy = tmp_path / "world"
    shutil.copytree(world, copy, ignore=shutil.ignore_patterns("*.ullava-cache"))
    path = copy / "annotations" / "res.json"
    records = json.loads(path.read_text(encoding="utf-8"))
    settings = {"batch_size": 1, "bad_sample_budget": len(records), "protocol": protocol, "num_workers": workers}
    for bad in (sum(record["image_path"] == records[0]["image_path"] for record in records), len(records)):
        for record in records[:bad]:
            record["segmentation"] = []
        path.write_text(json.dumps(records), encoding="utf-8")
        plan = recipe(f"{{shapes_res: {{data_root: {copy}}}}}", **settings)
        model = Perfect()
        metrics = evaluate(model, datasets(plan), plan, tmp_path / f"out-{bad}", progress=False)
        assert metrics is not None
        (result,) = metrics["results"]
        left = sum(len(record["sentences"]) for record in records[bad:])
        assert (result["n"], result["skipped"]) == (left, bad)
        assert all(model.batches), "a batch without a question is not asked"
        assert len(list(read_lines(tmp_path / f"out-{bad}" / "bad_samples.jsonl"))) == bad


@pytest.mark.parametrize("counting", ["strict", "as_released"])
def test_data_sets_of_bad_samples_alone_have_figures_of_nothing(
    recipe: Make, datasets: Open, world: Path, tmp_path: Path, counting: str
) -> None:
    plan = recipe(ALL, bad_sample_budget=10_000, counting=counting, bootstrap=3)
    images = [path.name for path in (world / "images").iterdir()]
    metrics = evaluate(Picky(*images), datasets(plan), plan, tmp_path, progress=False)
    assert metrics is not None
    for result in metrics["results"]:
        if result["dataset"] != "shapes_text":
            assert result["n"] == 0 and result["skipped"] > 0, result
