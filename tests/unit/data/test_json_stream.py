from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ullava.data.annotations import json_stream
from ullava.data.annotations.json_stream import iter_object_lists, iter_records
from ullava.errors import DataError

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)
RECORDS = st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=4), max_size=6)


@pytest.fixture(params=[1, 7, 1 << 20])
def any_read_size(request, monkeypatch):
    monkeypatch.setattr(json_stream, "READ_BYTES", request.param)


@given(records=RECORDS, indent=st.sampled_from([None, 0, 3]), ascii_only=st.booleans(), jsonl=st.booleans())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
def test_streaming_gives_what_json_gives(any_read_size, tmp_path, records, indent, ascii_only, jsonl):
    path = tmp_path / ("a.jsonl" if jsonl else "a.json")
    if jsonl:
        text = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records)
    else:
        text = json.dumps(records, indent=indent, ensure_ascii=ascii_only)
    path.write_text(text, encoding="utf-8")
    found = list(iter_records(path))
    assert [record.value for record in found] == records
    assert [record.number for record in found] == list(range(len(records)))
    assert [json.loads(record.text) for record in found] == records


def test_lines_are_those_of_an_editor(any_read_size, write):
    path = write("a.json", '[{"a": 1},\n\n  {"b":\n 2}, {"c": 3}\n]\n')
    assert [record.line for record in iter_records(path)] == [1, 3, 4]


def test_a_file_cut_off_anywhere_is_an_error_that_names_the_record(any_read_size, write):
    text = '[{"a": "b\\u00e9", "n": [1, 2.5]},\n {"c": true, "d": null}\n]'
    for end in range(1, len(text)):
        path = write("a.json", text[:end])
        with pytest.raises(DataError, match=rf"^{path}:[123]:") as caught:
            list(iter_records(path))
        if 1 < end < text.index("}"):
            assert ":1: record 0: not valid JSON" in str(caught.value)
        if text.index("{", 2) < end < text.rindex("}"):
            assert ":2: record 1: not valid JSON: the file ends inside" in str(caught.value)


def test_a_fault_in_the_middle_is_named_and_the_rest_is_not_read(write, monkeypatch):
    monkeypatch.setattr(json_stream, "READ_BYTES", 64)
    path = write("a.json", '[{"a": 1},\n{"a" 2},\n' + '{"a": 3},\n' * 5000 + '{"a": 4}]')
    read: list[int] = []
    with pytest.raises(DataError, match=r"a.json:2: record 1: not valid JSON: Expecting ':' delimiter"):
        list(iter_records(path, read.append))
    assert sum(read) < 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"", "the file is empty"),
        ("a.json", b"  \n", "the file is empty"),
        ("a.json", b'{"a": 1}', r"a.json:1: expected a JSON list"),
        ("a.json", b'[{"a": 1}] []', "text after the end of the JSON value: '\\['"),
        ("a.json", b'[{"a": 1}\n{"a": 2}]', "a.json:2: record 0: expected ',', found '{'"),
        ("a.json", b'[{"a": 1},\n]', "a.json:2: record 1: not valid JSON"),
        ("a.json", b'[{"a": 1},\n7]', "a.json:2: record 1: a record is an object {...}, not int"),
        ("a.json", b'[{"a": NaN}]', "record 0: not valid JSON: NaN is not a JSON number"),
        ("a.json", b'[{"a": "\xff\xfe"}]', "not UTF-8 text near byte"),
        ("a.json", b'[{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}]", "record 0: not valid JSON"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": }\n', "a.jsonl:3: record 1: not valid JSON: Expecting value"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "a.jsonl:2: record 1: a record is an object {...}, not list"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}', "a.jsonl:2: record 1: not valid JSON: 'utf-8' codec"),
        ("a.csv", b"a,b", r"annotations are .json .* or .jsonl"),
    ],
)
def test_what_is_wrong_is_said_with_file_line_and_record(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message.replace("{...}", r"\{\.\.\.\}")) as caught:
        list(iter_records(path))
    assert str(caught.value).startswith(str(path))


def test_a_byte_order_mark_is_passed_over(tmp_path):
    for name in ("a.json", "a.jsonl"):
        text = '[{"a": 1}]' if name == "a.json" else '{"a": 1}'
        (tmp_path / name).write_text(text, encoding="utf-8-sig")
        assert [record.value for record in iter_records(tmp_path / name)] == [{"a": 1}]


