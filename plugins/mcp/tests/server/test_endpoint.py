"""The route `/mcp` (chatcore_mcp/server/endpoint.py, transport.py, protocol.py), on a real server."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import httpx
import httpx2
import pytest
from chatcore_mcp import Mcp
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from chatcore.errors import ProviderRefused, Unauthenticated
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Credentials
from chatcore.testing.chat import Chat
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.tools import Tool, ToolResult
from chatcore.types import Principal

MakeChat = Callable[..., Awaitable[Chat]]
PAYLOAD = {"payload": {"messages": [{"role": "user", "content": "hello"}]}}
MODERN = "2026-07-28"
PNG = "data:image/png;base64,iVBORw0KGgo="

eras = pytest.mark.parametrize("mode", ["auto", "legacy"])


@asynccontextmanager
async def client_of(chat: Chat, mode: str = "auto", **headers: str) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30, trust_env=False, verify=False) as http,
        Client(streamable_http_client(f"{chat.url}/mcp", http_client=http), mode=mode) as client,
    ):
        yield client


@attrs.frozen
class Keys:
    """Knows `Key NAME`."""

    name: str = "keys"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        kind, _, key = credentials.headers.get("authorization", "").partition(" ")
        if kind == "Key" and key == "wrong":
            raise Unauthenticated("no such key")
        return Principal(key) if kind == "Key" else None


class Locked(Plugin[NoSettings]):
    """Wants people to sign in."""

    @hookimpl
    def register_auth(self) -> list[Keys]:
        return [Keys()]


class Toolbox(Plugin[NoSettings]):
    """Has tools."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [
            Tool.of(who, read_only=True, idempotent=True),
            Tool.of(erase, destructive=True),
            Tool.of(secret),
            Tool.of(picture),
        ]


async def who(invocation: Any = None) -> str:
    """Tells who is asking."""
    return "?"


async def erase() -> str:
    """Erases everything."""
    return "gone"


async def secret() -> str:
    """Is for nobody."""
    return "secret"


async def picture() -> ToolResult:
    """Draws."""
    image = {"type": "image_url", "image_url": {"url": PNG}}
    return ToolResult("A point.", parts=(image, {"type": "file", "file": {}}))


# --- lists and calls --------------------------------------------------------------------------------------------------


@eras
async def test_a_model_can_be_asked(make_chat: MakeChat, mode: str) -> None:
    """In every revision; an object is there as text and as an object."""
    chat = await make_chat(Mcp, provider=ScriptedProvider([call("look", city="Oslo")], [text("Hel", "lo")]))
    async with client_of(chat, mode) as client:
        assert client.server_info is not None
        assert client.server_info.name == "chatcore"
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"chat.completions", "llm_chat"}
        assert all(tool.description and tool.input_schema["type"] == "object" for tool in tools.values())
        answer = await client.call_tool("chat.completions", PAYLOAD)
        assert answer.structured_content is not None
        assert answer.structured_content["tool_calls"][0]["function"]["arguments"] == '{"city":"Oslo"}'
        assert json.loads(answer.content[0].text) == answer.structured_content
        answer = await client.call_tool("llm_chat", {"message": "hello"})
        assert [content.text for content in answer.content] == ["Hello"]
        assert answer.structured_content is None


@eras
async def test_what_goes_wrong_is_told(make_chat: MakeChat, mode: str) -> None:
    """A refusal of the provider as a result that a model can read, an unknown tool as an error of the protocol."""
    error = ProviderRefused("no credit", upstream_status=402)
    chat = await make_chat(Mcp, provider=ScriptedProvider([error]))
    async with client_of(chat, mode) as client:
        answer = await client.call_tool("chat.completions", PAYLOAD)
        assert (answer.is_error, answer.structured_content) == (True, None)
        assert json.loads(answer.content[0].text) == {"status_code": 402, "detail": "no credit"}
        answer = await client.call_tool("llm_chat", {"message": 3, "colour": "x" * 1_000_000})
        assert answer.is_error
        assert answer.content[0].text.startswith("wrong arguments: $.")
        assert len(answer.content[0].text) < 300
        with pytest.raises(MCPError, match="Unknown tool: nope"):
            await client.call_tool("nope", {})


async def test_shared_tools_are_those_that_need_no_consent(make_chat: MakeChat) -> None:
    """With what they do to the world. One that asks, by itself or by policy, or that is denied, cannot be called."""
    config = {"tool_policy": {"secret": "deny", "picture": "allow"}}
    chat = await make_chat(Mcp, Toolbox, config=config, share_tools=True)
    async with client_of(chat) as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
        assert set(tools) == {"chat.completions", "llm_chat", "who", "picture"}
        hints = tools["who"].annotations
        assert hints is not None
        assert (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint) == (True, False, True)
        for name in ("erase", "secret"):
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool(name, {})
        answer = await client.call_tool("picture", {})
        assert [content.type for content in answer.content] == ["text", "image", "text"]
        assert (answer.content[1].mime_type, answer.content[1].data) == ("image/png", "iVBORw0KGgo=")


