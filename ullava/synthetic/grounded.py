"""Captions of a scene in which every object has its place: one phrase for one object, or for all of a shape."""

from __future__ import annotations

from dataclasses import dataclass

from ullava.synthetic.questions import listed
from ullava.synthetic.scene import Scene
from ullava.synthetic.vocabulary import NUMBER_WORDS, plural, with_article


@dataclass(frozen=True, slots=True)
class PlacedPhrase:
    """Words of a caption, ``span`` in its characters, and the objects that they name, by their places in the scene."""

    span: tuple[int, int]
    places: tuple[int, ...]


def placed_caption(scene: Scene) -> tuple[str, list[PlacedPhrase]]:
    """A caption that names every object once: "There are two red circles, a small blue star and three hearts.".

    Objects of one shape are one phrase, with their color where they share it. Phrases stand in the order of their
    leftmost objects, and the objects of a phrase from left to right, so that a scene has one right caption.
    """
    groups: dict[str, list[int]] = {}
    for place in sorted(range(len(scene.things)), key=lambda place: scene.things[place].centre_px[0]):
        groups.setdefault(scene.things[place].shape, []).append(place)
    start = "There are " if len(next(iter(groups.values()))) > 1 else "There is "
    caption = start + listed([_named(scene, places) for places in groups.values()]) + "."
    phrases: list[PlacedPhrase] = []
    here = len(start)
    for places in groups.values():
        words = _named(scene, places)
        begin = caption.index(words, here)
        here = begin + len(words)
        phrases.append(PlacedPhrase((begin, here), tuple(places)))
    return caption, phrases


def _named(scene: Scene, places: list[int]) -> str:
    """Words for one object in full but for its texture, or for several of one shape."""
    things = [scene.things[place] for place in places]
    if len(things) == 1:
        return with_article(f"{things[0].size} {things[0].colour} {things[0].shape}")
    colours = {thing.colour for thing in things}
    words = [NUMBER_WORDS[len(things)], things[0].colour if len(colours) == 1 else "", plural(things[0].shape)]
    return " ".join(word for word in words if word)
