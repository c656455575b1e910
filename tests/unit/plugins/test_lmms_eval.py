"""The model in lmms-eval itself, by its registry and its evaluator; a small drawn world as the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.inference.test_ecosystem import drawn

from ullava.errors import UserError
from ullava.plugins.lmms_eval import manifest, tasks_folder

pytest.importorskip("lmms_eval", reason="lmms-eval is the extra 'lmms-eval', in an environment of its own")


@pytest.fixture(scope="module")
def model() -> Any:
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifest())
    kind = registry.get_model_class("ullava")
    return kind.create_from_arg_string("pretrained=tiny", {"batch_size": "8", "max_batch_size": None, "device": "cpu"})


def request(model: Any, image: Any, words: str, **settings: Any) -> Any:
    from lmms_eval.api.instance import Instance

    def messages(document: Any) -> list[dict[str, Any]]:
        return [{"role": "user", "content": [{"type": "image", "url": image}, {"type": "text", "text": words}]}]

    model.task_dict = {"t": {"test": [None]}}
    about = {"task": "t", "doc_id": 0, "repeats": 1}
    return Instance("generate_until", ("", messages, settings, 0, "t", "test"), 0, about)


def test_it_answers_requests_in_their_order(model: Any) -> None:
    asked = [
        request(model, drawn(), "What color is the circle?", max_new_tokens=20),
        request(model, drawn(), "Segment the circle.", answer="json"),
    ]
    first, second = model.generate_until(asked)
    words = model.predictor.answer(drawn(), "What color is the circle?", max_new_tokens=20)
    assert first.text == words.text.strip() and first.token_counts.output_tokens == words.new_tokens
    assert second.text.startswith('{"masks": [{"size": [80, 96]')


def test_what_it_does_not_do_is_said(model: Any) -> None:
    for method in (model.loglikelihood, model.generate_until_multi_round):
        with pytest.raises(UserError, match="not served"):
            method([])
    with pytest.raises(UserError, match="'pretraind' is not an argument; did you mean 'pretrained'"):
        type(model)(pretraind="tiny")
    with pytest.raises(UserError, match="batch_size: expected a number, not 'auto'"):
        type(model)(batch_size="auto")
    with pytest.raises(UserError, match="t/test/0: the harness asked nothing"):
        model.generate_until([request(model, drawn(), " ")])


def test_its_evaluator_finds_the_figures_of_ours(model: Any, tmp_path: Path) -> None:
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager

    from ullava.config.schema import DatasetEntry
    from ullava.data.loading.build import build_dataset
    from ullava.evaluation.scoring import ResScorer
    from ullava.plugins.lmms_eval_run import local_task
    from ullava.synthetic.write import draw_world

    world = draw_world(tmp_path / "world", images=2, seed=5, split="seen", progress=False)
    entry = DatasetEntry(limit=2)
    name = local_task("shapes_res", entry, world, tmp_path / "tasks")
    manager = TaskManager("ERROR", include_path=str(tmp_path / "tasks"), include_defaults=False, model_name="ullava")
    found = simple_evaluate(model=model, tasks=[name], task_manager=manager, batch_size=8, bootstrap_iters=0)
    dataset = build_dataset("shapes_res", entry, world)
    scorer = ResScorer()
    samples = [sample for index in range(len(dataset)) for sample in dataset.queries(index)]
    for sample in samples:
        scorer.score(sample, model.predictor.answer_samples([sample], max_new_tokens=128)[0])
    figures = scorer.metric.compute()
    for figure in ("cIoU", "gIoU", "P@0.5"):
        assert found["results"][name][f"{figure},none"] == pytest.approx(figures[figure], abs=0.2)
    assert figures["cIoU"] > 50


def test_it_knows_our_tasks() -> None:
    from lmms_eval.tasks import TaskManager

    manager = TaskManager("ERROR", include_path=str(tasks_folder()), include_defaults=False)
    assert {"ullava_refcoco_res_testA", "ullava_refcocog_rec_test"} <= set(manager.all_subtasks)
