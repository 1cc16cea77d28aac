"""The bundled servers, in this process and in their own (chatcore_mcp/bundled/)."""

import asyncio
import json
import re
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest
from chatcore_mcp.bundled import calculator, toolkit
from chatcore_mcp.bundled.history import History
from chatcore_mcp.bundled.housekeeping import housekeeping
from chatcore_mcp.bundled.housekeeping import main as housekeeping_main
from mcp import Client, StdioServerParameters
from mcp.server import MCPServer

from chatcore.testing.chat import Chat
from chatcore.testing.scripted import ScriptedProvider, text

MakeChat = Callable[..., Awaitable[Chat]]


async def ask(server: Any, name: str, **arguments: Any) -> tuple[bool, str, Any]:
    """Whether it is an error, the text and the object of what a tool answers."""
    async with Client(server) as client:
        answer = await client.call_tool(name, arguments)
    return answer.is_error, "".join(content.text for content in answer.content), answer.structured_content


@pytest.mark.parametrize(
    ("server", "names"),
    [
        (calculator.server, {"calculator_evaluate", "calculator_expression"}),
        (toolkit.server, {"test_echo", "current_time"}),
        (housekeeping(History("http://127.0.0.1:1", None)), {"test_echo", "current_time", "chat_history"}),
    ],
    ids=["calculator", "toolkit", "housekeeping"],
)
async def test_all_tools_say_that_they_change_nothing(server: MCPServer, names: set[str]) -> None:
    """And what they do."""
    async with Client(server) as client:
        tools = (await client.list_tools()).tools
    assert {tool.name for tool in tools} == names
    assert all(tool.description and tool.annotations and tool.annotations.read_only_hint for tool in tools)


# --- calculator -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "a", "b", "result"),
    [("add", 1, 2, "3.0"), ("subtract", 1, 2.5, "-1.5"), ("multiply", 3, 4, "12.0"), ("divide", 1, 4, "0.25")],
)
async def test_calculations(operation: str, a: float, b: float, result: str) -> None:
    """The result is text."""
    assert (await ask(calculator.server, "calculator_evaluate", operation=operation, a=a, b=b))[:2] == (False, result)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"operation": "divide", "a": 1, "b": 0}, "division by zero"),
        ({"operation": "multiply", "a": 1e300, "b": 1e300}, "not a finite number"),
        ({"operation": "power", "a": 1, "b": 0}, "operation"),
        ({"operation": "add", "a": "one", "b": 0}, "valid number"),
        ({"operation": "add"}, "Field required"),
    ],
)
async def test_what_cannot_be_calculated(arguments: dict[str, Any], said: str) -> None:
    """It is an error that says why."""
    is_error, told, _ = await ask(calculator.server, "calculator_evaluate", **arguments)
    assert is_error
    assert said in told


async def test_expressions() -> None:
    """Their value, or why there is none."""
    assert (await ask(calculator.server, "calculator_expression", expression="2 ** 10 / 3"))[1] == str(1024 / 3)
    for expression, said in (("9 ** 9 ** 9", "too large"), ("x" * 10_000, "500 characters")):
        is_error, told, _ = await ask(calculator.server, "calculator_expression", expression=expression)
        assert (is_error, said in told) == (True, True)


# --- test-toolkit -----------------------------------------------------------------------------------------------------


async def test_an_echo() -> None:
    """As an object, and as its JSON."""
    _, told, echo = await ask(toolkit.server, "test_echo", message="hi")
    assert echo == json.loads(told) == {"message": "hi", "uppercase": False}
    _, _, echo = await ask(toolkit.server, "test_echo", message="hi", uppercase=True)
    assert echo == {"message": "HI", "uppercase": True}


async def test_the_time() -> None:
    """In UTC, or in seconds with six decimals."""
    _, _, iso = await ask(toolkit.server, "current_time")
    assert iso["format"] == "iso"
    assert abs(datetime.fromisoformat(iso["value"]) - datetime.now(UTC)) < timedelta(minutes=1)
    _, _, unix = await ask(toolkit.server, "current_time", format="unix")
    assert re.fullmatch(r"\d+\.\d{6}", unix["value"])
    assert (await ask(toolkit.server, "current_time", format="roman"))[0]


# --- housekeeping -----------------------------------------------------------------------------------------------------


