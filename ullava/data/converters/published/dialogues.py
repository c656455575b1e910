"""Conversations and questions in words as their authors publish them: ScienceQA, Alpaca, ShareGPT, TGIF."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ullava.data.annotations.encodings import read_text
from ullava.data.annotations.json_stream import JsonRecord, iter_records
from ullava.data.converters.published.source import (
    MAX_PROBLEMS,
    Converted,
    OriginalSource,
    Skipped,
    chosen_part,
    is_in_part,
    read_json,
    row,
)
from ullava.data.readers.record import Record
from ullava.errors import DataError, SampleError
from ullava.given_files import open_plain
from ullava.text.tokens import IMAGE_MARKER

HUMANS = ("human", "user")
MODELS = ("gpt", "chatgpt", "assistant", "bing", "bard", "model")
LETTERS = "ABCDEFGHIJ"
TGIF_QUESTION = "What happens in this clip?"


def alpaca_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield a conversation of one turn for each ``{instruction, input, output}``; an ``input`` follows on a new line.

    Records without an answer are left out and named.
    """
    for record in iter_records(source.annotations, on_read):
        checked = _checked(source, record)
        with_input = _text_or_blank(checked, "input")
        question = checked.text("instruction") + (f"\n{with_input}" if with_input else "")
        answer = _text_or_blank(checked, "output")
        if answer:
            yield row(_conversation(record.number, [(question, answer)]), "", record.line)
        else:
            yield Skipped(f"record {record.number}", "the answer is blank")


def sharegpt_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield each ``{id, conversations: [{from, value}]}`` as questions and answers.

    A ``system`` message goes in front of the first question. Left out and named: conversations that do not begin with a
    question or do not alternate, blank messages, and a last question without an answer (that question alone).
    """
    for record in iter_records(source.annotations, on_read):
        checked = _checked(source, record)
        messages = [
            (part.text("from").lower(), _text_or_blank(part, "value")) for part in checked.parts("conversations")
        ]
        name = f"record {record.number}"
        system = ""
        if messages and messages[0][0] == "system":
            system = messages.pop(0)[1]
        strange = sorted({speaker for speaker, _ in messages} - {*HUMANS, *MODELS})
        reason = _unusable(messages)
        if strange:
            yield Skipped(name, f"'{strange[0]}' speaks in it")
        elif reason:
            yield Skipped(name, reason)
        else:
            if len(messages) % 2:
                yield Skipped(f"{name}, message {len(messages) - 1}", "the last question has no answer")
            texts = [text for _, text in messages]
            texts[0] = f"{system}\n\n{texts[0]}" if system else texts[0]
            turns = list(zip(texts[::2], texts[1::2], strict=False))
            yield row(_conversation(record.value.get("id", record.number), turns), "", record.line)


def scienceqa_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one question of several choices for each problem of the part, with its image where it has one.

    ``annotations`` is ``problems.json`` ({id: {question, choices, answer, hint, image, lecture, solution, split}}), an
    image lies at ``<part>/<id>/image.png`` (https://github.com/lupantech/ScienceQA). The answer names the letter and
    gives lecture and solution as the reason; ``accepted`` are the letter and the choice in words.
    """
    problems = read_json(source.annotations)
    if not isinstance(problems, dict):
        source.fail("an object {id: problem} is expected")
    part = chosen_part(source, problems.values(), "problem")
    faults: list[str] = []
    for number, value in problems.items():
        try:
            if not is_in_part(value, part):
                continue
            record = _problem(source, number, value)
        except (SampleError, TypeError) as error:
            faults.append(_reason(source, number, error))
            if len(faults) >= MAX_PROBLEMS:
                break
            continue
        yield row(record, record.get("image", ""))
    if faults:
        raise DataError(faults)


