"""Questions and conversations in words from the files that their authors publish."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.unit.data.originals import as_json, make_image

from ullava.config.schema import DatasetEntry
from ullava.data.converters.published.convert import skipped_lines
from ullava.data.converters.published.dialogues import TGIF_QUESTION
from ullava.data.loading.build import build_dataset, open_store
from ullava.data.loading.descriptor import locate
from ullava.errors import UserError
from ullava.evaluation.metrics.answers import ShortAnswers


def skipped(name: str, root: Path) -> list[str]:
    return skipped_lines(open_store(locate(name, DatasetEntry(), root)).facts)


# ---------------------------------------------------------------- Alpaca
def test_alpaca_joins_instruction_and_input_and_names_blank_answers(tmp_path):
    records = [
        {"instruction": "Add.", "input": "2 and 3", "output": "5"},
        {"instruction": "Say hello.", "input": "", "output": "Hello."},
        {"instruction": "Say nothing.", "input": "", "output": " "},
    ]
    as_json(tmp_path / "text" / "alpaca_data.json", records)
    dataset = build_dataset("alpaca", DatasetEntry(), tmp_path)
    first, second = (dataset.queries(index)[0] for index in range(2))
    assert (len(dataset), dataset.task, first.images) == (2, "text", ())
    assert (first.turns[0].question, first.turns[0].answer) == ("Add.\n2 and 3", "5")
    assert second.turns[0].question == "Say hello."
    assert skipped("alpaca", tmp_path) == ["1 left out: the answer is blank (record 2)"]


def test_an_alpaca_record_without_its_field_is_named(tmp_path):
    as_json(tmp_path / "text" / "alpaca_data.json", [{"instructions": "Add.", "output": "5"}])
    with pytest.raises(UserError, match=r"alpaca_data\.json:1: record 0: no 'instruction'; did you mean"):
        build_dataset("alpaca", DatasetEntry(), tmp_path)


# ---------------------------------------------------------------- ShareGPT
def talk(*messages: tuple[str, str]) -> dict:
    return {"id": "x", "conversations": [{"from": speaker, "value": text} for speaker, text in messages]}


def test_sharegpt_conversations_alternate_or_are_named(tmp_path):
    records = [
        talk(("system", "Be brief."), ("human", "Hi"), ("gpt", "Hello"), ("user", "More"), ("chatgpt", "No")),
        talk(("human", "Hi"), ("gpt", "Hello"), ("human", "And?")),
        talk(("gpt", "Hello"), ("human", "Hi")),
        talk(("human", "Hi"), ("human", "Hi"), ("gpt", "Hello")),
        talk(("human", "Hi"), ("gpt", " ")),
        talk(("human", "Hi"), ("tool", "x")),
        talk(("human", "Hi")),
        talk(),
    ]
    as_json(tmp_path / "text" / "sharegpt.json", records)
    dataset = build_dataset("sharegpt", DatasetEntry(turns=0), tmp_path)
    assert len(dataset) == 2
    turns = dataset.sample(0, np.random.default_rng(0)).turns
    assert [(turn.question, turn.answer) for turn in turns] == [("Be brief.\n\nHi", "Hello"), ("More", "No")]
    assert len(dataset.sample(1, np.random.default_rng(0)).turns) == 1
    assert sorted(skipped("sharegpt", tmp_path)) == [
        "1 left out: 'tool' speaks in it (record 5)",
        "1 left out: a message is blank (record 4)",
        "1 left out: it has no answer (record 6)",
        "1 left out: questions and answers do not alternate (record 3)",
        "1 left out: the last question has no answer (record 1, message 2)",
        "2 left out: it does not begin with a question (record 2, record 7)",
    ]


# ---------------------------------------------------------------- ScienceQA
def problem(**change: object) -> dict:
    value = {"question": "Which is liquid?", "choices": ["iron", "water"], "answer": 1, "hint": "At 20 degrees.",
             "image": None, "lecture": "Things melt.", "solution": "Water has.", "split": "train"}  # fmt: skip
    return value | change


def test_scienceqa_asks_with_letters_and_accepts_letter_or_words(tmp_path):
    problems = {"1": problem(), "2": problem(image="image.png", hint="", answer=0), "3": problem(split="test")}
    as_json(tmp_path / "scienceqa" / "problems.json", problems)
    make_image(tmp_path / "scienceqa" / "images" / "train" / "2" / "image.png")
    dataset = build_dataset("sqa", DatasetEntry(), tmp_path)
    assert len(dataset) == 2
    words, shown = (dataset.queries(index)[0] for index in range(2))
    assert words.turns[0].question == "Context: At 20 degrees.\nWhich is liquid?\nOptions: (A) iron (B) water"
    assert words.turns[0].answer == "The answer is B.\nBECAUSE: Things melt. Water has."
    assert words.truth["accepted"] == ["B", "water"] and words.truth["answer_type"] == "choice"
    assert shown.images[0].is_file() and shown.turns[0].question.startswith("<image>Which")
    assert len(build_dataset("sqa", DatasetEntry(split="test"), tmp_path)) == 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [("The answer is B.\nBECAUSE: it flows.", 1), ("B", 1), ("water", 1), ("The answer is (A). B is wrong.", 0)],
)
def test_a_choice_is_right_whatever_is_said_about_it(answer, right):
    metric = ShortAnswers()
    assert metric.update(answer, ["B", "water"], "choice")["right"] == right


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"answer": 2}, "problem 1: 1: 'answer' is 2, but there are 2 choices"),
        ({"choices": []}, "'choices' has to be a list of strings"),
        ({"question": ""}, "'question' has to be a string"),
        ({"split": "tarin"}, "no problem of the split 'train'; did you mean 'tarin'"),
        ({"hint": 5}, "'hint' has to be text, not int"),
    ],
)
def test_wrong_problems_are_named(tmp_path, change, message):
    as_json(tmp_path / "scienceqa" / "problems.json", {"1": problem(**change)})
    (tmp_path / "scienceqa" / "images").mkdir()
    with pytest.raises(UserError, match=rf"problems\.json: .*{message}"):
        build_dataset("sqa", DatasetEntry(), tmp_path)


# ---------------------------------------------------------------- TGIF
def write_tgif(root: Path, text: str, listed: str = "http://x.y/tumblr/a.gif\n") -> None:
    (root / "tgif" / "gifs").mkdir(parents=True, exist_ok=True)
    (root / "tgif" / "tgif-v1.0.tsv").write_text(text)
    (root / "tgif" / "train.txt").write_text(listed)


def test_tgif_captions_are_those_of_the_split(tmp_path):
    write_tgif(tmp_path, "http://x.y/tumblr/a.gif\ta man jumps\nhttp://x.y/tumblr/b.gif\ta cat\n")
    store = open_store(locate("tgif", DatasetEntry(), tmp_path))
    assert len(store) == 1
    record = store.record(0)
    assert record["gif"] == "tgif/gifs/a.gif"
    assert [message["value"] for message in record["conversations"]][1] == "a man jumps"
    assert store.where(0).endswith("tgif-v1.0.tsv:1: record 0")


def test_tgif_samples_hold_a_video(tmp_path):
    write_tgif(tmp_path, "http://x.y/tumblr/a.gif\ta man jumps\n")
    query = build_dataset("tgif", DatasetEntry(), tmp_path).queries(0)[0]
    assert [clip.path for clip in query.videos] == [tmp_path / "tgif" / "gifs" / "a.gif"]
    assert (query.turns[0].question, query.turns[0].answer) == (f"{TGIF_QUESTION}<video>", "a man jumps")


@pytest.mark.parametrize("line", ["http://x.y/a.gif", "http://x.y/a.gif\t ", "no url\ttext"])
def test_a_tgif_line_that_is_cut_off_is_named(tmp_path, line):
    write_tgif(tmp_path, f"http://x.y/tumblr/a.gif\ta man\n{line}")
    with pytest.raises(UserError, match=r"tgif-v1\.0\.tsv:2: expected a url, a tab and a sentence"):
        open_store(locate("tgif", DatasetEntry(), tmp_path))


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("alpaca", "text/alpaca_data.json"),
        ("sharegpt", "text/sharegpt.json"),
        ("sqa", "scienceqa/problems.json"),
        ("grefcoco", "refer_seg/grefcoco/grefs(unc).json"),
        ("paco_lvis", "paco/paco_lvis_v1_train.json"),
    ],
)
def test_json_that_is_cut_off_is_named_with_its_line(tmp_path, name, file):
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.write_text('[{"a": "b')
    with pytest.raises(UserError, match=rf"{path.name.replace('(', '.').replace(')', '.')}:1: "):
        build_dataset(name, DatasetEntry(), tmp_path)
    assert [entry.name for entry in tmp_path.rglob("*.arrow")] == [], "nothing half converted is left behind"
