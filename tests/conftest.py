"""What the tests share: servers as processes of their own, and no way out but to this machine."""

import asyncio
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_asyncio

_LISTENING = re.compile(rb"listening on (http\S+)")


@attrs.define
class ServerProcess:
    """`chatcore serve` as a user starts it."""

    process: asyncio.subprocess.Process
    url: str
    log: bytearray
    _reading: asyncio.Task[None]

    async def kill(self) -> None:
        """kill -9."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, waits for the end and gives the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await self.process.wait()
        await self._reading
        return code


@pytest_asyncio.fixture
async def start_server(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[ServerProcess]]]:
    """Starts servers on free ports, all with the same data; those that still run are killed after the test."""
    servers: list[ServerProcess] = []

    async def start(*arguments: str, env: dict[str, str] | None = None) -> ServerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chatcore", "serve", "--port", "0", "--data", str(tmp_path / "data"), *arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={**_clean_environment(), **(env or {})},
        )  # fmt: skip
        log = bytearray()
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(_read(process, log, listening))
        url = await asyncio.wait_for(listening, 30)
        servers.append(ServerProcess(process, url, log, reading))
        return servers[-1]

    yield start
    for server in servers:
        await server.kill()


async def _read(process: asyncio.subprocess.Process, log: bytearray, listening: asyncio.Future[str]) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        log += line
        if not listening.done() and (found := _LISTENING.search(line)):
            listening.set_result(found[1].decode())
    if not listening.done():
        listening.set_exception(AssertionError(f"the server did not start:\n{log.decode()}"))


def _clean_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    names = ("CHATCORE_", "OPENROUTER_", "HOST", "PORT", "MODEL_NAME", "TITLE_MODEL", "CHAT_DATABASE")
    return {key: value for key, value in os.environ.items() if not key.startswith(names)}


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches anything but this machine."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_local(address[0]):
            raise AssertionError(f"a test wanted to reach {address}")
        connect(self, address)

    def checked_lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        if host is not None and not _is_local(host):
            raise AssertionError(f"a test wanted to look up {host}")
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", checked_connect)
    monkeypatch.setattr(socket, "getaddrinfo", checked_lookup)


def _is_local(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host)
    return text in ("localhost", "::1", "0.0.0.0", "::", "") or text.startswith("127.")
