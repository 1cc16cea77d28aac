"""What can be said about all models of a catalogue: the paths that occur in it, and the usual ones to filter by."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, TypeAlias

import attrs

from chatcore.tools import JsonObject

JsonType: TypeAlias = Literal["array", "boolean", "null", "number", "object", "string"]

EXAMPLES = 5
"""How many strings of a path are shown, the first in the order of letters."""


@attrs.frozen
class Range:
    """The least and the greatest of some numbers; None if there are none."""

    min: float | None
    max: float | None


@attrs.frozen(kw_only=True)
class Property:
    """A dotted path that occurs in the catalogue. Lists are passed through: their items count as values of the path.

    `count` is the number of models that have it. Fields for types that do not occur are empty.
    """

    path: str
    count: int
    types: tuple[JsonType, ...]
    item_types: tuple[JsonType, ...] = ()
    examples: tuple[str, ...] = ()
    boolean_values: tuple[bool, ...] = ()
    min: float | None = None
    max: float | None = None


@attrs.frozen(kw_only=True)
class Facets:
    """What the catalogue can be filtered by. Prices are US dollars per million tokens."""

    input_modalities: tuple[str, ...]
    output_modalities: tuple[str, ...]
    supported_parameters: tuple[str, ...]
    series: tuple[str, ...]
    series_normalized: tuple[str, ...]
    context_length: Range
    prompt_price_per_million: Range


@attrs.define
class _Found:
    """What was found at one path so far."""

    count: int = 0
    types: set[JsonType] = attrs.field(factory=set)
    item_types: set[JsonType] = attrs.field(factory=set)
    strings: set[str] = attrs.field(factory=set)
    numbers: set[float] = attrs.field(factory=set)
    booleans: set[bool] = attrs.field(factory=set)

    def add(self, value: object, *, in_list: bool) -> None:
        (self.item_types if in_list else self.types).add(_type(value))
        if isinstance(value, bool):
            self.booleans.add(value)
        elif isinstance(value, str):
            self.strings.add(value)
        elif isinstance(value, int | float):
            self.numbers.add(value)


def facets_of(entries: Sequence[JsonObject]) -> Facets:
    """The facets of enriched entries."""

    def union(key: str) -> tuple[str, ...]:
        return tuple(sorted({label for entry in entries for label in entry[key]}))

    return Facets(
        input_modalities=union("input_modalities"),
        output_modalities=union("output_modalities"),
        supported_parameters=union("supported_parameters"),
        series=union("series"),
        series_normalized=union("series_normalized"),
        context_length=_range(entry["context_length"] for entry in entries),
        prompt_price_per_million=_range(entry["prompt_price_per_million"] for entry in entries),
    )


def properties_of(entries: Iterable[JsonObject]) -> tuple[Property, ...]:
    """Every path of the entries, in the order of letters."""
    found: dict[str, _Found] = {}
    for entry in entries:
        seen: set[str] = set()
        for path, value, in_list in _walk("", entry):
            here = found.setdefault(path, _Found())
            here.count += path not in seen
            seen.add(path)
            here.add(value, in_list=in_list)
    return tuple(_property(path, found[path]) for path in sorted(found))


def _walk(path: str, value: object, in_list: bool = False) -> Iterator[tuple[str, object, bool]]:
    """Every value at and behind a path, and whether it is an item of a list there."""
    if path:
        yield path, value, in_list
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(f"{path}.{key}" if path else key, item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _walk(path, item, in_list=True)


def _property(path: str, found: _Found) -> Property:
    numbers = _range(found.numbers)
    return Property(
        path=path,
        count=found.count,
        types=tuple(sorted(found.types)),
        item_types=tuple(sorted(found.item_types)),
        examples=tuple(sorted(found.strings)[:EXAMPLES]),
        boolean_values=tuple(sorted(found.booleans)),
        min=numbers.min,
        max=numbers.max,
    )


def _range(values: Iterable[float | None]) -> Range:
    numbers = [value for value in values if value is not None]
    return Range(min(numbers, default=None), max(numbers, default=None))


def _type(value: object) -> JsonType:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case Mapping():
            return "object"
        case _:
            return "array"
