"""What the adapters to benchmark harnesses do by themselves: neither lmms-eval nor VLMEvalKit is needed here."""

from __future__ import annotations

import json
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from tests.unit.inference.test_ecosystem import ROOT, drawn

import ullava
from ullava.config.schema import DatasetEntry
from ullava.data.loading.build import build_dataset
from ullava.errors import UserError
from ullava.evaluation.scoring import SCORERS, ResScorer
from ullava.plugins import lmms_eval_documents as documents
from ullava.plugins import lmms_eval_scoring as scoring
from ullava.plugins.harness import Asked, Options, answer_all, answer_json, asked_of, generation_of, told
from ullava.plugins.lmms_eval import check_installed, tasks_folder
from ullava.plugins.lmms_eval_run import check_tasks, command_line, local_task
from ullava.structures import Answer, GroundedObject, Sample, Turn
from ullava.synthetic.write import draw_world

REGION = "Please provide the bounding box coordinate of the region this sentence describes: <ref>red circle</ref>"


@pytest.fixture(scope="module")
def tiny() -> Any:
    return ullava.load("tiny", device="cpu")


def user(*content: tuple[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [{"type": kind, "value": value} for kind, value in content]}


def thing(mask: Any = None, box: Any = None, score: float = 0.5, image: int = 0) -> GroundedObject:
    return GroundedObject("it", (0, 2), mask, box, score, image=image)


def test_a_conversation_becomes_a_question_with_markers() -> None:
    one = asked_of([user(("image", "a.png"), ("text", "Is it red?"))], Options())
    assert one == Asked("<image>Is it red?", ("a.png",), form="words")
    mixed = asked_of(
        [user(("text", "First"), ("image", "a"), ("text", "then"), ("image", "b"), ("text", "?"))], Options()
    )
    assert mixed.question == "First\n<image>then\n<image>?" and mixed.images == ("a", "b")
    said = {"role": "assistant", "content": [{"type": "text", "value": "A circle."}]}
    system = {"role": "system", "content": [{"type": "text", "value": "Be short."}]}
    long = asked_of([system, user(("image", "a"), ("text", "What?")), said, user(("text", "Where?"))], Options())
    assert long.history == (("Be short.\n<image>What?", "A circle."),) and long.question == "Where?"


def test_a_harness_that_asks_for_coordinates_gets_a_question_that_models_know() -> None:
    one = asked_of([user(("image", "a"), ("text", REGION))], Options())
    assert (one.question, one.form) == ("<image>Draw a box around the red circle.", "box")
    assert asked_of([user(("image", "a"), ("text", REGION))], Options(), "json").form == "json"
    bare = asked_of([user(("image", "a"), ("text", "red circle"))], Options(ask="segmentation", answer="json"))
    assert (bare.question, bare.form) == ("<image>Segment the red circle.", "json")


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([user(("audio", "a.wav"), ("text", "What?"))], "of kind 'audio'"),
        ([user(("image", "a.png"))], "asked nothing"),
        ([], "asked nothing"),
        ([{"role": "assistant", "content": []}], "out of turn"),
    ],
)
def test_what_cannot_be_asked_is_said(messages: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(UserError, match=said):
        asked_of(messages, Options())


def test_wrong_options_are_named_all_at_once() -> None:
    with pytest.raises(UserError) as caught:
        Options(answer="jsn", ask="x", batch_size=0)
    assert len(caught.value.problems) == 3 and "did you mean 'json'" in caught.value.problems[0]
    with pytest.raises(UserError, match="'wrds' is not a choice"):
        asked_of([user(("text", "What?"))], Options(), "wrds")


def test_settings_of_generation() -> None:
    common = {"until": ["\n\n", ""], "max_new_tokens": 4096, "temperature": 0, "do_sample": True, "num_beams": 1}
    assert generation_of({**common, "image_aspect_ratio": "pad"}, 64) == {"max_new_tokens": 64, "stop": ["\n\n"]}
    drawn_ones = {"do_sample": True, "temperature": 0.5, "top_p": None, "max_new_tokens": 8}
    assert generation_of(drawn_ones, 64) == {"max_new_tokens": 8, "do_sample": True, "temperature": 0.5}
    assert generation_of({"num_beams": 4}, 64) == {"max_new_tokens": 64, "num_beams": 4}


def test_a_box_is_told_in_fractions_of_the_image() -> None:
    options = Options(text_box_frame="norm")
    size = [(200, 100)]
    boxed = Answer(
        "It is [LOC] here.", (thing(box=(20.0, 10.0, 220.0, 50.0), score=0.4), thing(box=(0, 0, 1, 1), score=0.1))
    )
    assert told(boxed, "box", size, options) == "[0.1000, 0.1000, 1.0000, 0.5000]"
    assert told(boxed, "words", size, options) == "It is here."
    assert told(Answer("[0.25, 0.5, 0.75, 1.0]"), "box", size, options) == "[0.2500, 0.5000, 0.7500, 1.0000]"
    assert told(Answer("[0.25, 0.5, 0.75, 0.75]"), "box", size, Options()) == "[0.2500, 0.5000, 0.7500, 1.0000]"
    mask = np.zeros((100, 200), bool)
    mask[10:50, 20:60] = True
    assert told(Answer("", (thing(mask),)), "box", size, options) == "[0.1000, 0.1000, 0.3000, 0.5000]"
    assert told(Answer("Nothing."), "box", size, options) == "Nothing."


def test_an_answer_comes_back_from_its_json() -> None:
    rng = np.random.default_rng(0)
    masks = [rng.random((9, 7)) > 0.5 for _ in range(2)]
    answer = Answer("", (thing(masks[0], score=0.9), thing(None, (1.0, 2.0, 3.5, 4.0)), thing(masks[1], image=1)))
    text = told(answer, "json", [(7, 9), (7, 9)], Options())
    assert {"masks", "boxes", "scores", "text"} == set(json.loads(text))
    document = {"id": "x", "width": 7, "height": 9}
    first, second = scoring.answer_of(text, document).objects
    np.testing.assert_array_equal(first.mask, masks[0])
    assert first.score == 0.9 and first.box_xyxy_px is None and second.mask is None
    assert second.box_xyxy_px == pytest.approx((1.0, 2.0, 3.5, 4.0), abs=1e-12)
    for words in ("It is red.", "7", "[1, 2]"):
        assert scoring.answer_of(words, document) == Answer(words)
    with pytest.raises(UserError, match="x: thing 0 of the response"):
        scoring.answer_of(text, {**document, "width": 8})
    with pytest.raises(UserError, match="thing 0"):
        scoring.answer_of('{"boxes": [{"x_min": 0}]}', document)


def test_batches_answer_as_single_questions_do(tiny: Any) -> None:
    images = [drawn(), drawn("blue"), np.asarray(drawn("green"))]
    asked = [asked_of([user(("image", image), ("text", "Segment the circle."))], Options(), "json") for image in images]
    asked.append(asked_of([user(("text", "What is a circle?"))], Options()))
    alone = list(answer_all(tiny, asked, Options(), {"max_new_tokens": 40}))
    together = list(answer_all(tiny, asked, Options(batch_size=3), {"max_new_tokens": 40}))
    for (one, _), (other, _) in zip(alone[:3], together[:3], strict=True):
        first, second = json.loads(one), json.loads(other)
        assert first["masks"] and (first["masks"], first["text"]) == (second["masks"], second["text"])
        assert first["scores"] == pytest.approx(second["scores"], abs=1e-4)
    assert alone[3][0] == together[3][0] != ""
    expected = tiny.answer(images[0], "Segment the circle.", max_new_tokens=40)
    (found,) = scoring.answer_of(alone[0][0], {"id": "x", "width": 96, "height": 80}).objects
    np.testing.assert_array_equal(found.mask, expected.objects[0].mask)
    with pytest.raises(UserError, match="nowhere.png"):
        list(answer_all(tiny, [Asked("<image>What?", ("nowhere.png",))], Options(), {}))
    with pytest.raises(UserError, match="2 <image> markers, 1 images"):
        list(answer_all(tiny, [Asked("<image>Is it like <image>?", (images[0],))], Options(), {}))


def test_our_datasets_become_documents_and_are_scored_alike(tmp_path: Path) -> None:
    import datasets

    draw_world(tmp_path / "world", images=2, seed=3, split="seen", progress=False)
    name = local_task("shapes_res", DatasetEntry(), tmp_path / "world", tmp_path / "tasks")
    task = yaml.safe_load((tmp_path / "tasks" / f"{name}.yaml").read_text("utf-8"))
    assert Path(task["include"]).is_file() and task["test_split"] == "drawn"
    table = datasets.load_from_disk(task["dataset_path"])["drawn"]
    assert documents.referring_segmentation(table) is table
    dataset = build_dataset("shapes_res", DatasetEntry(), tmp_path / "world")
    samples = [sample for index in range(len(dataset)) for sample in dataset.queries(index)]
    assert len(samples) == len(table) > 4
    for sample, document in zip(samples, table, strict=True):
        assert f"<image>{document['question']}" == sample.turns[0].question.replace("\n", "")
        height, width = document["height"], document["width"]
        mask = np.zeros((height, width), bool)
        mask[: height // 2] = True
        answer = Answer("", (thing(mask), thing(~mask, image=0)))
        response = json.dumps(answer_json(answer, [(width, height)]))
        rows = scoring.process_res(document, [response])
        assert set(rows) == set(scoring.FIGURES["res"]) and rows["cIoU"] == ResScorer().score(sample, answer)
        assert scoring.image_of(document)[0].size == (width, height)
    rows_of_all = [scoring.process_res(document, ["no mask"])["cIoU"] for document in table]
    assert scoring.res_ciou(rows_of_all) == 0.0 and scoring.res_giou(rows_of_all) == 0.0
    with pytest.raises(UserError, match="split: say which one"):
        local_task("refcoco", DatasetEntry(), tmp_path / "world", tmp_path / "tasks")
    with pytest.raises(UserError, match="tasks of res, gres, rec, salient, not vqa"):
        local_task("shapes_vqa", DatasetEntry(), tmp_path / "world", tmp_path / "tasks")


def test_no_target_and_boxes_are_scored() -> None:
    document = documents.document_of
    with pytest.raises(UserError, match="one image and one question"):
        document(Sample("s", "d", "res", (), (Turn("q", ""),)))
    empty = {"id": "n", "question": "q", "width": 4, "height": 4, "masks": [], "boxes": [], "ignore": documents.NO_MASK}
    assert scoring.process_gres(empty, ["nothing"])["N-acc"]["none_found"] is True
    boxed = {**empty, "masks": [documents.NO_MASK], "boxes": [[0.0, 0.0, 2.0, 4.0]]}
    response = json.dumps({"boxes": [{"x_min": 0, "y_min": 0, "x_max": 0.5, "y_max": 1}], "scores": [1]})
    assert scoring.rec_miou([scoring.process_rec(boxed, [response])["mIoU"]]) == 100.0
    assert np.isnan(scoring.gres_n_acc([]))
    with pytest.raises(UserError, match="a document has no width"):
        documents.sample_of({name: 0 for name in documents.COLUMNS if name != "width"})


def test_the_published_form_becomes_documents(tmp_path: Path) -> None:
    import datasets

    Image.new("RGB", (8, 6)).save(tmp_path / "a.png")
    row = {
        "question_id": "7", "image": str(tmp_path / "a.png"), "question": "", "answer": ["left one", "The red one."],
        "segmentation": [1.0, 1.0, 5.0, 1.0, 5.0, 4.0, 1.0, 4.0], "bbox": [1.0, 1.0, 4.0, 3.0], "iscrowd": 0,
        "file_name": "a.jpg",
    }  # fmt: skip
    table = datasets.Dataset.from_list([row]).cast_column("image", datasets.Image())
    first, second = documents.referring_segmentation(table)
    assert (first["id"], first["question"]) == ("7/0", "Segment the left one.")
    assert second["question"] == "The red one." and first["boxes"] == [[1.0, 1.0, 5.0, 4.0]]
    sample = documents.sample_of(first)
    assert sample.turns[0].regions[0].mask.sum() == 12 and first["image"].size == (8, 6)
    assert documents.referring_detection(table)[0]["question"] == "Draw a box around the left one."
    with pytest.raises(UserError, match="fits neither form"):
        documents.referring_segmentation(table.remove_columns("bbox"))


class Tags(yaml.SafeLoader):
    """Reads ``!function a.b.c`` as that function, as lmms-eval does."""


def _function(loader: yaml.SafeLoader, node: Any) -> Any:
    module, name = loader.construct_scalar(node).rsplit(".", 1)
    return getattr(import_module(module), name)


Tags.add_constructor("!function", _function)


def test_task_files_name_functions_and_figures_that_are_there() -> None:
    templates = sorted(tasks_folder().glob("*_template"))
    assert {path.name for path in templates} == {f"{family}_template" for family in scoring.FIGURES}
    for path in templates:
        family = path.name.removesuffix("_template")
        task = yaml.load(path.read_text("utf-8"), Tags)
        assert [entry["metric"] for entry in task["metric_list"]] == list(scoring.FIGURES[family])
        assert all(callable(entry["aggregation"]) for entry in task["metric_list"])
        rows = [
            {
                "iou": 0.5,
                "intersection": 1,
                "union": 2,
                "no_target": False,
                "none_found": False,
                "mae": 0.1,
                "s": 0.2,
                "adaptive_e": 0.3,
            }
        ]
        rows[0]["f_curve"] = rows[0]["e_curve"] = [[0.5, 256]]
        kind = SCORERS[family].kind(rows)
        for entry in task["metric_list"]:
            value = entry["aggregation"](rows)
            assert np.isnan(value) or value == kind.compute()[entry["metric"]]
    files = sorted(tasks_folder().glob("*.yaml"))
    assert len(files) >= 10
    for path in files:
        task = yaml.safe_load(path.read_text("utf-8"))
        assert task["task"] == path.stem and (tasks_folder() / task["include"]).is_file()
        assert path.stem.endswith(f"_{task['include'].removesuffix('_template')}_{task['test_split']}")


def test_the_entry_point_names_our_manifest() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    module, name = project["entry-points"]["lmms_eval.models"]["ullava"].split(":")
    assert callable(getattr(import_module(module), name))


def test_commands_say_what_is_wrong_before_anything_is_loaded(command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="did you mean 'ullava_refcoco_res_testA'"):
        check_tasks(["ullava_refcoco_res_tstA", "mme"])
    with pytest.raises(UserError, match="give --tasks NAME"):
        command_line([], {}, Path("out"), [], include=tasks_folder())
    with pytest.raises(UserError, match="'model' is set by the flags"):
        command_line(["mme"], {}, Path("out"), ["model=x"], include=tasks_folder())
    words = command_line(
        ["mme"], {"pretrained": "tiny"}, Path("out"), ["limit=8", "log_samples"], include=tasks_folder()
    )
    assert words[-3:] == ["--limit", "8", "--log_samples"] and "pretrained=tiny" in words
    code, out, _ = command("lmms-eval", "--tasks-folder")
    assert code == 0 and Path(out.strip()) == tasks_folder()
    monkeypatch.setattr("ullava.plugins.lmms_eval.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"ullava\[lmms-eval\]"):
        check_installed()
    assert "nowhere" in command("vlmeval", "--model", "nowhere", "--data", "MME")[2]
