"""What a type hint stands for, and what it looks like in JSON."""

import collections.abc
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin
from uuid import UUID

import attrs

Hint: TypeAlias = Any
"""A type as it is written in a type hint: a class, `str | None`, `tuple[int, ...]`, `Literal["a"]`."""

PLAIN: tuple[type, ...] = (str, bool, int, float, dict, list, tuple, type(None))
"""The types of plain values, which are those that JSON has. A tuple counts as a list."""

ARRAYS: Mapping[Hint, Callable[[Iterable[Any]], Any]] = {
    list: list,
    tuple: tuple,
    Sequence: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Set: frozenset,
}
"""The types that are arrays in JSON, and what makes them. `tuple[int, str]` is not supported."""

OBJECTS = (dict, Mapping, collections.abc.MutableMapping)
"""The types that are objects in JSON, beside attrs classes."""

REST = "chatcore.rest"
"""The key in a field's metadata that marks it as the place for unknown keys."""


def origin(type_: Hint) -> Hint:
    """`list` for `list[int]`, and any other type itself."""
    found: Hint = get_origin(type_)
    return type_ if found is None else found


def is_union(type_: Hint) -> bool:
    """Whether a type is `A | B`, in either spelling."""
    return origin(type_) in (Union, types.UnionType)


def is_enum(type_: Hint) -> bool:
    """Whether a type is an Enum class."""
    return isinstance(type_, type) and issubclass(type_, Enum)


def fields_of(cls: Hint) -> "Sequence[attrs.Attribute[Any]]":
    """The fields of an attrs class with which it is made, their types resolved."""
    return [field for field in attrs.fields(attrs.resolve_types(origin(cls))) if field.init]


def bare(type_: Hint) -> Hint:
    """A type without `Annotated` and `NewType` around it."""
    while origin(type_) is Annotated or hasattr(type_, "__supertype__"):
        type_ = getattr(type_, "__supertype__", None) or get_args(type_)[0]
    return type_


def plain_types(type_: Hint) -> tuple[type, ...]:
    """The types of the plain values from which a value of a type can be had."""
    type_ = bare(type_)
    if type_ is Any:
        return PLAIN
    if is_union(type_):
        return tuple(plain for member in get_args(type_) for plain in plain_types(member))
    if origin(type_) is Literal:
        return tuple({type(value) for value in get_args(type_)})
    if is_enum(type_):
        return tuple({type(member.value) for member in type_})
    if origin(type_) in ARRAYS:
        return (list, tuple)
    if origin(type_) in OBJECTS or attrs.has(origin(type_)):
        return (dict,)
    return {float: (int, float), datetime: (str,), UUID: (str,)}.get(type_, (type_,))
