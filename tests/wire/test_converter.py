"""From plain values to attrs values: nothing is converted, and everything that is wrong is told with its path."""

import contextlib
import enum
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated, Any, Literal, NewType, get_type_hints
from uuid import UUID

import attrs
import pytest
from attrs import validators
from hypothesis import given, settings
from hypothesis import strategies as st

from chatcore import types, wire
from chatcore.errors import ValidationFailed
from chatcore.tools import JsonObject, ToolCall, ToolResult
from chatcore.wire.converter import MAX_PROBLEMS

from .test_text import json_values


def problems(value: Any, type_: Any) -> dict[str, str]:
    """What is wrong, by path."""
    with pytest.raises(ValidationFailed) as caught:
        wire.structure(value, type_)
    assert caught.value.status == 422
    return {problem.path: problem.message for problem in caught.value.problems}


# --- single values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "good"),
    [
        (str, "5"),
        (str, ""),
        (int, 5),
        (int, -(2**63)),
        (float, 1.5),
        (bool, True),
        (None, None),
        (Any, {"a": [1]}),
        (Literal["a", 1], 1),
        (UUID, "00000000-0000-0000-0000-000000000001"),
        (datetime, "2026-01-31T12:00:00Z"),
    ],
)
def test_takes_what_is_of_the_type(type_, good):
    """A value of the type is itself, or what stands for it."""
    assert wire.loads(wire.dumps(wire.structure(good, type_))) == good


@pytest.mark.parametrize(
    ("type_", "bad"),
    [
        (str, 5),
        (str, None),
        (str, ["a"]),
        (int, "5"),
        (int, 1.0),
        (int, True),
        (int, None),
        (int, 2**63),
        (float, "1.5"),
        (float, True),
        (float, float("nan")),
        (float, float("inf")),
        (float, 10**400),
        (bool, 1),
        (bool, "true"),
        (bool, None),
        (None, 0),
        (UUID, "1"),
        (UUID, 1),
        (datetime, "today"),
        (datetime, 1769860800),
        (datetime, "2026-01-31"),
        (datetime, "2026-01-31T12:00:00"),
        (Literal["a", 1], True),
        (Literal["a", 1], 1.0),
        (Literal["a", 1], ["a"]),
        (Literal["a", 1], {}),
        (Literal[True], 1),
        (bytes, "YWI="),
        (Path, "data"),
    ],
)
def test_converts_nothing(type_, bad):
    """A value of another type is refused, however near it is."""
    assert list(problems(bad, type_)) == ["$"]


def test_an_integer_is_a_float():
    """JSON has one kind of number: 1 may be written for 1.0, and is a float then."""
    result = wire.structure(1, float)
    assert result == 1.0
    assert isinstance(result, float)


def test_the_words_for_a_wrong_type_are_those_of_json():
    """The reader writes JSON and not Python."""
    assert problems(5, str) == {"$": "must be a string, not an integer"}
    assert problems([], dict[str, int]) == {"$": "must be an object, not an array"}
    assert problems(None, list[int]) == {"$": "must be an array, not null"}
    assert problems("x", int | float | None) == {"$": "must be an integer or a number or null, not a string"}


def test_a_time_keeps_its_offset():
    """Times are the same moment in the same offset afterwards."""
    result = wire.structure("2026-01-31T12:00:00-05:00", datetime)
    assert result == datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=-5)))


def test_what_json_does_not_have_passes_as_an_instance():
    """Settings hold paths, and a configuration file has times of its own."""
    now = datetime.now(UTC)
    assert wire.structure(Path("data"), Path | None) == Path("data")
    assert wire.structure(now, datetime) is now
    assert wire.structure({"raw": b"x"}, Mapping[str, bytes]) == {"raw": b"x"}


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    LOW = 1


Name = NewType("Name", str)


@attrs.frozen
class Special:
    colour: Colour = Colour.RED
    level: Level | None = None
    colours: tuple[Colour, ...] = ()
    name: Name = Name("")
    size: Annotated[int, "pixels"] = 0


def test_an_enum_is_had_by_its_value():
    """Also one of strings or integers, which is not a string or an integer."""
    value = wire.structure({"colour": "red", "level": 1, "colours": ["red"], "name": "n", "size": 2}, Special)
    assert value == Special(Colour.RED, Level.LOW, (Colour.RED,), Name("n"), 2)
    assert wire.structure("red", Colour) is Colour.RED
    assert wire.structure({"colour": "red"}, dict[str, Colour])["colour"] is Colour.RED
    assert problems({"colour": "RED", "level": True, "colours": ["blue"], "name": 1, "size": "2"}, Special) == {
        "$.colour": "must be one of 'red'",
        "$.level": "must be one of 1",
        "$.colours[0]": "must be one of 'red'",
        "$.name": "must be a string, not an integer",
        "$.size": "must be an integer, not a string",
    }


