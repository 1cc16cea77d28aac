"""JSON text, read strictly and written compactly."""

import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

import msgspec

from chatcore.errors import RequestError

JsonValue: TypeAlias = Any
"""None, bool, int, float, str, or a list or dict of these."""

MAX_DEPTH = 100
"""How deep arrays and objects may be nested in text from outside."""

INTEGERS = range(-(2**63), 2**64)
"""The integers that MessagePack holds, in which runs are logged."""
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
_LONG_INTEGER = b"0" * 19

_decode = msgspec.json.Decoder().decode


def loads(data: bytes) -> JsonValue:
    """The value of a JSON text. Of equal keys the last counts.

    Refuses what Python's own parser lets through: NaN and Infinity, numbers beyond a float or 64 bits, half of a
    surrogate pair, nesting deeper than MAX_DEPTH. What it gives can therefore always be written again.

    Raises:
        RequestError: not such a text; says what is wrong and, where it is known, at which place.
    """
    if not data or data.isspace():
        raise RequestError("there is no JSON: the text is empty")
    try:
        value = _decode(data)
    except UnicodeDecodeError:
        raise RequestError(f"malformed JSON: invalid UTF-8{_place(data, _first_invalid(data))}") from None
    except msgspec.DecodeError as error:
        raise RequestError(f"malformed JSON: {_reason(str(error), data)}") from None
    except RecursionError:
        raise _too_deep() from None
    # Both limits need a walk over all values. Few texts have so many brackets or such long rows of digits.
    if data.count(b"[") + data.count(b"{") > MAX_DEPTH or _LONG_INTEGER in data.translate(_DIGITS):
        _check_limits(value)
    return value


def _first_invalid(data: bytes) -> int:
    # The error that msgspec raises counts from the start of the string that is wrong.
    try:
        return len(data.decode())
    except UnicodeDecodeError as error:
        return error.start


def _reason(text: str, data: bytes) -> str:
    # msgspec writes 'JSON is malformed: REASON (byte N)', or a sentence without a place.
    reason, _, place = text.removeprefix("JSON is malformed: ").partition(" (byte ")
    if reason == "Input data was truncated":
        return f"it ends too early{_place(data, len(data))}"
    return reason.lower() + (_place(data, int(place.rstrip(")"))) if place else "")


def _place(data: bytes, position: int) -> str:
    before = data[:position].decode(errors="replace")
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    return f" at line {line}, column {column}"


def _too_deep() -> RequestError:
    return RequestError(f"malformed JSON: nested deeper than {MAX_DEPTH} levels")


def _check_limits(value: JsonValue) -> None:
    level: list[JsonValue] = [[value]]
    for _ in range(MAX_DEPTH + 1):
        level = [child for node in level for child in _children(node)]
        if any(type(child) is int and child not in INTEGERS for child in level):
            raise RequestError("malformed JSON: an integer has more than 64 bits")
    if any(isinstance(child, (dict, list)) for child in level):
        raise _too_deep()


def _children(node: JsonValue) -> Iterable[JsonValue]:
    if isinstance(node, dict):
        return node.values()
    return node if isinstance(node, list) else ()


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__qualname__} has no form in JSON")


_encode = msgspec.json.Encoder(enc_hook=_plain).encode
_encode_in_order = msgspec.json.Encoder(order="sorted").encode


def dumps(value: object) -> bytes:
    """Compact JSON in UTF-8.

    attrs values become objects, tuples and sets arrays, datetimes ISO-8601, UUIDs and enums their values, bytes base64,
    NaN null. Half of a surrogate pair, which has no UTF-8, becomes `?`.

    Raises:
        TypeError: a value has no form in JSON.
    """
    try:
        return _encode(value)
    except UnicodeEncodeError:
        text = json.dumps(unstructure(value), ensure_ascii=False).encode(errors="replace")
        return _encode(json.loads(text))


def canonical(value: object) -> bytes:
    """As `dumps`, with the keys of every object in order: of equal values the same text."""
    return _encode_in_order(_decode(dumps(value)))


def unstructure(value: object) -> JsonValue:
    """A value as plain ones, of which `dumps` makes the same text. Tuples stay tuples.

    Raises:
        TypeError: a value has no form in JSON.
    """
    return msgspec.to_builtins(value, str_keys=True, enc_hook=_plain)
