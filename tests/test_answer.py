"""An answer is put together from its events."""

import time
from collections.abc import Sequence
from typing import Any

import pytest

from chatcore.answer import Answer
from chatcore.testing.scripted import ScriptedProvider
from chatcore.tools import ToolCall
from chatcore.types import (
    Annotated,
    Attachment,
    Event,
    Finish,
    Message,
    Notice,
    ReasoningDelta,
    RunStarted,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)


def answer_of(*events: Event) -> Answer:
    answer = Answer()
    answer.add(events)
    return answer


def details_of(*fragments: dict[str, Any]) -> Sequence[Any]:
    return answer_of(*(ReasoningDelta("", [fragment]) for fragment in fragments)).message().reasoning_details


@pytest.mark.parametrize(
    ("usage", "cost"),
    [
        ({"cost": 0.25}, 0.25),
        ({"cost": "0.25"}, 0.25),
        *(({"cost": said}, 0.0) for said in (None, "free", -1, [], {"usd": 1}, float("nan"), float("inf"))),
        ({}, 0.0),
    ],
)
def test_what_it_cost(usage: dict[str, Any], cost: float) -> None:
    """Where the server says it in a number; what else it says does no harm."""
    assert answer_of(Usage(usage)).cost == cost
    assert Answer().cost == 0.0


def test_everything_together() -> None:
    """Text and reasoning are joined, the rest is collected; usage and finish are beside the message."""
    finish = Finish("tool_calls", model="m", generation_id="gen-1")
    answer = answer_of(
        ReasoningDelta("Let me ", [{"type": "reasoning.text", "text": "Let me ", "index": 0}]),
        ReasoningDelta("think.", [{"type": "reasoning.text", "text": "think.", "index": 0}]),
        TextDelta("It is"),
        TextDelta(" so."),
        Annotated([{"type": "url_citation"}]),
        Attachment({"type": "image_url"}),
        ToolCallStarted(0, "a", "f"),
        ToolCallDelta(0, '{"x":'),
        ToolCallDelta(0, " 1}"),
        Usage({"total_tokens": 1}),
        Usage({"total_tokens": 2}),
        finish,
    )
    assert answer.message() == Message(
        role="assistant",
        content="It is so.",
        tool_calls=(ToolCall("a", "f", '{"x": 1}'),),
        reasoning="Let me think.",
        reasoning_details=({"type": "reasoning.text", "text": "Let me think.", "index": 0},),
        annotations=({"type": "url_citation"},),
        images=({"type": "image_url"},),
    )
    assert answer.usage == {"total_tokens": 2}
    assert answer.finish is finish
    assert answer.finish_reason == "tool_calls"


def test_nothing_yet() -> None:
    """An answer without a finish has no finish reason, and its message is empty text."""
    answer = Answer()
    assert (answer.empty, answer.finish, answer.finish_reason, answer.usage, answer.tool_calls) == (
        True,
        None,
        None,
        None,
        (),
    )
    assert answer.message() == Message(role="assistant", content="")


@pytest.mark.parametrize(
    ("event", "empty"),
    [
        (TextDelta(""), True),
        (Usage({}), True),
        (Finish("stop"), False),
        (ReasoningDelta("", ()), True),
        (RunStarted("r", "c"), True),
        (Notice("hop_limit", "x"), True),
        (TextDelta(" "), False),
        (ReasoningDelta("x"), False),
        (ReasoningDelta("", [{"type": "reasoning.encrypted"}]), False),
        (ToolCallStarted(0, "a", "f"), False),
        (Annotated([{}]), False),
        (Attachment({}), False),
    ],
)
def test_empty_means_nothing_to_store(event: Event, empty: bool) -> None:
    """Usage, and what is no part of an answer, do not make a message; that the model has ended does."""
    assert answer_of(event).empty is empty


def test_a_call_without_text_has_no_content() -> None:
    """None, as the format has it; a call whose arguments never came has the empty object."""
    message = answer_of(ToolCallStarted(0, "a", "f"), ToolCallDelta(0, " ")).message()
    assert (message.content, message.tool_calls) == (None, (ToolCall("a", "f", "{}"),))


def test_calls_are_kept_apart_by_their_index() -> None:
    """Their pieces may come in any order; what the model wrote stays, also if it is no JSON."""
    answer = answer_of(
        ToolCallStarted(1, "b", "g"),
        ToolCallStarted(0, "a", "f"),
        ToolCallDelta(1, ' {"y"'),
        ToolCallDelta(0, '{"x":1}'),
        ToolCallDelta(1, ":"),
    )
    assert answer.tool_calls == (ToolCall("a", "f", '{"x":1}'), ToolCall("b", "g", ' {"y":'))


