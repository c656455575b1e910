"""Everything that the synthetic world says is true, and is said of exactly what it should be."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
import shapes_reader as reader

from ullava.synthetic.questions import Question
from ullava.synthetic.records import SceneRecords
from ullava.synthetic.render import render
from ullava.synthetic.scene import rng_of, sample_scene
from ullava.synthetic.vocabulary import HELD_OUT, SPLITS, Split
from ullava.synthetic.words import word_tasks

SCENES = 120
Drawn = list[tuple[dict[str, Any], SceneRecords]]


@pytest.fixture(scope="module", params=SPLITS)
def drawn(request: pytest.FixtureRequest) -> Drawn:
    """Scenes of one split, as their scenes.jsonl records and as what writes the other files."""
    split: Split = request.param
    found = []
    for index in range(SCENES):
        scene = sample_scene(split, 11, index)
        records = SceneRecords.of(scene, render(scene))
        found.append((records.truth()[0], records))
    return found


def test_expressions_mean_their_object_and_no_other(drawn: Drawn) -> None:
    checked = 0
    for truth, records in drawn:
        for record in records.res():
            places = [i for i, thing in enumerate(truth["objects"]) if thing["bbox"] == record["bbox"]]
            for sentence in record["sentences"]:
                assert reader.meant(sentence, truth) == places, (truth, sentence)
                checked += 1
    assert checked > 5 * SCENES


def test_several_and_no_targets_are_what_the_words_say(drawn: Drawn) -> None:
    kinds: Counter[str] = Counter()
    for truth, records in drawn:
        boxes = [thing["bbox"] for thing in truth["objects"]]
        for record in records.gres():
            (sentence,) = record["sentences"]
            found = [annotation["bbox"] for annotation in record["annotations"]]
            assert [x + w / 2 for x, _, w, _ in found] == pytest.approx(
                sorted(x + w / 2 for x, _, w, _ in found), abs=1
            )
            places = sorted(boxes.index(box) for box in found)
            assert reader.meant(sentence, truth) == places, (truth, sentence)
            assert record["no_target"] == (not places)
            counted = re.match(r"the (two|three|four|five|six) |(both) ", sentence)
            if counted:
                assert len(places) == (2 if counted[2] else reader.NUMBERS.index(counted[1]))
            kinds[("none", "one", "several")[min(len(places), 2)]] += 1
    total = sum(kinds.values())
    assert 0.38 < kinds["several"] / total < 0.54 and 0.3 < kinds["none"] / total < 0.48, kinds


def test_answers_to_questions_are_right(drawn: Drawn) -> None:
    answers: dict[str, Counter[str]] = {}
    for truth, records in drawn:
        (record,) = records.vqa()
        turns = record["conversations"]
        assert turns[0]["value"].startswith("<image>") and len(turns) == 2 * len(record["accepted"]) == 16
        for number, (accepted, kind) in enumerate(zip(record["accepted"], record["answer_type"], strict=True)):
            question = turns[2 * number]["value"].removeprefix("<image>")
            assert accepted[0] == reader.answer(question, truth), (truth, question)
            assert turns[2 * number + 1]["value"] == accepted[0].capitalize() + "."
            answers.setdefault(kind, Counter())[accepted[0]] += 1
    assert {"count", "colour", "shape", "exists", "compare"} <= set(answers)
    assert 0.35 < answers["exists"]["yes"] / answers["exists"].total() < 0.65


def test_captions_name_what_is_there(drawn: Drawn) -> None:
    for truth, records in drawn:
        (record,) = records.caption()
        text, facts = record["conversations"][1]["value"], record["facts"]
        things = truth["objects"]
        assert facts["count"] == len(things)
        assert text.startswith(f"There are {reader.NUMBERS[len(things)]} shapes")
        assert len(facts["objects"]) == (len(things) if len(things) <= 3 else 2)
        for fact in facts["objects"]:
            named = " ".join(fact[key] for key in ("size", "colour", "shape") if key in fact)
            assert re.search(rf"\ban? {named}\b", text), (text, fact)
            if fact["role"] == "listed":
                assert reader.fitting(named, things)
            else:
                (place,) = reader.meant(f"the {fact['role']} shape", truth)
                assert things[place] in reader.fitting(named, things)
                assert f"he {fact['role']} is a" in text


def test_listings_name_everything_from_left_to_right(drawn: Drawn) -> None:
    for truth, records in drawn:
        (record,) = records.listing()
        row = sorted(truth["objects"], key=lambda thing: thing["centre"][0])
        full = [
            " ".join(thing[key] for key in ("size", "texture", "colour", "shape") if thing[key] != "plain")
            for thing in row
        ]
        said = record["conversations"][1]["value"].removesuffix(".").lower().split(", ")
        assert [re.sub("^an? ", "", words) for words in said] == full
        named = {(thing["words"], tuple(thing["bbox"])) for thing in record["things"]}
        assert named == {(words, tuple(thing["bbox"])) for words, thing in zip(full, row, strict=True)}
        assert (record["height"], record["width"]) == (truth["height"], truth["width"])


def test_namings_say_what_their_expressions_mean_and_words_alone_do_not(drawn: Drawn) -> None:
    kinds: Counter[str] = Counter()
    for truth, records in drawn:
        for record in records.naming():
            asked = [turn["value"].removeprefix("<image>") for turn in record["conversations"][::2]]
            assert len(set(asked)) == len(asked) <= 10
            for question, accepted, kind in zip(asked, record["accepted"], record["answer_type"], strict=True):
                (place,) = reader.meant(question.removeprefix("Name ").removesuffix("."), truth)
                thing = truth["objects"][place]
                assert accepted == [f"{thing['colour']} {thing['shape']}, {thing['size']}"]
                kinds[kind] += 1
            assert [turn["value"] for turn in record["conversations"][1::2]] == [f"{a}." for (a,) in record["accepted"]]
    assert kinds["nearest"] + kinds["later"] > 0.45 * kinds.total() and "attributes" not in kinds


def test_drills_ask_for_every_neighbour_and_rank(drawn: Drawn) -> None:
    kinds: Counter[str] = Counter()
    for truth, records in drawn:
        anchors = set()
        for record in records.drill():
            asked = [turn["value"].removeprefix("<image>") for turn in record["conversations"][::2]]
            assert len(set(asked)) == len(asked)
            for question, accepted, kind in zip(asked, record["accepted"], record["answer_type"], strict=True):
                (place,) = reader.meant(question.removeprefix("Name ").removesuffix("."), truth)
                thing = truth["objects"][place]
                assert accepted == [f"{thing['colour']} {thing['shape']}, {thing['size']}"]
                kinds[kind] += 1
                if kind == "nearest":
                    anchors.add(re.split(" to the ", question)[1])
        assert len(anchors) <= len(truth["objects"]) * 2
    assert set(kinds) == {"nearest", "later"} and min(kinds.values()) > 0.2 * kinds.total()


def test_reasoning_takes_two_steps(drawn: Drawn) -> None:
    kinds: Counter[str] = Counter()
    for truth, records in drawn:
        for record in records.reasoning():
            for words, kind in zip(record["sentences"], record["kinds"], strict=True):
                (place,) = reader.meant(words, truth)
                assert truth["objects"][place]["bbox"] == record["bbox"]
                kinds[kind] += 1
                assert kind != "later" or re.search(r"\b(second|third)\b.* from the ", words)
                assert kind != "nearest" or re.search(r"\b(nearest|closest) to the ", words)
    assert set(kinds) == {"nearest", "later", "relation"} and min(kinds.values()) > 0.1 * kinds.total()


def test_held_out_pairs_are_neither_drawn_nor_named_in_training(drawn: Drawn) -> None:
    pairs = re.compile(r"\b(" + "|".join(f"{colour} {shape}" for colour, shape in sorted(HELD_OUT)) + r")")
    for _, records in drawn:
        scene = records.scene
        unseen = [thing for thing in scene.things if thing.pair in HELD_OUT]
        if scene.split == "unseen":
            assert unseen
            targets = [scene.things[_place(records, record["bbox"])] for record in records.res()]
            assert targets and all(thing.pair in HELD_OUT for thing in targets)
            for record in records.gres():
                found = [scene.things[_place(records, a["bbox"])].pair for a in record["annotations"]]
                assert not found or any(pair in HELD_OUT for pair in found)
        else:
            assert not unseen
            said = [
                records.res(),
                records.gres(),
                records.vqa(),
                records.caption(),
                records.text(),
                records.parts(),
                records.naming(),
                records.drill(),
            ]
            assert not pairs.search(repr(said))


def _place(records: SceneRecords, bbox: list[int]) -> int:
    return [outline.bbox for outline in records.outlines].index(bbox)


def test_kinds_of_expressions_have_their_shares() -> None:
    kinds: Counter[str] = Counter()
    for index in range(250):
        scene = sample_scene("train", 3, index)
        for record in SceneRecords.of(scene, render(scene)).res():
            kinds.update(record["kinds"])
    shares = {kind: count / kinds.total() for kind, count in kinds.items()}
    wanted = {"attributes": 0.5, "extreme": 0.12, "ordinal": 0.1, "relation": 0.2, "position": 0.08}
    assert shares == pytest.approx(wanted, abs=0.04)


def test_word_tasks_are_right() -> None:
    checked: Counter[str] = Counter()
    for index in range(300):
        for task in word_tasks(rng_of("train", 0, index, "text")):
            checked[task.kind] += _check_word_task(task)
    assert all(checked[kind] > 10 for kind in ("arithmetic", "list", "spelling"))


def _check_word_task(task: Question) -> int:
    if match := re.search(r"(\d+) (plus|minus|\+|-) (\d+)\?", task.words):
        one, two = int(match[1]), int(match[3])
        assert task.accepted[0] == str(one + two if match[2] in ("plus", "+") else one - two)
        return 1
    if match := re.fullmatch(r"Which word is (first|second|last): (.*)\?", task.words):
        assert task.accepted[0] == match[2].split(", ")[("first", "second", "last").index(match[1])]
        return 1
    if match := re.fullmatch(r"How many letters are in (\w+)\?", task.words):
        assert task.accepted[0] == str(len(match[1]))
        return 1
    if match := re.fullmatch(r"What is the (first|last) letter of (\w+)\?", task.words):
        assert task.accepted[0] == match[2][0 if match[1] == "first" else -1]
        return 1
    return 0
