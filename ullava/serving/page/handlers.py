"""What happens when a visitor does something on the page. Values in and out are those of gradio's components."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from ullava.errors import UserError
from ullava.serving.page.dialog import Ask, Dialog, Exchange
from ullava.serving.page.following import Progress, follow
from ullava.serving.page.pointing import Pointed
from ullava.serving.page.saving import edit, save
from ullava.serving.page.scene import scene_html
from ullava.serving.refusals import RefusedError, invalid, too_large
from ullava.serving.service import Reply, Service
from ullava.serving.sources import read_image
from ullava.structures import ImageArray
from ullava.text.tokens import strip_grounding

NOBODY = "nobody"
"""In place of the second model: there is none."""
LEFT, RIGHT = "left", "right"
EMPTY_SCENE = '<div class="ul-scene"><p class="ul-note">Masks and boxes will be here.</p></div>'


class Handlers:
    """Handlers around a service. ``folder``: where gradio keeps the visitors' files; no file elsewhere is read."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder.resolve()

    # ------------------------------------------------------------ chat
    async def ask(
        self,
        message: Mapping[str, Any] | None,
        left_dialog: Dialog,
        right_dialog: Dialog,
        left: str,
        right: str,
        side: str,
        tokens: float,
        pointed: Pointed,
    ) -> AsyncGenerator[list[Any], None]:
        """Ask one model or two; yield message box, (dialog, bubbles, scene) of both sides, and things to pick."""
        given = message or {}  # programs that act as a browser may send none
        words, files = str(given.get("text") or ""), [self._own(path) for path in given.get("files") or ()]
        before = [left_dialog] if right == NOBODY else [left_dialog, right_dialog]
        shown = max((dialog.files for dialog in before), key=len)
        try:
            # A model that joins later is shown all that the other has seen.
            asks = [
                dialog.asking(words, files if dialog.exchanges else [*shown, *files], pointed.regions)
                for dialog in before
            ]
            if max(2 * len(dialog.exchanges) + 1 for dialog in before) > self._service.limits.max_turns:
                raise too_large("this chat has as many turns as the server takes; begin a new one")
            queries = [
                dialog.query(ask, model, int(tokens))
                for dialog, ask, model in zip(before, asks, (left, right), strict=False)
            ]
            preview: Any = gr.skip()
            if files:
                preview = await self._service.write(partial(self._preview, before[0].having(asks[0]), asks[0]))
        except RefusedError as refusal:
            raise gr.Error(refusal.message, print_exception=False) from None
        states: tuple[Progress, ...] = tuple(Progress() for _ in before)
        async with aclosing(follow(self._service, queries, self._service.limits.timeout_s)) as progress:
            async for states in progress:
                sides = [
                    (dialog, _bubbles(dialog, ask, state), preview)
                    for dialog, ask, state in zip(before, asks, states, strict=True)
                ]
                yield [_EMPTY_MESSAGE, *_both(sides), gr.skip()]
        ended = []
        for dialog, ask, state in zip(before, asks, states, strict=True):
            if state.reply is None:
                ended.append((dialog, _bubbles(dialog, ask, state), gr.skip()))
                continue
            after = dialog.after(ask, state.reply)
            scene = await self._service.write(partial(self._scene, after, _timing(state.reply)))
            ended.append((after, _bubbles(after), scene))
        box = gr.skip() if all(state.reply is None for state in states) else _EMPTY_MESSAGE
        active = ended[-1 if side == RIGHT else 0][0]
        yield [box, *_both(ended), _choices(active)]

    def clear(self) -> list[Any]:
        """Forget both dialogs; returns the same as ``ask`` yields."""
        side = [Dialog(), [], EMPTY_SCENE]
        return [_EMPTY_MESSAGE, *side, *side, _choices(Dialog())]

    def choose(self, left: str, right: str) -> list[Any]:
        """Return both chats with their models' names, whether the second is shown, and the choice of side."""
        two = right != NOBODY
        chats = [gr.update(label=left), gr.update(label=right if two else "")]
        return [*chats, gr.update(visible=two), gr.update(visible=two, value=LEFT)]

    # ------------------------------------------------------------ things
    def pick_left(self, picked: list[str], dialog: Dialog, now: str, event: gr.EventData) -> list[Any]:
        """Pick the thing that was clicked on the left, or let it go; returns the side and what is picked."""
        return _picked(picked, dialog, LEFT, now, event)

    def pick_right(self, picked: list[str], dialog: Dialog, now: str, event: gr.EventData) -> list[Any]:
        """Do the same on the right."""
        return _picked(picked, dialog, RIGHT, now, event)

    def turn(self, side: str, left_dialog: Dialog, right_dialog: Dialog) -> Any:
        """Return what can be picked on a side."""
        return _choices(_of(side, left_dialog, right_dialog))

    def edit(
        self,
        side: str,
        left_dialog: Dialog,
        right_dialog: Dialog,
        picked: Sequence[str],
        how: str,
        strength: float,
        least: float,
        color: str,
        background: str | None,
    ) -> ImageArray:
        """Return the edited image. Raises gradio's Error for what cannot be edited."""
        numbers = [int(number) for number in picked]
        try:
            ground = None
            if background is not None:
                ground = self._image(self._own(background))
            dialog = _of(side, left_dialog, right_dialog)
            return edit(dialog, numbers, how, strength, least, _rgb(color), ground)
        except (UserError, RefusedError) as error:
            raise gr.Error(str(error), print_exception=False) from None

    def save(
        self, side: str, left_dialog: Dialog, right_dialog: Dialog, kind: str, least: float
    ) -> tuple[dict[str, Any], str]:
        """Return the zip file of a dialog's answers, and what is missing in it. Raises gradio's Error."""
        try:
            saved = save(_of(side, left_dialog, right_dialog), kind, least, self._folder)
        except UserError as error:
            raise gr.Error("; ".join(error.problems), print_exception=False) from None
        return gr.update(value=str(saved.path), visible=True), "\n".join(saved.notes)

    # ------------------------------------------------------------
    def _own(self, given: Any) -> Path:
        path = Path(str(given)).resolve()
        if not path.is_relative_to(self._folder):
            raise gr.Error("that file was not sent to this page", print_exception=False)
        return path

    def _images(self, dialog: Dialog, count: int) -> list[ImageArray]:
        return [self._image(path) for path in dialog.images[:count]]

    def _image(self, path: Path) -> ImageArray:
        if not path.is_file():
            raise invalid(f"{path.name} is no longer here; begin a new chat")
        return read_image(path.read_bytes(), "image", self._service.limits)[1]

    def _scene(self, dialog: Dialog, note: str) -> str:
        last = dialog.exchanges[-1]
        return scene_html(self._images(dialog, last.images), last, note)

    def _preview(self, dialog: Dialog, ask: Ask) -> str:
        nothing = Exchange(ask, "", {"text": "", "objects": ()}, len(dialog.images))
        return scene_html(self._images(dialog, nothing.images), nothing)


