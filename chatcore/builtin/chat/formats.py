"""From events to frames: how a run looks on the wire. One log, many formats; each is a pure function of the events.

`chat` is the format of contract §2, which the seeds' clients read. `events` is our own, with every event as it is.
Every frame that completes an event carries `id: <run id>:<number>`, with which a reader resumes.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from chatcore import wire
from chatcore.builtin.chat.records import answer_metadata, local_and_utc
from chatcore.types import (
    Annotated,
    ApprovalRequested,
    Attachment,
    Event,
    Failed,
    Finish,
    MessageStored,
    Notice,
    QuestionAsked,
    QuestionClosed,
    ReasoningDelta,
    RunEnded,
    RunStarted,
    StoredMessage,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    ToolFinished,
    ToolStarted,
    Usage,
)

PAUSES = frozenset({"hop_limit", "tool_error_limit", "cost_limit", "answer_limit", "repeated_call"})
"""Notices that stand where the answer would go on: shown as text too, since clients hide the tool's message."""


_WAITING = {ApprovalRequested: b"approval", QuestionAsked: b"question", QuestionClosed: b"question_closed"}


class Format(Protocol):
    """Renders the events of one run for one reader."""

    def frames(self, first: int, events: Sequence[Event]) -> bytes:
        """The frames of a batch; `first` is the number of its first event. May be empty."""


class ChatFormat:
    """The stream of contract §2: `session`, `message`, `metadata`, `tool`, `notice`, and `[DONE]` as the last. Who has
    said that it can ask for consent gets `approval`, `question` and `question_closed`, too."""

    def __init__(self, run_id: str, model: str, created_at: datetime, zone: ZoneInfo) -> None:
        self._id = b"id: %b:" % run_id.encode()
        created = int(created_at.timestamp())
        self._chunk = {"id": run_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._zone = zone

    def frames(self, first: int, events: Sequence[Event]) -> bytes:
        return b"".join([self._event(number, event) for number, event in enumerate(events, first)])

    def _event(self, number: int, event: Event) -> bytes:
        # Nearly every event is a chunk that goes on as it came.
        raw = getattr(event, "raw", None)
        if raw:
            return b"%b%d\nevent: message\ndata: %b\n\n" % (self._id, number, raw)
        if raw is not None:
            return b""
        if isinstance(event, RunStarted) and not event.new_conversation:
            return b": run %b\n\n" % event.run_id.encode()  # something at once, so that the client gets the head
        frames = [b"event: %b\ndata: %b\n\n" % (name, data) for name, data in self._named(event)]
        return b"".join([*frames[:-1], b"%b%d\n%b" % (self._id, number, frames[-1])]) if frames else b""

    def _named(self, event: Event) -> list[tuple[bytes, bytes]]:
        """The frames of an event, as (name, data)."""
        match event:
            case RunStarted():
                return [(b"session", wire.dumps({"session_id": event.conversation_id}))]
            case MessageStored():
                return self._metadata(event.message)
            case ApprovalRequested() | QuestionAsked() | QuestionClosed():
                return [(_WAITING[type(event)], wire.dumps(event))]
            case ToolStarted() | ToolFinished():
                return [(b"tool", wire.dumps(_tool(event, self._zone)))]
            case Notice():
                return self._notice(event)
            case Failed():
                error = {"error": event.message, "type": event.code, "status": event.status}
                return [(b"error", wire.dumps(error)), self._delta({"content": f"Error: {event.message}"})]
            case RunEnded():
                return [(b"message", b"[DONE]")]
            case _:
                return [self._made_chunk(event)]

    def _metadata(self, stored: StoredMessage) -> list[tuple[bytes, bytes]]:
        if "pause" in stored.metadata:
            return []  # its words come with the notice; clients are to keep the metadata of the answer before it
        return [(b"metadata", wire.dumps(answer_metadata(stored, self._zone)))]

    def _notice(self, notice: Notice) -> list[tuple[bytes, bytes]]:
        if notice.kind in ("tools_unsupported", "approval_required", "question_declined"):
            told = {"status": "notice", "name": "system", "message": notice.message}
            return [(b"tool", wire.dumps(told))]
        if notice.kind in PAUSES:
            pause = {"status": notice.kind, "name": "system", "message": notice.message, "result": notice.message}
            return [(b"tool", wire.dumps({**pause, **notice.data})), self._delta({"content": notice.message})]
        return [(b"notice", wire.dumps({"type": notice.kind, "message": notice.message, **notice.data}))]

    def _made_chunk(self, event: Event) -> tuple[bytes, bytes]:
        """A chunk for an event of a provider that does not speak in chunks."""
        match event:
            case TextDelta():
                return self._delta({"role": "assistant", "content": event.text})
            case ReasoningDelta():
                return self._delta(
                    {"role": "assistant", "reasoning": event.text, "reasoning_details": list(event.details)}
                )
            case ToolCallStarted() | ToolCallDelta():
                return self._delta({"role": "assistant", "tool_calls": [_call_fragment(event)]})
            case Annotated():
                return self._delta({"annotations": list(event.annotations)})
            case Attachment():
                return self._delta({"role": "assistant", "content": [event.part]})
            case Usage():
                return b"message", wire.dumps({**self._chunk, "choices": [], "usage": event.usage})
            case Finish():
                return self._delta({}, finish_reason=event.reason)
        raise TypeError(f"{event!r} is not a part of an answer")

    def _delta(self, delta: Mapping[str, Any], finish_reason: str | None = None) -> tuple[bytes, bytes]:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return b"message", wire.dumps({**self._chunk, "choices": [choice]})


def _call_fragment(event: ToolCallStarted | ToolCallDelta) -> dict[str, Any]:
    if isinstance(event, ToolCallDelta):
        return {"index": event.index, "function": {"arguments": event.arguments}}
    function = {"name": event.name, "arguments": ""}
    return {"index": event.index, "id": event.id, "type": "function", "function": function}


def _tool(event: ToolStarted | ToolFinished, zone: ZoneInfo) -> dict[str, Any]:
    called = {"name": event.call.name or "unknown", "call_id": event.call.id}
    if isinstance(event, ToolStarted):
        return {"status": "started", **called}
    return {
        "status": "error" if event.result.is_error else "finished",
        **called,
        "result": event.result.text,
        "message_id": event.message_id,
        **local_and_utc(event.created_at, zone),
        **({"content": list(event.result.parts)} if event.result.parts else {}),
    }


class EventsFormat:
    """Every event of the log as it is: the event's class is the frame's name, its fields are the data."""

    def __init__(self, run_id: str, model: str, created_at: datetime, zone: ZoneInfo) -> None:
        self._id = run_id.encode()

    def frames(self, first: int, events: Sequence[Event]) -> bytes:
        return b"".join([self._frame(number, event) for number, event in enumerate(events, first)])

    def _frame(self, number: int, event: Event) -> bytes:
        fields = {key: value for key, value in wire.unstructure(event).items() if key != "raw"}
        return b"id: %b:%d\nevent: %b\ndata: %b\n\n" % (
            self._id,
            number,
            type(event).__name__.encode(),
            wire.dumps(fields),
        )


FORMATS: Mapping[str, Callable[[str, str, datetime, ZoneInfo], Format]] = {"chat": ChatFormat, "events": EventsFormat}
"""The formats by name: (run id, model, start of the run, time zone of message times) → a renderer."""
