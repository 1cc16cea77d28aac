"""A server that is told to stop while it answers: everybody is told to come back, and then finds what there was."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import httpx
import pytest

from chatcore import sse

StartWorkers = Callable[..., Awaitable[Any]]

WORDS = 200
PAUSE = 0.1
IN_TIME = 5.0
"""Seconds that a server may take to end."""


@attrs.define
class Reading:
    """An answer that is being read, until its server ends."""

    session_id: str
    run_id: str = ""
    events: list[sse.Event] = attrs.field(factory=list)
    begun: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def read(self, client: httpx.AsyncClient) -> None:
        text = f"/slow {PAUSE}\n" + " ".join(f"word{number}" for number in range(WORDS))
        body = {"model": "echo", "session_id": self.session_id, "messages": [{"role": "user", "content": text}]}
        parser = sse.Parser()
        async with client.stream("POST", "/api/chat/stream", json=body) as response:
            assert response.status_code == 200
            self.run_id = response.headers["chatcore-run-id"]
            async for data in response.aiter_raw():
                self.events += parser.feed(data)
                if b"word3" in data:
                    self.begun.set()

    async def check(self, client: httpx.AsyncClient) -> None:
        """What was read and what is read on are what is stored."""
        assert [event.event for event in self.events].index("shutdown") == len(self.events) - 1
        run = (await client.get(f"/api/chat/runs/{self.run_id}")).json()
        assert (run["state"], run["reason"]) == ("incomplete", "server_stopped")
        question, answer = (await client.get(f"/api/chat/session/{self.session_id}/messages")).json()["messages"]
        assert (question["role"], answer["role"], answer["status"]) == ("user", "assistant", "partial")
        headers = {"Last-Event-ID": str(self.events[-1].id)}
        rest = (await client.get(f"/api/chat/runs/{self.run_id}/events", headers=headers)).content
        assert rest.endswith(b"data: [DONE]\n\n")
        assert spoken([*self.events[:-1], *sse.Parser().feed(rest)]) == answer["content"]


def spoken(events: Sequence[sse.Event]) -> str:
    """The text of the chunks among these events."""
    chunks = [json.loads(event.data) for event in events if event.event == "message" and event.data != sse.DONE]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


slow = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize(
    ("database", "workers", "streams"),
    [
        ("sqlite", 1, 10),
        ("sqlite", 2, 100),
        pytest.param("sqlite", 1, 300, marks=slow),
        pytest.param("sqlite", 2, 300, marks=slow),
        pytest.param("postgresql", 1, 300, marks=slow),
        pytest.param("postgresql", 2, 300, marks=slow),
    ],
    indirect=["database"],
)
async def test_a_server_that_is_told_to_stop_takes_leave_of_all_readers(
    start_workers: StartWorkers, workers: int, streams: int, figure: Callable[[str], None]
) -> None:
    """Each stream ends with the frame `shutdown`; within five seconds the exit code is 0, and nothing has gone wrong.
    After the restart every reader gets the end of its answer, and has then, joined, what is stored.

    It is done up to three times where others keep the machine so busy that it takes longer.
    """
    taken: list[float] = []
    while min(taken, default=IN_TIME + 1) > IN_TIME and len(taken) < 3:
        taken.append(await take_leave(start_workers, workers, [f"s{len(taken)}-{n}" for n in range(streams)]))
        figure(f"{streams} streams of {workers} workers have ended in {taken[-1]:.2f} s")
    assert min(taken) <= IN_TIME


async def take_leave(start_workers: StartWorkers, workers: int, sessions: Sequence[str]) -> float:
    """Tells a server to stop while it answers, and starts it again. Gives how many seconds it took to end."""
    server = await start_workers(workers=workers)
    readings = [Reading(session) for session in sessions]
    async with server.client() as client:
        tasks = [asyncio.create_task(reading.read(client)) for reading in readings]
        await asyncio.gather(*(reading.begun.wait() for reading in readings))
        told = time.monotonic()
        assert await server.end() == 0, server.log
        taken = time.monotonic() - told
        await asyncio.gather(*tasks)
    assert "Traceback" not in server.log
    assert "error" not in server.log
    server = await start_workers(workers=workers)
    async with server.client(most=10) as client:
        await asyncio.gather(*(reading.check(client) for reading in readings))
    await server.end()
    return taken
