"""What readers get of a run whose log is kept no longer: what is stored of it, as if each answer had come at once."""

from collections.abc import Iterator, Sequence

from chatcore.database import RunRecord
from chatcore.tools import ToolCall, ToolResult
from chatcore.types import (
    Annotated,
    Attachment,
    Event,
    Finish,
    MessageStored,
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


def replayed(record: RunRecord, messages: Sequence[StoredMessage], *, whole: bool) -> Sequence[Event]:
    """The events that are made of the messages of a run that has ended.

    Not `whole`: for a reader that has seen some of the log. How far that went is not known any more, so it is told no
    words again, but how the last answer is stored, and the end.
    """
    ended = RunEnded(record.state, record.reason or "")
    if not whole:
        return [*[MessageStored(stored) for stored in messages if stored.message.role == "assistant"][-1:], ended]
    events: list[Event] = [RunStarted(record.id, record.conversation_id)]
    calls: dict[str | None, ToolCall] = {}
    for stored in messages:
        if stored.message.role == "assistant":
            events += [*_said(stored), MessageStored(stored), *map(ToolStarted, stored.message.tool_calls)]
            calls = {call.id: call for call in stored.message.tool_calls}
        elif call := calls.get(stored.message.tool_call_id):
            result = ToolResult(stored.message.text, stored.is_error, tuple(stored.metadata.get("parts", ())))
            events.append(ToolFinished(call, result, stored.id, stored.created_at))
    return [*events, ended]


def _said(stored: StoredMessage) -> Iterator[Event]:
    message = stored.message
    if message.reasoning or message.reasoning_details:
        yield ReasoningDelta(message.reasoning or "", message.reasoning_details, None, message.reasoning_mark)
    if message.text:
        yield TextDelta(message.text)
    yield from map(Attachment, message.images)
    if message.annotations:
        yield Annotated(message.annotations)
    for index, call in enumerate(message.tool_calls):
        yield ToolCallStarted(index, call.id, call.name)
        yield ToolCallDelta(index, call.arguments)
    if stored.usage:
        yield Usage(stored.usage)
    if stored.finish_reason:
        yield Finish(stored.finish_reason, stored.model, stored.provider, stored.generation_id, stored.routing)
