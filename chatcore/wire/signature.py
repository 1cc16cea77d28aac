"""The parameters of a Python function, as a JSON Schema and as a check of arguments."""

import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args, get_type_hints

import attrs

from chatcore.wire.converter import structure
from chatcore.wire.hints import Hint
from chatcore.wire.schema import schema_of

_SECTION = re.compile(r"^(Args|Returns|Raises|Yields):\s*$", re.MULTILINE)
_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


@attrs.frozen
class Signature:
    """What a function may be called with.

    `description` and `schema` (of type object) are for the caller. `parameters` is an attrs class with a field for each
    parameter that the schema shows, `hidden` the names of the others.
    """

    description: str
    schema: dict[str, Any]
    parameters: type[Any]
    hidden: tuple[str, ...] = ()

    def bind(self, arguments: Mapping[str, Any], hidden: object) -> dict[str, Any]:
        """The keyword arguments for a call. Each of the function's hidden parameters gets `hidden`.

        Raises:
            ValidationFailed: arguments are missing, unknown or of the wrong type.
        """
        values = structure(dict(arguments), self.parameters)
        named = {field.name: getattr(values, field.name) for field in attrs.fields(self.parameters)}
        return named | dict.fromkeys(self.hidden, hidden)


def signature_of(function: Callable[..., Any], *, hidden: type) -> Signature:
    """The signature of a typed function with a docstring in Google's style.

    Args:
        function: any function whose parameters can be given by name.
        hidden: parameters with this type hint are left out of the schema and filled by `bind`.

    Raises:
        TypeError: a parameter cannot be given by name, or has no type hint that JSON can express.
    """
    hints = _hints(function)
    description, texts = _docstring(function)
    fields: dict[str, Any] = {}
    hidden_names = []
    for parameter in inspect.signature(function).parameters.values():
        hint = _hint(function, parameter, hints)
        if hidden in (hint, *get_args(hint)):
            hidden_names.append(parameter.name)
            continue
        default = attrs.NOTHING if parameter.default is parameter.empty else parameter.default
        help_ = {"help": texts[parameter.name]} if parameter.name in texts else {}
        fields[parameter.name] = attrs.field(type=hint, default=default, metadata=help_)
    parameters = attrs.make_class(function.__name__, fields, frozen=True, kw_only=True)
    return Signature(description, _schema(function, parameters), parameters, tuple(hidden_names))


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except NameError as error:
        raise TypeError(f"{_where(function)}: a type hint cannot be read: {error}") from error


def _hint(function: Callable[..., Any], parameter: inspect.Parameter, hints: Mapping[str, Hint]) -> Hint:
    if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
        raise TypeError(f"{_where(function)}: parameter {parameter.name!r} cannot be given by name")
    if parameter.name not in hints:
        raise TypeError(f"{_where(function)}: parameter {parameter.name!r} has no type hint")
    return hints[parameter.name]


def _schema(function: Callable[..., Any], parameters: type[Any]) -> dict[str, Any]:
    try:
        return schema_of(parameters)
    except TypeError as error:
        raise TypeError(f"{_where(function)}: {error}") from error


def _where(function: Callable[..., Any]) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def _docstring(function: Callable[..., Any]) -> tuple[str, dict[str, str]]:
    """The description, and the texts of the parameters."""
    text = inspect.getdoc(function) or ""
    description, *sections = _SECTION.split(text)
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        if name == "Args":
            return description.strip(), dict(_entries(body))
    return description.strip(), {}


def _entries(body: str) -> Iterator[tuple[str, str]]:
    # An entry goes on for as long as its lines are indented.
    for entry in re.split(r"\n(?=\S)", inspect.cleandoc(body)):
        if match := _ENTRY.fullmatch(" ".join(entry.split())):
            yield match[1], match[2]
