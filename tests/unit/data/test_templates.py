from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ullava.data.readers.layouts import CLASS_READERS, LAYOUTS
from ullava.data.readers.templates import Templates, find_templates
from ullava.errors import DataError
from ullava.resources import folder


def test_the_first_is_fixed_and_the_others_are_drawn(write):
    templates = Templates.load(write("a.json", '["<image>Show <class>.", "<image>Find <class>."]'))
    assert templates.first == "<image>Show <class>."
    rng = np.random.default_rng(0)
    assert {templates.pick(rng) for _ in range(50)} == set(templates.texts)
    assert templates.fill(templates.first, "the red dog") == "<image>Show the red dog."


@pytest.mark.parametrize(
    ("content", "with_phrase", "message"),
    [
        ('["<image>Segment it."]', True, r"entry 0 .* has to hold <class> once"),
        ('["<image><class> or <class>?"]', True, r"entry 0 .* has to hold <class> once"),
        ('["<image>a <class>", "Segment <class>."]', True, "entry 1 .* has to start with <image>"),
        ('["<image><image>Segment <class>."]', True, "hold it once"),
        ('["<image>Segment <class>."]', False, "must not hold <class>"),
        ('["<image> "]', False, "asks nothing"),
        ("[]", True, "at least one entry"),
        ('["<image>a <class>", 3]', True, "list of strings"),
        ('{"a": 1}', True, "list of strings"),
        ('["a",\n', True, r"a.json:2: not a readable JSON list"),
    ],
)
def test_a_wrong_template_file_is_refused_by_name(write, content, with_phrase, message):
    path = write("a.json", content)
    with pytest.raises(DataError, match=message) as caught:
        Templates.load(path, with_phrase)
    assert all(problem.startswith(str(path)) for problem in caught.value.problems)


def test_every_wrong_entry_has_its_line(write):
    with pytest.raises(DataError) as caught:
        Templates.load(write("a.json", '["no", "<image>no", "<image>yes <class>"]'))
    assert len(caught.value.problems) == 2


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="gone.json: no such template file"):
        find_templates(str(tmp_path / "gone.json"), True)


def test_own_templates_are_found_by_name_and_from_any_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    by_name = find_templates("SEG.json", True)
    assert find_templates("datasets/templates/SEG.json", True) == by_name
    (tmp_path / "datasets/templates").mkdir(parents=True)
    (tmp_path / "datasets/templates/SEG.json").write_text('["<image>Mine: <class>"]')
    assert find_templates("datasets/templates/SEG.json", True).texts == ("<image>Mine: <class>",)
    assert find_templates("SEG.json", True) == by_name


def test_the_projects_templates_are_right():
    own = folder("datasets") / "templates"
    for reader in [*LAYOUTS, *CLASS_READERS]:
        if reader.default_template is not None:
            assert len(Templates.load(own / reader.default_template, reader.has_phrase).texts) >= 5
    Templates.load(own / "CAP.json", with_phrase=False)
    Templates.load(own / "BOX.json", with_phrase=True)
    for path in own.glob("*.json"):
        texts = json.loads(Path(path).read_text(encoding="utf-8"))
        assert len(set(texts)) == len(texts), f"{path} repeats itself"
