"""The model in VLMEvalKit itself: its way of asking, its inference over a TSV file, its evaluation."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.inference.test_ecosystem import drawn

import ullava
from ullava.errors import UserError

pytest.importorskip("vlmeval", reason="VLMEvalKit is the extra 'vlmeval', in an environment of its own")
COLORS = ("red", "blue", "green", "yellow")


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    from ullava.plugins.vlmeval import Ullava

    yield Ullava(predictor=ullava.load("tiny", device="cpu"))
    torch.set_grad_enabled(True)  # VLMEvalKit turns it off for the whole process


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LMUData", str(tmp_path))
    return tmp_path


def coded(color: str) -> str:
    file = io.BytesIO()
    drawn(color).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]), delimiter="\t")
        table.writeheader()
        table.writerows(rows)


def test_messages_are_asked_as_they_come(model: Any, tmp_path: Path) -> None:
    drawn().save(tmp_path / "a.png")
    message = [{"type": "image", "value": str(tmp_path / "a.png")}, {"type": "text", "value": "What color is it?"}]
    assert model.generate(message) == model.predictor.answer(drawn(), "What color is it?").text.strip()
    box = model.generate_inner([message[0], {"type": "text", "value": "Segment the circle."}], "RefCOCO")
    assert [0 <= float(part) <= 1 for part in box.strip("[]").split(",")] == [True] * 4
    with pytest.raises(UserError, match="asked nothing"):
        model.generate_inner([message[0]])


def test_a_table_of_choices_is_inferred_and_evaluated(model: Any, data: Path) -> None:
    from vlmeval.dataset import build_dataset
    from vlmeval.inference import infer_data_job
    from vlmeval.smp import get_pred_file_path

    rows = [
        {"index": place, "image": coded(color), "question": "What color is the circle?", "answer": "ABCD"[place]}
        | dict(zip("ABCD", COLORS, strict=True))
        for place, color in enumerate(COLORS)
    ]
    write(data / "ullava_choice.tsv", rows)
    dataset = build_dataset("ullava_choice")
    infer_data_job(model, work_dir=str(data), model_name="ullava-tiny", dataset=dataset)
    file = get_pred_file_path(str(data), "ullava-tiny", "ullava_choice", use_env_format=True)
    result = dataset.evaluate(file, model="exact_matching", nproc=1)
    assert 0.5 <= float(result["Overall"].iloc[0]) <= 1


def test_a_model_is_registered_by_its_name(data: Path) -> None:
    from vlmeval.config import supported_VLM

    from ullava.plugins.vlmeval import Ullava, label_of, problems_of, register

    assert register("tiny", device="cpu") == "ullava-tiny"
    assert supported_VLM["ullava-tiny"].func is Ullava
    assert label_of("runs/mine/weights") == "ullava-mine-weights" and label_of("org/name") == "ullava-org-name"
    with pytest.raises(UserError, match="nowhere"):
        register("nowhere")
    with pytest.raises(UserError, match="'sentence' is not a choice"):
        register("tiny", ask="sentence")
    status = {
        "datasets": {
            "A": {"error_message": "bad\nworse"},
            "B": {"skip_reason": "invalid_dataset"},
            "C": {"status": "done"},
        }
    }
    told = problems_of(status, ["A", "B", "C", "D"])
    assert told[0] == "A: bad" and "B.tsv" in told[1] and told[2].startswith("D: ") and len(told) == 3
