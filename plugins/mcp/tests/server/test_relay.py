"""chatcore on standard input and output (chatcore_mcp/server/relay.py, command.py)."""

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from chatcore_mcp import Mcp
from chatcore_mcp.server.relay import Relay, Unreachable
from mcp import Client, StdioServerParameters
from mcp.shared.exceptions import MCPError

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Credentials
from chatcore.testing.chat import Chat
from chatcore.testing.scripted import ScriptedProvider, text
from chatcore.tools import Invocation, Tool
from chatcore.types import Principal

MakeChat = Callable[..., Awaitable[Chat]]


class Locked(Plugin[NoSettings]):
    """Wants the token 'secret'."""

    @hookimpl
    def register_auth(self) -> list[Any]:
        return [self]

    name = "locked"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        return Principal("anna") if credentials.headers.get("authorization") == "Bearer secret" else None


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_what_is_asked_is_answered_by_the_server(make_chat: MakeChat, mode: str) -> None:
    """In every revision: lists, answers, and what the server says against a call."""
    chat = await make_chat(Mcp, Locked, provider=ScriptedProvider([text("hi")]))
    async with Client(Relay(chat.url, "secret").server(), mode=mode) as client:
        assert [tool.name for tool in (await client.list_tools()).tools] == ["chat.completions", "llm_chat"]
        answer = await client.call_tool("llm_chat", {"message": "hello"})
        assert answer.content[0].text == "hi"
        assert (await client.call_tool("llm_chat", {})).is_error
        with pytest.raises(MCPError, match="Unknown tool: nope"):
            await client.call_tool("nope", {})


async def test_progress_is_passed_on(make_chat: MakeChat) -> None:
    """To a client that wants to know."""

    class Digging(Plugin[NoSettings]):
        @hookimpl
        def register_tools(self) -> list[Tool]:
            return [Tool.of(self.dig)]

        async def dig(self, invocation: Invocation) -> str:
            """Digs."""
            invocation.progress("half of it", 1, 2)
            return "dug"

    told = []

    async def note(*progress: Any) -> None:
        told.append(progress)

    chat = await make_chat(Mcp, Digging, share_tools=True)
    async with Client(Relay(chat.url, None).server()) as client:
        assert (await client.call_tool("dig", progress_callback=note)).content[0].text == "dug"
    assert told == [(1, 2, "half of it")]


async def test_a_cancelled_call_ends_the_work_for_it(make_chat: MakeChat) -> None:
    """Up to the connection to the model."""
    provider = ScriptedProvider([text("Hel"), asyncio.Event()])
    chat = await make_chat(Mcp, provider=provider)
    async with Client(Relay(chat.url, None).server(), mode="legacy") as client, asyncio.timeout(5):
        asking = asyncio.create_task(client.call_tool("llm_chat", {"message": "hello"}))
        await provider.asked.wait()
        asking.cancel()
        await provider.closed.wait()


async def test_a_server_that_cannot_be_asked_is_told(make_chat: MakeChat) -> None:
    """Before anything is answered; later as an error of the protocol. With what to do about it."""
    locked, without = await make_chat(Mcp, Locked), await make_chat()
    for url, token, said in (
        (locked.url, None, "sign in first; set CHATCORE_TOKEN"),
        (locked.url, "wrong", "sign in first"),
        (without.url, None, "its plugin 'mcp' is not on"),
        ("http://127.0.0.1:1", None, "cannot be reached: start it with 'chatcore serve'"),
        (without.url.replace("http:", "https:"), None, "it does not speak TLS; write http:"),
    ):
        relay = Relay(url, token)
        with pytest.raises(Unreachable, match=said):
            await relay.serve()
        async with Client(relay.server()) as client:
            with pytest.raises(MCPError, match=said):
                await client.call_tool("llm_chat", {"message": "hello"})


# --- the command ------------------------------------------------------------------------------------------------------


def parameters(tmp_path: Path, *arguments: str) -> StdioServerParameters:
    plugins = ("--disable", "llama", "--disable", "openrouter")
    command = ["-m", "chatcore", *plugins, "--data", str(tmp_path / "data"), "mcp", *arguments]
    return StdioServerParameters(command=sys.executable, args=command, cwd=tmp_path)


@pytest.mark.slow
async def test_the_command_speaks_for_a_running_server(make_chat: MakeChat, tmp_path: Path) -> None:
    """As a desktop client starts it."""
    chat = await make_chat(Mcp, provider=ScriptedProvider([text("hi")]))
    async with asyncio.timeout(30), Client(parameters(tmp_path, "--server", chat.url)) as client:
        answer = await client.call_tool("llm_chat", {"message": "hello"})
        assert answer.content[0].text == "hi"


@pytest.mark.slow
async def test_the_command_brings_a_server_if_there_is_none(tmp_path: Path) -> None:
    """Which ends with it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        (tmp_path / "chatcore.toml").write_text(f"port = {taken.getsockname()[1]}\n")
    async with asyncio.timeout(30), Client(parameters(tmp_path)) as client:
        answer = await client.call_tool("llm_chat", {"message": "hello", "model": "echo"})
        assert answer.content[0].text == "hello"
    assert list((tmp_path / "data" / "workers").iterdir()) == []


@pytest.mark.slow
async def test_a_server_may_be_started_anew(serve: Callable[..., Awaitable[Any]], tmp_path: Path) -> None:
    """While it is away a call says so; the next one finds it again."""
    server = await serve()
    port = int(server.url.rpartition(":")[2])
    async with asyncio.timeout(40), Client(parameters(tmp_path, "--server", server.url)) as client:
        assert (await client.call_tool("llm_chat", {"message": "one"})).content[0].text == "one"
        await server.end(signal.SIGKILL)
        with pytest.raises(MCPError, match="cannot be reached"):
            await client.call_tool("llm_chat", {"message": "two"})
        await serve(port=port)
        assert (await client.call_tool("llm_chat", {"message": "three"})).content[0].text == "three"


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_the_command_ends_without_a_traceback(tmp_path: Path, number: int) -> None:
    """When it is told to, also with its own server."""
    started = parameters(tmp_path)
    process = await asyncio.create_subprocess_exec(
        started.command, *started.args, cwd=tmp_path,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    async with asyncio.timeout(30):
        process.stdin.write(b'{"jsonrpc":"2.0","id":1,"method":"ping"}\n')
        assert b'"id":1' in await process.stdout.readline()
        process.send_signal(number)
        _, errors = await process.communicate()
    assert errors.decode() == ""
    assert process.returncode != 0
