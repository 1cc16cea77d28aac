"""What a function gives when it is called, as far as that can be told without a call."""

import inspect
from collections.abc import Callable, Sequence
from types import AsyncGeneratorType, CoroutineType, FunctionType, GeneratorType, UnionType
from typing import Any, Protocol, Union, get_args, get_origin, get_type_hints

_KINDS: Sequence[tuple[Callable[[object], bool], type]] = (
    (inspect.iscoroutinefunction, CoroutineType),
    (inspect.isasyncgenfunction, AsyncGeneratorType),
    (inspect.isgeneratorfunction, GeneratorType),
)


def can_give(function: Callable[..., Any], use: str) -> bool:
    """Whether what a function gives may have the special method `use` (`__await__`, `__aiter__`, `__aenter__`); or,
    where that is empty, be neither to be awaited nor to be iterated asynchronously.

    False is certain: the function's kind or its annotation says so.
    """
    if inspect.isclass(function):
        return _is_of(function, use)
    plain = getattr(function, "__func__", function)
    kind = next((given for is_one, given in _KINDS if is_one(function)), None)
    if kind is not None:
        return _is_of(kind, use) or _is_iterable_coroutine(plain)
    annotated = _annotated(plain) if isinstance(plain, FunctionType) else ()
    return not annotated or any(_is_of(given, use) for given in annotated)


def alternatives(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the hint itself."""
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_of(given: type, use: str) -> bool:
    return hasattr(given, use) if use else not (hasattr(given, "__await__") or hasattr(given, "__aiter__"))


def _is_iterable_coroutine(function: object) -> bool:
    """Whether it is a generator function that `types.coroutine` has marked: what it gives can be awaited."""
    code = getattr(function, "__code__", None)
    return bool(code and code.co_flags & inspect.CO_ITERABLE_COROUTINE)


def _annotated(function: FunctionType) -> Sequence[type]:
    """The classes of what a function is annotated to give; none if that can be anything, or is of a function within."""
    if hasattr(function, "__wrapped__"):
        return ()
    try:
        hint = get_type_hints(function).get("return", Any)
    except Exception:  # noqa: BLE001  a plugin's annotations: they need not make sense
        return ()
    parts = [get_origin(part) or part for part in alternatives(hint)]
    vague = [part for part in parts if not inspect.isclass(part) or part in (object, Any) or Protocol in part.__mro__]
    return () if vague else parts