def test_words_are_kept_as_often_as_they_come() -> None:
    """Reasoning is joined, not trimmed or freed of doubles."""
    assert answer_of(*map(ReasoningDelta, ["no", " no", " no", " "])).message().reasoning == "no no no "


# --- reasoning details ---


def test_fragments_of_an_index_and_type_are_one_detail() -> None:
    """In the order in which they began; fields that do not grow come from whichever fragment has them."""
    assert details_of(
        {"type": "reasoning.text", "text": "a", "format": "anthropic-claude-v1", "index": 0},
        {"type": "reasoning.text", "text": "x", "index": 1},
        {"type": "reasoning.text", "text": "b", "signature": None, "index": 0},
        {"type": "reasoning.text", "signature": "sig", "index": 0},
        {"type": "reasoning.summary", "summary": "s1", "index": 0},
        {"type": "reasoning.summary", "summary": "s2", "index": 0, "id": "rs_1"},
    ) == (
        {"type": "reasoning.text", "text": "ab", "format": "anthropic-claude-v1", "index": 0, "signature": "sig"},
        {"type": "reasoning.text", "text": "x", "index": 1},
        {"type": "reasoning.summary", "summary": "s1s2", "index": 0, "id": "rs_1"},
    )


def test_a_null_undoes_nothing() -> None:
    """Servers repeat fields as null."""
    assert details_of(
        {"type": "reasoning.text", "text": "a", "signature": "sig", "id": "i", "index": 0},
        {"type": "reasoning.text", "text": None, "signature": None, "id": None, "index": 0},
    ) == ({"type": "reasoning.text", "text": "a", "signature": "sig", "id": "i", "index": 0},)
    assert details_of({"type": "reasoning.text", "text": None, "index": 0}) == (
        {"type": "reasoning.text", "text": None, "index": 0},
    )


def test_two_ids_are_two_details() -> None:
    """Also where the server gives them the same index."""
    blocks = [{"type": "reasoning.encrypted", "data": data, "id": data, "index": 0} for data in ("a", "b")]
    assert details_of(*blocks) == tuple(blocks)


def test_encrypted_blocks_without_an_index_are_whole() -> None:
    """Put together they could not be read; texts without an index go on."""
    blocks = [{"type": "reasoning.encrypted", "data": data} for data in ("a", "b")]
    assert details_of(*blocks) == tuple(blocks)
    assert details_of(*({"type": "reasoning.text", "text": text} for text in "ab")) == (
        {"type": "reasoning.text", "text": "ab"},
    )


def test_unknown_details_are_kept_as_they_are() -> None:
    """Whatever fields they have."""
    detail = {"type": "reasoning.server_tool_call", "tool_name": "f", "arguments": "{}", "result": {"a": 1}, "index": 4}
    assert details_of(detail) == (detail,)
    assert details_of({}) == ({},)


@pytest.mark.parametrize("wrong", ["text", None, {"content": "text"}, TextDelta])
def test_what_is_no_event_is_refused(wrong: Any) -> None:
    """A provider that yields such a thing is told apart from one that has said something."""
    with pytest.raises(TypeError, match="wanted an event"):
        answer_of(TextDelta("One."), wrong)


async def test_a_provider_that_yields_no_events_fails_its_answer_only(make_chat: Any, caplog: Any) -> None:
    """The reader gets what came before, and an error; the log says what it was."""
    chat = await make_chat(provider=ScriptedProvider([[TextDelta("One. ")], ["Two."]]))  # type: ignore[list-item]
    reply = await chat.say("Count.")
    assert reply.text.startswith("One. ")
    assert [frame.data["type"] for frame in reply.named("error")] == ["internal"]
    assert "a model gave 'Two.', wanted an event" in caplog.text
    assert (await chat.say("And now?")).text == "ok"


def test_the_time_for_an_event_does_not_grow() -> None:
    """The last of 200,000 pieces takes no longer than the first."""

    def add(answer: Answer, number: int) -> float:
        start = time.thread_time()
        for _ in range(number):
            answer.add([TextDelta("word "), ReasoningDelta("t", [{"type": "reasoning.text", "text": "t", "index": 0}])])
        return time.thread_time() - start

    answer = Answer()
    first = min(add(answer, 2000) for _ in range(5))
    add(answer, 90_000)
    last = min(add(answer, 2000) for _ in range(5))
    assert last < 5 * first
    assert len(answer.message().text) == 5 * 110_000
