"""Runs that are read from their messages (chatcore/runs/replay.py)."""

from datetime import UTC, datetime
from typing import Any

from chatcore.answer import Answer
from chatcore.database import RunRecord
from chatcore.runs.replay import replayed
from chatcore.tools import ToolCall, ToolResult
from chatcore.types import (
    Message,
    MessageStored,
    RunEnded,
    RunStarted,
    StoredMessage,
    TextDelta,
    ToolFinished,
    ToolStarted,
)

NOW = datetime.now(UTC)
RECORD = RunRecord(
    "r", "ann", "c", None, "chat", "m", "incomplete", "hop_limit", "w", NOW, 1, 90, {}, created_at=NOW, ended_at=NOW
)
CALL = ToolCall("call_0", "draw", '{"what": "a cat"}')
IMAGE = {"type": "image_url", "image_url": {"url": "/cat"}}


def stored(number: int, message: Message, **fields: Any) -> StoredMessage:
    return StoredMessage(id=number, conversation_id="c", parent_id=None, created_at=NOW, message=message, **fields)


ASKED = stored(
    2,
    Message(
        role="assistant",
        tool_calls=(CALL,),
        reasoning="Hm.",
        reasoning_details=({"type": "reasoning.text", "text": "Hm."},),
    ),
    finish_reason="tool_calls",
    usage={"cost": 1},
)
DRAWN = stored(
    3, Message(role="tool", content="drawn", tool_call_id="call_0"), is_error=True, metadata={"parts": [IMAGE]}
)
TOLD = stored(
    4,
    Message(role="assistant", content="A cat.", images=(IMAGE,), annotations=({"type": "url_citation"},)),
    finish_reason="stop",
)
MESSAGES = (ASKED, DRAWN, TOLD)


def test_the_answers_are_those_that_were_stored() -> None:
    """Whoever puts them together from the events gets the messages, in their order, between the start and the end."""
    events = replayed(RECORD, MESSAGES, whole=True)
    assert events[0] == RunStarted("r", "c")
    assert events[-1] == RunEnded("incomplete", "hop_limit")
    answers = []
    answer = Answer()
    for event in events:
        answer.add([event])
        if isinstance(event, MessageStored):
            answers.append((answer.message(), answer.finish_reason, answer.usage))
            answer = Answer()
    assert answers == [(one.message, one.finish_reason, one.usage) for one in (ASKED, TOLD)]
    tools = [event for event in events if isinstance(event, ToolStarted | ToolFinished)]
    assert tools == [ToolStarted(CALL), ToolFinished(CALL, ToolResult("drawn", True, (IMAGE,)), 3, NOW)]


def test_who_has_read_some_of_it_gets_no_word_twice() -> None:
    """But learns how the last answer is stored, and the end."""
    assert replayed(RECORD, MESSAGES, whole=False) == [MessageStored(TOLD), RunEnded("incomplete", "hop_limit")]
    assert replayed(RECORD, (), whole=False) == [RunEnded("incomplete", "hop_limit")]
    assert not [event for event in replayed(RECORD, (), whole=True) if isinstance(event, TextDelta)]
