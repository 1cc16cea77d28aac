"""chatcore on standard input and output: what comes there is asked of a server over HTTP, and answered in its words.

Every request has a connection of its own, so that a server that was started anew is simply there again.
"""

import asyncio
import json
import logging
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

import anyio
import httpx2
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INTERNAL_ERROR,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
)
from mcp_types.version import LATEST_MODERN_VERSION

from chatcore.http import cause_of
from chatcore_mcp.server.protocol import Context, chatcore

CONNECT = 10.0
"""Seconds for a connection to the server. Its answer may take as long as a model thinks."""

T = TypeVar("T")

# The library logs what it raises as well.
for _name in ("mcp", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


class Unreachable(Exception):
    """The server does not answer, or refuses to. The text is for its user."""


class Relay:
    """A server at a URL, asked in the protocol's newest revision."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"} if token else {}
        self._certificates = httpx2.create_ssl_context()

    async def serve(self) -> None:
        """Answers what comes on standard input, until that ends.

        Raises:
            Unreachable: the server does not answer already now.
        """
        await self._ask(lambda client: client.list_tools())
        server = self.server()
        async with stdio_server(stdin=cast("anyio.AsyncFile[str]", _lines())) as (requests, answers):
            await server.run(requests, answers, server.create_initialization_options())

    def server(self) -> Server[Any]:
        """What answers, on whatever transport."""

        async def list_tools(_: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
            return await self._told(lambda client: client.list_tools(cursor=params.cursor if params else None))

        async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
            tell = context.session.report_progress
            return await self._told(
                lambda client: client.call_tool(params.name, params.arguments, progress_callback=tell)
            )

        return chatcore(list_tools, call_tool)

    async def _told(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """As `_ask`; that the server cannot be asked is told in the protocol."""
        try:
            return await self._ask(question)
        except Unreachable as error:
            raise MCPError(INTERNAL_ERROR, str(error)) from error

    async def _ask(self, question: Callable[[Client], Awaitable[T]]) -> T:
        """Asks the server.

        Raises:
            MCPError: what the server says against it.
            Unreachable: it cannot be asked.
        """
        refusals: list[str] = []
        failure: MCPError | None = None
        try:
            async with (
                self._connection(refusals) as http,
                Client(
                    streamable_http_client(f"{self._url}/mcp", http_client=http), mode=LATEST_MODERN_VERSION
                ) as client,
            ):
                try:
                    return await question(client)
                except MCPError as error:
                    failure = error
        except Exception as error:  # the library raises groups of whatever it met on the way
            raise Unreachable(f"chatcore at {self._url} cannot be reached: {_why(error)}") from error
        if refusals:
            raise Unreachable(f"chatcore at {self._url} refuses: {refusals[-1]}") from failure
        raise failure

    def _connection(self, refusals: list[str]) -> httpx2.AsyncClient:
        async def note(response: httpx2.Response) -> None:
            if response.status_code >= 400 and (refusal := _refusal(response.status_code, await response.aread())):
                refusals.append(refusal)

        return httpx2.AsyncClient(
            headers=self._headers,
            timeout=httpx2.Timeout(CONNECT, read=None),
            verify=self._certificates,
            event_hooks={"response": [note]},
            trust_env=False,
        )


def _why(error: BaseException) -> str:
    """What is wrong with the way to the server, and what to do; mostly that it does not run."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    known = cause_of(error)
    return f"{known.reason}; {known.remedy}" if known else "start it with 'chatcore serve'"


def _refusal(status: int, body: bytes) -> str:
    """Why a request was refused that never came to the protocol; nothing where the protocol says it."""
    try:
        answer = json.loads(body)
    except ValueError:
        answer = {}
    if not isinstance(answer, dict) or "jsonrpc" in answer:
        return ""
    if status == 401:
        return "sign in first; set CHATCORE_TOKEN to a token of 'chatcore tokens create'"
    if status == 404:
        return "its plugin 'mcp' is not on"
    return str(answer.get("detail") or f"HTTP {status}")


async def _lines() -> AsyncIterator[str]:
    """The lines of standard input. A thread reads them that nobody waits for, since a read cannot be broken off."""
    loop = asyncio.get_running_loop()
    lines: asyncio.Queue[str | None] = asyncio.Queue()

    def read() -> None:
        with suppress(RuntimeError):  # the loop is closed
            # Not sys.stdin, which the interpreter wants to close when it ends, and cannot while it is being read.
            for line in os.fdopen(os.dup(0), encoding="utf-8", errors="replace"):
                loop.call_soon_threadsafe(lines.put_nowait, line)
            loop.call_soon_threadsafe(lines.put_nowait, None)

    threading.Thread(target=read, daemon=True, name="standard input").start()
    while (line := await lines.get()) is not None:
        yield line
