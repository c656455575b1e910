"""A report in one HTML file: no script, no other file, pictures inside. What it says is given; here is how it looks."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import cv2

from ullava.structures import ImageArray

Verdict = Literal["right", "near", "wrong"]

_STYLE = """
:root { --ink: #1d2330; --soft: #5b6475; --line: #d9dee7; --ground: #f6f7f9; --card: #ffffff; --accent: #0072b2; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
       font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 24px 20px 60px; }
h1 { margin: 0 0 4px; font-size: 30px; } h2 { margin: 44px 0 2px; font-size: 22px; }
p.lead { color: var(--soft); margin: 0 0 18px; max-width: 75ch; }
a { color: var(--accent); }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); margin: 14px 0; }
th, td { padding: 6px 14px; text-align: left; border-top: 1px solid var(--line); vertical-align: top; }
thead th { border-top: 0; background: #eef1f5; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 2px 18px; margin: 14px 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 560px), 1fr)); gap: 16px; }
.card { background: var(--card); border: 1px solid var(--line); border-left: 6px solid var(--line);
        border-radius: 6px; padding: 14px; }
.card.right { border-left-color: #009e73; } .card.near { border-left-color: #e69f00; }
.card.wrong { border-left-color: #d55e00; }
.card h3 { margin: 0 0 8px; font-size: 17px; overflow-wrap: anywhere; }
.card dl { margin: 8px 0 0; font-size: 15px; }
.badge { font-weight: 600; } .right .badge { color: #007556; } .near .badge { color: #8a5f00; }
.wrong .badge { color: #b34700; }
.pictures { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-start; }
figure { margin: 0; max-width: calc(50% - 5px); }
figure img { max-width: 100%; max-height: 280px; width: auto; height: auto; display: block; border-radius: 3px; }
figcaption { color: var(--soft); font-size: 13px; }
code, pre { font: 14px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { background: var(--card); border: 1px solid var(--line); padding: 12px; overflow-x: auto; white-space: pre-wrap; }
@media print { .card { break-inside: avoid; } body { background: #fff; } }
"""
_WORDS: dict[Verdict, str] = {"right": "right", "near": "partly right", "wrong": "wrong"}


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture uint8 [H, W, 3] and the words below it."""

    caption: str
    image_rgb_u8: ImageArray


@dataclass(frozen=True, slots=True)
class Card:
    """One question with its answer and truth; ``figures`` is what was measured on it ("mask IoU 0.93")."""

    question: str
    answer: str
    truth: str
    verdict: Verdict
    figures: str = ""
    note: str = ""
    pictures: tuple[Picture, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """A table of words; a column of numbers is aligned to the right."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One task of the report."""

    title: str
    text: str
    cards: tuple[Card, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that the page shows. ``appendix`` is plain text behind a fold (a model card)."""

    title: str
    lead: str
    facts: tuple[tuple[str, str], ...]
    table: Table
    sections: tuple[Section, ...]
    appendix_title: str = ""
    appendix: str = ""


def render_html(report: Report) -> str:
    """Return the report as one self-contained HTML page; all words are escaped."""
    links = "".join(f'<a href="#part-{n}">{escape(part.title)}</a>' for n, part in enumerate(report.sections))
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(report.title)}</title><style>{_STYLE}</style></head><body><main>",
        f'<h1>{escape(report.title)}</h1><p class="lead">{escape(report.lead)}</p>',
        _facts(report.facts),
        _table(report.table),
        f"<nav>{links}</nav>",
        *(_section(part, n) for n, part in enumerate(report.sections)),
    ]
    if report.appendix:
        parts.append(f"<details><summary>{escape(report.appendix_title)}</summary>")
        parts.append(f"<pre>{escape(report.appendix)}</pre></details>")
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts) + "</dl>"


def _table(table: Table) -> str:
    """Return a table; a column in which some cell is a number and the rest are numbers or dashes is one of numbers."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else []
    numeric = [
        any(_is_number(cell) for cell in column) and all(_is_number(cell) or cell in "-" for cell in column)
        for column in columns
    ] or [False] * len(table.header)

    def line(tag: str, cells: Sequence[str]) -> str:
        marks = [' class="number"' if is_number else "" for is_number in numeric]
        return "".join(f"<{tag}{mark}>{escape(cell)}</{tag}>" for cell, mark in zip(cells, marks, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in table.rows)
    return f"<table><thead><tr>{line('th', table.header)}</tr></thead><tbody>{body}</tbody></table>"


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace(",", "").isdigit()


def _section(section: Section, number: int) -> str:
    cards = "\n".join(_card(card) for card in section.cards)
    return (
        f'<section id="part-{number}"><h2>{escape(section.title)}</h2>'
        f'<p class="lead">{escape(section.text)}</p><div class="cards">\n{cards}\n</div></section>'
    )


def _card(card: Card) -> str:
    """Return one question: pictures side by side, then answer, truth and what was measured."""
    pictures = "".join(_figure(picture, card.question) for picture in card.pictures)
    figures = f" &middot; {escape(card.figures)}" if card.figures else ""
    lines = [("answer", escape(card.answer) or "<i>nothing</i>"), ("truth", escape(card.truth))]
    lines.append(("measured", f'<span class="badge">{_WORDS[card.verdict]}</span>{figures}'))
    if card.note:
        lines.append(("", escape(card.note)))
    rows = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in lines)
    return (
        f'<article class="card {card.verdict}"><h3>{escape(card.question)}</h3>'
        f'<div class="pictures">{pictures}</div><dl>{rows}</dl></article>'
    )


def _figure(picture: Picture, question: str) -> str:
    height, width = picture.image_rgb_u8.shape[:2]
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(picture.image_rgb_u8, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    if not done:
        raise ValueError(f"a picture of shape {list(picture.image_rgb_u8.shape)} cannot be written as JPEG")
    source = "data:image/jpeg;base64," + base64.b64encode(bytes(data)).decode("ascii")
    words = escape(f"{picture.caption}: {question}", quote=True)
    return (
        f'<figure><img src="{source}" width="{width}" height="{height}" alt="{words}">'
        f"<figcaption>{escape(picture.caption)}</figcaption></figure>"
    )
