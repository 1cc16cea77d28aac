"""Events as bytes, for the rows of the run log.

A packed row is a MessagePack list of events, each `[class name, field, …]`. Nothing but chatcore reads it, and no
longer than a day after the run; it may change from one version to the next only together with a migration.
"""

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import attrs
import msgspec

from chatcore import wire
from chatcore.types import (
    Annotated,
    ApprovalRequested,
    Attachment,
    Event,
    Failed,
    Finish,
    MessageStored,
    Notice,
    ReasoningDelta,
    RunEnded,
    RunStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    Usage,
)

# Their fields are plain values, which MessagePack holds as they are.
_PLAIN: dict[str, type[Any]] = {
    cls.__name__: cls
    for cls in (
        TextDelta,
        ReasoningDelta,
        ToolCallStarted,
        ToolCallDelta,
        Annotated,
        Attachment,
        Usage,
        Finish,
        Notice,
        Failed,
        RunStarted,
        RunEnded,
    )
}
# Their fields are values of our own, which go through the converter.
_RICH: dict[str, type[Any]] = {
    cls.__name__: cls for cls in (MessageStored, ApprovalRequested, ToolStarted, ToolFinished)
}
_FIELDS = {cls: attrgetter(*(field.name for field in attrs.fields(cls))) for cls in _PLAIN.values()}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


def pack(events: Sequence[Event]) -> bytes:
    """The events as one blob."""
    return _encode([_row(event) for event in events])


def unpack(data: bytes) -> list[Event]:
    """The events of a blob that `pack` made."""
    return [_event(row) for row in _decode(data)]


def _row(event: Event) -> list[Any]:
    kind = type(event)
    fields = _FIELDS.get(kind)
    return [kind.__name__, *fields(event)] if fields else [kind.__name__, wire.unstructure(event)]


def _event(row: list[Any]) -> Event:
    name, *values = row
    plain = _PLAIN.get(name)
    event: Event = plain(*values) if plain else wire.structure(values[0], _RICH[name])
    return event
