"""Expressions that mean objects of a clip by what they do, with what they mean; unambiguous by construction.

A sentence may be read narrowly (what "moves left" does nothing else) or broadly (at some time it moves left). An
expression is only used where both readings mean the same objects: "the" and a noun in the singular where that is one
object, in the plural where it is several, and an expression of something absent where the broad one finds nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from ullava.synthetic.questions import Question
from ullava.synthetic.scene import rng_of
from ullava.synthetic.tracks import Actor, Deed, Play
from ullava.synthetic.vocabulary import HELD_OUT, MOTIONS, plural

PRESENT_AT_MOST = 4
ABSENT_SHARE = 0.5
NAMED_PER_CLIP = 8
ABSENT_NAMED = 2
FIRST_BY_FRAMES = 2
"""What moves first, or last, sets out so many frames before, or after, every other."""
_SHAPE = "shape"


@dataclass(frozen=True, slots=True)
class Expression:
    """Words, the places in ``Play.actors`` of what they mean (none: it is not there), and their kind.

    ``called``: the places of what the noun alone fits.
    """

    words: str
    targets: tuple[int, ...]
    kind: str
    called: tuple[int, ...]


class Noun(NamedTuple):
    """What an object is called: color and shape, either or neither."""

    color: str | None
    shape: str | None

    def fits(self, actor: Actor) -> bool:
        """Whether an object may be called so."""
        return self.color in (None, actor.thing.colour) and self.shape in (None, actor.thing.shape)

    def words(self, several: bool) -> str:
        """ "red circle", "circles", "red shapes" ..."""
        named = " ".join(word for word in (self.color, self.shape or _SHAPE) if word)
        return plural(named) if several else named


class Predicate(NamedTuple):
    """What is said of an object: in the singular and the plural, and the narrow and the broad reading."""

    kind: str
    one: str
    several: str
    narrow: Callable[[Deed], bool]
    broad: Callable[[Deed], bool]


def expressions(play: Play) -> list[Expression]:
    """Return up to five expressions of a clip, of different kinds as far as there are.

    Words of ``train`` and ``seen`` never join a held-out color and shape; in ``unseen`` whatever names both names a
    held-out pair, and the first expression does.
    """
    rng = rng_of(play.split, play.seed, play.index, "play words")
    kinds: dict[str, list[Expression]] = defaultdict(list)
    for found in _present(play):
        kinds[found.kind].append(found)
    chosen: list[Expression] = []
    if play.split == "unseen":
        naming = [found for group in kinds.values() for found in group if _names_held_out(found.words)]
        chosen = [rng.choice(naming)]  # the first object's own name is one
    order = sorted(kinds)
    rng.shuffle(order)
    for kind in order[: PRESENT_AT_MOST - len(chosen)]:
        chosen.append(rng.choice(kinds[kind]))
    chosen = list({found.words: found for found in chosen}.values())
    if rng.random() < ABSENT_SHARE:
        absent = _absent(play)
        chosen += [rng.choice(absent)] if absent else []
    return chosen


def namings(play: Play) -> list[Question]:
    """Return up to eight questions of a clip that its movements answer: "Name the shape that moves left." "red star.".

    A mask takes long to draw and teaches one bit: which shape was meant. A name takes two words, so a row holds many of
    them. Only expressions whose noun fits shapes of different names are asked, and at most two about what is not there:
    a model that may go by the noun does not look at what moves.
    """
    rng = rng_of(play.split, play.seed, play.index, "play namings")
    absent = _absent(play)
    left_open = [one for one in _present(play) if len({play.actors[place].thing.pair for place in one.called}) > 1]
    left_open += rng.sample(absent, min(len(absent), ABSENT_NAMED))
    chosen = rng.sample(left_open, min(len(left_open), NAMED_PER_CLIP))
    return [_naming(play, one) for one in chosen]


def left_to_right(play: Play, expression: Expression) -> list[int]:
    """Return the targets of an expression by where they are at first."""
    return sorted(expression.targets, key=lambda place: play.actors[place].centres_px[0])


def _naming(play: Play, expression: Expression) -> Question:
    names = ", ".join(" ".join(play.actors[place].thing.pair) for place in left_to_right(play, expression)) or "none"
    return Question(f"Name {expression.words}.", f"{names}.", (names,), expression.kind)


# ---------------------------------------------------------------- what can be said
def _present(play: Play) -> list[Expression]:
    """Every expression of the grammar that means something in the clip."""
    found: dict[str, Expression] = {}
    for noun in _nouns(play):
        for predicate in [None, *_PREDICATES]:
            targets = _meant(play, noun, predicate)
            if not targets or predicate is None and noun == (None, None):
                continue
            several = len(targets) > 1
            if several and len(targets) == len(play.actors) and noun == (None, None):
                continue  # "the shapes that move" of a clip where nothing else is asks for no choice
            words = f"the {noun.words(several)}"
            kind = "named"
            if predicate is not None:
                words += f" that {predicate.several if several else predicate.one}"
                kind = predicate.kind
            found[words] = Expression(words, targets, f"several {kind}" if several else kind, _meant(play, noun, None))
    return [*found.values(), *_in_order(play)]


def _absent(play: Play) -> list[Expression]:
    """Expressions that nothing in the clip fits in either reading: what is called so does something else."""
    found = []
    for noun in _nouns(play):
        if noun == (None, None):
            continue
        for predicate in _PREDICATES:
            if not any(noun.fits(actor) and predicate.broad(actor.deed) for actor in play.actors):
                words = f"the {noun.words(False)} that {predicate.one}"
                found.append(Expression(words, (), "absent", _meant(play, noun, None)))
    return found


def _meant(play: Play, noun: Noun, predicate: Predicate | None) -> tuple[int, ...]:
    """Return the places of what is meant; nothing where the two readings differ."""
    called = [place for place, actor in enumerate(play.actors) if noun.fits(actor)]
    if predicate is None:
        return tuple(called)
    narrow = [place for place in called if predicate.narrow(play.actors[place].deed)]
    broad = [place for place in called if predicate.broad(play.actors[place].deed)]
    return tuple(narrow) if narrow == broad else ()


def _nouns(play: Play) -> list[Noun]:
    """The nouns of what the clip shows, held-out pairs as the split wants them."""
    nouns = {Noun(None, None)}
    for actor in play.actors:
        color, shape = actor.thing.pair
        nouns |= {Noun(None, shape), Noun(color, None)}
        if ((color, shape) in HELD_OUT) == (play.split == "unseen"):
            nouns.add(Noun(color, shape))
    return sorted(nouns, key=lambda noun: (noun.color or "", noun.shape or ""))


def _in_order(play: Play) -> list[Expression]:
    """ "the shape that moves first" and "last", where two or more move and one is clearly so."""
    starts = sorted((actor.deed.start, place) for place, actor in enumerate(play.actors) if actor.deed.ways)
    if len(starts) < 2:
        return []
    found, every = [], tuple(range(len(play.actors)))
    if starts[1][0] - starts[0][0] >= FIRST_BY_FRAMES:
        found.append(Expression("the shape that moves first", (starts[0][1],), "order", every))
    if starts[-1][0] - starts[-2][0] >= FIRST_BY_FRAMES:
        found.append(Expression("the shape that moves last", (starts[-1][1],), "order", every))
    return found


def _names_held_out(words: str) -> bool:
    return any(f"{color} {name}" in words for color, shape in HELD_OUT for name in (shape, plural(shape)))


# ---------------------------------------------------------------- the two readings
def _is_hidden(deed: Deed) -> bool:
    return deed.ending == "hidden"


def _ever_hidden(deed: Deed) -> bool:
    return deed.ending == "hidden" or deed.returns


def _moves(way: str) -> Predicate:
    return Predicate(
        "moves",
        f"moves {way}",
        f"move {way}",
        lambda deed: deed.ways == (way,) and deed.ending == "seen" and not deed.returns,
        lambda deed: way in deed.ways,
    )


def _moves_and(way: str, kind: str, one: str, several: str, then: Callable[[Deed], bool]) -> Predicate:
    """A direction, and what comes after it; broadly the direction is one of several."""
    return Predicate(
        kind,
        f"moves {way} and then {one}",
        f"move {way} and then {several}",
        lambda deed: deed.ways == (way,) and then(deed),
        lambda deed: way in deed.ways and (then(deed) or kind == "hides" and _ever_hidden(deed)),
    )


def _turns(first: str, second: str) -> Predicate:
    def turned(deed: Deed) -> bool:
        return deed.ways == (first, second)

    return Predicate("turns", f"moves {first} and then {second}", f"move {first} and then {second}", turned, turned)


def _predicates() -> list[Predicate]:
    def stays(deed: Deed) -> bool:
        return not deed.ways

    def moves(deed: Deed) -> bool:
        return bool(deed.ways)

    def returns(deed: Deed) -> bool:
        return deed.returns

    def leaves(deed: Deed) -> bool:
        return deed.ending == "gone"

    found = [
        Predicate("stays", "stays", "stay", stays, stays),
        Predicate("moves", "moves", "move", moves, moves),
        Predicate("hides", "hides", "hide", _is_hidden, _ever_hidden),
        Predicate("returns", "hides and comes back", "hide and come back", returns, returns),
        Predicate("leaves", "leaves the picture", "leave the picture", leaves, leaves),
    ]
    for way in MOTIONS:
        found.append(_moves(way))
        found.append(_moves_and(way, "hides", "hides", "hide", _is_hidden))
        found.append(_moves_and(way, "leaves", "leaves the picture", "leave the picture", leaves))
        found += [_turns(way, other) for other in MOTIONS if other != way]
    return found


_PREDICATES = _predicates()
