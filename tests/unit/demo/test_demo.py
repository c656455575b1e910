"""The demo: an oracle gets full marks, a model that says nothing gets none, and the page says so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ullava.demo.page import TOPICS, build_report, expression_kind, quality, results_table
from ullava.demo.report import Card, Report, ReportImage, Section, Table, render_html
from ullava.demo.run import DATASETS, PHOTOS, VIDEO_DATASETS, DemoRun, World, ask_photos, ask_worlds, draw_worlds
from ullava.structures import Answer, GroundedObject, Sample


class Oracle:
    """Gives the true answer, masks and boxes included."""

    def answer_samples(self, samples: Sequence[Sample], *, max_new_tokens: int) -> list[Answer]:
        return [self._answer(sample) for sample in samples]

    def _answer(self, sample: Sample) -> Answer:
        turn = sample.turns[-1]
        objects = [
            GroundedObject(region.phrase, (0, len(turn.answer)), region.mask, region.box_xyxy_px, 0.9, 0.9, 0.8)
            for region in turn.regions
        ]
        return Answer(turn.answer, tuple(objects))


class Mute(Oracle):
    """Says nothing at all."""

    def _answer(self, sample: Sample) -> Answer:
        return Answer("")


@pytest.fixture(scope="module")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> dict[str, World]:
    return draw_worlds(tmp_path_factory.mktemp("worlds"), images=8, seed=3)


@pytest.fixture(scope="module")
def perfect(worlds: dict[str, World]) -> DemoRun:
    return ask_worlds(Oracle(), worlds)


def test_photographs_are_asked_for_what_they_show_and_for_what_they_do_not(perfect: DemoRun) -> None:
    run = ask_photos(Oracle())
    (entry,) = run.results
    assert (entry["dataset"], entry["split"], entry["task"]) == ("photo_examples", PHOTOS, "gres")
    assert all(entry["metrics"][name] == 100.0 for name in ("cIoU", "N-acc", "T-acc"))
    empty = [asked for asked in run.asked if not asked.sample.turns[0].regions]
    assert len({asked.sample.images for asked in run.asked}) == 10 and 5 <= len(empty) < len(run.asked) / 2
    report = build_report(run.then(perfect), "", [], "")
    assert report.sections[0].title.startswith("Photographs") and len(report.sections[0].cards) == 10
    assert report.table.header == ("task", "figure", PHOTOS, "seen", "unseen", "questions")
    assert report.table.rows[0][1:] == ("gIoU", "100.0", "-", "-", f"{len(run.asked)} + 0 + 0")


def test_an_oracle_gets_full_marks_everywhere(perfect: DemoRun) -> None:
    best = {figure for topic in TOPICS for _, figure in topic.figures} - {"MAE", "CIDEr"}
    checked = 0
    for entry in perfect.results:
        for figure in best & set(entry["metrics"]):
            assert entry["metrics"][figure] == pytest.approx(100.0, abs=0.01), (entry["dataset"], figure)
            checked += 1
    assert checked >= 20
    assert {entry["dataset"] for entry in perfect.results} >= {*DATASETS, *VIDEO_DATASETS} - {"shapes_parts"}
    assert {entry["split"] for entry in perfect.results} == {"seen", "unseen"}
    assert {entry["task"] for entry in perfect.results if entry["dataset"] == "shapes_res"} == {"res", "rec"}
    assert all(quality(asked) == 1.0 for asked in perfect.asked)


def test_silence_is_right_only_where_there_is_nothing_to_find(worlds: dict[str, World]) -> None:
    run = ask_worlds(Mute(), worlds)
    for entry in run.results:
        if entry["task"] == "gres":
            assert entry["metrics"]["N-acc"] == 100.0 and entry["metrics"]["T-acc"] == 0.0
        elif entry["task"] in ("res", "rec", "vqa", "text"):
            assert set(entry["metrics"].values()) == {0.0}
    report = build_report(run, "", [], "")
    verdicts = {card.verdict for section in report.sections for card in section.cards if card.truth != "no such object"}
    assert verdicts == {"wrong"}


def test_the_table_names_every_figure_with_its_count(perfect: DemoRun) -> None:
    table = results_table(perfect)
    assert table.header == ("task", "figure", "seen", "unseen", "questions")
    asked = [item for item in perfect.asked if item.dataset == "shapes_res"]
    seen = sum(item.split == "seen" for item in asked)
    row = next(row for row in table.rows if row[1] == "cIoU")
    assert row == ("Referring expressions", "cIoU", "100.0", "100.0", f"{seen} + {len(asked) - seen}")


def test_the_report_shows_each_kind_and_both_splits(perfect: DemoRun) -> None:
    report = build_report(perfect, "lead", [("model", "oracle")], "card")
    sections = {section.title: section for section in report.sections}
    kinds = {card.note.partition(", ")[2] for card in sections["Several objects, or none"].cards}
    assert kinds == {"no target", "one target", "several targets"}
    assert {card.note.partition(",")[0] for card in sections["Captions"].cards} == {"seen", "unseen"}
    nothing = [card for card in sections["Several objects, or none"].cards if card.truth == "no such object"]
    assert nothing and all(card.verdict == "right" for card in nothing)
    assert all(len(card.images) == 2 for card in sections["Referring expressions"].cards)
    assert all(not card.images for card in sections["Questions without an image"].cards)


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("the small red circle", "attributes"),
        ("the second circle from the left", "ordinal"),
        ("the star below the blue heart", "relation"),
        ("the ring closest to the cross", "relation"),
        ("the leftmost striped square", "extreme"),
        ("the heart in the upper-left corner", "position"),
        ("the shape on the right side", "position"),
        ("the star with a red core", "attributes"),
    ],
)
def test_kinds_of_expressions(words: str, kind: str) -> None:
    assert expression_kind(words) == kind


class Page(HTMLParser):
    """Checks that tags close in order and collects what the page would load."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.sources += [str(values[key]) for key in ("src", "href") if key in values]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_stands_alone_and_escapes_what_a_model_says() -> None:
    image = ReportImage('a "image"', np.zeros((8, 8, 3), np.uint8))
    card = Card("<b>Where?</b>", "<script>alert(1)</script>", "a & b", "wrong", "IoU 0.1", "note", (image,))
    table = Table(("what", "n"), (("x", "1.5"), ("y", "-")))
    page = render_html(Report("t", "l", (("k", "v"),), table, (Section("s", "w", (card,)),), "more", "<i>card</i>"))
    parsed = Page(page)
    assert parsed.open == []
    assert "script" not in parsed.tags and "b" not in parsed.tags and "i" not in parsed.tags
    assert "<script>alert(1)</script>" in parsed.words
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in parsed.sources)
    assert page.count('<td class="number">') == 2
    assert "http" not in page


