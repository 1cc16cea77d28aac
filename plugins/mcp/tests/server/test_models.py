"""The tools that ask models (chatcore_mcp/server/models.py)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from chatcore_mcp.server.models import Models

from chatcore import wire
from chatcore.errors import ProviderRefused, ProviderUnavailable, RequestError, ToolFailed
from chatcore.hooks import Host
from chatcore.testing.scripted import ScriptedProvider, Step, text, think
from chatcore.types import Finish, ModelEvent, ToolCallDelta, ToolCallStarted, Usage

HELLO = [{"role": "user", "content": "hello"}]


def models_of(provider: ScriptedProvider) -> Models:
    return Models(Host(provider_for=lambda model: (provider, model or provider.default_model)))


def answering(*steps: Step, finish: bool = True) -> Models:
    return models_of(ScriptedProvider(steps, finish=finish))


async def refused(models: Models, payload: Any) -> dict[str, Any]:
    with pytest.raises(ToolFailed) as caught:
        await models.completions(payload)
    told = wire.loads(caught.value.message.encode())
    assert isinstance(told, dict)
    return told


# --- chat.completions -------------------------------------------------------------------------------------------------


async def test_a_completion_is_the_whole_answer() -> None:
    """With the generation's id, the reason of its end and the usage; nothing that is null."""
    usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
    end: list[ModelEvent] = [Usage(usage), Finish("length", generation_id="gen-1")]
    assert await answering(think("hm"), text("Hel", "lo"), end).completions({"messages": HELLO}) == {
        "id": "gen-1",
        "role": "assistant",
        "content": "Hello",
        "finish_reason": "length",
        "usage": usage,
    }


async def test_tool_calls_are_put_together() -> None:
    """From fragments that come in turns; a call without arguments has an empty object."""
    fragments: Sequence[Sequence[ModelEvent]] = [
        [ToolCallStarted(0, "call_a", "look"), ToolCallStarted(1, "call_b", "now")],
        [ToolCallDelta(0, '{"city":'), ToolCallDelta(1, "")],
        [ToolCallDelta(0, '"Oslo"}')],
        [Finish("tool_calls")],
    ]
    answer = await answering(*fragments).completions({"messages": HELLO})
    assert answer == {
        "role": "assistant",
        "finish_reason": "tool_calls",
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "look", "arguments": '{"city":"Oslo"}'}},
            {"id": "call_b", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }


async def test_a_payload_goes_upstream_as_it_is() -> None:
    """The model's own parameters, functions, and all fields of messages."""
    provider = ScriptedProvider()
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}}
    payload = {
        "model": "some/model",
        "temperature": 0.5,
        "tools": [{"type": "function", "function": {"name": "look"}}],
        "provider": {"order": ["x"]},
        "messages": [
            {"role": "developer", "content": [{"type": "text", "text": "Be brief."}]},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_details": [{"type": "r"}]},
            {"role": "tool", "content": "rain", "tool_call_id": "c"},
        ],
    }
    await models_of(provider).completions(payload)
    request = provider.requests[0]
    assert request.model == "some/model"
    assert request.parameters == {key: payload[key] for key in ("temperature", "tools", "provider")}
    sent = [{"role": m.role, "content": m.content, **m.extra} for m in request.messages]
    assert wire.loads(wire.dumps(sent)) == payload["messages"]


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "$.messages"),
        ({"messages": []}, "$.messages"),
        ({"messages": "hello"}, "$.messages"),
        ({"messages": [{"content": "x"}]}, "$.messages[0].role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "$.messages[0].role"),
        ({"messages": HELLO, "model": 3}, "$.model"),
    ],
)
async def test_a_wrong_payload_is_told_with_its_place(payload: dict[str, Any], path: str) -> None:
    """As the status 422 of an API."""
    told = await refused(answering(), payload)
    assert told["status_code"] == 422
    assert path in told["detail"]


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProviderRefused("no credit", upstream_status=402), 402),
        (ProviderUnavailable("too busy", upstream_status=429), 429),
        (ProviderUnavailable("no connection"), 502),
    ],
)
async def test_a_failure_upstream_is_told_with_its_status(error: Exception, status: int) -> None:
    """Also where the answer had begun."""
    assert await refused(answering(error), {"messages": HELLO}) == {"status_code": status, "detail": str(error)}
    assert (await refused(answering(text("Hel"), error), {"messages": HELLO}))["status_code"] == status


async def test_an_answer_that_breaks_off_is_a_failure() -> None:
    """There is no way to tell that it is not whole."""
    told = await refused(answering(text("Hel"), finish=False), {"messages": HELLO})
    assert told == {"status_code": 502, "detail": "the answer broke off"}


async def test_a_model_that_nobody_serves_is_told() -> None:
    """In the words of the server."""

    def nobody(model: str | None) -> Any:
        raise RequestError(f"no provider serves {model!r}")

    told = await refused(Models(Host(provider_for=nobody)), {"messages": HELLO, "model": "x/y"})
    assert told == {"status_code": 400, "detail": "no provider serves 'x/y'"}


async def test_a_cancelled_call_ends_the_work_upstream() -> None:
    """The provider's stream is closed at once."""
    provider = ScriptedProvider([text("Hel"), asyncio.Event()])
    asking = asyncio.create_task(models_of(provider).completions({"messages": HELLO}))
    async with asyncio.timeout(5):
        await provider.asked.wait()
        asking.cancel()
        await provider.closed.wait()


# --- llm_chat ---------------------------------------------------------------------------------------------------------


async def test_a_question_is_answered_with_text() -> None:
    """Without anything else, the default model is asked the question alone."""
    provider = ScriptedProvider([think("hm"), text("Hel", "lo")])
    assert await models_of(provider).llm_chat("hello") == "Hello"
    request = provider.requests[0]
    assert (request.model, request.parameters) == ("scripted/model", {})
    assert [(message.role, message.content) for message in request.messages] == [("user", "hello")]


async def test_a_question_may_say_how_it_is_to_be_answered() -> None:
    """In OpenRouter's words for it."""
    provider = ScriptedProvider()
    await models_of(provider).llm_chat(
        "hello", model="m", system_prompt="Be brief.", temperature=0.0, max_tokens=9, reasoning_effort="low"
    )
    request = provider.requests[0]
    assert request.model == "m"
    assert request.parameters == {"temperature": 0.0, "max_tokens": 9, "reasoning": {"effort": "low"}}
    assert [message.content for message in request.messages] == ["Be brief.", "hello"]


async def test_reasoning_can_be_switched_off() -> None:
    """Whatever effort was asked for."""
    provider = ScriptedProvider()
    await models_of(provider).llm_chat("hello", reasoning_effort="high", disable_reasoning=True)
    assert provider.requests[0].parameters == {"reasoning": {"enabled": False, "exclude": True}}


async def test_a_question_that_cannot_be_answered_says_why() -> None:
    """In a sentence, with what can be done about it."""
    with pytest.raises(ToolFailed, match=r"^no credit\. Buy some\.$"):
        await answering(ProviderRefused("no credit", hint="Buy some.")).llm_chat("hello")
