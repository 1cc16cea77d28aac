"""Conversations and answers that grow and grow: what they may have, and what many of them cost in memory at once."""

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import httpx
import pytest

from chatcore.state import MOST_HISTORIES

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads how much memory a process has had"),
]

MEGABYTE = 10**6
MESSAGE = 20 * MEGABYTE
"""Bytes of each message that makes a conversation large."""
LARGE = 2 * MESSAGE
"""Bytes of a large conversation."""
MANY = 9
"""How many large ones are asked of at once: they are more than there is room for."""

PROVIDER = '''
import os

from chatcore import NoSettings, Plugin, hookimpl
from chatcore.openai import OpenAIProvider


class Patient(Plugin[NoSettings]):
    """A model on the server of the test."""

    @hookimpl
    def register_providers(self):
        yield OpenAIProvider(name="patient", base_url=os.environ["PATIENT_URL"], default_model="patient", open=True)
'''

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
_WORD = b'data: {"choices": [{"index": 0, "delta": {"content": "Well. "}}]}\n\n'
_END = b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'


@attrs.define
class Model:
    """A model's server: takes requests without keeping them and says a word; the rest when it may, or never an end."""

    url: str = ""
    may_end: asyncio.Event = attrs.field(factory=asyncio.Event)
    endless: bool = False
    asked: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            left = int(found[1]) if found else 0
            while left > 0 and (data := await reader.read(2**18)):
                left -= len(data)
            self.asked += 1
            writer.write(_HEAD + _WORD)
            while self.endless:
                writer.write(_WORD * 100)
                await writer.drain()
            await writer.drain()
            await self.may_end.wait()
            writer.write(_END)
            await writer.drain()
        writer.close()


@pytest.fixture
async def model() -> AsyncIterator[Model]:
    made = Model()
    made.may_end.set()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    yield made
    made.may_end.set()
    server.close()


