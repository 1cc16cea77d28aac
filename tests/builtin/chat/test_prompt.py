"""The system prompt, and the history that a model is given."""

from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chatcore.builtin.chat.prompt import BUILT_IN, compose_history, request_prompt, stored_prompt, system_prompt
from chatcore.runs.toolcalls import UNKNOWN_OUTCOME, as_data, without_frame
from chatcore.tools import ToolCall
from chatcore.types import Message, StoredMessage

NEW_YORK = ZoneInfo("America/New_York")
NOON = datetime(2026, 11, 21, 17, 3, 59, tzinfo=UTC)


def stored(role, content=None, *, state="complete", calls=(), answers=None, **fields):
    """A stored message; `answers` is the id of the call that a tool message is for."""
    message = Message(role=role, content=content, tool_calls=calls, tool_call_id=answers, **fields)
    return StoredMessage(
        id=1, conversation_id="c", parent_id=None, message=message, created_at=NOON, state=state, client_message_id="u1"
    )


def call(call_id, arguments="{}", name="roll"):
    return ToolCall(call_id, name, arguments)


def composed(*path):
    """The history without its system message."""
    return list(compose_history(path, "be brief")[1:])


def outline(*path):
    """The history as (role, text without the frame of tools, ids of calls or of the answered call)."""
    return [
        (message.role, without_frame(message.text), message.tool_call_id or [call.id for call in message.tool_calls])
        for message in composed(*path)
    ]


# --- the system prompt ---


def test_prompt_begins_with_the_time_block():
    """Date with weekday, local time with abbreviation, zone, UTC, and a hint stand in front of the prompt."""
    assert system_prompt("Be brief.", None, NOON, NEW_YORK) == (
        "# Date and time\n"
        "Today is Saturday, 21 November 2026 (2026-11-21).\n"
        "Local time: 12:03 EST, time zone America/New_York.\n"
        "UTC: 2026-11-21T17:03Z\n"
        'Use these for words such as "today", "tomorrow" or "next week".\n'
        "\n"
        "Be brief."
    )


def test_today_is_the_users_day():
    """The date is that of the zone, whatever the offset of the clock, also when UTC is a day ahead; so is EDT."""
    late = datetime(2026, 7, 2, 5, 30, tzinfo=timezone(timedelta(hours=2)))
    text = system_prompt(None, None, late, NEW_YORK)
    assert "Wednesday, 1 July 2026" in text
    assert "23:30 EDT" in text
    assert "2026-07-02T03:30Z" in text


@pytest.mark.parametrize(
    ("own", "configured", "used"),
    [
        ("Own.", "Server's.", "Own."),
        (None, "Server's.", "Server's."),
        ("", "Server's.", "Server's."),
        (" \n ", " Server's. ", "Server's."),
        (None, None, BUILT_IN),
        ("", " ", BUILT_IN),
    ],
)
def test_first_prompt_that_is_not_blank_counts(own, configured, used):
    """Own prompt, else the configured one, else the built-in one."""
    assert system_prompt(own, configured, NOON, NEW_YORK).endswith(f"\n\n{used}")


def test_time_is_that_of_the_turn():
    """Two turns of one conversation are told different times: nothing is kept from the first."""
    path = [stored("user", "hi")]
    first, second = (
        compose_history(path, system_prompt("Be brief.", None, now, NEW_YORK))
        for now in (NOON, NOON + timedelta(days=1))
    )
    assert "Saturday" in first[0].text
    assert "Saturday" not in second[0].text
    assert "Sunday" in second[0].text


def test_request_prompt_joins_its_system_messages():
    """All system and developer messages of a request count; blank ones are none."""
    assert request_prompt([Message(role="user", content="hi")]) is None
    assert request_prompt([Message(role="system", content=" ")]) is None
    messages = [
        Message(role="system", content="Be brief. "),
        Message(role="user", content="hi"),
        Message(role="developer", content=({"type": "text", "text": "Speak French."},)),
    ]
    assert request_prompt(messages) == "Be brief.\n\nSpeak French."


def test_stored_prompt_is_the_last_one():
    """Of the prompts that earlier requests brought, the newest is in force."""
    path = [stored("system", "Old."), stored("user", "hi"), stored("system", "New. "), stored("user", "ho")]
    assert stored_prompt(path) == "New."
    assert stored_prompt([stored("user", "hi")]) is None
    assert stored_prompt([stored("system", "")]) is None


