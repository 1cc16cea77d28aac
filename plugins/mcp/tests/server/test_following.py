"""What clients of `/mcp` are told and asked while a tool works (chatcore_mcp/server/following.py), on a real server."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from chatcore_mcp import Mcp
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestURLParams, ElicitResult

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.testing.chat import Chat
from chatcore.tools import Invocation, Question, Tool

MakeChat = Callable[..., Awaitable[Chat]]
SHARING = {"share_tools": True}
FORM = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "default": 30}},
    "required": ["name"],
}


class Toolbox(Plugin[NoSettings]):
    """Has tools."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [Tool.of(climb), Tool.of(meet, timeout=0.2), Tool.of(visit)]


async def climb(invocation: Invocation) -> str:
    """Climbs."""
    for step in range(3):
        invocation.progress(f"step {step}", step + 1, 3)
        await asyncio.sleep(0)
    invocation.progress("there")
    return "up"


async def meet(invocation: Invocation) -> str:
    """Asks who is there."""
    answer = await invocation.ask(Question(message="Who are you?", form=FORM))
    return f"{answer.action} {dict(answer.content)} {answer.reason}".strip()


async def visit(invocation: Invocation) -> str:
    """Has a page opened."""
    return (await invocation.ask(Question(message="Pay.", url="https://pay.example/1"))).action


@asynccontextmanager
async def client_of(chat: Chat, mode: str, elicit: Any = None) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(timeout=30, trust_env=False) as http,
        Client(
            streamable_http_client(f"{chat.url}/mcp", http_client=http), mode=mode, elicitation_callback=elicit
        ) as client,
    ):
        yield client


async def said(client: Client, tool: str) -> str:
    [content] = (await client.call_tool(tool)).content
    return str(content.text)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_progress_is_told_to_who_wants_it(make_chat: MakeChat, mode: str) -> None:
    """It only goes up, ends with the last report, and comes before the result; others are told nothing."""
    chat = await make_chat(Mcp, Toolbox, **SHARING)
    reports: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        reports.append((progress, total, message))

    async with client_of(chat, mode) as client:
        await client.call_tool("climb", progress_callback=note)
        assert reports[-1] == (4, None, "there")
        assert [report[0] for report in reports] == sorted({report[0] for report in reports})
        assert await said(client, "climb") == "up"


async def test_a_question_is_passed_on_to_a_client_that_can_ask(make_chat: MakeChat) -> None:
    """With the form; the tool gets the defaults, and has its time limit only to itself."""
    chat = await make_chat(Mcp, Toolbox, **SHARING)
    asked: list[Any] = []

    async def elicit(_: Any, params: Any) -> ElicitResult:
        asked.append(params)
        if isinstance(params, ElicitRequestURLParams):
            return ElicitResult(action="decline")
        await asyncio.sleep(0.3)  # longer than the tool may take by itself
        return ElicitResult(action="accept", content={"name": "Ann"})

    async with client_of(chat, "legacy", elicit) as client:
        assert await said(client, "meet") == "accept {'name': 'Ann', 'age': 30}"
        assert (asked[0].message, asked[0].requested_schema) == ("Who are you?", FORM)
        assert await said(client, "visit") == "decline"
        assert asked[1].url == "https://pay.example/1"


async def test_an_answer_that_does_not_fit_is_an_error(make_chat: MakeChat) -> None:
    """The tool does not get it."""
    chat = await make_chat(Mcp, Toolbox, **SHARING)

    async def elicit(_: Any, params: Any) -> ElicitResult:
        return ElicitResult(action="accept", content={"name": 1})

    async with client_of(chat, "legacy", elicit) as client:
        assert "$.content.name: must be of type string" in await said(client, "meet")


async def test_a_question_nobody_answers_expires(make_chat: MakeChat) -> None:
    """After the time that approvals have."""
    chat = await make_chat(Mcp, Toolbox, **SHARING, config={"approval_timeout": 0.1})

    async def elicit(_: Any, params: Any) -> ElicitResult:
        await asyncio.Event().wait()
        raise AssertionError

    async with client_of(chat, "legacy", elicit) as client:
        assert await said(client, "meet") == "cancel {} nobody has answered in time"


@pytest.mark.parametrize(("mode", "can"), [("legacy", False), ("auto", True)])
async def test_a_question_to_a_client_that_cannot_be_asked_is_declined(
    make_chat: MakeChat, mode: str, can: bool
) -> None:
    """One that has not said that it can, and one of the newest revision, in which a server cannot ask."""
    chat = await make_chat(Mcp, Toolbox, **SHARING)

    async def elicit(_: Any, params: Any) -> ElicitResult:
        raise AssertionError

    async with client_of(chat, mode, elicit if can else None) as client:
        assert (await said(client, "meet")).startswith("decline {} the client that has called this tool cannot")
