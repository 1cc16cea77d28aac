"""The parameters of tools, as models accept them."""

import pytest
from chatcore_mcp.schemas import parameters

OBJECT = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize(
    "schema",
    [
        OBJECT,
        {**OBJECT, "additionalProperties": False, "description": "x", "$defs": {"T": {"type": "null"}}},
        {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "#/$defs/T"}, {"enum": [1]}]}}, "$defs": {"T": {}}},
        {"type": "object", "properties": {}},
    ],
)
def test_what_is_accepted_stays_as_it_is(schema):
    """Below the top in any case."""
    assert parameters(schema) == schema


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        ({}, {"type": "object", "properties": {}}),
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"type": ["object", "null"], "properties": None}, {"type": "object", "properties": {}}),
        ({**OBJECT, "$schema": "http://json-schema.org/", "$id": "x"}, OBJECT),
        ({**OBJECT, "required": ["a", "b", 5]}, OBJECT),
        ({**OBJECT, "not": {"required": ["b"]}, "if": {}, "then": {}}, OBJECT),
        ({"anyOf": [OBJECT, {"type": "object", "properties": {"b": {}}, "required": ["b"]}]},
         {"type": "object", "properties": {"a": {"type": "string"}, "b": {}}}),
        ({"allOf": [OBJECT, {"properties": {"b": {}}, "required": ["b"]}], "properties": {"a": {"type": "integer"}}},
         {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a", "b"]}),
        ({"oneOf": "nonsense", "enum": 5}, {"type": "object", "properties": {}}),
        ({"$ref": "#/definitions/a~1b", "definitions": {"a/b": {"$ref": "#/definitions/c"}, "c": OBJECT}},
         {**OBJECT, "definitions": {"a/b": {"$ref": "#/definitions/c"}, "c": OBJECT}}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
         {"type": "object", "properties": {}, "$defs": {"a": {"$ref": "#/$defs/a"}}}),
        ({"$ref": "#/$defs/a/b/c", "$defs": {"a": [OBJECT]}},
         {"type": "object", "properties": {}, "$defs": {"a": [OBJECT]}}),
        ({"$ref": "https://example.com/schema.json"}, {"type": "object", "properties": {}}),
        ({**OBJECT, "description": "x" * 100_000}, {"type": "object", "properties": {}}),
    ],
)  # fmt: skip
def test_what_is_refused_is_replaced(schema, wanted):
    """At the top of the schema."""
    assert parameters(schema) == wanted
