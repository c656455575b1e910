"""A report in one HTML file: no script, no other file, images inside. What it says is given; here is how it looks."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Literal

import cv2
from jinja2 import Environment, PackageLoader, StrictUndefined

from ullava.structures import ImageArray

Verdict = Literal["right", "near", "wrong"]

_WORDS: dict[Verdict, str] = {"right": "right", "near": "partly right", "wrong": "wrong"}


@dataclass(frozen=True, slots=True)
class ReportImage:
    """An image uint8 [H, W, 3] and the words below it."""

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
    images: tuple[ReportImage, ...] = ()


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
    """Return the report as one self-contained HTML page; all words are escaped. How it looks: ``templates/``."""
    pages = Environment(
        loader=PackageLoader("ullava.demo"),
        autoescape=True,
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    page = pages.get_template("report.html.jinja")
    return page.render(report=report, numeric=_numeric(report.table), jpeg=_jpeg, words=_WORDS)


def _numeric(table: Table) -> list[bool]:
    """Which columns are of numbers: those in which some cell is a number and the rest are numbers or dashes."""
    columns = list(zip(*table.rows, strict=True)) if table.rows else []
    return [
        any(_is_number(cell) for cell in column) and all(_is_number(cell) or cell in "-" for cell in column)
        for column in columns
    ] or [False] * len(table.header)


def _is_number(cell: str) -> bool:
    return cell.replace(".", "", 1).replace(",", "").isdigit()


def _jpeg(image: ReportImage) -> str:
    """Return the image as an address that holds it."""
    done, data = cv2.imencode(
        ".jpg", cv2.cvtColor(image.image_rgb_u8, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    if not done:
        raise ValueError(f"an image of shape {list(image.image_rgb_u8.shape)} cannot be written as JPEG")
    return "data:image/jpeg;base64," + base64.b64encode(bytes(data)).decode("ascii")
