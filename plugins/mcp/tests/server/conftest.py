"""What the tests of the server side share: servers as processes of their own, and clients of them."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import attrs
import pytest_asyncio

_LISTENING = re.compile(rb"listening on (http\S+)")
_SETTINGS = ("CHATCORE_", "OPENROUTER_", "MCP_", "HOST", "PORT", "MODEL_NAME", "TITLE_MODEL")


def clean_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    return {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}


@attrs.define
class Server:
    """`chatcore serve` as a user starts it."""

    process: asyncio.subprocess.Process
    url: str
    log: bytearray
    _reading: asyncio.Task[None]

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, waits for the end and gives the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await self.process.wait()
        await self._reading
        return code


@pytest_asyncio.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Server]]]:
    """Starts servers with the same data, without the plugins that need something; kills them after the test."""
    servers: list[Server] = []

    async def start(*arguments: str, port: int = 0, **env: str) -> Server:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "chatcore", "serve", "--port", str(port), "--data", str(tmp_path / "data")),
            *("--disable", "llama", "--disable", "openrouter", *arguments),
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={**clean_environment(), **env},
        )
        log = bytearray()
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(_read(process, log, listening))
        servers.append(Server(process, "", log, reading))
        servers[-1].url = await asyncio.wait_for(listening, 30)
        return servers[-1]

    yield start
    for server in servers:
        await server.end(signal.SIGKILL)
        print(server.log.decode(errors="replace"))  # pytest shows it if the test has failed


async def _read(process: asyncio.subprocess.Process, log: bytearray, listening: asyncio.Future[str]) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        log += line
        if not listening.done() and (found := _LISTENING.search(line)):
            listening.set_result(found[1].decode())
    if not listening.done():
        listening.set_exception(AssertionError(f"the server did not start:\n{log.decode()}"))
