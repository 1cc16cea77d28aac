"""JSON Schema of types: what it says, and that it says the same as the converter."""

import enum
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NewType
from uuid import UUID

import attrs
import pytest
from attrs import validators
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from chatcore import types, wire
from chatcore.errors import ValidationFailed
from chatcore.tools import JsonObject

from .test_converter import Body, Image, Line, Open, Special, Text, Tree, values_of
from .test_text import json_values


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@pytest.mark.parametrize(
    ("type_", "schema"),
    [
        (Any, {}),
        (None, {"type": "null"}),
        (str, {"type": "string"}),
        (bool, {"type": "boolean"}),
        (int, {"type": "integer"}),
        (float, {"type": "number"}),
        (datetime, {"type": "string", "format": "date-time"}),
        (UUID, {"type": "string", "format": "uuid"}),
        (Literal["a", "b"], {"type": "string", "enum": ["a", "b"]}),
        (Literal["a", 1], {"enum": ["a", 1]}),
        (Colour, {"type": "string", "enum": ["red", "blue"]}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (list, {"type": "array", "items": {}}),
        (tuple[str, ...], {"type": "array", "items": {"type": "string"}}),
        (Sequence[str], {"type": "array", "items": {"type": "string"}}),
        (frozenset[str], {"type": "array", "items": {"type": "string"}, "uniqueItems": True}),
        (dict, {"type": "object"}),
        (JsonObject, {"type": "object"}),
        (Mapping[str, int], {"type": "object", "additionalProperties": {"type": "integer"}}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (Annotated[int, "pixels"], {"type": "integer"}),
        (NewType("Name", str), {"type": "string"}),
    ],
)
def test_the_schema_of_a_type(type_, schema):
    """Every type that the converter takes has one."""
    assert wire.schema_of(type_) == schema
    Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("type_", [bytes, Path, object, tuple[int, str], list[Path], dict[str, bytes], str | complex])
def test_what_json_does_not_have_is_a_type_error(type_):
    """The text names the type."""
    with pytest.raises(TypeError, match="has no form in JSON"):
        wire.schema_of(type_)


@attrs.frozen
class Point:
    """A place on a page.

    This is not shown.
    """

    x: int = attrs.field(validator=[validators.ge(0), validators.lt(10)])
    y: float | None = attrs.field(default=None, validator=validators.optional(validators.gt(0.5)))
    name: str = attrs.field(
        default="p", validator=[validators.min_len(1), validators.max_len(9), validators.matches_re("[a-z]+")]
    )
    tags: tuple[str, ...] = attrs.field(default=(), validator=validators.max_len(3), metadata={"help": "Words."})
    colour: Colour = Colour.RED
    data: JsonObject = attrs.field(factory=dict)
    size: int = attrs.field(default=attrs.Factory(lambda self: self.x, takes_self=True))
    kind: str = attrs.field(default="a", validator=validators.in_(["a", "b"]))
    count: int = attrs.field(default=0, init=False)


def test_the_schema_of_a_class():
    """Docstring, help, required fields, defaults and the limits of validators are in it; nothing else is allowed."""
    assert wire.schema_of(Point) == {
        "type": "object",
        "description": "A place on a page.",
        "properties": {
            "x": {"type": "integer", "minimum": 0, "exclusiveMaximum": 10},
            "y": {"anyOf": [{"type": "number"}, {"type": "null"}], "exclusiveMinimum": 0.5, "default": None},
            "name": {
                "type": "string",
                "minLength": 1,
                "maxLength": 9,
                "pattern": "^(?:[a-z]+)$",
                "default": "p",
            },
            "tags": {
                "type": "array",
                "items": {"type": "string"},
                "maxItems": 3,
                "default": [],
                "description": "Words.",
            },
            "colour": {"type": "string", "enum": ["red", "blue"], "default": "red"},
            "data": {"type": "object", "default": {}},
            "size": {"type": "integer"},
            "kind": {"type": "string", "enum": ["a", "b"], "default": "a"},
        },
        "required": ["x"],
        "additionalProperties": False,
    }


def test_not_every_validator_can_be_said():
    """What JSON Schema has no word for is left out, and not turned into its opposite."""

    @attrs.frozen
    class Odd:
        a: str = attrs.field(validator=validators.not_(validators.matches_re("x")))
        b: int = attrs.field(validator=validators.instance_of(int))
        c: int = attrs.field(validator=lambda self, field, value: None)
        d: str = attrs.field(validator=validators.matches_re("x", func=__import__("re").search))

    assert wire.schema_of(Odd)["properties"] == {
        "a": {"type": "string"},
        "b": {"type": "integer"},
        "c": {"type": "integer"},
        "d": {"type": "string", "pattern": "x"},
    }


def test_a_class_with_a_rest_allows_other_keys():
    """The field that takes them is not shown."""
    schema = wire.schema_of(Open)
    assert schema["additionalProperties"] is True
    assert "extra" not in schema["properties"]


def test_classes_inside_of_a_class_are_definitions():
    """The class itself is an object at the root, as the parameters of a tool must be."""
    schema = wire.schema_of(Body)
    assert schema["type"] == "object"
    assert schema["properties"]["messages"] == {"type": "array", "items": {"$ref": "#/$defs/Line"}}
    assert set(schema["$defs"]) == {"Line", "Part"}


def test_a_class_may_hold_itself():
    """Its schema refers to itself."""
    schema = wire.schema_of(Tree)
    assert schema["properties"]["next"]["anyOf"][0] == {"$ref": "#/$defs/Tree"}
    validator = Draft202012Validator(schema)
    assert validator.is_valid({"name": "a", "next": {"name": "b", "children": [{"name": "c"}]}})
    assert not validator.is_valid({"name": "a", "next": {"name": "b", "children": [{"name": 1}]}})


def test_schemas_collects_classes_under_their_names():
    """One place for many types: each class is in it once, and two classes with one name have two."""
    schemas = wire.Schemas()
    first = attrs.make_class("Body", {"a": attrs.field(type=int)})
    assert wire.schema_of(Body, schemas) == {"$ref": "#/components/schemas/Body"}
    assert wire.schema_of(list[first], schemas) == {"type": "array", "items": {"$ref": "#/components/schemas/Body2"}}
    assert wire.schema_of(Body | None, schemas)["anyOf"][0] == {"$ref": "#/components/schemas/Body"}
    assert set(schemas.named) == {"Body", "Line", "Part", "Body2"}


def test_schemas_forgets_a_class_that_has_no_schema():
    """Nothing half made stays behind, and the next attempt fails as the first did."""

    @attrs.frozen
    class Bad:
        inner: Body
        path: Path

    schemas = wire.Schemas()
    for _ in range(2):
        with pytest.raises(TypeError, match="Path"):
            wire.schema_of(Bad, schemas)
    assert "Bad" not in schemas.named


CLASSES = [types.StoredMessage, types.Message, types.Model, types.Notice, types.RunEnded, Body, Open, Tree, Special]


@pytest.mark.parametrize("cls", CLASSES)
def test_schemas_are_valid(cls):
    """They are JSON Schema 2020-12, and plain JSON."""
    schema = wire.schema_of(cls)
    Draft202012Validator.check_schema(schema)
    assert wire.loads(wire.dumps(schema)) == schema


@given(
    st.sampled_from([types.Message, types.Notice, types.Model, Line]).flatmap(
        lambda c: st.tuples(st.just(c), values_of(c))
    )
)
def test_values_meet_their_schema(pair):
    """What is written of a class is what its schema says."""
    cls, value = pair
    Draft202012Validator(wire.schema_of(cls)).validate(wire.loads(wire.dumps(value)))


@given(
    json_values
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["text", "image", "x"])}, optional={"text": json_values, "url": json_values}
    )
)
def test_schema_and_converter_agree(value):
    """What the one takes, the other takes, for JSON of any kind. (JSON Schema counts 1.0 as an integer.)"""
    for type_ in (Text | Image, list[int | str] | None, Mapping[str, bool], types.Message, Special):
        if _has_whole_floats(value):
            return
        valid = Draft202012Validator(wire.schema_of(type_)).is_valid(value)
        try:
            wire.structure(value, type_)
        except ValidationFailed:
            assert not valid
        else:
            assert valid


def _has_whole_floats(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_has_whole_floats, value.values()))
    if isinstance(value, list):
        return any(map(_has_whole_floats, value))
    return (isinstance(value, float) and value.is_integer()) or (type(value) is int and value >= 2**63)