async def test_the_time_in_the_east() -> None:
    """Every form is of the same moment."""
    _, _, time = await ask(housekeeping(History("", None)), "current_time")
    moment = datetime.fromisoformat(time["utc_iso"])
    assert time["value"] == time["utc_iso"]
    assert datetime.fromisoformat(time["eastern_iso"]) == moment
    assert (time["utc_unix"], time["timezone"]) == (int(moment.timestamp()), "America/New_York")
    assert time["utc_unix_precise"] == f"{moment.timestamp():.6f}"
    assert (time["eastern_abbreviation"], time["eastern_offset"]) in (("EST", "-0500"), ("EDT", "-0400"))
    assert time["eastern_abbreviation"] in time["eastern_display"]
    assert time["context_summary"].splitlines() == time["context_lines"]
    assert any(line.startswith("Tomorrow: ") for line in time["context_lines"])


async def test_the_history_of_a_conversation(make_chat: MakeChat) -> None:
    """The latest messages, each in its place, long ones cut."""
    chat = await make_chat(provider=ScriptedProvider([text("x" * 3000)], [text("two")]))
    await chat.say("first", session_id="s")
    await chat.say("second", session_id="s")
    server = housekeeping(History(chat.url, None))
    _, _, history = await ask(server, "chat_history", session_id="s", limit=3)
    assert {key: history[key] for key in ("session_id", "total_available", "applied_limit", "newest_first")} == {
        "session_id": "s",
        "total_available": 4,
        "applied_limit": 3,
        "newest_first": False,
    }
    read = [(m["index"], m["position"], m["role"], m["content"][:6], m["truncated"]) for m in history["messages"]]
    assert read == [
        (0, 2, "assistant", "xxxxxx", True),
        (1, 3, "user", "second", False),
        (2, 4, "assistant", "two", False),
    ]
    assert len(history["messages"][0]["content"]) == 2000
    assert set(history["messages"][0]) == {
        *("index", "position", "role", "created_at", "created_at_utc", "message_id", "client_message_id"),
        *("parent_client_message_id", "content", "truncated"),
    }
    assert history["summary"] == "3 of 4 messages, oldest first."
    _, _, newest = await ask(server, "chat_history", session_id="s", limit=1000, newest_first=True)
    assert [message["position"] for message in newest["messages"]] == [4, 3, 2, 1]
    assert newest["applied_limit"] == 100


async def test_a_history_that_cannot_be_read(make_chat: MakeChat) -> None:
    """The result says why."""
    chat = await make_chat()
    for url, arguments, said in (
        (chat.url, {}, "no session_id"),
        (chat.url, {"session_id": "../x"}, "there is no conversation '../x'"),
        ("http://127.0.0.1:1", {"session_id": "s"}, "cannot be reached"),
    ):
        is_error, _, history = await ask(housekeeping(History(url, None)), "chat_history", **arguments)
        assert not is_error
        assert said in history["error"]
        assert history.get("hint") or history.get("detail")


# --- their processes --------------------------------------------------------------------------------------------------


def program(name: str) -> list[str]:
    return [sys.executable, "-m", f"chatcore_mcp.bundled.{name}"]


@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("calculator", "calculator_expression"),
        pytest.param("housekeeping", "chat_history", marks=pytest.mark.slow),
        pytest.param("toolkit", "test_echo", marks=pytest.mark.slow),
    ],
)
async def test_a_server_on_standard_input_and_output(name: str, tool: str) -> None:
    """As a configuration file starts it by its module."""
    command, *arguments = program(name)
    parameters = StdioServerParameters(command=command, args=arguments)
    async with Client(parameters) as client:
        assert tool in [known.name for known in (await client.list_tools()).tools]


@pytest.mark.parametrize(
    ("main", "port"), [(calculator.main, 9003), (housekeeping_main, 9002), (toolkit.main, 9014)], ids=str
)
def test_a_server_has_its_usual_port(main: click.Command, port: int) -> None:
    """Where none is named. Without HTTP there is none."""
    ports = [main.make_context("x", arguments).params["port"] for arguments in ([], ["--http"], ["--http", "80"])]
    assert ports == [None, port, 80]


@pytest.fixture
async def url() -> AsyncIterator[str]:
    """A toolkit on HTTP."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [*program("toolkit"), "--http", str(port)]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE)
    assert process.stderr is not None
    try:
        assert str(port) in (await asyncio.wait_for(process.stderr.readline(), 20)).decode()
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        await process.communicate()


@pytest.mark.slow
async def test_a_server_on_http(url: str) -> None:
    """Its first line says where it is."""
    async with asyncio.timeout(20):
        assert (await ask(url, "test_echo", message="hi"))[2] == {"message": "hi", "uppercase": False}
