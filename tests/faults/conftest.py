"""What the fault tests share: both databases, and servers whose workers can be told apart."""

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import pytest_asyncio

StartServer = Callable[..., Awaitable[Any]]

PROBE = '''
import asyncio
import os

from quart import Blueprint

from chatcore import NoSettings, Plugin, Tool, hookimpl, public
from chatcore.state import current


class Probe(Plugin[NoSettings]):
    """Says which worker answers, and has a tool that notes each time it is run."""

    @hookimpl
    def register_routes(self):
        routes = Blueprint("probe", __name__)

        @routes.get("/worker")
        @public
        async def worker():
            return {"worker": current().slot}

        yield routes

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.note)

    async def note(self, mark: str) -> str:
        """Notes a mark."""
        with open(self.context.data / "marks", "a") as file:
            file.write(mark + "\\n")
        await asyncio.sleep(0.02)
        return f"noted {mark}"
'''


@attrs.define
class Workers:
    """A server, of one worker or more, and those who speak to it."""

    process: Any
    data: Path
    _tls: ssl.SSLContext = attrs.field(factory=lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))  # made once: it is dear

    @property
    def log(self) -> str:
        """What the server has said."""
        return bytes(self.process.log).decode()

    async def until_told(self, text: str) -> None:
        """Waits until the server has said something."""
        for _ in range(3000):
            if text in self.log:
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"not told: {text!r}\n{self.log}")

    @property
    def pids(self) -> Mapping[int, int]:
        """The processes of the workers by their numbers."""
        ready = re.findall(r"worker (\d+) is ready in process (\d+)", self.log)
        return {int(number): int(pid) for number, pid in ready}

    @property
    def marks(self) -> list[str]:
        """What was noted with the tool."""
        file = self.data / "plugins" / "probe" / "marks"
        return file.read_text().splitlines() if file.exists() else []

    def client(self, *, most: int | None = None) -> httpx.AsyncClient:
        """A client with any number of connections, or with so many at the most."""
        limits = httpx.Limits(max_connections=most)
        return httpx.AsyncClient(
            base_url=self.process.url, trust_env=False, timeout=60, limits=limits, verify=self._tls
        )

    @asynccontextmanager
    async def client_of(self, worker: int) -> AsyncIterator[httpx.AsyncClient]:
        """A client with one connection, to this worker. When that is closed it has had its day."""
        for _ in range(200):
            async with self.client(most=1) as client:
                if (await client.get("/worker")).json()["worker"] == worker:
                    yield client
                    return
        raise AssertionError(f"no connection reached worker {worker}")

    async def end(self) -> int:
        """Ends it as a user does, and gives the exit code."""
        code: int = await self.process.end()
        return code

    async def kill(self) -> None:
        """kill -9."""
        await self.process.kill()


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def database(request: pytest.FixtureRequest) -> Mapping[str, str]:
    """The environment of a server that keeps its data here or there. A test that uses it is run with both."""
    return {"CHATCORE_DATABASE": request.getfixturevalue("postgres_url")} if request.param == "postgresql" else {}


@pytest_asyncio.fixture
async def start_workers(
    start_server: StartServer, database: Mapping[str, str], tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Workers]]]:
    """Starts servers with the plugin above, all on the same data, and waits until every worker is ready."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "probe.py").write_text(PROBE)
    servers: list[Workers] = []

    async def start(*arguments: str, workers: int = 1, env: Mapping[str, str] | None = None) -> Workers:
        off = [f"--disable={name}" for name in ("llama", "mcp")]
        options = (f"--workers={workers}", f"--plugins-dir={own}", *off, *arguments)
        server = Workers(await start_server(*options, env={**database, **(env or {})}), tmp_path / "data")
        servers.append(server)
        for number in range(1, workers + 1) if workers > 1 else ():
            await server.until_told(f"worker {number} is ready")
        return server

    yield start
    await asyncio.gather(*(server.end() for server in servers))  # while their database is there
