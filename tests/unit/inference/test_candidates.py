"""Several masks for a thing: where they come from, who chooses, and that nothing changes where nobody asks."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.modeling.small_sam2 import build_sam2

import ullava
from ullava.config.candidates import SOURCES, CandidatesConfig
from ullava.config.load import parse_text
from ullava.config.schema import DatasetEntry, EvalRecipe
from ullava.data.loading.build import build_datasets
from ullava.errors import ConfigError, UserError
from ullava.inference.candidates import (
    Offer,
    WithCandidates,
    check_sources,
    choosing,
    chosen,
    facts_of,
    judged_by,
    judged_widths,
    pooled_under,
)
from ullava.inference.export import answer_to_json
from ullava.inference.other_answers import points_at_one, reworded
from ullava.inference.predictor import Predictor
from ullava.modeling.heads.judge import FACTS, CandidateJudge, JudgeConfig, read_judge, write_judge
from ullava.structures import Answer, GroundedObject, Sample
from ullava.synthetic.write import draw_world


@pytest.fixture(scope="module")
def tiny() -> Predictor:
    return ullava.load("tiny")


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> list[Sample]:
    """Four questions about two drawn scenes."""
    folder = draw_world(tmp_path_factory.mktemp("world") / "shapes", 2, 5, "seen", progress=False)
    (dataset,) = build_datasets({"shapes_res": DatasetEntry()}, folder)
    return [sample for item in range(2) for sample in dataset.queries(item)][:4]


def offer(place: int, nats: float, score: float = 0.9, provenance: str = "beams") -> Offer:
    mask = np.zeros((8, 8), dtype=bool)
    mask[place : place + 2, :4] = True
    thing = GroundedObject("shape", (0, 5), mask, (0.0, float(place), 4.0, float(place + 2)), score, score)
    return Offer(provenance, Answer(f"answer {place}", (thing,)), thing, nats, torch.zeros(6), torch.zeros(3))


def test_a_number_or_names_say_where_candidates_come_from() -> None:
    assert CandidatesConfig.read("6") == CandidatesConfig(sources=["beams"], beams=6)
    assert CandidatesConfig.read("beams, box", "score").sources == ["beams", "box"]
    for text, wanted in (
        ("0", "--candidates 0: expected 2 to 16 of them"),
        ("-3", "--candidates -3: expected 2 to 16"),
        ("beams,multimsk", "unknown source 'multimsk'; did you mean 'multimask'?"),
        ("box,box", "names box twice"),
        ("", "unknown source ''"),
    ):
        with pytest.raises(UserError, match=wanted.replace("?", r"\?")):
            CandidatesConfig.read(text)


def test_a_recipe_says_it_too_and_is_checked() -> None:
    recipe = parse_text(EvalRecipe, "dataset: {shapes_res: {}}\ncandidates: {sources: [beams, box], choose: score}")
    assert recipe.candidates == CandidatesConfig(sources=["beams", "box"], choose="score")
    for table, wanted in (
        ("{sources: []}", "names none; there are " + ", ".join(SOURCES)),
        ("{sources: [beam]}", "did you mean 'beams'"),
        ("{sources: [beams], beams: 1}", "has to be 2 or more"),
        ("{beams: 4}", "candidates.sources: required key is missing"),
    ):
        with pytest.raises(ConfigError, match=wanted):
            parse_text(EvalRecipe, f"dataset: {{shapes_res: {{}}}}\ncandidates: {table}")


def test_a_question_is_put_in_other_words_where_its_words_are_known() -> None:
    assert reworded("<image>Segment the red star.") == ["<image>Show me the red star.", "<image>Find the red star."]
    assert reworded("Where is the red star?") == ["Segment the red star.", "Show me the red star."]
    assert reworded("How many stars are there?") == [] and reworded("Segment .") == []
    assert reworded("<image>Compare <image>.") == []


def test_only_an_answer_about_one_thing_is_chosen_among() -> None:
    one = "Sure. [tag]red star[/tag]: Mask [SEG]; Location [LOC]."
    assert points_at_one(one) and not points_at_one("No such object: the star.")
    assert not points_at_one(f"{one} [tag]ring[/tag]: Mask [SEG].") and not points_at_one("Location [LOC].")


def test_the_rule_weighs_words_and_mask_and_a_tie_keeps_the_own_answer() -> None:
    own, likelier, better = offer(0, 1.0, provenance="single"), offer(2, 0.5), offer(4, 1.0, score=0.95)
    own_again = offer(6, 1.0)
    assert np.argmax(judged_by(None, [own, likelier])) == 1
    assert np.argmax(judged_by(None, [own, better])) == 1
    assert np.argmax(judged_by(None, [own, own_again])) == 0


def test_the_facts_of_candidates() -> None:
    same, other = offer(0, 2.0, 0.5, "single"), offer(4, 1.0)
    facts = dict(zip(FACTS, facts_of([same, dataclasses.replace(same, provenance="box"), other]).T, strict=True))
    assert facts["answer"] == pytest.approx([-0.2, -0.2, -0.1])
    assert facts["likeliest"] == pytest.approx([-0.1, -0.1, 0])
    weight = np.exp(-1) / (1 + 2 * np.exp(-1))
    assert facts["expected"] == pytest.approx([2 * weight, 2 * weight, 1 - 2 * weight])
    assert facts["agreement"] == pytest.approx([0.5, 0.5, 0]) and facts["own box"] == pytest.approx([1, 1, 1])
    assert facts["area"] == pytest.approx([np.sqrt(1 / 8)] * 3)
    assert facts["from single"].tolist() == [1, 0, 0] and facts["from box"].tolist() == [0, 1, 0]


def test_a_map_is_averaged_under_a_mask() -> None:
    maps = torch.arange(4.0).view(1, 1, 2, 2)
    planes = torch.full((3, 4, 4), -1.0)
    planes[0, :2, 2:] = 1.0  # the cell of value 1
    planes[1, :, :2] = 1.0  # those of 0 and 2
    assert pooled_under(maps, torch.tensor([0, 0, 0]), planes)[:, 0].tolist() == [1.0, 1.0, 0.0]


def test_the_judge_learns_its_place_and_the_answer_tells_all() -> None:
    judge = CandidateJudge(JudgeConfig(state_width=6, map_width=3)).eval()
    offers = [offer(0, 1.0, provenance="single"), offer(2, 0.4), offer(4, 3.0)]
    assert judged_by(judge, offers) == pytest.approx([-1.0, -0.4, -3.0])  # as the words before it has learned
    own = Answer("answer 0", (offers[0].thing,), images=(Path("a.png"),))
    answer = chosen(own, offers, judge)
    (thing,) = answer.objects
    assert (answer.text, thing.provenance, answer.images) == ("answer 2", "beams", (Path("a.png"),))
    assert [one.provenance for one in thing.alternatives] == ["single", "beams", "beams"]
    told = answer_to_json(answer)["objects"][0]
    assert told["provenance"] == "beams" and told["alternatives"][1]["judged"] == pytest.approx(-0.4)
    assert "provenance" not in answer_to_json(own)["objects"][0]


def test_a_judge_lies_beside_its_model(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no judge of candidates beside this model"):
        read_judge(tmp_path, 6, 3)
    judge = CandidateJudge(JudgeConfig(state_width=6, map_width=3))
    folder = write_judge(judge, tmp_path)
    for name, weight in read_judge(tmp_path, 6, 3).state_dict().items():
        assert torch.equal(weight, judge.state_dict()[name])
    with pytest.raises(UserError, match="of width .6, 3., the model's are .8, 3."):
        read_judge(tmp_path, 8, 3)
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    save_file({key: value for key, value in weights.items() if key != "out.weight"} | {"more": torch.ones(1)},
              folder / "model.safetensors", metadata={"format": "pt"})  # fmt: skip
    with pytest.raises(UserError) as caught:
        read_judge(tmp_path, 6, 3)
    assert "missing weight out.weight" in str(caught.value) and "unexpected weight more" in str(caught.value)


def test_the_model_is_asked_and_its_own_answer_comes_first(tiny: Predictor, asked: list[Sample]) -> None:
    config = CandidatesConfig(sources=["beams", "rephrased", "multimask", "box"], beams=3, choose="score")
    plain = tiny.answer_samples(asked, max_new_tokens=48)
    answers = choosing(tiny, config, Path()).answer_samples(asked, max_new_tokens=48)
    seen = set()
    for own, answer in zip(plain, answers, strict=True):
        (thing,) = answer.objects
        first = thing.alternatives[0]
        assert first.provenance == "single" and np.array_equal(first.mask, own.objects[0].mask)
        assert len(thing.alternatives) >= 3 and thing.provenance in [one.provenance for one in thing.alternatives]
        best = max(thing.alternatives, key=lambda one: one.judged)
        assert np.array_equal(best.mask, thing.mask) and best.score == thing.score
        seen |= {one.provenance for one in thing.alternatives}
    assert {"single", "beams", "multimask", "box"} <= seen
    again = tiny.answer_samples(asked, max_new_tokens=48)
    assert [answer_to_json(one) for one in again] == [answer_to_json(one) for one in plain]


def test_what_is_read_does_not_depend_on_company(tiny: Predictor, asked: list[Sample]) -> None:
    config = CandidatesConfig(sources=["beams"], beams=2, choose="score")
    candidates = WithCandidates(tiny, config, None).candidates
    answers = tiny.answer_samples(asked, max_new_tokens=48)
    together = candidates.offers(asked, answers, max_new_tokens=48)
    alone = candidates.offers(asked[2:3], answers[2:3], max_new_tokens=48)[0]
    for one, other in zip(together[2], alone, strict=True):
        assert one.nats == pytest.approx(other.nats, abs=1e-3)
        torch.testing.assert_close(one.state, other.state, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(one.pooled, other.pooled, rtol=1e-3, atol=1e-3)
    assert tuple(map(len, (alone[0].state, alone[0].pooled))) == judged_widths(tiny)


def test_sources_that_a_head_does_not_have_are_refused(tiny: Predictor) -> None:
    model, processor = build_sam2()
    other = Predictor(model, processor)
    for source in ("multimask", "box"):
        check_sources(tiny, CandidatesConfig(sources=[source]))
        with pytest.raises(UserError, match=f"candidates: {source}: this model's mask head decodes one mask"):
            check_sources(other, CandidatesConfig(sources=[source]))


def test_predict_says_what_does_not_go_together(command: Any, tmp_path: Path) -> None:
    line = ("predict", "--image", str(tmp_path / "a.png"), "--prompt", "Segment the star.")
    for options, wanted in (
        (("--candidates", "0"), "--candidates 0: expected 2 to 16"),
        (("--candidates", "beems"), "did you mean 'beams'?"),
        (("--choose", "score"), "--choose goes with --candidates"),
        (("--candidates", "4", "--stream"), "--candidates goes without --stream"),
    ):
        code, _, said = command(*line, *options)
        assert code == 2 and wanted in said
