"""A server that was silent for too long, and comes back: its runs are another's, and nothing it says of them counts."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx
import pytest

from chatcore import sse

StartWorkers = Callable[..., Awaitable[Any]]

WORDS = 400
ENDED = ("incomplete", "server_stopped")


async def read(client: httpx.AsyncClient, run_id: str, after: sse.Event | None = None) -> list[sse.Event]:
    """The frames of a run after one of them, or all."""
    headers = {"Last-Event-ID": after.id or ""} if after else {}
    response = await client.get(f"/api/chat/runs/{run_id}/events", headers=headers)
    return list(sse.Parser().feed(response.content))


async def until_closed(client: httpx.AsyncClient, run_id: str) -> Mapping[str, Any]:
    """Waits until another worker has closed a run, which takes as long as its lease."""
    for _ in range(300):
        run: Mapping[str, Any] = (await client.get(f"/api/chat/runs/{run_id}")).json()
        if run["state"] != "running":
            return run
        await asyncio.sleep(0.1)
    raise AssertionError("nobody has closed the run")


class Reader:
    """A client that reads an answer of the server that is going to be silent."""

    def __init__(self) -> None:
        self.run_id = ""
        self.frames: list[sse.Event] = []
        self.begun = asyncio.Event()

    async def follow(self, client: httpx.AsyncClient) -> None:
        text = "/slow 0.05\n" + " ".join(f"word{number}" for number in range(WORDS))
        body = {"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": text}]}
        parser = sse.Parser()
        async with client.stream("POST", "/api/chat/stream", json=body) as response:
            self.run_id = response.headers["chatcore-run-id"]
            async for data in response.aiter_raw():
                self.frames += parser.feed(data)
                if len(self.frames) >= 20:
                    self.begun.set()


def spoken(events: Sequence[sse.Event]) -> str:
    chunks = [json.loads(event.data) for event in events if event.event == "message" and event.data != sse.DONE]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_a_server_that_was_silent_finds_its_runs_closed(
    start_workers: StartWorkers, figure: Callable[[str], None]
) -> None:
    """It was stopped in the middle of a stream for longer than its lease. Its reader gets the rest that is stored,
    once, on the same connection; what is stored stays as it is, and whoever reads it, and wherever, reads the same."""
    env = {"CHATCORE_DURABILITY": "strict"}
    silent, other = await start_workers(env=env), await start_workers(env=env)
    reader = Reader()
    async with silent.client() as first, other.client() as second:
        following = asyncio.create_task(reader.follow(first))
        await reader.begun.wait()
        os.kill(silent.process.process.pid, signal.SIGSTOP)
        seen = list(reader.frames)
        run = await until_closed(second, reader.run_id)
        stored = await read(second, reader.run_id)
        rest = await read(second, reader.run_id, after=seen[-1])
        messages = (await second.get("/api/chat/session/s/messages")).json()["messages"]
        os.kill(silent.process.process.pid, signal.SIGCONT)
        await following
        await silent.until_told("was taken over by another worker")
        answers = [await client.get("/api/chat/session/s/messages") for client in (first, second)]
        again = [await read(client, reader.run_id) for client in (first, second)]
        body = {"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": "and now?"}]}
        assert "and now?" in spoken(list(sse.Parser().feed((await first.post("/api/chat/stream", json=body)).content)))
    figure(f"{len(seen)} of {WORDS} words before the silence, {len(rest)} frames after it")
    assert (run["state"], run["reason"]) == ENDED
    assert seen + rest == reader.frames == stored
    assert again == [stored, stored]
    assert stored[-1].data == sse.DONE
    assert [(message["role"], message.get("status")) for message in messages][1:] == [("assistant", "partial")]
    assert spoken(stored) == messages[1]["content"]
    assert [answer.json()["messages"] for answer in answers] == [messages, messages]
