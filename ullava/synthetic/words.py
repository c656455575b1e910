"""Small tasks in words alone: arithmetic, what comes next, opposites, spelling."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from ullava.synthetic.questions import Question
from ullava.synthetic.vocabulary import COLOURS, NUMBER_WORDS, SHAPES

_CYCLES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("", NUMBER_WORDS[1:]),
    ("", ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")),
    ("the letter ", tuple("abcdefghijklmnopqrstuvwxyz")),
)
_OPPOSITES: tuple[tuple[str, str], ...] = (
    ("left", "right"),
    ("large", "small"),
    ("above", "below"),
    ("first", "last"),
    ("top", "bottom"),
    ("yes", "no"),
    ("more", "less"),
    ("over", "under"),
    ("hot", "cold"),
    ("day", "night"),
    ("open", "closed"),
    ("up", "down"),
)
_WORDS: tuple[tuple[str, ...], ...] = (tuple(COLOURS), SHAPES)


def _answer(words: str, answer: str, kind: str, *also: str) -> Question:
    return Question(words, answer.capitalize() + ".", (answer, *also), kind)


def _number(words: str, number: int, kind: str) -> Question:
    also = (NUMBER_WORDS[number],) if number < len(NUMBER_WORDS) else ()
    return _answer(words, str(number), kind, *also)


def _sum(rng: Random) -> Question:
    total = rng.randint(0, 20)
    one = rng.randint(0, total)
    if rng.random() < 0.5:
        words = rng.choice(("What is {} plus {}?", "How much is {} + {}?")).format(one, total - one)
        return _number(words, total, "arithmetic")
    words = rng.choice(("What is {} minus {}?", "How much is {} - {}?")).format(total, one)
    return _number(words, total - one, "arithmetic")


def _next(rng: Random) -> Question:
    name, row = rng.choice(_CYCLES)
    place = rng.randrange(len(row) - 1)
    if rng.random() < 0.6:
        return _answer(f"What comes after {name}{row[place]}?", row[place + 1], "sequence")
    return _answer(f"What comes before {name}{row[place + 1]}?", row[place], "sequence")


def _list(rng: Random) -> Question:
    row = rng.sample(rng.choice(_WORDS), 3)
    place = rng.randrange(3)
    which = ("first", "second", "last")[place]
    return _answer(f"Which word is {which}: {', '.join(row)}?", row[place], "list")


def _opposite(rng: Random) -> Question:
    pair = list(rng.choice(_OPPOSITES))
    rng.shuffle(pair)
    return _answer(f"What is the opposite of {pair[0]}?", pair[1], "opposite")


def _letters(rng: Random) -> Question:
    word = rng.choice(rng.choice(_WORDS))
    if rng.random() < 0.5:
        return _number(f"How many letters are in {word}?", len(word), "spelling")
    end, letter = rng.choice((("first", word[0]), ("last", word[-1])))
    return _answer(f"What is the {end} letter of {word}?", letter, "spelling")


_TASKS: tuple[Callable[[Random], Question], ...] = (_sum, _sum, _next, _list, _opposite, _letters)


def word_tasks(rng: Random, turns: int = 2) -> list[Question]:
    """``turns`` different questions that need no image."""
    found: dict[str, Question] = {}
    while len(found) < turns:
        task = rng.choice(_TASKS)(rng)
        found.setdefault(task.words, task)
    return list(found.values())
