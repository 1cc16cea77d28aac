"""A disk that runs full while a server answers."""

import os
import re
import resource
import sqlite3
import subprocess
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest

from chatcore.errors import DatabaseError
from chatcore.testing.chat import Frame, frames

StartServer = Callable[..., Awaitable[Any]]

FULL = re.compile("disk is full|disk could not be read or written")  # of a limit SQLite cannot tell more
WORDS = [f"word{number}" for number in range(120)]


class Disk(Protocol):
    """Where a server has its data, and can be full."""

    def fill(self, server: Any) -> None: ...

    def free(self, server: Any) -> None: ...


class SmallDisk:
    """A file system of its own, in memory."""

    def __init__(self, directory: Path) -> None:
        self._ballast = directory / "ballast"

    def fill(self, server: Any) -> None:
        with self._ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))

    def free(self, server: Any) -> None:
        self._ballast.unlink()


class SmallFiles:
    """Where no file system can be mounted: the server may not make its files any larger."""

    def __init__(self, directory: Path) -> None:
        self._log = directory / "chatcore.db-wal"

    def fill(self, server: Any) -> None:
        self._limit(server, self._log.stat().st_size)

    def free(self, server: Any) -> None:
        self._limit(server, resource.RLIM_INFINITY)

    def _limit(self, server: Any, size: int) -> None:
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """The data directory, on a small disk if one can be made here. It is there before the servers, and longer."""
    directory = tmp_path / "data"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(directory)]
    if os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        yield SmallDisk(directory)
        subprocess.run(["umount", "--lazy", str(directory)], check=True)
    else:
        yield SmallFiles(directory)


@pytest.mark.parametrize("durability", ["relaxed", "strict"])
async def test_a_disk_that_runs_full_during_an_answer(
    disk: Disk, start_server: StartServer, tmp_path: Path, durability: str
) -> None:
    """Relaxed, the whole answer reaches its reader all the same; strict, it ends, since it could not be kept before it
    is sent. Either way that is said, and so it is to who comes meanwhile; the reason is in the log. What was stored can
    be read. When there is space again, the next answers are given, and the data is sound."""
    options, env = ("--disable", "llama", "--disable", "openrouter"), {"CHATCORE_DURABILITY": durability}
    server = await start_server(*options, env=env)
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        assert "error" not in names(await ask(client, "before", "hello"))
        received = await read_and(client, 20, lambda: disk.fill(server))
        refused = await client.post("/api/chat/stream", json=question("meanwhile", "hello"))
        kept = (await client.get("/api/chat/session/before/messages")).json()["messages"]
        disk.free(server)
        assert "error" not in names(await ask(client, "after", "hello"))
    read = spoken(received).count("word")
    print(f"{durability}, {type(disk).__name__}: {read} of {len(WORDS)} words were read, 20 before the disk was full")
    assert read == len(WORDS) if durability == "relaxed" else 20 <= read < len(WORDS)
    [error] = [frame.data for frame in received if frame.event == "error"]
    assert (error["error"], error["type"]) == (DatabaseError.neutral, "database_unavailable")
    assert received[-1].data == "[DONE]"
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert refused.json() == {
        "detail": DatabaseError.neutral,
        "code": "database_unavailable",
        "hint": "the reason is in the server's log",
    }
    assert [message["content"] for message in kept] == ["hello", "hello"]
    assert FULL.search(server.log.decode())
    await server.kill()
    await check_what_was_kept(await start_server(*options, env=env), received)
    with closing(sqlite3.connect(tmp_path / "data" / "chatcore.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_a_conversation_goes_on_as_soon_as_there_is_space_again(disk: Disk, start_server: StartServer) -> None:
    """Its next turn first stores what could not be stored: the answer, and that it has ended."""
    server = await start_server("--disable", "llama", "--disable", "openrouter")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        received = await read_and(client, 20, lambda: disk.fill(server))
        refused = await client.post("/api/chat/stream", json=question("s", "and now?"))
        disk.free(server)
        assert "error" not in names(await ask(client, "s", "and now?"))
        messages = (await client.get("/api/chat/session/s/messages")).json()["messages"]
    assert (refused.status_code, refused.json()["code"]) == (503, "database_unavailable")
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]
    assert (messages[1]["content"].split(), messages[1]["status"]) == (WORDS, "partial")
    assert spoken(received).startswith(messages[1]["content"])


async def check_what_was_kept(server: Any, received: list[Frame]) -> None:
    """A server that starts later has what was written of the answer, and the conversation goes on."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        _, *answer = (await client.get("/api/chat/session/s/messages")).json()["messages"]
        assert [message["role"] for message in answer] in ([], ["assistant"])
        for message in answer:
            assert message["status"] == "partial"
            assert spoken(received).startswith(message["content"])
        assert "error" not in names(await ask(client, "s", "and now?"))


def question(session_id: str, text: str) -> dict[str, Any]:
    return {"model": "echo", "session_id": session_id, "messages": [{"role": "user", "content": text}]}


async def ask(client: httpx.AsyncClient, session_id: str, text: str) -> list[Frame]:
    response = await client.post("/api/chat/stream", json=question(session_id, text))
    assert response.status_code == 200, response.text
    return list(frames(response.content))


async def read_and(client: httpx.AsyncClient, words: int, act: Callable[[], None]) -> list[Frame]:
    """Reads a long answer to its end, and does something when so many words have come."""
    received, acted = b"", False
    body = question("s", "/slow 0.01\n" + " ".join(WORDS))
    async with client.stream("POST", "/api/chat/stream", json=body) as response:
        async for data in response.aiter_raw():
            received += data
            if not acted and received.count(b"word") >= words:
                acted = True
                act()
    return list(frames(received))


def names(received: list[Frame]) -> set[str]:
    return {frame.event for frame in received}


def spoken(received: list[Frame]) -> str:
    """The text of the answer."""
    chunks = [frame.data for frame in received if frame.event == "message" and frame.data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
