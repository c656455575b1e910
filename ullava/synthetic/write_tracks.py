"""Writes clips with masks and expressions in the authors' form of MeViS: a folder of JPEG frames for each clip,
``meta_expressions.json`` and ``mask_dict.json``. ``clips.jsonl`` beside them has what every object does,
``naming.json`` questions about that in LLaVA's form.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ullava.geometry import rle_encode
from ullava.synthetic.questions import quiz
from ullava.synthetic.track_words import expressions, left_to_right, namings
from ullava.synthetic.tracks import Actor, Play, draw_play, sample_play
from ullava.synthetic.vocabulary import VERSION, Split
from ullava.synthetic.write import ListFile, check_order, drawn_in_order, jpeg_bytes, make_world

FRAMES, META, MASKS, TRUTH = "JPEGImages", "meta_expressions.json", "mask_dict.json", "clips.jsonl"
NAMING = "naming.json"
_OBJECTS_EACH = 10
"""A clip has less; ``mask_dict.json`` numbers its objects from so many times its own number on."""


@dataclass(frozen=True, slots=True)
class DrawnPlay:
    """What one clip adds: its name, its frames as JPEG files, and JSON texts; no ``naming`` where nothing is asked."""

    name: str
    frames: tuple[bytes, ...]
    meta: str
    masks: tuple[str, ...]
    truth: str
    naming: str | None


def draw_play_files(index: int, seed: int, split: Split) -> DrawnPlay:
    """Everything that clip ``index`` adds to the world (``split``, ``seed``); no files are touched."""
    play = sample_play(split, seed, index)
    frames, masks = draw_play(play)
    name, numbers = f"{index:06d}", [_OBJECTS_EACH * index + place for place in range(len(play.actors))]
    said = [(one, left_to_right(play, one)) for one in expressions(play)]
    asked = namings(play)
    meta = {
        "vid_id": index,
        "expressions": {
            str(number): {
                "exp": one.words,
                "obj_id": targets,
                "anno_id": [numbers[place] for place in targets],
            }
            for number, (one, targets) in enumerate(said)
        },
        "names": {str(number): " ".join(actor.thing.pair) for number, actor in zip(numbers, play.actors, strict=True)},
        "frames": [frame_name(number) for number in range(play.length)],
    }
    codes = [[rle_encode(mask) if mask.any() else None for mask in of_one] for of_one in masks]
    dumps = partial(json.dumps, separators=(",", ":"))
    return DrawnPlay(
        name,
        tuple(jpeg_bytes(frame) for frame in frames),
        f'"{name}":{dumps(meta)}',
        tuple(f'"{number}":{dumps(code)}' for number, code in zip(numbers, codes, strict=True)),
        dumps(_truth(play, name, [one.kind for one, _ in said])),
        dumps(quiz(f"naming_{name}", asked, {"video": f"{FRAMES}/{name}"})) if asked else None,
    )


def frame_name(number: int) -> str:
    """What a frame is called, without its suffix."""
    return f"{number:05d}"


def draw_track_world(
    out: Path, videos: int, seed: int, split: str = "train", workers: int = 1, progress: bool = True
) -> Path:
    """Draw ``videos`` clips with masks (``split``, ``seed``) into the new folder ``out`` and return it.

    The same (split, seed) gives the same bytes, and fewer clips the beginning of more. Nothing is left behind when
    drawing is interrupted. Raises DataError where ``out`` holds something already, or an argument makes no sense.
    """
    known = check_order(out, "videos", videos, seed, split, workers)
    return make_world(out, lambda folder: _write(folder, videos, seed, known, workers, progress))


def _write(folder: Path, videos: int, seed: int, split: Split, workers: int, progress: bool) -> None:
    (folder / FRAMES).mkdir()
    with ExitStack() as stack:
        meta = stack.enter_context((folder / META).open("w", encoding="utf-8"))
        masks = ListFile((folder / MASKS).open("w", encoding="utf-8"), "{}")
        stack.callback(masks.close)
        meta.write('{"videos":')
        clips = ListFile(meta, "{}", after="}")
        stack.callback(clips.close)
        naming = ListFile((folder / NAMING).open("w", encoding="utf-8"))
        stack.callback(naming.close)
        truth = stack.enter_context((folder / TRUTH).open("w", encoding="utf-8"))
        drawn = stack.enter_context(drawn_in_order(partial(draw_play_files, seed=seed, split=split), videos, workers))
        for clip in tqdm(drawn, total=videos, desc=f"draw {split}", unit="clip", disable=not progress):
            place = folder / FRAMES / clip.name
            place.mkdir()
            for number, frame in enumerate(clip.frames):
                (place / f"{frame_name(number)}.jpg").write_bytes(frame)
            clips.add(clip.meta)
            for text in clip.masks:
                masks.add(text)
            truth.write(clip.truth + "\n")
            if clip.naming is not None:
                naming.add(clip.naming)
    about = {"world": "shapes referred to in time", "version": VERSION, "seed": seed, "split": split, "videos": videos}
    (folder / "world.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _truth(play: Play, name: str, kinds: list[str]) -> dict[str, Any]:
    """Everything about the clip, for reports and for checking."""
    size = {"height": play.height, "width": play.width, "frames": play.length}
    screen = None if play.screen is None else list(play.screen)
    return {"video": name, **size, "screen": screen, "kinds": kinds, "objects": [_told(one) for one in play.actors]}


def _told(actor: Actor) -> dict[str, Any]:
    deed = actor.deed
    return {
        "colour": actor.thing.colour,
        "shape": actor.thing.shape,
        "ways": list(deed.ways),
        "ending": deed.ending,
        "returns": deed.returns,
        "start": deed.start,
    }
