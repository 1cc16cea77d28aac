"""Servers to connect to, and a bench that connects them."""

import asyncio
import gc
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import attrs
import pytest
import pytest_asyncio
from chatcore_mcp.servers import Options, Server, Servers

from chatcore.addresses import Reach, network
from chatcore.errors import ToolFailed
from chatcore.tools import Invocation, Question, QuestionAnswer, ToolCall, ToolResult

T = TypeVar("T")

PROGRAMS = Path(__file__).with_name("programs")
LOOPBACK = Reach((network("127.0.0.0/8"),))


def raw(log: Path, *options: str) -> dict[str, Any]:
    """The entry of a server that is written against the wire."""
    return {"command": sys.executable, "args": [str(PROGRAMS / "raw.py"), str(log), *options]}


def sdk(name: str) -> dict[str, Any]:
    """The entry of a server by the SDK."""
    return {"command": sys.executable, "args": [str(PROGRAMS / "sdk.py"), name]}


@attrs.define
class Bench:
    """A file of servers in a directory, and these servers, connected."""

    path: Path
    servers: Servers
    progress: list[tuple[str, float | None, float | None]] = attrs.field(factory=list)
    asked: list[Question] = attrs.field(factory=list)
    answers: list[QuestionAnswer] = attrs.field(factory=list)

    def note(self, message: str, done: float | None, of: float | None) -> None:
        self.progress.append((message, done, of))

    async def ask(self, question: Question) -> QuestionAnswer:
        """Gives the next of the answers, when there is one."""
        self.asked.append(question)
        await self.until(lambda: self.answers)
        return self.answers.pop(0)

    def write(self, entries: Mapping[str, Any]) -> None:
        self.path.write_text(json.dumps({"mcpServers": entries}))

    async def change(self, entries: Mapping[str, Any]) -> None:
        """Writes the file and has it read."""
        self.write(entries)
        await self.servers.reload()

    def server(self, key: str) -> Server:
        server = self.servers.get(key)
        assert server is not None
        return server

    async def until(self, condition: Callable[[], object], seconds: float = 20) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.005)

    async def connected(self, *keys: str) -> None:
        for key in keys:
            try:
                await self.until(lambda key=key: self.server(key).state == "connected")
            except TimeoutError:
                raise AssertionError(f"{key} is not connected: {self.server(key).problem}") from None

    def names(self) -> list[str]:
        return [tool.name for tool in self.servers.tools()]

    async def call(self, tool: str, /, **arguments: Any) -> ToolResult:
        """Calls a tool as a turn would; a failure is a result that says so."""
        return await self.call_as("local", tool, **arguments)

    async def call_as(self, principal: str, tool: str, /, **arguments: Any) -> ToolResult:
        """As `call`, for somebody."""
        [found] = [one for one in self.servers.tools() if one.name == tool]
        try:
            call = ToolCall("1", tool)
            return await found.run(Invocation(call, arguments, principal, "conversation", "run", self.note, self.ask))
        except ToolFailed as error:
            return ToolResult(error.message, True)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is waited for so that nobody is pressed is waited for only shortly."""
    monkeypatch.setattr("chatcore_mcp.process.GRACE", 0.2)
    monkeypatch.setattr("chatcore_mcp.process.LAST_WORDS", 0.1)
    monkeypatch.setattr("chatcore_mcp.connection.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("chatcore_mcp.connection.SETTLE", 0.05)
    monkeypatch.setattr("chatcore_mcp.servers.WATCH", 0.1)


@pytest_asyncio.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Bench]]]:
    """Makes benches: `await bench({"time": {…}})`. All are closed when the test ends."""
    async with AsyncExitStack() as stack:

        async def make(entries: Mapping[str, Any], *, timeout: float = 20, **options: Any) -> Bench:
            log = logging.getLogger("chatcore.plugin.mcp")
            values = {"reach": LOOPBACK, "prefix": False, "environ": os.environ, **options}
            path = tmp_path / "mcp_servers.json"
            made = Bench(path, Servers(path, Options(timeout=timeout, log=log, **values)))
            made.write(entries)
            await stack.enter_async_context(made.servers.session())
            return made

        yield make


@attrs.define
class Lag:
    """The longest time, in milliseconds, for which the event loop served nobody else, and what most did not exceed.

    `worst` is what its thread worked, `wall` what a clock says: on a busy machine that is also others' work. `tasks` is
    how many there were at a time.
    """

    worst: float = 0.0
    wall: float = 0.0
    tasks: int = 0
    seen: list[float] = attrs.field(factory=list)

    def note(self, worked: float, wall: float) -> None:
        self.seen.append(worked)
        self.worst, self.wall = max(self.worst, worked), max(self.wall, wall)
        self.tasks = max(self.tasks, len(asyncio.all_tasks()))

    @property
    def p99(self) -> float:
        """What 99 of 100 looks found, of the work of its thread."""
        return sorted(self.seen)[len(self.seen) * 99 // 100]


@asynccontextmanager
async def lag() -> AsyncIterator[Lag]:
    """Watches the event loop, and prints what it saw. The test run's own objects are kept out of garbage collection."""
    seen = Lag()
    gc.collect()
    gc.freeze()

    async def watch() -> None:
        while True:
            worked, before = time.thread_time(), time.perf_counter()
            await asyncio.sleep(0.001)
            seen.note((time.thread_time() - worked) * 1000, (time.perf_counter() - before - 0.001) * 1000)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.005)
    try:
        yield seen
        await asyncio.sleep(0.005)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        gc.unfreeze()
        print(f"the event loop was busy for at most {seen.worst:.1f} ms ({seen.wall:.1f} ms by the clock)")


async def delaying_nobody(work: Callable[[], Awaitable[T]]) -> T:
    """What some work gives. The event loop must be free again within 50 ms, all along.

    The work is done up to eight times: a machine that does much else makes quick code slow now and then, and slow code
    never quick.
    """
    for _ in range(8):
        async with lag() as busy:
            result = await work()
        if busy.worst < 50:
            return result
    raise AssertionError(f"the event loop was busy for {busy.worst:.1f} ms")


@pytest.fixture(scope="session")
def sdk_server() -> Iterator[str]:
    """The address of a server by the SDK, for all tests together: it takes a second to start."""
    with subprocess.Popen(
        [sys.executable, PROGRAMS / "sdk.py", "full", "http"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        process.kill()
