"""The parameters of tools, as far as they have to be changed for models to accept them.

OpenAI-style APIs want an object with properties at the top of a tool's schema, and no choice between several there.
Below the top nothing is changed. What is lost is checked by the server all the same.
"""

from collections.abc import Mapping
from typing import Any

from chatcore import wire
from chatcore.tools import JsonObject

LARGEST = 100_000
"""Bytes of a schema, as JSON. Each request to a model has the schemas of all its tools."""

_DEEPEST = 20  # references that are followed, one behind the other
_CHOICES = ("anyOf", "oneOf", "allOf")
_REPLACED = frozenset({*_CHOICES, "not", "enum", "const", "if", "then", "else", "required", "$schema", "$id", "$ref"})


def parameters(schema: JsonObject) -> JsonObject:
    """The schema, changed at its top alone:

    * `type` is `object`, and there are `properties`, if only empty ones;
    * `anyOf`, `oneOf` and `allOf` are gone: the properties of their branches stand beside the others. What all branches
      of an `allOf` require is required;
    * a `$ref` is gone: what it refers to within the schema stands in its place;
    * `not`, `enum`, `const`, `if`, `$schema` and `$id` are gone;
    * `required` names only what is among the properties.

    One of more than `LARGEST` bytes is replaced by that of any object.
    """
    schema = _resolved(schema) if len(wire.dumps(schema)) <= LARGEST else {}
    properties = _properties(schema)
    kept = {key: value for key, value in schema.items() if key not in _REPLACED}
    required = [name for name in _required(schema) if name in properties]
    return {**kept, "type": "object", "properties": properties, **_given(required)}


def _resolved(schema: JsonObject) -> JsonObject:
    """The schema with what its top refers to, if that is a part of it. What stands beside the reference counts more."""
    found = schema
    for _ in range(_DEEPEST):
        reference = found.get("$ref")
        if not isinstance(reference, str) or not reference.startswith("#/"):
            break
        found = {**_part(schema, reference), **{key: value for key, value in found.items() if key != "$ref"}}
    return found


def _part(schema: JsonObject, reference: str) -> JsonObject:
    """What a reference such as `#/$defs/Note` means; an empty schema if there is no such part."""
    part: Any = schema
    for step in reference.split("/")[1:]:
        part = part.get(step.replace("~1", "/").replace("~0", "~")) if isinstance(part, Mapping) else None
    return part if isinstance(part, Mapping) else {}


def _given(required: list[str]) -> dict[str, list[str]]:
    return {"required": required} if required else {}


def _properties(schema: JsonObject) -> dict[str, Any]:
    own = schema.get("properties")
    found: dict[str, Any] = {}
    for branch in _branches(schema, _CHOICES):
        found.update(_properties(branch))
    return {**found, **(own if isinstance(own, Mapping) else {})}


def _required(schema: JsonObject) -> list[str]:
    own = schema.get("required")
    names = [name for name in own if isinstance(name, str)] if isinstance(own, list | tuple) else []
    for branch in _branches(schema, ("allOf",)):
        names += _required(branch)
    return list(dict.fromkeys(names))


def _branches(schema: JsonObject, keys: tuple[str, ...]) -> list[JsonObject]:
    lists = [schema[key] for key in keys if isinstance(schema.get(key), list | tuple)]
    return [branch for branches in lists for branch in branches if isinstance(branch, Mapping)]