def test_a_missing_file_is_a_data_error(tmp_path):
    for name in ("a.json", "a.jsonl"):
        with pytest.raises(DataError, match="no such file"):
            list(iter_records(tmp_path / name))


def test_lists_of_one_object_are_walked_in_the_order_of_the_file(any_read_size, write):
    path = write("a.json", '{"info": {"y": [1]}, "b": [{"x": 1}],\n "version": 123, "a": [{"x": 2}, {"x": 3}]}')
    found = [(key, record.number, record.line, record.value["x"]) for key, record in iter_object_lists(path, "ab")]
    assert found == [("b", 0, 1, 1), ("a", 0, 2, 2), ("a", 1, 2, 3)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": [], "c": []}', "no list 'b' in this file"),
        ('{"a": [], "b": [], "a": []}', "key 'a' is there twice"),
        ('{"a": [], "b": [1]}', r"b\[0\]: expected an object, not int"),
        ('{"a": 5, "b": []}', r"expected '\[', found '5'"),
        ('{"a": [{}], "b": [{"x": 1}', "expected ',', found the end of the file"),
        ("[]", "expected one JSON object"),
    ],
)
def test_faults_in_an_object_of_lists(write, text, message):
    with pytest.raises(DataError, match=message):
        list(iter_object_lists(write("a.json", text), "ab"))


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("depth", [65, 900, 5000])
def test_values_that_are_nested_too_deeply_are_refused_in_one_line(tmp_path, name, depth):
    record = '{"a": ' + "[" * depth + "]" * depth + "}"
    (tmp_path / name).write_text(f"[{record}]" if name == "a.json" else record)
    with pytest.raises(DataError, match=rf"{name}:1: record 0: .*nested too deeply") as caught:
        list(iter_records(tmp_path / name))
    assert len(caught.value.problems) == 1 and len(str(caught.value).removeprefix(str(tmp_path))) < 200


def test_nesting_up_to_the_limit_and_many_short_lists_are_read(tmp_path):
    deep = "[" * (json_stream.MAX_DEPTH - 1) + "]" * (json_stream.MAX_DEPTH - 1)
    (tmp_path / "a.json").write_text('[{"a": ' + deep + '}, {"b": [' + ",".join(["[1]"] * 500) + "]}]")
    assert [record.number for record in iter_records(tmp_path / "a.json")] == [0, 1]


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize(
    ("record", "place"),
    [
        ('{"a": {"b": ["x", "\\ud83d"]}}', " of a.b[1]"),
        ('{"a": "\\uDE00 x"}', " of a"),
        ('{"\\ud83d": 1}', " of a key of the record"),
    ],
)
def test_half_a_surrogate_pair_is_refused_where_it_stands(tmp_path, name, record, place):
    (tmp_path / name).write_text(f"[{record}]" if name == "a.json" else record)
    with pytest.raises(DataError, match=rf"{name}:1: record 0: half of a surrogate pair in the text") as caught:
        list(iter_records(tmp_path / name))
    assert str(caught.value).endswith(place)
    (tmp_path / name).write_text('[{"a": "\\ud83d\\ude00"}]' if name == "a.json" else '{"a": "\\ud83d\\ude00"}')
    assert [record.value["a"] for record in iter_records(tmp_path / name)] == ["\U0001f600"]


def test_nan_in_an_object_of_lists_is_left_to_who_reads_it(write):
    found = list(iter_object_lists(write("a.json", '{"a": [{"area": NaN, "x": Infinity}]}'), "a"))
    assert str(found[0][1].value) == "{'area': nan, 'x': inf}"


@pytest.mark.parametrize("read_bytes", [1, 3, 1 << 20])
def test_bytes_that_are_not_utf8_are_told_by_line_and_byte(tmp_path, monkeypatch, read_bytes):
    monkeypatch.setattr(json_stream, "READ_BYTES", read_bytes)
    for mark in (b"", b"\xef\xbb\xbf"):
        content = mark + '[{"a": "é"},\n {"b": "'.encode() + b"\xc3\xa8\xe9x" + b'"}]'
        (tmp_path / "a.json").write_bytes(content)
        byte = content.index(b"\xe9x")
        with pytest.raises(DataError, match=rf"a.json:2: not UTF-8 text near byte {byte}; save it"):
            list(iter_records(tmp_path / "a.json"))