# --- the history ---


def test_history_begins_with_the_one_system_message():
    """Stored system messages are left out: the new one stands for them."""
    history = compose_history([stored("system", "old"), stored("user", "hi"), stored("developer", "old")], "be brief")
    assert [(message.role, message.text) for message in history] == [("system", "be brief"), ("user", "hi")]


def test_empty_conversation_is_the_system_message_alone():
    """There is nothing else to say."""
    assert compose_history([], "be brief") == (Message(role="system", content="be brief"),)


def test_message_is_sent_without_what_is_ours():
    """Notes under `metadata` of a part stay here, but for the file that it stands for: whoever sends the message puts
    that in its place. The fields of the request that are not ours go with it."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    part = {**image, "metadata": {"attachment_id": "1" * 32, "filename": "a.png"}}
    extra = {"cache_control": {"type": "ephemeral"}}
    parts = ({"type": "text", "text": "See"}, {**image, "metadata": {"filename": "b.png"}}, part)
    (message,) = composed(stored("user", parts, name="Ann", extra=extra))
    sent = ({"type": "text", "text": "See"}, image, {**image, "metadata": {"attachment_id": "1" * 32}})
    assert message == Message(role="user", content=sent, name="Ann", extra=extra)
    assert "filename" in part["metadata"]


def test_reasoning_goes_back_beside_tool_calls_only():
    """With tool calls it must be there unmodified; in a plain answer it is a cost without use."""
    details = ({"type": "reasoning.text", "text": "Hm.", "signature": "s"},)
    asking, _, plain = composed(
        stored("assistant", calls=(call("a"),), reasoning="Hm.", reasoning_details=details),
        stored("tool", "4", answers="a"),
        stored("assistant", "It is 4.", reasoning="Hm.", reasoning_details=details),
    )
    assert (asking.reasoning, asking.reasoning_details) == ("Hm.", details)
    assert (plain.reasoning, plain.reasoning_details) == (None, ())


def test_marked_reasoning_is_left_to_its_provider():
    """Some servers want it back in every answer."""
    (plain,) = composed(stored("assistant", "It is 4.", reasoning="Hm.", reasoning_mark="deep/reasoning_content"))
    assert (plain.reasoning, plain.reasoning_mark) == ("Hm.", "deep/reasoning_content")


def test_partial_answer_is_part_of_the_conversation():
    """What the user saw, the model knows."""
    assert outline(stored("user", "hi"), stored("assistant", "Hel", state="partial"), stored("user", "go on")) == [
        ("user", "hi", []),
        ("assistant", "Hel", []),
        ("user", "go on", []),
    ]


@pytest.mark.parametrize("content", [None, "", " \n", (), ({"type": "text", "text": " "},), ({"type": "text"},)])
@pytest.mark.parametrize("role", ["user", "assistant"])
def test_empty_messages_are_left_out(role, content):
    """Upstreams refuse them, and one of them would spoil the conversation for ever."""
    assert outline(stored("user", "hi"), stored(role, content, state="partial")) == [("user", "hi", [])]


def test_message_of_images_is_not_empty():
    """A picture says enough, as a part and as an image that the model made."""
    image = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
    assert len(composed(stored("user", (image,)), stored("assistant", "", images=(image,)))) == 2


def test_tool_calls_and_answers_stand_in_order():
    """Each call's answer follows, in the order of the calls."""
    assert outline(
        stored("user", "roll twice"),
        stored("assistant", "", calls=(call("a"), call("b"))),
        stored("tool", "2", answers="b"),
        stored("tool", "1", answers="a"),
        stored("assistant", "1 and 2"),
    ) == [
        ("user", "roll twice", []),
        ("assistant", "", ["a", "b"]),
        ("tool", "1", "a"),
        ("tool", "2", "b"),
        ("assistant", "1 and 2", []),
    ]


def test_call_without_an_answer_is_answered():
    """A conversation that broke off between call and answer is mended: the outcome is unknown."""
    assert outline(
        stored("assistant", "", calls=(call("a"), call("b"))), stored("tool", "1", answers="a"), stored("user", "go on")
    ) == [
        ("assistant", "", ["a", "b"]),
        ("tool", "1", "a"),
        ("tool", UNKNOWN_OUTCOME, "b"),
        ("user", "go on", []),
    ]