# --- arrays and objects -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("type_", "expected"),
    [
        (list[int], [1, 2]),
        (list, [1, 2]),
        (tuple[int, ...], (1, 2)),
        (Sequence[int], (1, 2)),
        (set[int], {1, 2}),
        (frozenset[int], frozenset({1, 2})),
    ],
)
def test_arrays(type_, expected):
    """Each of Python's kinds of arrays is made from a JSON array."""
    result = wire.structure([1, 2], type_)
    assert result == expected
    assert type(result) is type(expected)


def test_a_string_is_not_an_array():
    """Though Python iterates over it."""
    assert problems("ab", tuple[str, ...]) == {"$": "must be an array, not a string"}
    assert problems({"a": 1}, list[str]) == {"$": "must be an array, not an object"}


def test_problems_of_items_have_their_index_or_key():
    """A key that is not a plain name is quoted."""
    assert problems([1, "x", 2, None], list[int]) == {
        "$[1]": "must be an integer, not a string",
        "$[3]": "must be an integer, not null",
    }
    assert list(problems({"a": "x", "b c": "y", "1": 1}, dict[str, int])) == ["$.a", "$['b c']"]
    assert list(problems({"a": [[1], ["x"]]}, Mapping[str, list[list[int]]])) == ["$.a[1][0]"]


def test_a_json_object_is_kept_as_it_came():
    """Nothing in it is looked at or copied."""
    value = {"a": [1, {"b": None}], "": 1.5}
    assert wire.structure(value, JsonObject) is value


def test_an_array_of_different_types_is_not_supported():
    """`tuple[int, str]` is a mistake of the programmer."""
    with pytest.raises(TypeError, match="one type"):
        wire.structure([1, "a"], tuple[int, str])


# --- attrs classes ----------------------------------------------------------------------------------------------------


@attrs.frozen
class Part:
    kind: Literal["text", "image"]
    text: str | None = None


@attrs.frozen
class Line:
    role: Literal["user", "assistant"]
    content: str | tuple[Part, ...] | None = None
    created: datetime | None = None


@attrs.frozen(kw_only=True)
class Body:
    messages: tuple[Line, ...]
    model: str | None = None
    temperature: float = attrs.field(default=1.0, validator=[validators.ge(0), validators.le(2)])
    name: str = attrs.field(default="chat", validator=validators.matches_re("[a-z]+"))
    tags: tuple[str, ...] = attrs.field(default=(), validator=validators.max_len(2))


@attrs.frozen(kw_only=True)
class Open(Body):
    extra: JsonObject = wire.rest()


def test_all_problems_are_told_at_once_with_their_paths():
    """Missing, unknown, of the wrong type, out of range: one answer has them all."""
    value = {
        "messages": [
            {"role": "user", "content": "hi"},
            {"role": "robot", "content": [{"kind": "text"}, {"kind": "sound", "text": 1}, "x"]},
            {"content": 5, "created": "now", "rolle": "user"},
            7,
        ],
        "modle": "x",
        "temperature": 3,
        "name": "No",
        "tags": ["a", "b", "c"],
    }
    found = problems(value, Body)
    assert list(found) == [
        "$.modle",
        "$.messages[1].role",
        "$.messages[1].content[1].kind",
        "$.messages[1].content[1].text",
        "$.messages[1].content[2]",
        "$.messages[2].rolle",
        "$.messages[2].role",
        "$.messages[2].content",
        "$.messages[2].created",
        "$.messages[3]",
        "$.temperature",
        "$.name",
        "$.tags",
    ]
    assert found["$.messages[1].role"] == "must be one of 'user', 'assistant'"
    assert found["$.messages[2].role"] == "is missing"
    assert found["$.messages[3]"] == "must be an object, not an integer"
    assert found["$.temperature"] == "must be <= 2: 3.0"
    assert found["$.name"].startswith("must match regex")
    assert found["$.tags"].startswith("Length of 'tags' must be <= 2")


def test_an_unknown_key_is_a_problem_with_a_suggestion():
    """A misspelt field is not silently its default."""
    assert problems({"messages": [], "modle": "x", "zzz": 1}, Body) == {
        "$.modle": "is not known: did you mean 'model'?",
        "$.zzz": "is not known",
    }


def test_a_class_with_a_rest_takes_unknown_keys():
    """All of them, a key with the name of the rest among them, and the problems of the known ones are still told."""
    value = wire.structure({"messages": [], "top_k": 5, "extra": {"a": 1}}, Open)
    assert value.extra == {"top_k": 5, "extra": {"a": 1}}
    assert wire.structure({"messages": []}, Open).extra == {}
    assert problems({"messages": 1, "top_k": 5}, Open) == {"$.messages": "must be an array, not an integer"}