def tgif_rows(source: OriginalSource, facts: dict[str, Any], on_read: Callable[[int], object]) -> Converted:
    """Yield one caption for each line ``url <tab> sentence`` of ``tgif-v1.0.tsv``; the GIF is named as the url ends.

    ``companion`` lists the urls of the split (the authors' ``train.txt``). See https://github.com/raingo/TGIF-Release.
    """
    wanted = None
    if source.companion is not None:
        wanted = set(read_text(source.other()).split())
    for line, url, caption in _tsv(source, on_read):
        if wanted is not None and url not in wanted:
            continue
        name = source.image(url.rsplit("/", 1)[1])
        turns = [{"from": "human", "value": TGIF_QUESTION}, {"from": "gpt", "value": caption}]
        yield row({"id": f"line {line}", "gif": name, "conversations": turns}, name, line)


def _tsv(source: OriginalSource, on_read: Callable[[int], object]) -> Iterator[tuple[int, str, str]]:
    with open_plain(source.annotations) as file:
        for line, raw in enumerate(file, start=1):
            on_read(len(raw))
            where = f"{source.annotations}:{line}"
            try:
                fields = raw.decode("utf-8").rstrip("\r\n").split("\t")
            except UnicodeDecodeError as error:
                raise DataError(f"{where}: not UTF-8 text") from error
            if len(fields) != 2 or "/" not in fields[0] or not fields[1].strip():
                raise DataError(f"{where}: expected a url, a tab and a sentence (is the line cut off?)")
            yield line, fields[0].strip(), fields[1].strip()


def _problem(source: OriginalSource, number: str, value: Any) -> dict[str, Any]:
    problem = Record({"problem": value}, number, lambda: f"{source.annotations}: problem {number}").part(value, number)
    choices, answer = problem.texts("choices"), problem.integer("answer")
    if not 0 <= answer < len(choices) or len(choices) > len(LETTERS):
        problem.fail(f"'answer' is {answer}, but there are {len(choices)} choices")
    hint = _text_or_blank(problem, "hint")
    options = " ".join(f"({letter}) {choice}" for letter, choice in zip(LETTERS, choices, strict=False))
    lines = [f"Context: {hint}"] if hint else []
    lines += [problem.text("question"), f"Options: {options}"]
    reasons = [text for key in ("lecture", "solution") if (text := _text_or_blank(problem, key))]
    reply = f"The answer is {LETTERS[answer]}." + (f"\nBECAUSE: {' '.join(reasons)}" if reasons else "")
    image = problem.value.get("image")
    marker = f"{IMAGE_MARKER}\n" if image else ""
    record = _conversation(number, [(marker + "\n".join(lines), reply)])
    if image:
        part = problem.text("split")
        record["image"] = source.image(f"{part}/{number}/{problem.text('image')}")
    return record | {"answer_type": "choice", "accepted": [LETTERS[answer], choices[answer]]}


def _reason(source: OriginalSource, number: str, error: SampleError | TypeError) -> str:
    return error.reason if isinstance(error, SampleError) else f"{source.annotations}: problem {number}: {error}"


def _conversation(number: object, turns: list[tuple[str, str]]) -> dict[str, Any]:
    messages = [
        {"from": speaker, "value": text}
        for question, answer in turns
        for speaker, text in (("human", question), ("gpt", answer))
    ]
    return {"id": str(number), "conversations": messages}


def _unusable(messages: list[tuple[str, str]]) -> str:
    """Return why a conversation is not questions and answers in turn; '' where it is."""
    if not messages or messages[0][0] not in HUMANS:
        return "it does not begin with a question"
    if any(speaker not in (HUMANS, MODELS)[place % 2] for place, (speaker, _) in enumerate(messages)):
        return "questions and answers do not alternate"
    if len(messages) < 2:
        return "it has no answer"
    return "a message is blank" if any(not text for _, text in messages) else ""


def _checked(source: OriginalSource, record: JsonRecord) -> Record:
    where = f"{source.annotations}:{record.line}: record {record.number}"
    return Record(record.value, f"record {record.number}", lambda: where)


def _text_or_blank(record: Record, key: str) -> str:
    value = record.value.get(key, "")
    if value is None:
        return ""
    if not isinstance(value, str):
        record.fail(f"'{key}' has to be text, not {type(value).__name__}")
    return value.strip()
