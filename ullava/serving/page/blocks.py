"""The page's layout, and how it is mounted into the app of the HTTP routes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gradio as gr
from fastapi import FastAPI

from ullava.serving.limits import MIB, Limits
from ullava.serving.page.dialog import VIDEO_SUFFIXES, Dialog
from ullava.serving.page.functions import functions_of
from ullava.serving.page.handlers import EMPTY_SCENE, LEFT, NOBODY, RIGHT, Handlers
from ullava.serving.page.pointing import ASKING, Pointed, Pointing
from ullava.serving.page.samples import samples
from ullava.serving.page.saving import BLUR_AROUND, EDITS, KINDS
from ullava.serving.service import Service

STREAMS = ("/gradio_api/queue/data", "/gradio_api/heartbeat/", "/gradio_api/mcp/")
"""Paths that are read for as long as a visitor stays."""
IDLE_STREAMS = STREAMS[1:]
"""Those that carry no answers."""
_IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_KEPT_S = 6 * 3600
_HERE = Path(__file__).parent
_FONTS = [gr.themes.Font(name) for name in ("ui-sans-serif", "system-ui", "sans-serif")]
_MONO = [gr.themes.Font(name) for name in ("ui-monospace", "monospace")]
_HEAD = """<div id="ul-head"><h1>ullava</h1><p>Ask about images and videos: answers in words, masks and boxes.
Point at a mask or at its words; click to pick it.</p></div>"""


@dataclass(frozen=True, slots=True)
class _Side:
    """One model's part of the page."""

    column: gr.Column
    dialog: gr.State
    chat: gr.Chatbot
    scene: gr.HTML

    @property
    def shown(self) -> list[Any]:
        """What an answer changes."""
        return [self.dialog, self.chat, self.scene]


@dataclass(frozen=True, slots=True)
class _Bar:
    left: gr.Dropdown
    right: gr.Dropdown
    least: gr.Slider
    tokens: gr.Slider


@dataclass(frozen=True, slots=True)
class _Pointing:
    """The tab in which regions are drawn."""

    handlers: Pointing
    state: gr.State
    shown: list[Any]
    """Picture, state, words."""


def mount_page(app: FastAPI, service: Service, folder: Path) -> None:
    """Mount the page under ``/`` of ``app``. ``folder``: where visitors' files are kept for six hours.

    Nothing is loaded from, or told to, other servers. Where the package ``mcp`` is installed, the functions of
    ``functions_of`` are MCP tools at ``/gradio_api/mcp/``.
    """
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    limits = service.limits
    gr.mount_gradio_app(
        app,
        build(service, folder),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=limits.max_body_mib * MIB,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=find_spec("mcp") is not None,
        theme=gr.themes.Default(font=_FONTS, font_mono=_MONO),
        css=(_HERE / "page.css").read_text(encoding="utf-8"),
        head=f"<script>{(_HERE / 'page.js').read_text(encoding='utf-8')}</script>",
    )


def build(service: Service, folder: Path) -> gr.Blocks:
    """Return the page as gradio's Blocks. ``folder``: see ``mount_page``."""
    handlers = Handlers(service, folder)
    with gr.Blocks(title="ullava", analytics_enabled=False, delete_cache=(600, _KEPT_S)) as blocks:
        gr.HTML(_HEAD)
        bar = _bar(service)
        with gr.Row():
            sides = (_side(bar.left.value, "left", True), _side("", "right", False))
        with gr.Row(elem_id="ul-ask-row", equal_height=True):
            message = _message(service.limits)
            send = gr.Button("Ask", variant="primary", scale=1, min_width=90, elem_id="ul-ask")
            stop = gr.Button("Stop", scale=1, min_width=90, elem_id="ul-stop")
            clear = gr.Button("New chat", scale=1, min_width=120, elem_id="ul-clear")
        _examples(message, folder)
        side, picks = _take_along(handlers, sides, bar.least)
        pointing = _pointing(service, folder, message, sides[0], bar.left)
        states = [one.dialog for one in sides]
        shown = [message, *sides[0].shown, *sides[1].shown, picks]
        asked = gr.on(
            [message.submit, send.click],
            handlers.ask,
            [message, *states, bar.left, bar.right, side, bar.tokens, pointing.state],
            shown,
            api_name="talk",
            api_visibility="private",
            show_progress="hidden",
            concurrency_limit=None,
        )
        quiet: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
        asked.then(pointing.handlers.asked, [pointing.state, sides[0].dialog], pointing.shown, **quiet)
        stop.click(None, cancels=[asked])
        clear.click(handlers.clear, None, shown, cancels=[asked], **quiet)
        clear.click(pointing.handlers.forget, None, pointing.shown, **quiet)
        gr.on(
            [bar.left.change, bar.right.change],
            handlers.choose,
            [bar.left, bar.right],
            [sides[0].chat, sides[1].chat, sides[1].column, side],
            api_visibility="private",
            show_progress="hidden",
        )
        bar.least.change(None, [bar.least], None, js="(score) => { window.ullava.show(score); }")
        for function in functions_of(service):
            gr.api(function, api_name=function.__name__, concurrency_limit=None)
    blocks.queue(max_size=service.limits.max_queue, default_concurrency_limit=4)
    blocks.state_session_capacity = service.limits.max_queue
    return blocks


