"""Forms (chatcore/forms.py): what may be asked for, and what counts as an answer."""

from typing import Any

import pytest

from chatcore.errors import RequestError, ValidationFailed
from chatcore.forms import choices, filled, form

DAYS = {"type": "string", "enum": ["sat", "sun"]}
TITLED = {"type": "string", "oneOf": [{"const": "sat", "title": "Saturday"}, {"const": "sun"}]}


def of(**field: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"x": field}}


def test_a_form_keeps_what_clients_can_show() -> None:
    """And nothing else of the schema, which libraries decorate."""
    schema = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Answer",
        "additionalProperties": False,
        "properties": {"x": {"type": "integer", "minimum": 1, "title": "X", "examples": [3]}, "day": {"enum": ["sat"]}},
        "required": ["x", "gone"],
    }
    assert form(schema) == {
        "type": "object",
        "properties": {
            "x": {"type": "integer", "minimum": 1, "title": "X"},
            "day": {"type": "string", "enum": ["sat"]},
        },
        "required": ["x"],
    }
    assert form({}) == {"type": "object", "properties": {}}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"properties": []},
        {"properties": {str(number): {"type": "string"} for number in range(101)}},
        {"properties": {}, "required": [1]},
        of(type="object"),
        of(type=["string", "null"]),
        of(type="array", items={"type": "string"}),
        of(type="array"),
        of(type="string", maxLength="5"),
        of(type="string", enum=[1]),
        of(type="string", oneOf=[{"title": "no value"}]),
        of(type="string", title=1),
        of(type="integer", default="one"),
        {"properties": {"x": True}},
    ],
    ids=str,
)
def test_what_no_form_has_is_refused(schema: Any) -> None:
    """Nested objects, free lists, and schemas that cannot be read."""
    with pytest.raises(RequestError, match="form"):
        form(schema)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ({"type": "string"}, ""),
        ({"type": "string", "format": "email"}, "ann@example.org"),
        ({"type": "string", "format": "uri"}, "https://example.org/x"),
        ({"type": "string", "format": "date-time"}, "2026-11-21T12:00:00+01:00"),
        ({"type": "number"}, 1),
        ({"type": "integer", "minimum": 0, "maximum": 5}, 5),
        ({"type": "boolean"}, False),
        (DAYS, "sun"),
        (TITLED, "sat"),
        ({"type": "array", "items": DAYS, "maxItems": 2}, ["sat", "sun"]),
        ({"type": "array", "items": {"anyOf": TITLED["oneOf"]}}, []),
    ],
    ids=str,
)
def test_what_is_asked_for_is_taken(field: Any, value: Any) -> None:
    """As it is."""
    assert filled(form(of(**field)), {"x": value}) == {"x": value}


@pytest.mark.parametrize(
    ("field", "value", "problem"),
    [
        ({"type": "string"}, 1, "must be of type string"),
        ({"type": "string", "minLength": 2}, "a", "must be at least 2 characters"),
        ({"type": "string", "format": "email"}, "ann", "must be of the form email"),
        ({"type": "string", "format": "uri"}, "no address", "must be of the form uri"),
        ({"type": "string", "format": "date"}, "soon", "must be of the form date"),
        ({"type": "integer"}, 1.5, "must be of type integer"),
        ({"type": "integer"}, True, "must be of type integer"),
        ({"type": "number", "maximum": 2}, 2.5, "must be at most 2"),
        ({"type": "boolean"}, "yes", "must be of type boolean"),
        (DAYS, "mon", "must be one of sat, sun"),
        ({"type": "array", "items": DAYS, "minItems": 1}, [], "must be at least 1 values"),
        ({"type": "array", "items": DAYS}, ["mon"], "must be among sat, sun, got 'mon'"),
        ({"type": "array", "items": DAYS}, [{}], "must be among sat, sun, got {}"),
    ],
    ids=str,
)
def test_what_is_not_asked_for_is_refused(field: Any, value: Any, problem: str) -> None:
    """With the field that is wrong."""
    with pytest.raises(ValidationFailed) as refused:
        filled(form(of(**field)), {"x": value})
    assert [(one.path, one.message) for one in refused.value.problems] == [("$.content.x", problem)]


def test_what_is_left_out_has_its_default() -> None:
    """What has none and is required is missing; what is in no form is refused."""
    asked = form({"properties": {"a": {"type": "string", "default": "b"}, "c": {"type": "string"}}, "required": ["c"]})
    assert filled(asked, {"c": "d"}) == {"a": "b", "c": "d"}
    with pytest.raises(ValidationFailed, match=r"c: is missing; \$.content.e: is not asked for"):
        filled(asked, {"e": 1})


def test_choices_have_titles() -> None:
    """In both of the ways in which schemas give them."""
    assert choices(TITLED) == [("sat", "Saturday"), ("sun", "sun")]
    assert choices({**DAYS, "enumNames": ["Saturday", "Sunday"]}) == [("sat", "Saturday"), ("sun", "Sunday")]
    assert choices({"type": "string"}) == []
