"""JSON Schema (2020-12) of types: for the OpenAPI document and for the parameters of tools."""

import inspect
import itertools
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, cast, get_args
from uuid import UUID

import attrs

from chatcore.wire.hints import ARRAYS, OBJECTS, REST, Hint, bare, fields_of, is_enum, is_union, origin
from chatcore.wire.text import dumps, loads

_SIMPLE: Mapping[Hint, Mapping[str, Any]] = {
    Any: {},
    None: {"type": "null"},
    type(None): {"type": "null"},
    str: {"type": "string"},
    bool: {"type": "boolean"},
    int: {"type": "integer"},
    float: {"type": "number"},
    datetime: {"type": "string", "format": "date-time"},
    UUID: {"type": "string", "format": "uuid"},
}
_BOUNDS = {">=": "minimum", ">": "exclusiveMinimum", "<=": "maximum", "<": "exclusiveMaximum"}
_UNITS: Mapping[Any, str] = {"array": "Items", "object": "Properties"}
_PATTERNS = {"fullmatch": "^(?:{})$", "match": "^(?:{})", "search": "{}"}


def schema_of(type_: Hint, schemas: "Schemas | None" = None) -> dict[str, Any]:
    """The JSON Schema of a type.

    Args:
        type_: what `structure` takes.
        schemas: where the schemas of attrs classes go; they are then referred to by name. Without it, the schema of
            an attrs class is itself an object, with the classes that it uses in `$defs`.

    Raises:
        TypeError: the type has no form in JSON.
    """
    if schemas is not None:
        return schemas.of(type_)
    inner = Schemas("#/$defs/")
    schema = inner.of_class(type_) if attrs.has(type_) else inner.of(type_)
    return {**schema, "$defs": inner.named} if inner.named else schema


class Schemas:
    """The schemas of attrs classes, each under its class's name. `prefix` begins the references to them."""

    def __init__(self, prefix: str = "#/components/schemas/") -> None:
        self.named: dict[str, dict[str, Any]] = {}
        self._prefix = prefix
        self._names: dict[type, str] = {}

    def of(self, type_: Hint) -> dict[str, Any]:
        """The schema of a type; of an attrs class, a reference to it."""
        type_ = bare(type_)
        if attrs.has(type_):
            return {"$ref": self._prefix + self._name(type_)}
        if is_union(type_):
            return {"anyOf": [self.of(member) for member in get_args(type_)]}
        if origin(type_) is Literal:
            return _closed(get_args(type_))
        if is_enum(type_):
            return _closed([member.value for member in type_])
        return self._of_container(type_) if origin(type_) in (*ARRAYS, *OBJECTS) else _simple(type_)

    def _of_container(self, type_: Hint) -> dict[str, Any]:
        args = get_args(type_)
        if origin(type_) in OBJECTS:
            values = self.of(args[1]) if args else {}
            return {"type": "object"} | ({"additionalProperties": values} if values else {})
        if args[1:] not in ((), (Ellipsis,)):
            raise TypeError(f"{type_!r} has no form in JSON: the items must be of one type")
        unique = {"uniqueItems": True} if ARRAYS[origin(type_)] in (set, frozenset) else {}
        return {"type": "array", "items": self.of(args[0]) if args else {}} | unique

    def of_class(self, cls: Hint) -> dict[str, Any]:
        """The schema of an attrs class itself."""
        fields = fields_of(cls)
        shown = [field for field in fields if REST not in field.metadata]
        required = [field.name for field in shown if field.default is attrs.NOTHING]
        return {
            "type": "object",
            **_description(_summary(cls)),
            "properties": {field.name: self.of_field(field) for field in shown},
            **({"required": required} if required else {}),
            "additionalProperties": len(shown) < len(fields),
        }

    def of_field(self, field: "attrs.Attribute[Any]") -> dict[str, Any]:
        """The schema of one field of an attrs class, with its text (`help` in its metadata), limits and default."""
        schema = self.of(field.type) | _description(field.metadata.get("help"))
        return schema | _limits(field.validator, _UNITS.get(schema.get("type"), "Length")) | _default(field.default)

    def _name(self, cls: type) -> str:
        if cls not in self._names:
            name = next(name for name in _names(cls) if name not in self.named)
            # The place is taken before the fields are looked at: one of them may be of the same class.
            self._names[cls] = name
            self.named[name] = {}
            try:
                self.named[name].update(self.of_class(cls))
            except (TypeError, NameError):
                del self._names[cls], self.named[name]
                raise
        return self._names[cls]


def _names(cls: type) -> Iterator[str]:
    yield cls.__name__
    yield from (f"{cls.__name__}{number}" for number in itertools.count(2))


def _simple(type_: Hint) -> dict[str, Any]:
    if type_ not in _SIMPLE:
        raise TypeError(f"{type_!r} has no form in JSON")
    return dict(_SIMPLE[type_])


def _closed(values: Sequence[Any]) -> dict[str, Any]:
    types = {type(value) for value in values}
    return {**(_simple(types.pop()) if len(types) == 1 else {}), "enum": list(values)}


def _description(text: str | None) -> dict[str, str]:
    return {"description": text} if text else {}


def _summary(cls: type) -> str:
    # A plain look-up would find the docstring of a base class.
    return inspect.cleandoc(vars(cls).get("__doc__") or "").partition("\n")[0]


def _default(default: Any) -> dict[str, Any]:
    if default is attrs.NOTHING or getattr(default, "takes_self", False):
        return {}
    factory = getattr(default, "factory", None)
    try:
        return {"default": loads(dumps(factory() if factory else default))}
    except TypeError:
        return {}


def _limits(validator: object, unit: str) -> dict[str, Any]:
    """What the validators of attrs demand, in the words of JSON Schema."""
    facts = attrs.asdict(cast(Any, validator), recurse=False) if attrs.has(type(validator)) else {}
    match facts:
        case {"compare_op": operator, "bound": bound}:
            return {_BOUNDS[operator]: bound}
        case {"min_length": length}:
            return {f"min{unit}": length}
        case {"max_length": length}:
            return {f"max{unit}": length}
        case {"pattern": pattern, "match_func": match}:
            return {"pattern": _PATTERNS[match.__name__].format(pattern.pattern)}
        case {"options": options}:
            return {"enum": list(options)}
        case {"_validators": parts}:
            return {word: value for part in parts for word, value in _limits(part, unit).items()}
        case {"validator": inner} if len(facts) == 1:
            return _limits(inner, unit)
    return {}