def _bar(service: Service) -> _Bar:
    names, limits = list(service.registry.names), service.limits
    with gr.Row():
        left = gr.Dropdown(names, value=service.registry.default, label="Model", min_width=140, elem_id="ul-left")
        right = gr.Dropdown([NOBODY, *names], value=NOBODY, label="Beside it", min_width=140, elem_id="ul-right")
        least = gr.Slider(0, 1, 0, step=0.01, label="Least score", min_width=180, elem_id="ul-least")
        tokens = gr.Slider(1, limits.max_new_tokens, service.default_tokens, step=1, label="Most tokens", min_width=180)
    return _Bar(left, right, least, tokens)


def _side(model: str, name: str, visible: bool) -> _Side:
    with gr.Column(visible=visible, min_width=320, elem_id=f"ul-side-{name}") as column:
        dialog = gr.State(Dialog(), time_to_live=_KEPT_S)
        with gr.Row():
            with gr.Column(min_width=340):
                chat = gr.Chatbot(
                    label=model, height=420, render_markdown=False, buttons=["copy"], elem_id=f"ul-chat-{name}"
                )
            with gr.Column(min_width=340):
                scene = gr.HTML(
                    EMPTY_SCENE,
                    js_on_load="window.ullava.scene(element, trigger, watch)",
                    elem_id=f"ul-scene-{name}",
                )
    return _Side(column, dialog, chat, scene)


def _pointing(
    service: Service, folder: Path, message: gr.MultimodalTextbox, left: _Side, model: gr.Dropdown
) -> _Pointing:
    """Lay out the tab in which boxes are clicked for ``<region>`` of the next question."""
    handlers = Pointing(service, folder)
    state = gr.State(Pointed(), time_to_live=_KEPT_S)
    with gr.Tab("Point at a region"):
        with gr.Row():
            with gr.Column(min_width=300):
                show = gr.Button("Show the image", elem_id="ul-point")
                words = gr.Textbox(label="Regions", interactive=False, lines=3, elem_id="ul-regions")
                forget = gr.Button("Forget the boxes", elem_id="ul-forget")
            with gr.Column(min_width=300):
                picture = gr.Image(label=ASKING, format="png", interactive=False, elem_id="ul-pointed")
    shown = [picture, state, words]
    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
    show.click(handlers.show, [message, left.dialog, state, model], shown, **private)
    picture.select(handlers.click, [message, state], [message, *shown], **private)
    forget.click(handlers.forget, None, shown, **private)
    return _Pointing(handlers, state, shown)


def _message(limits: Limits) -> gr.MultimodalTextbox:
    return gr.MultimodalTextbox(
        file_count="multiple",
        file_types=[*_IMAGE_SUFFIXES, *VIDEO_SUFFIXES],
        sources=["upload"],
        placeholder="Drop images or a video here and ask: Segment the person on the left.",
        show_label=False,
        label="Question",
        max_plain_text_length=limits.max_characters,
        submit_btn=False,
        scale=12,
        min_width=300,
        elem_id="ul-message",
    )


def _examples(message: gr.MultimodalTextbox, folder: Path) -> None:
    place = folder / "examples"
    place.mkdir(exist_ok=True)
    rows = [[{"text": question, "files": [str(path)]}] for path, question in samples(place)]
    gr.Examples(rows, [message], label="Examples", examples_per_page=12, api_visibility="private")


def _take_along(handlers: Handlers, sides: tuple[_Side, _Side], least: gr.Slider) -> tuple[gr.Radio, gr.CheckboxGroup]:
    """Lay out editing and saving; return the choice of side and of things."""
    private: dict[str, Any] = {"api_visibility": "private", "concurrency_limit": 2}
    states = [one.dialog for one in sides]
    side = gr.Radio([LEFT, RIGHT], value=LEFT, label="Which chat", visible=False, elem_id="ul-which")
    with gr.Tab("Edit by masks"):
        with gr.Row():
            with gr.Column(min_width=300):
                picks = gr.CheckboxGroup([], label="Things (none: all that are shown)", elem_id="ul-picks")
                how = gr.Radio(list(EDITS), value=BLUR_AROUND, label="What to do", elem_id="ul-how")
                strength = gr.Slider(0, 40, 8, step=1, label="Strength (pixels)")
                with gr.Row():
                    color = gr.ColorPicker("#ffffff", label="Background color", min_width=120)
                    ground = gr.Image(
                        label="or background image", type="filepath", sources=["upload"], height=140, min_width=160
                    )
                go = gr.Button("Edit", elem_id="ul-edit")
            with gr.Column(min_width=300):
                edited = gr.Image(
                    label="Edited", format="png", interactive=False, buttons=["download"], elem_id="ul-edited"
                )
    with gr.Tab("Save answers"):
        with gr.Row():
            kind = gr.Dropdown(list(KINDS), value=KINDS[0], label="As", elem_id="ul-kind", min_width=200)
            pack = gr.Button("Save", elem_id="ul-save", min_width=100)
        packed = gr.File(label="Zip file", visible=False, interactive=False, elem_id="ul-saved")
        missing = gr.Textbox(label="What these files cannot say", interactive=False, elem_id="ul-missing")
    go.click(handlers.edit, [side, *states, picks, how, strength, least, color, ground], [edited], **private)
    pack.click(handlers.save, [side, *states, kind, least], [packed, missing], **private)
    side.input(handlers.turn, [side, *states], [picks], **private)
    for one, pick in zip(sides, (handlers.pick_left, handlers.pick_right), strict=True):
        one.scene.select(pick, [picks, one.dialog, side], [side, picks], show_progress="hidden", **private)
    return side, picks
