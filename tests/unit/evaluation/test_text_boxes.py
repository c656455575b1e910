"""The protocol ``text_box``: numbers in words, their frame, and a whole run with a model that writes boxes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from answering import Perfect

from ullava.config.load import parse_text
from ullava.config.schema import EvalRecipe
from ullava.data.readers.base import TaskDataset
from ullava.errors import ConfigError
from ullava.evaluation.metrics.boxes import WrittenBoxes
from ullava.evaluation.result_store import read_lines
from ullava.evaluation.run import evaluate
from ullava.evaluation.text_boxes import place_text_box, read_text_box
from ullava.geometry import px_to_norm
from ullava.resources import folder
from ullava.structures import Answer, Sample

Make = Callable[..., EvalRecipe]
Open = Callable[[EvalRecipe], dict[str, TaskDataset]]


def test_the_worked_example_in_fractions_and_per_mille() -> None:
    for words in ("[0.1, 0.2, 0.3, 0.4]", "It is at [[100, 200, 300, 400]]."):
        box = read_text_box(words)
        assert box is not None
        assert place_text_box(box, (200, 100)) == pytest.approx((20, -10, 60, 30))
        assert place_text_box(box, (200, 100), "norm") == pytest.approx((20, 20, 60, 40))


@pytest.mark.parametrize("words", ["", "[1, 2, 3]", "[a, b, c, d]", "(0.1, 0.2, 0.3, 0.4)", "[nan, 0, 0, 1]"])
def test_what_cannot_be_read_is_no_box(words: str) -> None:
    assert read_text_box(words) is None


def test_half_is_a_hit_and_silence_is_a_miss() -> None:
    metric = WrittenBoxes()
    metric.update((0, 0, 10, 10), (0, 0, 10, 20))
    metric.update(None, (0, 0, 10, 20))
    assert metric.compute() == {
        "Acc@0.5": 50.0, "Acc@0.75": 0.0, "Acc@0.9": 0.0, "mAcc": 5.0, "mIoU": 25.0, "read": 50.0,
    }  # fmt: skip


class Writer(Perfect):
    """Writes the true box in fractions of the image and grounds nothing."""

    name = "writer"

    def say(self, sample: Sample) -> Answer:
        box = sample.turns[0].regions[0].box_xyxy_px
        assert box is not None
        numbers = px_to_norm(box, (sample.truth["width"], sample.truth["height"]))
        return Answer(f"[{', '.join(f'{number:.4f}' for number in numbers)}]")


def test_a_model_that_writes_boxes(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    entries = "{boxes: {dataset: shapes_res, task: rec, template: BOXW.json}}"
    plan = recipe(entries, protocol="text_box", text_box_frame="norm")
    model = Writer()
    metrics = evaluate(model, datasets(plan), plan, tmp_path / "norm", progress=False)
    assert metrics is not None and metrics["protocol"] == "text_box"
    assert metrics["results"][0]["metrics"]["Acc@0.9"] == metrics["results"][0]["metrics"]["read"] == 100.0
    line = next(iter(read_lines(tmp_path / "norm" / "predictions.jsonl")))
    assert len(line["scores"]["box_xyxy_px"]) == 4 and "bounding box coordinate" in line["prompt"]
    with pytest.raises(ConfigError):  # another frame is another evaluation
        other = recipe(entries, protocol="text_box")
        evaluate(model, datasets(other), other, tmp_path / "norm", progress=False)


def test_other_tasks_have_no_box_in_words(recipe: Make, datasets: Open, tmp_path: Path) -> None:
    plan = recipe("{shapes_res: {}}", protocol="text_box")
    with pytest.raises(ConfigError, match="measures the task rec, not res"):
        evaluate(Writer(), datasets(plan), plan, tmp_path, progress=False)


def test_the_published_recipe() -> None:
    text = (folder("configs") / "eval" / "eval_rec_words.yaml").read_text(encoding="utf-8")
    plan = parse_text(EvalRecipe, text)
    assert plan.protocol == "text_box" and plan.text_box_frame == "padsq" and len(plan.dataset) == 8
    assert {entry.task for entry in plan.dataset.values()} == {"rec"}