@pytest.mark.parametrize(("text", "told"), [("", UNKNOWN_OUTCOME), (None, UNKNOWN_OUTCOME), ("ask Ann", "ask Ann")])
def test_pending_answer_says_that_the_outcome_is_unknown(text, told):
    """The place of an answer that never came is told as such, in its own words if it has some."""
    path = [stored("assistant", calls=(call("a"),)), stored("tool", text, answers="a", state="pending")]
    assert outline(*path)[1] == ("tool", told, "a")


def test_finished_tool_may_have_said_nothing():
    """An empty answer is an answer."""
    path = [stored("assistant", calls=(call("a"),)), stored("tool", None, answers="a")]
    assert composed(*path)[1] == as_data(Message(role="tool", content="", tool_call_id="a"))


def test_answers_to_no_call_are_left_out():
    """At the start, after a plain answer, of another id, or for the second time."""
    assert outline(
        stored("tool", "0", answers="a"),
        stored("assistant", "hello"),
        stored("tool", "1", answers="a"),
        stored("assistant", "", calls=(call("a"),)),
        stored("tool", "2", answers="b"),
        stored("tool", "3", answers="a"),
        stored("tool", "4", answers="a"),
        stored("tool", "5"),
    ) == [("assistant", "hello", []), ("assistant", "", ["a"]), ("tool", "3", "a")]


def test_ids_that_a_model_uses_again_are_told_apart():
    """Models that number their calls from 0 in every answer do not make two calls look like one."""
    assert outline(
        stored("assistant", "", calls=(call("call_0"), call("call_0"), call(""))),
        stored("tool", "1", answers="call_0"),
        stored("tool", "2", answers="call_0"),
        stored("tool", "3", answers=""),
        stored("assistant", "", calls=(call("call_0"),)),
        stored("tool", "4", answers="call_0"),
    ) == [
        ("assistant", "", ["call_0", "call_0_2", "call"]),
        ("tool", "1", "call_0"),
        ("tool", "2", "call_0_2"),
        ("tool", "3", "call"),
        ("assistant", "", ["call_0_3"]),
        ("tool", "4", "call_0_3"),
    ]


@pytest.mark.parametrize("arguments", ["", '{"sides":  6, "name": "é"}', '{"sides": '])
def test_arguments_are_those_that_the_model_wrote(arguments):
    """Down to their white space. A provider whose upstream refuses some of them knows what to write instead."""
    assert composed(stored("assistant", calls=(call("a", arguments),)))[0].tool_calls == (call("a", arguments),)


contents = st.one_of(
    st.none(),
    st.sampled_from(["", " ", "hello"]),
    st.lists(st.sampled_from([{"type": "text", "text": ""}, {"type": "text", "text": "x"}, {"type": "file"}])).map(
        tuple
    ),
)
calls = st.builds(ToolCall, st.sampled_from(["", "a", "a_2", "b"]), st.just("roll"))
messages = st.builds(
    stored,
    st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    contents,
    state=st.sampled_from(["complete", "partial", "pending"]),
    calls=st.lists(calls, max_size=3).map(tuple),
    answers=st.sampled_from([None, "", "a", "a_2", "b"]),
)


@given(st.lists(messages, max_size=12))
def test_history_is_always_one_that_a_model_accepts(path):
    """Whatever is stored: one system message, nothing empty, and each call answered exactly once, directly after."""
    system, *rest = compose_history(path, "be brief")
    assert system == Message(role="system", content="be brief")
    ids = [call.id for message in rest for call in message.tool_calls]
    assert all(ids)
    assert len(ids) == len(set(ids))
    while rest:
        message = rest.pop(0)
        assert message.role in ("user", "assistant")
        assert message.tool_call_id is None
        if message.tool_calls:
            assert message.role == "assistant"
            answers = [rest.pop(0) for _ in message.tool_calls]
            assert [answer.role for answer in answers] == ["tool"] * len(answers)
            assert [answer.tool_call_id for answer in answers] == [call.id for call in message.tool_calls]
            assert all(answer.content is not None for answer in answers)
        else:
            assert message.text.strip() or any(part["type"] != "text" for part in message.content)


@given(st.lists(messages, max_size=12))
def test_nothing_that_was_said_is_lost(path):
    """Every message of user or assistant that says something is there, in its order."""
    said = [m.message.text for m in path if m.message.role in ("user", "assistant") and m.message.text.strip()]
    history = compose_history(path, "be brief")[1:]
    assert [m.text for m in history if m.role != "tool" and m.text.strip()] == said