# --- who may --------------------------------------------------------------------------------------------------------


INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}},
}
LIST = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
ACCEPT = {"accept": "application/json, text/event-stream"}


async def post(chat: Chat, message: dict[str, Any], **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await chat.client.post("/mcp", json=message, headers={**ACCEPT, **named})


async def test_somebody_must_be_signed_in(make_chat: MakeChat) -> None:
    """As for every other route: nobody, somebody with a wrong key."""
    chat = await make_chat(Mcp, Locked)
    for headers in ({}, {"authorization": "Key wrong"}):
        for method in ("GET", "POST", "DELETE"):
            response = await chat.client.request(method, "/mcp", headers={**ACCEPT, **headers})
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
    async with client_of(chat, authorization="Key anna") as client:
        assert (await client.list_tools()).tools


async def test_a_foreign_page_is_refused(make_chat: MakeChat) -> None:
    """One of this machine may call, and read the session's name."""
    chat = await make_chat(Mcp)
    assert (await post(chat, INITIALIZE, origin="https://evil.example")).status_code == 403
    assert (await post(chat, INITIALIZE, host="evil.example")).status_code == 403
    response = await post(chat, INITIALIZE, origin="http://localhost:5173")
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "http://localhost:5173"
    assert "Mcp-Session-Id" in response.headers["access-control-expose-headers"]


async def test_a_session_is_of_who_has_opened_it(make_chat: MakeChat) -> None:
    """For anybody else there is none of that name: not to call in, to listen to, or to end."""
    chat = await make_chat(Mcp, Locked)
    opened = await post(chat, INITIALIZE, authorization="Key anna")
    session = {"mcp_session_id": opened.headers["mcp-session-id"]}
    assert (await post(chat, LIST, authorization="Key bert", **session)).status_code == 404
    headers = {**ACCEPT, "authorization": "Key bert", "mcp-session-id": session["mcp_session_id"]}
    assert (await chat.client.get("/mcp", headers=headers)).status_code == 404
    assert (await chat.client.delete("/mcp", headers=headers)).status_code == 404
    assert (await post(chat, LIST, authorization="Key anna", **session)).status_code == 200


async def test_a_tool_acts_for_its_caller(make_chat: MakeChat) -> None:
    """In one server, one after the other and in their sessions."""
    seen: list[str] = []

    class Spy(Plugin[NoSettings]):
        """Looks who calls."""

        @hookimpl
        def register_tools(self) -> list[Tool]:
            async def run(invocation: Any) -> ToolResult:
                seen.append(invocation.principal_id)
                return ToolResult("seen")

            return [Tool("spy", "Looks.", {"type": "object"}, run)]

    chat = await make_chat(Mcp, Locked, Spy, share_tools=True)
    for mode, name in (("legacy", "anna"), ("auto", "bert"), ("legacy", "carl")):
        async with client_of(chat, mode, authorization=f"Key {name}") as client:
            await client.call_tool("spy", {})
    assert seen == ["anna", "bert", "carl"]


async def test_a_body_over_the_limit_is_refused(make_chat: MakeChat) -> None:
    """The limit is that of the server; the protocol's library has a lower one, which does not count."""
    chat = await make_chat(Mcp)
    async with client_of(chat) as client:
        assert not (await client.call_tool("llm_chat", {"message": "x" * 5_000_000})).is_error
    small = await make_chat(Mcp, config={"max_body": 1000})
    assert (await small.client.post("/mcp", content=b"x" * 1001, headers=ACCEPT)).status_code == 413


async def test_nonsense_is_an_error_of_the_protocol(make_chat: MakeChat) -> None:
    """Neither a crash nor a success."""
    chat = await make_chat(Mcp)
    opened = await post(chat, INITIALIZE)
    session = {"mcp-session-id": opened.headers["mcp-session-id"]}
    for content in (b"", b"nonsense", b"[]", b"[" * 100_000, b'{"jsonrpc":"2.0"}'):
        for headers in (session, {"mcp-protocol-version": MODERN}, {"mcp-protocol-version": "1999-01-01"}):
            sent = {**ACCEPT, **headers, "content-type": "application/json"}
            response = await chat.client.post("/mcp", content=content, headers=sent)
            assert response.status_code == 400
            assert "error" in response.json()


# --- leaving and stopping ---------------------------------------------------------------------------------------------


@eras
async def test_a_client_that_leaves_ends_the_work_for_it(make_chat: MakeChat, mode: str) -> None:
    """In the middle of an answer, the connection upstream is closed."""
    provider = ScriptedProvider([text("Hel"), asyncio.Event()])
    chat = await make_chat(Mcp, provider=provider)
    message = {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": {"name": "chat.completions"}}
    message["params"]["arguments"] = PAYLOAD
    headers = {}
    if mode == "legacy":
        headers["mcp_session_id"] = (await post(chat, INITIALIZE)).headers["mcp-session-id"]
    else:
        prefix = "io.modelcontextprotocol/"
        message["params"]["_meta"] = {f"{prefix}protocolVersion": MODERN, f"{prefix}clientCapabilities": {}}
        headers |= {"mcp_protocol_version": MODERN, "mcp_method": "tools/call", "mcp_name": "chat.completions"}
    asking = asyncio.create_task(post(chat, message, **headers))
    async with asyncio.timeout(5):
        await provider.asked.wait()
        asking.cancel()
        await provider.closed.wait()


@eras
async def test_a_cancelled_call_ends_the_work_for_it(make_chat: MakeChat, mode: str) -> None:
    """As the client's library cancels it in each revision; the connection goes on."""
    provider = ScriptedProvider([text("Hel"), asyncio.Event()], [text("again")])
    chat = await make_chat(Mcp, provider=provider)
    async with client_of(chat, mode) as client, asyncio.timeout(5):
        asking = asyncio.create_task(client.call_tool("chat.completions", PAYLOAD))
        await provider.asked.wait()
        asking.cancel()
        await provider.closed.wait()
        answer = await client.call_tool("llm_chat", {"message": "hello"})
        assert answer.content[0].text == "again"


async def test_a_stopping_server_ends_its_streams(make_chat: MakeChat) -> None:
    """Whoever listens gets a whole response, and no error."""
    chat = await make_chat(Mcp)
    opened = await post(chat, INITIALIZE)
    headers = {**ACCEPT, "mcp-session-id": opened.headers["mcp-session-id"]}
    async with chat.client.stream("GET", "/mcp", headers=headers) as response, asyncio.timeout(5):
        assert response.headers["content-type"].startswith("text/event-stream")
        chat.app.extensions["chatcore"].streams.drain()
        await response.aread()


async def test_there_may_be_no_sessions(make_chat: MakeChat) -> None:
    """For servers with several workers: clients of older revisions do without."""
    chat = await make_chat(Mcp, sessions=False)
    opened = await post(chat, INITIALIZE)
    assert "mcp-session-id" not in opened.headers
    async with client_of(chat, "legacy") as client:
        assert (await client.call_tool("llm_chat", {"message": "hello"})).content[0].text == "ok"


async def test_several_workers_have_no_sessions(make_chat: MakeChat) -> None:
    """Nobody has to say so: the next request may come to a worker that knows nothing of the one before."""
    chat = await make_chat(Mcp, config={"workers": 2})
    opened = await post(chat, INITIALIZE)
    assert (opened.status_code, "mcp-session-id" in opened.headers) == (200, False)
    assert (await post(chat, LIST, mcp_protocol_version="2025-11-25")).status_code == 200


async def test_calls_count_as_answers(make_chat: MakeChat) -> None:
    """Of which there are `max_streams`, together with those of chats; one that ends makes room again."""
    provider = ScriptedProvider([text("Hel"), asyncio.Event()], [text("again")])
    chat = await make_chat(Mcp, provider=provider, config={"max_streams": 1}, sessions=False)
    body = {"messages": [{"role": "user", "content": "hello"}]}
    params = {"name": "chat.completions", "arguments": PAYLOAD}
    asking = asyncio.create_task(post(chat, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
    async with asyncio.timeout(10):
        await provider.asked.wait()
        for refused in (await post(chat, LIST), await chat.client.post("/api/chat/stream", json=body)):
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert refused.json()["hint"] == "raise max_streams"
        assert (await chat.client.delete("/mcp", headers=ACCEPT)).status_code != 503
        asking.cancel()
        await provider.closed.wait()
        while (await post(chat, LIST)).status_code == 503:
            await asyncio.sleep(0.01)
        assert (await post(chat, LIST)).status_code == 200


def test_the_protocol_is_imported_when_it_is_spoken() -> None:
    """A start does without, and so does every command."""
    code = (
        "import sys, chatcore_mcp.plugin, chatcore_mcp.server.command, chatcore_mcp.server.toolset;"
        "print([name for name in sys.modules if name.split('.')[0] in ('mcp', 'mcp_types', 'starlette', 'httpx2')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