@attrs.frozen
class Chat:
    """A server in a process of its own, and who asks it."""

    server: Any
    client: httpx.AsyncClient

    def memory(self, of: str) -> float:
        """The memory of the server's process, in megabytes."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        found = re.search(rf"{of}:\s+(\d+) kB", status)
        assert found
        return int(found[1]) / 1000

    @contextmanager
    def costs_no_more_than(self, megabytes: float, what: str) -> Iterator[None]:
        """Looks at the most memory that it has at any time from here to the end of the block."""
        Path(f"/proc/{self.server.process.pid}/clear_refs").write_text("5")
        before = self.memory("VmRSS")
        yield
        growth = self.memory("VmHWM") - before
        print(f"{what}: {growth:.0f} MB")
        assert growth < megabytes, what

    async def ask(self, session: str, text: str = "Hello?") -> int:
        """Sends a message and reads the answer. Gives the status."""
        body = {"model": "patient", "session_id": session, "messages": [{"role": "user", "content": text}]}
        return (await self.client.post("/api/chat/stream", json=body)).status_code

    async def read(self, session: str) -> tuple[int, int]:
        """Reads a conversation without keeping it. Gives the status, and how many bytes came."""
        size = 0
        async with self.client.stream("GET", f"/api/chat/session/{session}/messages") as response:
            async for data in response.aiter_raw():
                size += len(data)
        return response.status_code, size

    async def grow(self, session: str, size: int) -> None:
        for _ in range(size // MESSAGE):
            assert await self.ask(session, "x" * MESSAGE) == 200


Start: TypeAlias = Callable[..., AbstractAsyncContextManager[Chat]]


@pytest.fixture
def start(start_server: Any, database: Mapping[str, str], model: Model, tmp_path: Path) -> Start:
    """Starts a server with the model, again and again on the same data."""
    own = tmp_path / "own"
    own.mkdir()
    (own / "patient.py").write_text(PROVIDER)
    off = [option for name in ("llama", "openrouter", "mcp") for option in ("--disable", name)]

    @asynccontextmanager
    async def start(**env: str) -> AsyncIterator[Chat]:
        given = {"PATIENT_URL": model.url, **database, **env}
        server = await start_server("--plugins-dir", str(own), *off, env=given)
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=120) as client:
            chat = Chat(server, client)
            assert await chat.ask("warm-up") == 200
            yield chat
        await server.end()

    return start


async def until_taken(turns: Sequence[asyncio.Task[int]], model: Model) -> None:
    """Waits until of each turn the model has been asked, or it was refused."""
    async with asyncio.timeout(120):
        while model.asked + sum(turn.done() for turn in turns) < len(turns):
            await asyncio.sleep(0.02)


async def test_many_large_conversations_at_once(start: Start, model: Model) -> None:
    """Turns: as many are let in as there is room for, the others are told to come again, and find room when these have
    ended. Reads: one at a time. Neither costs more memory when there are more of them."""
    sessions = [f"large-{number}" for number in range(MANY)]
    async with start() as chat:
        for session in sessions:
            await chat.grow(session, LARGE)
    async with start() as chat:
        model.may_end.clear()
        model.asked = 0
        with chat.costs_no_more_than(2.5 * MOST_HISTORIES / MEGABYTE, "turns"):
            turns = [asyncio.create_task(chat.ask(session)) for session in sessions]
            await until_taken(turns, model)
            model.may_end.set()
            answered = Counter(await asyncio.gather(*turns))
        let_in = MOST_HISTORIES // LARGE
        assert answered == {200: let_in, 503: MANY - let_in}
    async with start() as chat:
        with chat.costs_no_more_than(8 * LARGE / MEGABYTE, "reads"):
            reads = await asyncio.gather(*map(chat.read, sessions))
        assert {status for status, _ in reads} == {200}
        assert min(size for _, size in reads) > LARGE
        assert await chat.ask(sessions[-1]) == 200


async def test_new_conversations_with_large_questions(start: Start, model: Model) -> None:
    """What comes with the requests is counted, too."""
    async with start() as chat:
        model.may_end.clear()
        model.asked = 0
        with chat.costs_no_more_than(2.5 * MOST_HISTORIES / MEGABYTE, "questions"):
            turns = list[asyncio.Task[int]]()
            for number in range(2 * MANY):  # one after the other: of those that come at once there is a limit, too
                turns.append(asyncio.create_task(chat.ask(f"new-{number}", "x" * MESSAGE)))
                await until_taken(turns, model)
            model.may_end.set()
            answered = Counter(await asyncio.gather(*turns))
        let_in = MOST_HISTORIES // MESSAGE
        assert answered == {200: let_in, 503: 2 * MANY - let_in}


async def test_a_conversation_over_the_limit_is_refused_before_it_is_loaded(start: Start) -> None:
    """However often somebody asks. It can still be read."""
    async with start() as chat:
        await chat.grow("large", LARGE)
    async with start(CHATCORE_MAX_CONVERSATION=str(LARGE - 1)) as chat:
        with chat.costs_no_more_than(LARGE / MEGABYTE / 2, "refusals"):
            assert {await chat.ask("large") for _ in range(20)} == {413}
        status, size = await chat.read("large")
        assert status == 200
        assert size > LARGE


async def test_an_answer_without_end_is_ended(start: Start, model: Model) -> None:
    """When it has as many bytes as a turn may say. What there is of it is stored, with the reason."""
    limit = 20 * MEGABYTE
    async with start(CHATCORE_MAX_ANSWER=str(limit)) as chat:
        model.endless = True
        with chat.costs_no_more_than(6 * limit / MEGABYTE, "an endless answer"):
            assert await chat.ask("endless") == 200
        model.endless = False
        stored = (await chat.client.get("/api/chat/session/endless/messages")).json()["messages"]
        assert [message["role"] for message in stored] == ["user", "assistant", "assistant"]
        assert stored[1]["status"] == "partial"
        assert stored[2]["content"].startswith("Paused: ")
        assert stored[1]["content"].startswith("Well. Well. ")
