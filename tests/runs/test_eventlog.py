"""Events as bytes (chatcore/runs/eventlog.py)."""

from datetime import UTC, datetime
from typing import Any, get_args

import attrs
import pytest

from chatcore import types
from chatcore.runs.eventlog import pack, unpack
from chatcore.tools import ToolCall, ToolResult
from chatcore.types import Message, StoredMessage

NOW = datetime(2026, 11, 21, 12, 30, 1, 250, tzinfo=UTC)
STORED = StoredMessage(
    id=7,
    conversation_id="c",
    parent_id=6,
    message=Message(
        role="assistant",
        content=({"type": "text", "text": "é\u2028"},),
        tool_calls=(ToolCall("a", "lookup", '{"x":1}'),),
        reasoning_details=({"type": "reasoning.text", "signature": "s"},),
    ),
    created_at=NOW,
    state="partial",
    usage={"cost": 0.1, "prompt_tokens": 3},
)
SAMPLES: dict[type, Any] = {
    types.RunStarted: types.RunStarted("r", "c", True),
    types.TextDelta: types.TextDelta("é", b'{"a":1}'),
    types.ReasoningDelta: types.ReasoningDelta("hm", [{"type": "reasoning.text", "text": "hm"}], b""),
    types.ToolCallStarted: types.ToolCallStarted(0, "a", "lookup"),
    types.ToolCallDelta: types.ToolCallDelta(0, '{"x', b"{}"),
    types.Annotated: types.Annotated([{"type": "url_citation"}], b"{}"),
    types.Attachment: types.Attachment({"type": "image_url"}),
    types.Usage: types.Usage({"cost": 0.25}),
    types.Finish: types.Finish("stop", "m", "p", "gen", {"x": "y"}, b""),
    types.MessageStored: types.MessageStored(STORED),
    types.ApprovalRequested: types.ApprovalRequested(
        call_id="a", tool="lookup", arguments={"x": [1, None]}, digest="d", expires_at=NOW
    ),
    types.QuestionAsked: types.QuestionAsked(
        question_id="q",
        call_id="a",
        asker="mail",
        message="Who?",
        form={"type": "object", "properties": {}},
        url=None,
        digest="d",
        expires_at=NOW,
    ),
    types.QuestionClosed: types.QuestionClosed(question_id="q", call_id="a", outcome="expired"),
    types.ToolStarted: types.ToolStarted(ToolCall("a", "lookup", "{}")),
    types.ToolFinished: types.ToolFinished(
        ToolCall("a", "lookup", "{}"), ToolResult("out", True, ({"type": "image_url"},)), 8, NOW
    ),
    types.Notice: types.Notice("hop_limit", "paused", {"limit": 40}),
    types.Failed: types.Failed("no", "provider", 502, {"raw": [1]}),
    types.RunEnded: types.RunEnded("incomplete", "server_stopped"),
}


@pytest.mark.parametrize("kind", get_args(types.Event), ids=lambda kind: kind.__name__)
def test_every_event_comes_back_as_it_was(kind: type) -> None:
    """Whatever a run's log may hold survives the database; a new event without a sample fails here."""
    assert unpack(pack([SAMPLES[kind]])) == [SAMPLES[kind]]


@pytest.mark.parametrize("large", [2**64, -(2**63) - 1, 10**300])
def test_integers_of_any_size_come_back(large: int) -> None:
    """A server may say a number in JSON that no machine word holds, in whatever it says."""
    stored = attrs.evolve(STORED, usage={"prompt_tokens": large, "most": [2**64 - 1, -(2**63)], "byok": True})
    events = [types.Usage({"cost": large}), types.Annotated([{"deep": [[large]]}], b"{}"), types.MessageStored(stored)]
    assert unpack(pack(events)) == events


def test_text_without_utf8_loses_that_and_no_more() -> None:
    """As everywhere else where JSON is written."""
    [event] = unpack(pack([types.Usage({"a\ud800": ("b\udfff", 1.5, None)})]))
    assert event == types.Usage({"a?": ["b?", 1.5, None]})


def test_a_list_keeps_its_order() -> None:
    """Events come back in the order in which they were told."""
    events = list(SAMPLES.values())
    assert unpack(pack(events)) == events
    assert unpack(pack([])) == []