@pytest.fixture
def oracle_loaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A model folder whose loading gives the oracle."""
    import torch

    class Loaded(Oracle):
        model = torch.nn.Linear(10, 10)
        device = torch.device("cpu")

    folder = tmp_path / "oracle"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text("# The oracle's card")
    monkeypatch.setattr("ullava.demo.command.load", lambda model, device: Loaded())
    yield folder


def test_the_command_writes_report_and_figures(
    command: Callable[..., tuple[int, str, str]], oracle_loaded: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["demo", "--model", str(oracle_loaded), "--images", "2", "--seed", "7", "--out", str(out)]
    code, printed, _ = command(*arguments)
    assert code == 0
    assert str(out / "report.html") in printed and "cIoU" in printed
    page = (out / "report.html").read_text()
    assert Page(page).open == []
    assert "The oracle&#39;s card" in page and "seed 7" in page and "generate" in page
    figures = json.loads((out / "metrics.json").read_text())
    assert (figures["protocol"], figures["seed"], figures["images"]) == ("generate", 7, 2)
    assert figures["results"][0]["metrics"]["cIoU"] == 100.0
    assert command(*arguments)[0] == 0
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "report.html"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["--images", "0"], "images"),
        (["--seed", "-1"], "seed"),
        (["--model", "no-such-model"], "no-such-model"),
        (["--out", "FILE"], "file, not a folder"),
    ],
)
def test_bad_arguments_are_refused(
    command: Callable[..., tuple[int, str, str]],
    oracle_loaded: Path,
    tmp_path: Path,
    changes: list[str],
    complaint: str,
) -> None:
    file = tmp_path / "file"
    file.touch()
    changes = [str(file) if change == "FILE" else change for change in changes]
    code, _, errors = command("demo", "--model", str(oracle_loaded), "--out", str(tmp_path / "out"), *changes)
    assert code == 2
    assert complaint in errors and "Traceback" not in errors
    assert not (tmp_path / "out").exists()