_EMPTY_MESSAGE: dict[str, Any] = {"text": "", "files": []}


def _both(sides: Sequence[tuple[Dialog, list[dict[str, Any]], Any]]) -> list[Any]:
    """Return the values of both sides; a side that was not asked stays as it is."""
    values = [value for side in sides for value in side]
    return [*values, *(gr.skip() for _ in range(6 - len(values)))]


def _bubbles(dialog: Dialog, ask: Ask | None = None, state: Progress | None = None) -> list[dict[str, Any]]:
    """Return a dialog as messages of a chatbot, with the question that is being answered."""
    found: list[dict[str, Any]] = []
    for exchange in dialog.exchanges:
        found += _question(exchange.ask)
        found.append({"role": "assistant", "content": exchange.words or "(nothing)"})
    if ask is not None and state is not None:
        found += _question(ask)
        said = strip_grounding(state.text)
        refused = f"⚠ {state.refusal}" if state.refusal else ""
        found.append({"role": "assistant", "content": "\n".join(filter(None, (said, refused))) or "…"})
    return found


def _question(ask: Ask) -> list[dict[str, Any]]:
    files = [{"role": "user", "content": {"path": str(path)}} for path in ask.files if path.is_file()]
    return [*files, {"role": "user", "content": ask.words}]


def _timing(reply: Reply) -> str:
    times = reply.times_ms
    together = f", with {reply.batch_rows - 1} others" if reply.batch_rows > 1 else ""
    return f"{reply.model}: {times['inference_time_ms'] / 1000:.2f} s, {reply.output_tokens} tokens{together}"


def _named(dialog: Dialog) -> list[tuple[str, str]]:
    things = dialog.exchanges[-1].objects if dialog.exchanges else ()
    return [
        (f"{number + 1}: {thing['phrase'] or 'object'} {thing['score']:.2f}", str(number))
        for number, thing in enumerate(things)
        if thing["mask"] is not None
    ]


def _choices(dialog: Dialog) -> Any:
    return gr.update(choices=_named(dialog), value=[])


def _picked(picked: Sequence[str], dialog: Dialog, side: str, now: str, event: gr.EventData) -> list[Any]:
    named = _named(dialog)
    number = str(event.index)
    kept = list(picked) if side == now else []
    if number in kept:
        kept.remove(number)
    elif number in [value for _, value in named]:
        kept.append(number)
    return [side, gr.update(choices=named, value=kept)]


def _of(side: str, left: Dialog, right: Dialog) -> Dialog:
    return right if side == RIGHT else left


def _rgb(color: str) -> tuple[int, int, int]:
    """Return a color picker's ``#rrggbb`` or ``rgba(r, g, b, a)`` as numbers. Raises UserError for neither."""
    text = str(color)
    if found := re.fullmatch(r"#([0-9a-fA-F]{6})(?:[0-9a-fA-F]{2})?", text):
        red, green, blue = bytes.fromhex(found[1])
        return red, green, blue
    numbers = [min(255, round(float(number))) for number in re.findall(r"\d+(?:\.\d+)?", text)[:3]]
    if not text.startswith("rgb") or len(numbers) != 3:
        raise UserError(f"'{text[:40]}' is no color such as #ffffff")
    return numbers[0], numbers[1], numbers[2]
