"""The filters of the catalogue: a JSON object of dotted paths and what is wanted there.

    {"context_length": {"min": 32000}, "series": ["claude", "gemini"], "architecture.tokenizer": "GPT"}

A path leads through lists: it has all the values that lie behind it, and one that fits is enough. What is wanted is a
value (text in any case of letters), a list (one of these), or an object of operators, all of which must hold. All paths
must hold. An operator that is not known, or whose operand makes no sense, fits nothing.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from chatcore import wire
from chatcore.errors import RequestError
from chatcore.tools import JsonObject

Filter: TypeAlias = Callable[[JsonObject], bool]
"""Whether an entry passes."""

_Test: TypeAlias = Callable[[Sequence[object]], bool]


def parse(text: str) -> tuple[Filter, ...]:
    """The filters that the text asks for: none, if it is blank.

    Raises:
        RequestError: the text is not a JSON object.
    """
    if not text.strip():
        return ()
    wanted = wire.loads(text.encode(errors="surrogatepass"))
    if not isinstance(wanted, Mapping):
        raise RequestError(
            "'filters' is not a JSON object", hint='write it like {"context_length": {"min": 32000}}, URL-encoded'
        )
    return tuple(_filter(path, criterion) for path, criterion in wanted.items())


def leaves(value: object) -> Iterator[object]:
    """Every value that is neither an object nor a list, at any depth."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def _filter(path: str, criterion: object) -> Filter:
    keys = path.split(".")
    tests = _tests(criterion)

    def passes(entry: JsonObject) -> bool:
        values = list(_behind(entry, keys))
        return all(test(values) for test in tests)

    return passes


def _behind(value: object, keys: Sequence[str]) -> Iterator[object]:
    if isinstance(value, list | tuple):
        for item in value:
            yield from _behind(item, keys)
    elif not keys:
        yield value
    elif isinstance(value, Mapping) and keys[0] in value:
        yield from _behind(value[keys[0]], keys[1:])


def _tests(criterion: object) -> list[_Test]:
    if isinstance(criterion, Mapping):
        return [_OPERATORS.get(name, _never)(operand) for name, operand in criterion.items()]
    return [_one_of(criterion)]


def _one_of(operand: object) -> _Test:
    wanted = [_comparable(item) for item in (operand if isinstance(operand, list) else [operand])]
    return lambda values: any(_comparable(value) in wanted for value in values)


def _none_of(operand: object) -> _Test:
    found = _one_of(operand)
    return lambda values: not found(values)


def _contains(operand: object) -> _Test:
    if not isinstance(operand, str):
        return _never(operand)
    part = operand.casefold()
    return lambda values: any(isinstance(value, str) and part in value.casefold() for value in values)


def _at_least(operand: object) -> _Test:
    limit = number(operand)
    return lambda values: any(number(value) >= limit for value in values)


def _at_most(operand: object) -> _Test:
    limit = number(operand)
    return lambda values: any(number(value) <= limit for value in values)


def _exists(operand: object) -> _Test:
    return lambda values: any(value is not None for value in values) is operand


def _never(_: object) -> _Test:
    return lambda _: False


_OPERATORS: Mapping[str, Callable[[object], _Test]] = {
    "eq": _one_of,
    "equals": _one_of,
    "neq": _none_of,
    "not": _none_of,
    "contains": _contains,
    "substring": _contains,
    "in": _one_of,
    "one_of": _one_of,
    "min": _at_least,
    "gte": _at_least,
    "max": _at_most,
    "lte": _at_most,
    "exists": _exists,
}


def _comparable(value: object) -> object:
    """Something that equals what is the same in JSON: text in any case of letters, true is not 1."""
    if isinstance(value, bool):
        return "boolean", value
    return value.casefold() if isinstance(value, str) else value


def number(value: object) -> float:
    """NaN, which no comparison holds for, unless the value is a number or a string that is one."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return math.nan
    try:
        return float(value)
    except (ValueError, OverflowError):
        return math.nan
