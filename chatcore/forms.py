"""Forms: what a question may ask a person for, as JSON Schema, and the check of what is filled in.

The schema is the part of JSON Schema that the Model Context Protocol allows for its elicitation: an object of texts,
numbers, yes or no, a choice among texts, and several such choices. A client can show it as a form without knowing more.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from chatcore.errors import Problem, RequestError, ValidationFailed
from chatcore.tools import JsonObject

Field: TypeAlias = Mapping[str, Any]

_SHOWN = ("type", "title", "description", "default")
_KEPT: Mapping[str, Sequence[str]] = {
    "string": (*_SHOWN, "minLength", "maxLength", "format", "enum", "enumNames", "oneOf"),
    "integer": (*_SHOWN, "minimum", "maximum"),
    "number": (*_SHOWN, "minimum", "maximum"),
    "boolean": _SHOWN,
    "array": (*_SHOWN, "items", "minItems", "maxItems"),
}
"""What is kept of a field's schema, by its type."""

_TYPES: Mapping[str, tuple[type[Any], ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
}
_BOUNDS = ("minLength", "maxLength", "minItems", "maxItems", "minimum", "maximum")
_MOST_FIELDS = 100


def form(schema: JsonObject) -> JsonObject:
    """A schema as far as forms have it: the rest of it, such as `$schema` or the title, is left out.

    Raises:
        RequestError: it asks for something that forms do not have.
    """
    fields, required = schema.get("properties", {}), schema.get("required", ())
    if schema.get("type", "object") != "object" or not isinstance(fields, Mapping) or not _are_texts(required):
        raise RequestError("the form is not the schema of an object")
    if len(fields) > _MOST_FIELDS:
        raise RequestError(f"the form has more than {_MOST_FIELDS} fields")
    kept = {name: _field(name, field) for name, field in fields.items()}
    named = [name for name in required if name in kept]
    return {"type": "object", "properties": kept, **({"required": named} if named else {})}


def filled(schema: JsonObject, content: JsonObject) -> JsonObject:
    """What was filled into a form, with the defaults for what was left out.

    Raises:
        ValidationFailed: it is not what the form asks for.
    """
    fields = schema["properties"]
    defaults = {name: field["default"] for name, field in fields.items() if "default" in field}
    given = {**defaults, **content}
    content = {**{name: given[name] for name in fields if name in given}, **content}
    missing = [name for name in schema.get("required", ()) if name not in content]
    problems = [Problem(_path(name), "is missing") for name in missing]
    problems += [Problem(_path(name), "is not asked for") for name in content if name not in fields]
    for name, value in content.items():
        if name in fields and (wrong := _wrong(fields[name], value)):
            problems.append(Problem(_path(name), wrong))
    if problems:
        raise ValidationFailed(problems)
    return content


def _path(name: str) -> str:
    return f"$.content.{name}"


def choices(field: Field) -> Sequence[tuple[str, str]]:
    """The texts among which a field, or one of several of a field, is chosen, each with how it is shown. Empty for a
    field that is none of a choice."""
    titled = field.get("oneOf") or field.get("anyOf")
    if titled:
        return [(option["const"], option.get("title", option["const"])) for option in titled]
    values = field.get("enum", ())
    names = field.get("enumNames", ())
    return list(zip(values, names if len(names) == len(values) else values, strict=True))


# --- schemas ----------------------------------------------------------------------------------------------------------


def _field(name: str, field: object) -> JsonObject:
    """The schema of a field, without what forms do not have. Raises RequestError."""
    if not isinstance(field, Mapping):
        raise RequestError(f"the field {name!r} of the form has no schema")
    kind = field.get("type", "string" if "enum" in field or "oneOf" in field else None)
    if not isinstance(kind, str) or kind not in _KEPT:
        raise RequestError(f"the field {name!r} of the form is of a type that forms do not have: {kind!r}")
    kept = {**{key: field[key] for key in _KEPT[kind] if key in field}, "type": kind}
    if kind == "array":
        kept["items"] = _items(name, field.get("items"))
    if not (_sound(kept) and _sound(kept.get("items", {}))):
        raise RequestError(f"the field {name!r} of the form has a schema that cannot be read")
    if "default" in kept and (wrong := _wrong(kept, kept["default"])):
        raise RequestError(f"the default of the field {name!r} of the form {wrong}")
    return kept


def _items(name: str, items: object) -> JsonObject:
    if not isinstance(items, Mapping) or not (items.get("enum") or items.get("anyOf")):
        raise RequestError(f"the field {name!r} of the form is a list of something else than choices")
    return {"type": "string", **{key: items[key] for key in ("enum", "anyOf") if key in items}}


def _sound(field: Field) -> bool:
    """Whether the parts of a field's schema are what they should be, so that nobody has to look again."""
    options = field.get("oneOf", field.get("anyOf", ()))
    return (
        all(isinstance(field.get(key, 0), int | float) for key in _BOUNDS)
        and all(isinstance(field.get(key, ""), str) for key in ("title", "description", "format"))
        and all(_are_texts(field.get(key, ())) for key in ("enum", "enumNames"))
        and isinstance(options, list | tuple)
        and all(isinstance(one, Mapping) and _are_texts([one.get("const"), one.get("title", "")]) for one in options)
    )


def _are_texts(values: object) -> bool:
    return isinstance(values, list | tuple) and all(isinstance(value, str) for value in values)


# --- values -----------------------------------------------------------------------------------------------------------


def _wrong(field: Field, value: Any) -> str | None:
    """What is wrong with a value, if anything is."""
    kind = field["type"]
    if not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean"):
        return f"must be of type {kind}"
    if isinstance(value, list | tuple):
        allowed = [known for known, _ in choices(field["items"])]
        if unknown := [one for one in value if one not in allowed]:
            return f"must be among {', '.join(allowed)}, got {unknown[0]!r}"
        return _out_of_bounds(field, len(value), "Items", "values")
    if isinstance(value, str):
        allowed = [known for known, _ in choices(field)]
        if allowed and value not in allowed:
            return f"must be one of {', '.join(allowed)}"
        return _out_of_bounds(field, len(value), "Length", "characters") or _misformed(field, value)
    return None if kind == "boolean" else _out_of_bounds(field, value, "imum", "")


def _out_of_bounds(field: Field, size: float, what: str, unit: str) -> str | None:
    least, most = field.get(f"min{what}"), field.get(f"max{what}")
    if least is not None and size < least:
        return f"must be at least {least} {unit}".rstrip()
    if most is not None and size > most:
        return f"must be at most {most} {unit}".rstrip()
    return None


def _has_scheme(value: str) -> bool:
    parts = urlsplit(value)
    return bool(parts.scheme and (parts.netloc or parts.path))


_FORMATS: Mapping[str, Callable[[str], object]] = {
    "email": re.compile(r"[^@\s]+@[^@\s]+").fullmatch,
    "uri": _has_scheme,
    "date": date.fromisoformat,
    "date-time": datetime.fromisoformat,
}


def _misformed(field: Field, value: str) -> str | None:
    check = _FORMATS.get(field.get("format", ""))
    try:
        right = check is None or check(value)
    except ValueError:
        right = False
    return None if right else f"must be of the form {field['format']}"
