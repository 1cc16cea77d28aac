"""The parameters of functions: their schema, and the check of arguments."""

from collections.abc import Mapping
from typing import Literal

import attrs
import pytest
from jsonschema import Draft202012Validator

from chatcore import wire
from chatcore.errors import ValidationFailed


class Hidden:
    """Stands for what a caller fills in."""


@attrs.frozen
class Place:
    """A place on earth."""

    lat: float
    lon: float


def forecast(
    place: Place,
    day: Literal["today", "tomorrow"],
    hours: int = 24,
    *,
    context: Hidden,
    units: str | None = None,
    names: tuple[str, ...] = (),
) -> str:
    """Tells the weather.

    It may be wrong.

    Args:
        place: Where: the
            coordinates of it.

            In degrees.
        day (str): Which day.
        hours: How many
        hours: to look ahead.
        unknown: There is no such parameter.

    Returns:
        A sentence.

    Raises:
        ValueError: never.
    """
    return ""


SIGNATURE = wire.signature_of(forecast, hidden=Hidden)


def test_the_description_is_the_docstring_up_to_the_arguments():
    """A model reads it: neither the sections for programmers nor the parameters' texts are in it."""
    assert SIGNATURE.description == "Tells the weather.\n\nIt may be wrong."


def test_the_schema_of_the_parameters():
    """Types, defaults and the texts under `Args:`; a hidden parameter is not shown."""
    assert SIGNATURE.schema == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where: the coordinates of it. In degrees."},
            "day": {"type": "string", "enum": ["today", "tomorrow"], "description": "Which day."},
            "hours": {"type": "integer", "default": 24, "description": "to look ahead."},
            "units": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "names": {"type": "array", "items": {"type": "string"}, "default": []},
        },
        "required": ["place", "day"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "type": "object",
                "description": "A place on earth.",
                "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}},
                "required": ["lat", "lon"],
                "additionalProperties": False,
            }
        },
    }
    Draft202012Validator.check_schema(SIGNATURE.schema)


def test_bind_makes_the_arguments_of_a_call():
    """Values are of the parameters' types, defaults are filled in, and the hidden parameter is given."""
    hidden = Hidden()
    arguments = SIGNATURE.bind({"place": {"lat": 1, "lon": 2.5}, "day": "today", "names": ["a"]}, hidden)
    assert arguments == {
        "place": Place(1.0, 2.5),
        "day": "today",
        "hours": 24,
        "units": None,
        "names": ("a",),
        "context": hidden,
    }
    assert forecast(**arguments) == ""


def test_bind_tells_all_that_is_wrong():
    """With the parameters' names as paths; the hidden one cannot be given."""
    with pytest.raises(ValidationFailed) as caught:
        SIGNATURE.bind({"place": {"lat": "1"}, "hours": "24", "context": 1, "unit": "c"}, Hidden())
    assert {problem.path: problem.message for problem in caught.value.problems} == {
        "$.context": "is not known",
        "$.unit": "is not known: did you mean 'units'?",
        "$.place.lat": "must be a number, not a string",
        "$.place.lon": "is missing",
        "$.day": "is missing",
        "$.hours": "must be an integer, not a string",
    }


def test_a_function_without_docstring_and_parameters():
    """Has an empty description and takes nothing."""

    def now() -> str:
        return ""

    signature = wire.signature_of(now, hidden=Hidden)
    assert signature.description == ""
    assert signature.schema == {"type": "object", "properties": {}, "additionalProperties": False}
    assert signature.bind({}, None) == {}
    with pytest.raises(ValidationFailed):
        signature.bind({"a": 1}, None)


def test_only_sections_and_only_arguments():
    """A docstring may begin with its sections."""

    def echo(text: str) -> str:
        """Args:
        text: What to say.
        """
        return text

    signature = wire.signature_of(echo, hidden=Hidden)
    assert signature.description == ""
    assert signature.schema["properties"]["text"]["description"] == "What to say."


def test_an_optional_hidden_parameter_is_hidden():
    """It is never shown to a model, however it is written."""

    def tool(text: str, context: Hidden | None = None) -> str:
        return text

    signature = wire.signature_of(tool, hidden=Hidden)
    assert set(signature.schema["properties"]) == {"text"}
    assert set(signature.bind({"text": "a"}, Hidden())) == {"text", "context"}


def test_a_default_that_json_does_not_have_is_not_shown():
    """The parameter is optional all the same."""
    nothing = object()

    def tool(text: str = nothing) -> object:
        return text

    signature = wire.signature_of(tool, hidden=Hidden)
    assert signature.schema["properties"] == {"text": {"type": "string"}}
    assert signature.bind({}, None) == {"text": nothing}


def test_a_method_has_no_self():
    """A bound method's parameters are those that are left."""

    class Tools:
        def add(self, a: int, b: int = 1) -> int:
            return a + b

    tools = Tools()
    signature = wire.signature_of(tools.add, hidden=Hidden)
    assert tools.add(**signature.bind({"a": 1}, None)) == 2


def test_names_that_python_uses_itself():
    """A parameter may be called what an attrs class has too."""

    def tool(_private: str, fields: Mapping[str, int], type: str) -> str:  # noqa: A002
        return ""

    arguments = {"_private": "a", "fields": {"a": 1}, "type": "t"}
    assert wire.signature_of(tool, hidden=Hidden).bind(arguments, None) == arguments


def without_hint(a) -> str:
    return ""


def without_form(a: str | complex) -> str:
    return ""


def with_star(*a: int) -> str:
    return ""


def with_keywords(**a: int) -> str:
    return ""


def positional(a: int, /) -> str:
    return ""


def unknown(a: "Nowhere") -> str:  # noqa: F821 - that is the point
    return ""


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (without_hint, "without_hint: parameter 'a' has no type hint"),
        (without_form, "without_form: .*complex.* has no form in JSON"),
        (with_star, "with_star: parameter 'a' cannot be given by name"),
        (with_keywords, "with_keywords: parameter 'a' cannot be given by name"),
        (positional, "positional: parameter 'a' cannot be given by name"),
        (unknown, "unknown: a type hint cannot be read: .*Nowhere"),
    ],
)
def test_a_function_that_cannot_be_described_is_a_type_error(function, text):
    """The text names the function and the parameter."""
    with pytest.raises(TypeError, match=text):
        wire.signature_of(function, hidden=Hidden)
