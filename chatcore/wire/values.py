"""Single plain values to typed ones, without conversion; and how a wrong one is told.

The hooks take what cattrs gives a hook: the value, and a type that they know already.
"""

import math
from collections.abc import Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TypeAlias, get_args
from uuid import UUID

import attrs

from chatcore.errors import Problem
from chatcore.wire.hints import Hint
from chatcore.wire.text import JsonValue

Hook: TypeAlias = Callable[[JsonValue, Hint], Any]

_JSON_NAMES: Mapping[type, str] = {
    str: "a string",
    bool: "true or false",
    int: "an integer",
    float: "a number",
    dict: "an object",
    list: "an array",
    tuple: "an array",
    type(None): "null",
}


def name_of(type_: type) -> str:
    """A plain value's type, in the words of JSON where it is one of JSON's."""
    return _JSON_NAMES.get(type_) or f"a {type_.__name__.lower()}"


class Wrong(Exception):
    """Problems of a value. Their paths begin at that value."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(problems)
        self.problems = problems

    @classmethod
    def because(cls, message: str, path: str = "") -> "Wrong":
        """A single problem."""
        return cls([Problem(path, message)])

    @classmethod
    def unless(cls, expected: str, value: JsonValue) -> "Wrong":
        """The problem of a value that is of another type."""
        return cls.because(f"must be {expected}, not {name_of(type(value))}")

    def below(self, path: str) -> list[Problem]:
        """The problems as seen from where the value lies at `path`."""
        return [attrs.evolve(problem, path=path + problem.path) for problem in self.problems]


def anything(value: JsonValue, _: Hint) -> JsonValue:
    return value


def instance(type_: type) -> Hook:
    """The hook of a type whose instances stand for themselves: plain ones, and paths and secrets in settings."""

    def one(value: JsonValue, _: Hint) -> Any:
        if isinstance(value, type_):
            return value
        raise Wrong.unless(name_of(type_), value)

    return one


_text = instance(str)


def integer(value: JsonValue, _: Hint) -> int:
    if type(value) is not int:
        raise Wrong.unless("an integer", value)
    # The databases hold no more.
    if not -(2**63) <= value < 2**63:
        raise Wrong.because("must be an integer of at most 64 bits")
    return value


def number(value: JsonValue, _: Hint) -> float:
    if type(value) is int:
        value = integer(value, int)
    elif type(value) is not float:
        raise Wrong.unless("a number", value)
    if not math.isfinite(value):
        raise Wrong.because("must be a finite number")
    return float(value)


def time(value: JsonValue, _: Hint) -> datetime:
    try:
        # A configuration file has times of its own.
        result = value if isinstance(value, datetime) else datetime.fromisoformat(_text(value, str))
    except ValueError:
        raise Wrong.because("must be a time as in 2026-01-31T12:00:00+00:00") from None
    if result.tzinfo is None:
        raise Wrong.because("must be a time with an offset, as in 2026-01-31T12:00:00+00:00")
    return result


def uuid(value: JsonValue, _: Hint) -> UUID:
    try:
        return UUID(_text(value, str))
    except ValueError:
        raise Wrong.because("must be a UUID") from None


def literal(type_: Hint) -> Hook:
    """The hook of a `Literal`."""
    return _one_of({(type(value), value): value for value in get_args(type_)})


def enum(type_: type[Enum]) -> Hook:
    """The hook of an Enum: a member's value stands for it."""
    return _one_of({(type(member.value), member.value): member for member in type_})


def _one_of(values: Mapping[tuple[type, Any], Any]) -> Hook:
    # The keys hold types, since for Python 1 == True == 1.0.
    names = ", ".join(repr(value) for _, value in values)

    def one(value: JsonValue, _: Hint) -> object:
        try:
            return values[type(value), value]
        # TypeError: arrays and objects cannot be keys.
        except (KeyError, TypeError):
            raise Wrong.because(f"must be one of {names}") from None

    return one
