"""The parameters of tools, as far as they have to be changed for models to accept them.

OpenAI-style APIs want an object with properties at the top of a tool's schema, and no choice between several there.
Below the top nothing is changed. What is lost is checked by the server all the same.
"""

from collections.abc import Mapping
from typing import Any

from chatcore.tools import JsonObject

_CHOICES = ("anyOf", "oneOf", "allOf")
_REPLACED = frozenset({*_CHOICES, "not", "enum", "const", "if", "then", "else", "required", "$schema", "$id"})


def parameters(schema: JsonObject) -> JsonObject:
    """The schema, changed at its top alone:

    * `type` is `object`, and there are `properties`, if only empty ones;
    * `anyOf`, `oneOf` and `allOf` are gone: the properties of their branches stand beside the others. What all branches
      of an `allOf` require is required;
    * `not`, `enum`, `const`, `if`, `$schema` and `$id` are gone;
    * `required` names only what is among the properties.
    """
    properties = _properties(schema)
    kept = {key: value for key, value in schema.items() if key not in _REPLACED}
    required = [name for name in _required(schema) if name in properties]
    return {**kept, "type": "object", "properties": properties, **_given(required)}


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
