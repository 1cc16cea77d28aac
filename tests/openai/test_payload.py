"""What an OpenAI-shaped chat server is sent (chatcore/openai/payload.py)."""

import json

import pytest

from chatcore.openai.payload import message_json
from chatcore.openai.thoughts import mark_of
from chatcore.tools import ToolCall
from chatcore.types import Message


def test_message_json() -> None:
    """Everything that a model needs back, unmodified; what is empty is left out; unknown fields go along."""
    details = ({"type": "reasoning.text", "text": "hm", "signature": "s", "index": 0}, {"type": "reasoning.encrypted"})
    message = Message(
        role="assistant",
        content=None,
        name="bot",
        tool_calls=(ToolCall("a", "f", '{"x":  1}'),),
        reasoning="hm",
        reasoning_details=details,
        annotations=({"type": "file"},),
        images=({"type": "image_url"},),
        extra={"cache_control": {"type": "ephemeral"}, "role": "system"},
    )
    assert json.loads(json.dumps(message_json(message))) == {
        "role": "assistant",
        "content": None,
        "name": "bot",
        "tool_calls": [{"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":  1}'}}],
        "reasoning_details": list(details),
        "annotations": [{"type": "file"}],
        "images": [{"type": "image_url"}],
        "cache_control": {"type": "ephemeral"},
    }
    assert message_json(Message(role="user", content="Hi")) == {"role": "user", "content": "Hi"}
    assert message_json(Message(role="tool", content="18", tool_call_id="a")) == {
        "role": "tool",
        "content": "18",
        "tool_call_id": "a",
    }


def test_reasoning_without_details_goes_back_beside_tool_calls() -> None:
    """A model that gave only text gets it back as long as its turn goes on; later it is of no use."""
    call = ToolCall("a", "f", "{}")
    assert message_json(Message(role="assistant", tool_calls=(call,), reasoning="hm"))["reasoning"] == "hm"
    assert "reasoning" not in message_json(Message(role="assistant", content="x", reasoning="hm"))


MARKED = {
    "reasoning_content": {"content": "x", "reasoning_content": "hm"},
    "thinking": {
        "content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "x"}]
    },
}


@pytest.mark.parametrize("place", MARKED)
@pytest.mark.parametrize("calls", [(), (ToolCall("a", "f", "{}"),)], ids=["", "calls"])
def test_marked_reasoning_goes_back_where_it_came_from(place: str, calls: tuple[ToolCall, ...]) -> None:
    """In every answer, and to the provider that gave it; others, which would refuse the request for it, get none."""
    mark = mark_of("deep", place)
    message = Message(role="assistant", content="x", tool_calls=calls, reasoning="hm", reasoning_mark=mark)
    expected = {"deep": MARKED[place], "groq": {"content": "x"}}
    for provider, fields in expected.items():
        sent = message_json(message, provider)
        sent.pop("tool_calls", None)
        assert sent == {"role": "assistant", **fields}


def test_an_empty_reasoning_content_goes_back_too() -> None:
    """DeepSeek's server refuses an answer of its thinking models without it, also where it gave none."""
    message = Message(role="assistant", content="x", reasoning_mark=mark_of("deep", "reasoning_content"))
    assert message_json(message, "deep") == {"role": "assistant", "content": "x", "reasoning_content": ""}


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [('{"a": 1}', '{"a": 1}'), ("", "{}"), ('{"ci', '{"unreadable":"{\\"ci"}'), ("[1]", '{"unreadable":"[1]"}')],
)
def test_arguments_that_broke_off_are_sent_as_an_object(arguments: str, sent: str) -> None:
    """A server that translates calls for another API refuses anything else, and the conversation with it."""
    message = Message(role="assistant", tool_calls=(ToolCall("a", "f", arguments),))
    assert message_json(message)["tool_calls"][0]["function"]["arguments"] == sent


@pytest.mark.parametrize(
    ("name", "sent"),
    [("", "unnamed"), ("functions.look up", "functions_look_up"), ("é" * 70, "_" * 64), ("a-B", "a-B")],
)
def test_names_that_no_tool_can_have_are_not_sent(name: str, sent: str) -> None:
    """A model made them up, and was told so; servers refuse them, and every later request of the conversation."""
    message = Message(role="assistant", tool_calls=(ToolCall("a", name, "{}"),))
    assert message_json(message)["tool_calls"][0]["function"]["name"] == sent
