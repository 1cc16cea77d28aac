"""JSON text: what is refused, and that everything accepted can be written again."""

import contextlib
import enum
import json
import time
import types
import uuid
from datetime import UTC, datetime, timedelta, timezone

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore import wire
from chatcore.errors import RequestError
from chatcore.wire.text import MAX_DEPTH

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


@given(json_values)
def test_what_is_written_is_read_again(value):
    """`loads` undoes `dumps`."""
    assert wire.loads(wire.dumps(value)) == value


@given(json_values)
def test_reads_what_others_write(value):
    """Escapes, white space and the notation of numbers make no difference."""
    assert wire.loads(json.dumps(value, indent=2).encode()) == value


@given(st.binary() | st.text().map(str.encode))
def test_whatever_comes_is_a_value_or_a_request_error(data):
    """No bytes make another error than RequestError, and what is read can be written."""
    with contextlib.suppress(RequestError):
        wire.dumps(wire.loads(data))


@given(json_values, st.data())
def test_damaged_text_is_a_value_or_a_request_error(value, data):
    """Cutting a text short or replacing a byte never makes another error."""
    text = bytearray(wire.dumps(value))
    at = data.draw(st.integers(0, len(text) - 1))
    text[at : data.draw(st.sampled_from([at + 1, len(text)]))] = data.draw(st.binary(max_size=2))
    with contextlib.suppress(RequestError):
        wire.dumps(wire.loads(bytes(text)))


@pytest.mark.parametrize("data", [b"", b" ", b"\r\n\t "])
def test_nothing_is_not_json(data):
    """An empty text is refused with words of its own."""
    with pytest.raises(RequestError, match="the text is empty"):
        wire.loads(data)


@pytest.mark.parametrize(
    ("data", "place"),
    [
        (b'{"a":1,}', "line 1, column 8"),
        (b'{"a": x}', "line 1, column 7"),
        (b"nul", "line 1, column 4"),
        (b"[1,\n 2,\n x]", "line 3, column 2"),
        (b"[1]\n x", "line 2"),
        ('["é", é]'.encode(), "line 1, column 7"),
        (b'{"a":', "line 1, column 6"),
        (b"{'a': 1}", "line 1, column 2"),
        (b'["\x01"]', "line 1, column 3"),
        (b"\xef\xbb\xbf{}", "line 1, column 1"),
    ],
)
def test_malformed_json_is_refused_with_its_place(data, place):
    """The error says in which line and column the text stops being JSON."""
    with pytest.raises(RequestError, match=place) as caught:
        wire.loads(data)
    assert caught.value.code == "bad_request"


@pytest.mark.parametrize(
    "data", [b"NaN", b"[-Infinity]", b"Infinity", b"1e999", b'{"a": -1.5e400}', b"01", b"+1", b".5"]
)
def test_numbers_that_json_does_not_have_are_refused(data):
    """NaN, infinities and what a float cannot hold are not JSON."""
    with pytest.raises(RequestError):
        wire.loads(data)


@pytest.mark.parametrize("digits", [20, 25, 5_000, 100_000])
@pytest.mark.parametrize("text", ["%s", "-%s", '{"a": [0, %s]}'])
def test_integers_of_more_than_64_bits_are_refused(digits, text):
    """They could be read, and then neither packed nor stored."""
    with pytest.raises(RequestError, match=r"64 bits|out of range"):
        wire.loads((text % ("9" * digits)).encode())


def test_the_limits_of_integers():
    """The smallest and the largest integer are read exactly; long rows of digits elsewhere are no integers."""
    text = b'[-9223372036854775808, 18446744073709551615, "99999999999999999999", 0.11111111111111111111111]'
    assert wire.loads(text) == [-(2**63), 2**64 - 1, "9" * 20, 0.11111111111111111111111]


@pytest.mark.parametrize(
    ("data", "place"),
    [(b'["\xff"]', "column 3"), (b'{"ok": "\xed\xa0\x80"}', "column 9"), (b'{"a":\n"\xc3"}', "line 2, column 2")],
)
def test_invalid_utf8_is_refused_with_its_place(data, place):
    """Bytes that are not UTF-8, encoded surrogates among them, are malformed."""
    with pytest.raises(RequestError, match=f"invalid UTF-8 at line .*{place}|invalid UTF-8 at {place}"):
        wire.loads(data)


@pytest.mark.parametrize("text", [r'"\ud800"', r'"\udc00 and more"', r'["\ud800A"]', r'{"\ude00\ud83d": 1}'])
def test_half_a_surrogate_pair_is_refused(text):
    """It has no UTF-8: to accept it would be to fail later, when it is written."""
    with pytest.raises(RequestError):
        wire.loads(text.encode())


