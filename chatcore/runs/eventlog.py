"""Events as bytes, for the rows of the run log.

A packed row is a MessagePack list of events, each `[class name, field, …]`. Nothing but chatcore reads it, and no
longer than a day after the run; it may change from one version to the next only together with a migration.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any, get_args

import attrs
import msgspec

from chatcore import wire
from chatcore.types import (
    ApprovalRequested,
    Event,
    MessageStored,
    QuestionAsked,
    QuestionClosed,
    ToolFinished,
    ToolStarted,
)
from chatcore.wire.text import INTEGERS

# Their fields are values of our own, which go through the converter.
_RICH: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (MessageStored, ApprovalRequested, QuestionAsked, QuestionClosed, ToolStarted, ToolFinished)
}
# The fields of the others are plain values, which MessagePack holds as they are.
_PLAIN: dict[str, type[Any]] = {cls.__name__: cls for cls in get_args(Event) if cls.__name__ not in _RICH}
_FIELDS = {cls: attrgetter(*(field.name for field in attrs.fields(cls))) for cls in _PLAIN.values()}

_LARGE_INTEGER = 1  # the extension type of the integers that MessagePack does not have, as text


def _extension(code: int, data: memoryview) -> int:
    return int(bytes(data))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ext_hook=_extension).decode


def pack(events: Sequence[Event]) -> bytes:
    """The events as one blob. Half of a surrogate pair, which has no UTF-8, becomes `?`."""
    rows = [_row(event) for event in events]
    try:
        return _encode(rows)
    except (OverflowError, UnicodeEncodeError):  # what servers say is not held to the limits of a format of ours
        return _encode(_encodable(rows))


def unpack(data: bytes) -> list[Event]:
    """The events of a blob that `pack` made."""
    return [_event(row) for row in _decode(data)]


def _row(event: Event) -> list[Any]:
    kind = type(event)
    fields = _FIELDS.get(kind)
    return [kind.__name__, *fields(event)] if fields else [kind.__name__, wire.unstructure(event)]


def _encodable(value: Any) -> Any:
    match value:
        case dict():
            return {_encodable(key): _encodable(item) for key, item in value.items()}
        case list() | tuple():
            return [_encodable(item) for item in value]
        case str():
            return value.encode(errors="replace").decode()
        case int() if value not in INTEGERS:
            return msgspec.msgpack.Ext(_LARGE_INTEGER, str(value).encode())
    return value


def _event(row: list[Any]) -> Event:
    name, *values = row
    plain = _PLAIN.get(name)
    event: Event = plain(*values) if plain else wire.structure(values[0], _RICH[name])
    return event