def test_null_is_not_absence():
    """A field with a default may be left out; null is for those that say so."""
    assert wire.structure({"messages": [], "model": None}, Body).model is None
    assert list(problems({"messages": None, "temperature": None}, Body)) == ["$.messages", "$.temperature"]


@pytest.mark.parametrize("value", ["x", 5, None, [], [["messages", []]], True])
def test_only_an_object_is_an_attrs_value(value):
    """Anything else has one problem, at its own path."""
    assert list(problems(value, Body)) == ["$"]


@attrs.frozen
class Span:
    start: int
    end: int = attrs.field()
    step: int = attrs.field(default=2)

    @end.validator
    def _ordered(self, attribute: "attrs.Attribute[int]", value: int) -> None:
        if value < self.start:
            raise ValueError("end is before start")

    @step.validator
    def _even(self, attribute: "attrs.Attribute[int]", value: int) -> None:
        if value % 2:
            raise ValueError("must be even")


def test_validators_of_ones_own():
    """One that looks at its own value has the field's path; one that looks at the others, the object's."""
    assert wire.structure([{"start": 1, "end": 2}], list[Span]) == [Span(1, 2)]
    assert problems([{"start": 1, "end": 2, "step": 3}], list[Span]) == {"$[0].step": "must be even"}
    assert problems([{"start": 3, "end": 2}], list[Span]) == {"$[0]": "end is before start"}


@attrs.frozen
class Broken:
    x: int = attrs.field(default=0)

    @x.validator
    def _broken(self, attribute: "attrs.Attribute[int]", value: int) -> None:
        raise LookupError("a bug")


def test_a_bug_in_a_validator_is_not_a_problem_of_the_value():
    """It comes through as what it is."""
    with pytest.raises(LookupError, match="a bug"):
        wire.structure({"x": 1}, Broken)


@attrs.frozen
class Tree:
    name: str
    children: "tuple[Tree, ...]" = ()
    by_name: "Mapping[str, Tree]" = attrs.field(factory=dict)
    next: "Tree | None" = None


def test_a_class_may_hold_itself():
    """In arrays, in objects, and as an optional field."""
    value = {"name": "a", "children": [{"name": "b", "next": {"name": "c"}}], "by_name": {"d": {"name": "d"}}}
    assert wire.structure(value, Tree) == Tree("a", (Tree("b", next=Tree("c")),), {"d": Tree("d")})
    value["children"][0]["next"]["name"] = 1
    assert list(problems(value, Tree)) == ["$.children[0].next.name"]


def test_a_problem_far_down_is_found_fast():
    """The time does not grow with a power of the depth."""
    value: dict[str, Any] = {"name": 1}
    for _ in range(95):
        value = {"name": "x", "children": [value]}
    begin = time.thread_time()
    assert list(problems(value, Tree)) == ["$" + ".children[0]" * 95 + ".name"]
    assert time.thread_time() - begin < 0.5


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ([1] * 300_000, list[str]),
        ({f"modle{n}": n for n in range(300_000)}, Body),
        ({"m" * 5_000_000: 1, "messages": []}, Body),
        ([{"x" * 1000: 1}] * 5000, list[Part]),
    ],
    ids=["items", "keys", "long key", "objects"],
)
def test_the_answer_to_a_body_full_of_problems_stays_small(value, type_):
    """There is a limit to how much is told, and finding it takes no long time."""
    begin = time.thread_time()
    with pytest.raises(ValidationFailed) as caught:
        wire.structure(value, type_)
    assert time.thread_time() - begin < 1
    assert len(caught.value.problems) <= MAX_PROBLEMS + len(attrs.fields(Body))
    assert len(str(caught.value)) < 20_000


# --- unions -----------------------------------------------------------------------------------------------------------


@attrs.frozen
class Text:
    text: str
    type: Literal["text", "markdown"] = "text"


@attrs.frozen
class Image:
    url: str
    type: Literal["image"] = "image"


@attrs.frozen
class Circle:
    radius: float


@attrs.frozen
class Square:
    side: float


def test_the_members_of_a_union_are_told_apart_by_their_json():
    """Text, array, object and null are never mistaken for each other."""
    type_ = str | tuple[JsonObject, ...] | Circle | None
    assert wire.structure("a", type_) == "a"
    assert wire.structure([{"a": 1}], type_) == ({"a": 1},)
    assert wire.structure({"radius": 1}, type_) == Circle(1.0)
    assert wire.structure(None, type_) is None
    assert problems(1, type_) == {"$": "must be a string or an array or an object or null, not an integer"}
    assert problems([1], type_) == {"$[0]": "must be an object, not an integer"}
    assert problems({}, type_) == {"$.radius": "is missing"}