def test_a_surrogate_pair_is_one_character():
    """Both halves together are what JSON makes of characters beyond 16 bits."""
    assert wire.loads(rb'"\ud83d\ude00"') == "😀"


def test_the_last_of_equal_keys_counts():
    """Equal keys are allowed, as in all of JavaScript."""
    assert wire.loads(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 10_000,
        b"[" * 10_000 + b"]" * 10_000,
        b'{"a":' * 10_000 + b"1" + b"}" * 10_000,
        b"[" * 1_000_000,
        b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
        b'[{"a":' * 60 + b"1" + b"}]" * 60,
    ],
    ids=["open", "closed", "objects", "million", "one too many", "mixed"],
)
def test_deep_nesting_is_refused_fast(data):
    """More than a hundred levels are an error of the request, and not of the server."""
    begin = time.thread_time()
    with pytest.raises(RequestError, match=r"nested deeper than 100 levels"):
        wire.loads(data)
    assert time.thread_time() - begin < 0.5


def test_as_many_levels_as_allowed_are_read():
    """A hundred levels are fine, with something in the innermost or nothing."""
    for inner in (b"", b"1", b'"x"'):
        assert wire.loads(b"[" * MAX_DEPTH + inner + b"]" * MAX_DEPTH)


def test_brackets_inside_of_strings_do_not_count():
    """Only arrays and objects are levels."""
    text = "[" * 10_000 + "{" * 10_000
    assert wire.loads(json.dumps({"a": text, text: [text]}).encode()) == {"a": text, text: [text]}


def test_many_brackets_beside_each_other_are_not_deep():
    """The number of arrays does not matter, their depth does."""
    assert wire.loads(b"[" + b"[[]]," * 50_000 + b"[]]")[:2] == [[[]], [[]]]


class Colour(enum.Enum):
    RED = "red"


@attrs.frozen
class Point:
    x: int
    at: datetime | None = None


def test_writes_values_of_python():
    """attrs values, tuples, sets, times, UUIDs, enums, bytes and any mapping have a form in JSON."""
    value = {
        "point": Point(1, datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=-5)))),
        "utc": datetime(2026, 1, 31, 12, tzinfo=UTC),
        "tuple": (1, (2,)),
        "set": frozenset({"a"}),
        "uuid": uuid.UUID(int=1),
        "enum": Colour.RED,
        "bytes": b"ab",
        "mapping": types.MappingProxyType({"a": 1}),
        "nan": float("nan"),
        1: "integer key",
    }
    assert json.loads(wire.dumps(value)) == {
        "point": {"x": 1, "at": "2026-01-31T12:00:00-05:00"},
        "utc": "2026-01-31T12:00:00Z",
        "tuple": [1, [2]],
        "set": ["a"],
        "uuid": "00000000-0000-0000-0000-000000000001",
        "enum": "red",
        "bytes": "YWI=",
        "mapping": {"a": 1},
        "nan": None,
        "1": "integer key",
    }


def test_writes_compact_utf8():
    """No spaces, no escapes that are not needed, and no line ends inside: fit for an event stream."""
    assert wire.dumps({"a": ["é\n", 1]}) == '{"a":["é\\n",1]}'.encode()


def test_equal_values_have_one_canonical_text():
    """The order of keys is the only thing in which equal values may differ, at any depth."""
    assert wire.canonical({"b": [{"d": 1, "c": "é"}], "a": None}) == '{"a":null,"b":[{"c":"é","d":1}]}'.encode()
    assert wire.canonical({"a": Point(1)}) == b'{"a":{"at":null,"x":1}}'
    assert wire.canonical({"a": "x\ud800"}) == b'{"a":"x?"}'


def test_half_a_surrogate_pair_is_written_as_a_question_mark():
    """A tool's text may hold one; to write it must not fail, whatever else is in the value."""
    text = wire.dumps({"a": "x\ud800", "\udc00": (Point(1), float("nan"))})
    assert json.loads(text) == {"a": "x?", "?": [{"x": 1, "at": None}, None]}


@pytest.mark.parametrize("value", [object(), {"a": print}, [1j], {(1, 2): 3}])
def test_what_has_no_form_in_json_is_a_type_error(value):
    """There is no silent str() of anything."""
    with pytest.raises(TypeError):
        wire.dumps(value)
    with pytest.raises(TypeError):
        wire.unstructure(value)


@given(json_values)
def test_unstructured_values_are_written_alike(value):
    """`unstructure` gives plain values of which `dumps` makes the same text."""
    wrapped = {"value": value, "point": Point(1)}
    assert wire.dumps(wire.unstructure(wrapped)) == wire.dumps(wrapped)
    assert wire.unstructure(wrapped)["point"] == {"x": 1, "at": None}
