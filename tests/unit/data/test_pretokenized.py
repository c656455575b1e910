"""Words tokenized once: the very ids and labels of the path that tokenizes as it goes, and never stale ones."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ullava.config.load import load_config, parse_text
from ullava.config.schema import DatasetEntry, ModelConfig, TrainRecipe
from ullava.data.loading.build import build_mixture
from ullava.data.loading.encode import EncodedMixture
from ullava.data.loading.pretokenized import pretokenized
from ullava.data.sampling.mixture import Mixture
from ullava.errors import ConfigError, DataError
from ullava.examples import BadSample
from ullava.modeling.construction.build import build_processor, load_tokenizer, to_model_config
from ullava.modeling.processing.tokenizing import tokenizer_fingerprint

ROOT = Path(__file__).resolve().parents[3]
DESCRIPTOR = """
name: Talk
layout: llava_json
task: vqa
root: .
splits: {train: {annotations: talk.json}}
license: none
source: drawn by a test
"""


def talk(*texts: str, **more: Any) -> dict[str, Any]:
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(texts)], **more}


RECORDS = [
    talk("<image>What is it?", "A circle.", "And now?", "Still a circle.", image="a.png"),
    talk("Two and two?", "Four."),
    talk("<image>Which colour?", "It is red.", image="a.png"),
    talk("<image>Which colour?", "It is red.", image="missing.png"),
    talk("no answer"),
]


@pytest.fixture
def make_mixture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that writes a dataset of dialogues and mixes it with itself."""
    Image.fromarray(np.full((20, 30, 3), 90, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "dataset.yaml").write_text(DESCRIPTOR)

    def make(records: Any = RECORDS, **options: Any) -> Mixture:
        if records is not None:
            (tmp_path / "talk.json").write_text(json.dumps(records))
        options = {"dataset": str(tmp_path / "dataset.yaml"), "split": "train", "turns": 0} | options
        return build_mixture({"talk": DatasetEntry(**options)}, tmp_path, 1)

    return make


def make_processor(name: str = "tiny", **changes: Any) -> Any:
    path = ROOT / "models" / name / "model.yaml"
    config = load_config(ModelConfig, path, [f"{key}={value}" for key, value in changes.items()])
    tokenizer = load_tokenizer(config, path.parent)
    return build_processor(config, to_model_config(config, path.parent, tokenizer), tokenizer)


def same(one: Any, other: Any) -> bool:
    if isinstance(one, BadSample) or isinstance(other, BadSample):
        return bool(one == other)
    ours, theirs = one.instruction_ids, other.instruction_ids
    return (
        one.name == other.name
        and np.array_equal(one.input_ids, other.input_ids)
        and np.array_equal(one.labels, other.labels)
        and one.input_ids.dtype == other.input_ids.dtype
        and (ours is theirs if ours is None or theirs is None else np.array_equal(ours, theirs))
    )


@pytest.mark.parametrize("model", ("tiny", "tiny_slime"))
def test_rows_are_those_of_the_other_path(make_mixture: Any, model: str) -> None:
    """With images, without, and the very reasons for those that cannot be used; SliME's reads the question too."""
    mixture, processor = make_mixture(), make_processor(model)
    words = pretokenized(mixture, processor.tokenize, tokenizer_fingerprint(processor))
    once, online = EncodedMixture(mixture, processor, pretokenized=words), EncodedMixture(mixture, processor)
    rows = [(once[position], online[position]) for position in range(len(mixture))]
    assert all(same(*pair) for pair in rows)
    assert sum(isinstance(row, BadSample) for row, _ in rows) == 2
    assert any(row.images for row, _ in rows if not isinstance(row, BadSample))
    asked = [row.instruction_ids is not None for row, _ in rows if not isinstance(row, BadSample)]
    assert asked == [model == "tiny_slime"] * 3


def test_they_are_made_once(make_mixture: Any, capsys: pytest.CaptureFixture[str]) -> None:
    mixture, processor = make_mixture(), make_processor()
    calls: list[str] = []

    def counted(sample: Any) -> Any:
        calls.append(sample.name)
        return processor.tokenize(sample)

    key = tokenizer_fingerprint(processor)
    pretokenized(mixture, counted, key)
    assert len(calls) == 4, "each once; the last record is no dialogue"
    assert "5 rows tokenized into" in capsys.readouterr().out
    again = pretokenized(make_mixture(None), counted, key)
    assert "5 rows taken from" in capsys.readouterr().out and len(calls) == 4
    in_a_worker = pickle.loads(pickle.dumps(again))
    assert [row is None for row in map(again, range(5))] == [row is None for row in map(in_a_worker, range(5))]


def test_another_key_makes_them_anew(make_mixture: Any) -> None:
    """Another tokenizer, template, system line or annotation never meets the rows of the first."""
    first, other = make_processor(), make_processor(**{"text.system": "Be brief."})
    templated = make_processor(**{"text.template": "chatml"})
    keys = {tokenizer_fingerprint(processor) for processor in (first, other, templated)}
    assert len(keys) == 3 and tokenizer_fingerprint(make_processor()) in keys
    mixture = make_mixture()
    before = pretokenized(mixture, first.tokenize, tokenizer_fingerprint(first))
    after = pretokenized(mixture, other.tokenize, tokenizer_fingerprint(other))
    lengths = [(len(before(place)[0]), len(after(place)[0])) for place in range(5) if before(place) is not None]
    assert len(lengths) == 4 and all(short < long for short, long in lengths)
    changed = make_mixture([talk("Two and two?", "Five, or more than five.")])
    row = pretokenized(changed, first.tokenize, tokenizer_fingerprint(first))(0)
    assert "more than five" in first.tokenizer.decode(row[0])


@pytest.mark.parametrize(
    ("records", "options"),
    (
        ([talk("Who?", "I.", "Why?", "So.", accepted=[["I"], ["So"]])], {}),
        ([talk("<image>Say it.", "A circle.", image="a.png")], {"template": "CAP.json"}),
        ([talk("<video>Say it.", "It moves.", video="a.mp4")], {"frames": "head_tail"}),
    ),
    ids=("a quiz", "templates", "frames by lot"),
)
def test_words_drawn_anew_are_refused(make_mixture: Any, records: Any, options: dict[str, Any]) -> None:
    mixture, processor = make_mixture(records, **options), make_processor()
    with pytest.raises(ConfigError, match="pretokenized: the samples of .* are drawn anew each time .* record 0"):
        pretokenized(mixture, processor.tokenize, tokenizer_fingerprint(processor))


def test_one_question_of_a_quiz_and_one_template_are_no_choice(make_mixture: Any, tmp_path: Path) -> None:
    (tmp_path / "one.json").write_text('["<image>Say it."]')
    quiz = talk("<image>Who?", "I.", accepted=["I"], image="a.png")
    mixture, processor = make_mixture([quiz], template=str(tmp_path / "one.json"), turns=3), make_processor()
    row = pretokenized(mixture, processor.tokenize, tokenizer_fingerprint(processor))(0)
    assert row is not None and "Say it." in processor.tokenizer.decode(row[0])


def test_no_room_is_said(make_mixture: Any) -> None:
    mixture, processor = make_mixture(), make_processor()
    folder = mixture.datasets[0].origin.store.arrow.parent / "pretokenized"
    folder.write_text("a file where the folder should be")
    with pytest.raises(DataError, match="pretokenized: the tokenized words cannot be kept here"):
        pretokenized(mixture, processor.tokenize, tokenizer_fingerprint(processor))


def test_a_recipe_says_so() -> None:
    text = "model: tiny\nstage: scratch\ndataset: {shapes_text: {}}\n"
    assert not parse_text(TrainRecipe, text, "recipe").pretokenized
    assert parse_text(TrainRecipe, text + "pretokenized: true\n", "recipe").pretokenized
