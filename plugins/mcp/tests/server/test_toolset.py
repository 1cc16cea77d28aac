"""What is offered to MCP clients (chatcore_mcp/server/toolset.py)."""

import asyncio
from collections.abc import Mapping
from typing import Any

import attrs
import pytest
from chatcore_mcp.server.toolset import ServedTool, Toolset

from chatcore.errors import ToolFailed
from chatcore.hooks import Host
from chatcore.tools import Invocation, Tool, ToolResult
from chatcore.types import Limits, Principal

ANNA = Principal("anna")


async def look(city: str, invocation: Invocation) -> str:
    """Tells the weather."""
    return f"{city} for {invocation.principal_id}{invocation.conversation_id}{invocation.run_id}"


def host(*tools: Tool, **limits: Any) -> Host:
    async def all_tools() -> Mapping[str, Tool]:
        return {tool.name: tool for tool in tools}

    return Host(tools=all_tools, limits=Limits(**limits))


def everybody(tool: Tool, principal: Principal) -> bool:
    return True


async def test_the_models_are_always_offered() -> None:
    """By the names that clients know."""
    assert set(await Toolset(host(Tool.of(look)), share=False, allows=everybody).tools(ANNA)) == {
        "chat.completions",
        "llm_chat",
    }


async def test_the_other_tools_are_offered_if_they_are_shared() -> None:
    """They act for whoever calls them, outside any conversation."""
    served = await Toolset(host(Tool.of(look)), share=True, allows=everybody).tools(ANNA)
    assert set(served) == {"chat.completions", "llm_chat", "look"}
    assert await served["look"].call({"city": "Oslo"}, ANNA) == ToolResult("Oslo for anna")


async def test_what_is_somebody_elses_is_not_offered() -> None:
    """Who may have a tool is asked for each principal."""
    toolset = Toolset(host(Tool.of(look)), share=True, allows=lambda tool, principal: principal == ANNA)
    assert "look" in await toolset.tools(ANNA)
    assert "look" not in await toolset.tools(Principal("bert"))


async def test_an_own_tool_is_not_replaced() -> None:
    """By another of its name."""
    served = await Toolset(host(Tool.of(look, name="llm_chat")), share=True, allows=everybody).tools(ANNA)
    assert "question" in served["llm_chat"].tool.description


async def fail() -> str:
    """Fails."""
    raise ToolFailed("there is no weather")


async def crash() -> str:
    """Crashes."""
    raise ZeroDivisionError("by zero")


@pytest.mark.parametrize(
    ("tool", "arguments", "said"),
    [
        (fail, {}, "there is no weather"),
        (crash, {}, "crash failed: ZeroDivisionError: by zero"),
        (look, {}, "wrong arguments: $.city: is missing"),
        (look, {"city": "Oslo", "day": 1}, "wrong arguments: $.day"),
        (look, {"city": ["x" * 1_000_000]}, "wrong arguments: $.city"),
    ],
)
async def test_what_goes_wrong_can_be_read(tool: Any, arguments: dict[str, Any], said: str) -> None:
    """It is a result, and never long."""
    result = await ServedTool(Tool.of(tool)).call(arguments, ANNA)
    assert result.is_error
    assert result.text.startswith(said)
    assert len(result.text) < 500


async def test_a_tool_has_its_time() -> None:
    """Its own limit, else that of a turn; a model may take as long as it likes."""

    async def hang() -> str:
        """Hangs."""
        await asyncio.Event().wait()
        return ""

    tool = Tool.of(hang)
    served = await Toolset(
        host(tool, attrs.evolve(tool, name="slow", timeout=9.0), tool_timeout=0.01), share=True, allows=everybody
    ).tools(ANNA)
    assert [served[name].timeout for name in ("hang", "slow", "llm_chat")] == [0.01, 9.0, None]
    assert await served["hang"].call({}, ANNA) == ToolResult("hang did not answer within 0.01 seconds.", True)