def test_classes_with_a_tag_are_told_apart_by_it():
    """The tag is the field that is a literal in all of them; the other problems are those of the class it names."""
    assert wire.structure({"type": "image", "url": "u"}, Text | Image) == Image("u")
    assert wire.structure([{"type": "markdown", "text": "t"}], list[Text | Image]) == [Text("t", "markdown")]
    assert problems({"type": "image", "text": "t"}, Text | Image) == {
        "$.text": "is not known",
        "$.url": "is missing",
    }
    assert problems([{"type": "sound"}, {"type": ["text"]}, {}], list[Text | Image]) == {
        "$[0].type": "must be one of 'text', 'markdown', 'image'",
        "$[1].type": "must be one of 'text', 'markdown', 'image'",
        "$[2].type": "is missing",
    }


def test_classes_without_a_tag_are_tried_in_order():
    """The first that fits is taken; if none does, the problems of all are told."""
    assert wire.structure({"side": 2}, Circle | Square) == Square(2.0)
    assert set(problems({}, Circle | Square)) == {"$.radius", "$.side"}


def test_anything_may_be_anything():
    """A union with `Any` takes what `Any` takes."""
    for value in (None, 1, "a", [1], {"a": [None]}):
        assert wire.structure(value, Any | None) == value
        assert wire.structure({"value": value}, dict[str, Any]) == {"value": value}


def test_a_number_may_be_either():
    """An integer stays one where both are allowed."""
    assert wire.structure([1, 1.5], list[int | float]) == [1, 1.5]
    assert type(wire.structure(1, int | float)) is int


# --- the types of chatcore --------------------------------------------------------------------------------------------

moments = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1), timezones=st.timezones()).map(
    lambda moment: moment.astimezone(UTC)
)
json_objects = st.dictionaries(st.text(max_size=8), st.none() | st.integers(0, 9) | st.text(max_size=8), max_size=3)
_STRATEGIES = {
    Any: json_values,
    JsonObject: json_objects,
    types.Content: st.none() | st.text() | st.lists(json_objects, max_size=3).map(tuple),
    datetime: moments,
    int: st.integers(-(2**63), 2**63 - 1),
    float: st.floats(allow_nan=False, allow_infinity=False),
}


def values_of(cls: type) -> st.SearchStrategy[Any]:
    """Any value of an attrs class."""
    hints = get_type_hints(cls)
    return st.builds(cls, **{field.name: _strategy(hints[field.name]) for field in attrs.fields(cls)})


def _strategy(hint: Any) -> st.SearchStrategy[Any]:
    if hint in _STRATEGIES:
        return _STRATEGIES[hint]
    arguments = getattr(hint, "__args__", ())
    if type(None) in arguments:
        return st.none() | st.one_of(*(_strategy(argument) for argument in arguments if argument is not type(None)))
    if getattr(hint, "__origin__", None) in (tuple, frozenset, Sequence):
        make = frozenset if hint.__origin__ is frozenset else tuple
        return st.lists(_strategy(arguments[0]), max_size=3).map(make)
    return values_of(hint) if attrs.has(hint) else st.from_type(hint)


@pytest.mark.parametrize(
    "cls",
    [
        types.Principal,
        types.Message,
        types.StoredMessage,
        types.Model,
        types.Limits,
        types.TurnResult,
        types.RunStarted,
        types.MessageStored,
        types.ToolStarted,
        types.ToolFinished,
        types.Notice,
        types.Failed,
        types.RunEnded,
        ToolCall,
        ToolResult,
    ],
)
def test_the_values_of_a_chat_survive_the_way_out_and_in(cls):
    """`structure` undoes `unstructure` and `dumps`, for everything that is stored or sent."""

    @given(values_of(cls))
    @settings(max_examples=25, deadline=None)
    def check(value):
        assert wire.structure(wire.unstructure(value), cls) == value
        assert wire.structure(wire.loads(wire.dumps(value)), cls) == value

    check()


@given(json_values)
def test_any_json_is_a_value_or_a_validation_error(value):
    """No JSON at all makes another error, whatever the type."""
    for type_ in (types.StoredMessage, Body, Open, Tree, Text | Image, Circle | Square, Special, list[Span]):
        with contextlib.suppress(ValidationFailed):
            wire.structure(value, type_)


@given(st.data())
def test_a_value_with_one_wrong_place_is_a_value_or_a_validation_error(data):
    """Putting any JSON at any place of a good value never makes another error."""
    value = wire.loads(wire.dumps(data.draw(values_of(types.StoredMessage))))
    place = value
    while isinstance(place, dict | list) and place:
        key = data.draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if data.draw(st.booleans()) or not isinstance(place[key], dict | list):
            place[key] = data.draw(json_values)
            break
        place = place[key]
    with contextlib.suppress(ValidationFailed):
        wire.structure(value, types.StoredMessage)
