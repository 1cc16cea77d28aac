"""What servers ask of a person while they work on a call (chatcore_mcp/questions.py), in both forms of the protocol."""

import asyncio
from typing import Any

import pytest

from chatcore.tools import QuestionAnswer

ANN = QuestionAnswer(action="accept", content={"name": "Ann"})
YES = QuestionAnswer(action="accept")
NO = QuestionAnswer(action="decline")


def modern(url: str) -> dict[str, Any]:
    return {"url": f"{url}/mcp"}


def older(url: str) -> dict[str, Any]:
    return {**modern(url), "headers": {"x-older": "yes"}}


@pytest.mark.parametrize("entry", [modern, older])
async def test_a_tool_gets_what_was_filled_in(bench, sdk_server, entry):
    """Whether the server asks by itself, as until 2025-11-25, or has the call made again, as from 2026-07-28 on."""
    made = await bench({"full": entry(sdk_server)})
    await made.connected("full")
    made.answers = [QuestionAnswer(action="accept", content={"greeting": "hello", "times": 3})]
    result = await made.call("greet")
    assert (result.text, result.is_error) == ("hello 3", False)
    [asked] = made.asked
    assert (asked.message, asked.asker, asked.url) == ("How shall I greet?", "full", None)
    assert asked.form["properties"]["times"]["default"] == 2
    assert asked.form["required"] == ["greeting"]


@pytest.mark.parametrize("entry", [modern, older])
@pytest.mark.parametrize("answer", [NO, QuestionAnswer(action="cancel", reason="nobody has answered in time")])
async def test_a_tool_learns_that_there_is_no_answer(bench, sdk_server, entry, answer):
    """What it makes of that is its own affair."""
    made = await bench({"full": entry(sdk_server)})
    await made.connected("full")
    made.answers = [answer]
    assert (await made.call("greet")).is_error
    assert len(made.asked) == 1


async def test_a_page_is_to_be_opened(bench, sdk_server):
    """By a question with its address, or because the call is refused until it was."""
    made = await bench({"full": older(sdk_server)})
    await made.connected("full")
    made.answers = [YES, YES]
    assert (await made.call("pay")).text == "accept"
    assert (await made.call("receipt")).text == "thank you"
    assert [question.url for question in made.asked] == ["https://pay.example/1", "https://pay.example/2"]


async def test_a_cancelled_call_takes_its_question_with_it(bench, sdk_server):
    """And the connection is as good as before."""
    made = await bench({"full": older(sdk_server)})
    await made.connected("full")
    call = asyncio.create_task(made.call("ask"))
    await made.until(lambda: made.asked)
    call.cancel()
    await asyncio.wait([call])
    made.answers = [ANN, ANN]  # one is for the call that has gone: it is the turn that ends its question
    assert "Ann" in (await made.call("ask")).text


async def test_nobody_is_asked_for_somebody_else(bench, sdk_server):
    """An older server does not say whose call its question is about: where two people wait, none of them is asked."""
    made = await bench({"full": older(sdk_server)})
    await made.connected("full")
    first = asyncio.create_task(made.call("ask"))
    await made.until(lambda: made.asked)
    assert "decline" in (await made.call_as("somebody else", "ask")).text
    assert len(made.asked) == 1
    made.answers = [ANN]
    assert "Ann" in (await first).text


async def test_what_cannot_be_asked_is_an_error(bench, sdk_server):
    """For the server as for the model."""
    made = await bench({"full": modern(sdk_server)})
    await made.connected("full")
    result = await made.call("ask")  # a way of asking that its own revision has not any more
    assert result.is_error
    assert made.asked == []
