"""`chatcore serve` with one worker (chatcore/serving/server.py)."""

import asyncio
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatcore.database import Database
from chatcore.serving.server import STOP_TIME
from chatcore.testing.chat import frames

StartServer = Callable[..., Awaitable[Any]]

OPTIONS = ("--disable=llama", "--disable=openrouter", "--disable=mcp")

LINGERS = '''
import time
from contextlib import asynccontextmanager

from chatcore import Lifespan, NoSettings, Plugin, hookimpl


@asynccontextmanager
async def lingering():
    yield
    time.sleep(60)


class Lingers(Plugin[NoSettings]):
    """Takes its time to close."""

    @hookimpl
    def register_lifespans(self):
        yield Lifespan("lingers", lingering)
'''

COUNTS = '''
import gc
import sys

from quart import Blueprint

from chatcore import NoSettings, Plugin, hookimpl, public


class Counts(Plugin[NoSettings]):
    """Tells what the garbage collector has to look at, and what was imported."""

    @hookimpl
    def register_routes(self):
        routes = Blueprint("counts", __name__)

        @routes.get("/counts")
        @public
        async def counts():
            return {"passed over": gc.get_freeze_count(), "looked at": len(gc.get_objects()), "on": gc.isenabled()}

        @routes.get("/modules")
        @public
        async def modules():
            return {"modules": list(sys.modules)}

        yield routes
'''


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_it_in_order(start_server: StartServer, number: signal.Signals) -> None:
    """SIGHUP too, which a terminal that is closed sends: readers are told to come back, and the exit code is 0."""
    server = await start_server(*OPTIONS)
    body = {"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": "/slow 0.1\na b c d e f"}]}
    received = b""
    async with (
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
        client.stream("POST", "/api/chat/stream", json=body) as response,
    ):
        async for chunk in response.aiter_bytes():
            if not received:
                server.process.send_signal(number)
            received += chunk
    assert frames(received)[-1].event == "shutdown"
    assert await server.end() == 0


async def test_a_second_interrupt_ends_it_at_once(start_server: StartServer, tmp_path: Path) -> None:
    """Whatever it waits for."""
    (tmp_path / "lingers.py").write_text(LINGERS)
    server = await start_server(*OPTIONS, "--plugins-dir", str(tmp_path))
    server.process.send_signal(signal.SIGINT)
    while b"stopping" not in server.log:
        await asyncio.sleep(0.01)
    assert await asyncio.wait_for(server.end(signal.SIGINT), 5) == -signal.SIGINT


@pytest.mark.slow
async def test_it_ends_in_time_whatever_a_plugin_does(start_server: StartServer, tmp_path: Path) -> None:
    """It is said which code holds it up."""
    (tmp_path / "lingers.py").write_text(LINGERS)
    server = await start_server(*OPTIONS, "--plugins-dir", str(tmp_path))
    assert await asyncio.wait_for(server.end(), STOP_TIME + 5) == 1
    assert b"lingers.py" in server.log.split(b"Timeout")[-1]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
async def test_the_garbage_collector_passes_over_what_stays(
    start_server: StartServer, tmp_path: Path, workers: int
) -> None:
    """Most of what is there when the server is ready is code, which would be looked at each time."""
    (tmp_path / "counts.py").write_text(COUNTS)
    server = await start_server(*OPTIONS, "--plugins-dir", str(tmp_path), f"--workers={workers}")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        counts = (await client.get("/counts")).json()
    assert counts["passed over"] > counts["looked at"]
    assert counts["on"]
    assert await server.end() == 0


async def test_a_start_imports_only_what_it_needs(start_server: StartServer, tmp_path: Path) -> None:
    """What makes requests, speaks MCP or encrypts, what commands and pages that are seldom asked for need, and what
    migrates a database, is imported when somebody needs it. Meanwhile no garbage is collected, but after that it is."""
    database = Database(str(tmp_path / "data" / "chatcore.db"))
    await database.open()
    await database.close()
    (tmp_path / "counts.py").write_text(COUNTS)
    server = await start_server("--disable=llama", "--plugins-dir", str(tmp_path))
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        modules = set((await client.get("/modules")).json()["modules"])
        assert (await client.get("/counts")).json()["on"]
    assert {"chatcore.app", "chatcore_mcp.plugin", "chatcore_openrouter", "chatcore_planner.plugin"} <= modules
    assert not modules & {
        "aiohttp",
        "chatcore.terminal.client",
        "chatcore_mcp.server.toolset",
        "cryptography",
        "httpx",
        "httpx2",
        "markdown_it",
        "mcp",
        "oauthlib",
        "playhouse.migrations",
        "prometheus_client",
        "pydantic",
        "rich",
    }
