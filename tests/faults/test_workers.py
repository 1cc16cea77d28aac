"""Two workers: whoever is cut off reads on at the other, and what is said to the other reaches the run."""

import asyncio
import json
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import repeat
from typing import Any

import httpx
import pytest

from chatcore import sse
from chatcore.testing.upstream import FakeUpstream, Reply, Request

StartWorkers = Callable[..., Awaitable[Any]]

CHAOS = ("--load", "chatcore.testing.chaos:Chaos")
PIECES = 296
"""Pieces of the answer: with its beginning and its end they are a run of 300 frames."""
LAG = 0.1
"""Seconds after which a reader at the other worker has what the model has said, at the median."""
KEEPING = {"CHATCORE_KEEP_ALIVE": "60"}
"""Servers that do not close a connection just when one of many readers, on a slow machine, uses it at last."""
PATIENCE = 0.2
"""Seconds after which the model's server is left."""


async def start(client: httpx.AsyncClient, interval: int) -> str:
    """Starts a run that goes on without readers, a piece each `interval` ms; gives its id."""
    body = {"model": f"chaos/steady-{PIECES}-{interval}", "messages": [{"role": "user", "content": "Hello?"}]}
    headers = {"Chatcore-On-Disconnect": "continue"}
    async with client.stream("POST", "/api/chat/stream", json=body, headers=headers) as response:
        run_id = str(response.headers["chatcore-run-id"])
    for _ in range(1000):  # a new conversation is told of some milliseconds before it is stored
        if (await client.get(f"/api/chat/runs/{run_id}")).status_code == 200:
            return run_id
    raise AssertionError("the run is not stored")


async def read(
    client: httpx.AsyncClient,
    run_id: str,
    *,
    after: bytes = b"",
    count: int | None = None,
    lags: list[float] | None = None,
) -> list[bytes]:
    """The frames of a run, each as its bytes: up to so many, then the connection is cut. `lags` gets how late they
    were, in seconds."""
    headers = {"Last-Event-ID": after.partition(b"\n")[0].removeprefix(b"id: ").decode()} if after else {}
    frames: list[bytes] = []
    rest = b""
    async with client.stream("GET", f"/api/chat/runs/{run_id}/events", headers=headers) as response:
        assert response.status_code == 200
        async for data in response.aiter_raw():
            *whole, rest = (rest + data).split(b"\n\n")
            new = [frame for frame in whole if not frame.startswith(b":")]
            if lags is not None:
                lags += [time.time() - sent_at(frame) for frame in new if b"sent_at" in frame]
            frames += new
            if count is not None and len(frames) >= count:
                return frames[:count]
    assert rest == b""
    return frames


def sent_at(frame: bytes) -> float:
    return float(json.loads(frame.partition(b"data: ")[2])["sent_at"])


# --- reading on at the other ------------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_a_run_that_has_ended_is_read_on_at_the_other_worker_after_every_event(
    start_workers: StartWorkers,
) -> None:
    """Cut after each of its 300 frames; what two connections read is what one reads, to the byte."""
    server = await start_workers(*CHAOS, workers=2, env=KEEPING)
    async with server.client_of(1) as one, server.client_of(2) as two:
        run_id = await start(one, 0)
        whole = await read(two, run_id)
        assert len(whole) == 300
        for count in range(1, 300):
            async with server.client_of(1 + count % 2) as cut:
                first = await read(cut, run_id, count=count)
            rest = await read((two, one)[count % 2], run_id, after=first[-1])
            assert first + rest == whole, f"cut after {count} frames"


async def test_a_run_under_way_is_read_on_at_the_other_worker(
    start_workers: StartWorkers, figure: Callable[[str], None]
) -> None:
    """By forty readers, each cut elsewhere, from the worker of the run to the other or back. At the other, what the
    model says is there within 100 ms at the median: of three runs, where others keep the machine busy."""
    server = await start_workers(*CHAOS, workers=2, env=KEEPING)
    for _ in range(3):
        own, other = await read_by_many(server)
        figure(f"what the model says is at the worker of the run after {own:.1f} ms, at the other after {other:.1f} ms")
        if other <= LAG * 1000:
            break
    assert other <= LAG * 1000


async def read_by_many(server: Any) -> tuple[float, float]:
    """Lets many readers read a run, and checks that each has all of it. Gives after how many ms one who is not cut has
    what the model has said, at the median, at the worker of the run and at the other."""
    counts = [*range(1, 300, 8), 298, 299]
    lags: Mapping[int, list[float]] = {1: [], 2: []}
    async with AsyncExitStack() as stack:
        ones, twos = [], []
        for _ in range(len(counts) + 1):
            ones.append(await stack.enter_async_context(server.client_of(1)))
            twos.append(await stack.enter_async_context(server.client_of(2)))
        run_id = await start(await stack.enter_async_context(server.client_of(1)), 10)

        async def read_in_two(count: int) -> Sequence[bytes]:
            here, there = (ones.pop(), twos.pop()) if count % 2 else (twos.pop(), ones.pop())
            first = await read(here, run_id, count=count)
            return first + await read(there, run_id, after=first[-1])

        whole, again, *both = await asyncio.gather(
            read(ones.pop(), run_id, lags=lags[1]), read(twos.pop(), run_id, lags=lags[2]), *map(read_in_two, counts)
        )
    assert len(whole) == 300
    assert again == whole
    for count, frames in zip(counts, both, strict=True):
        assert frames == whole, f"cut after {count} frames"
    return statistics.median(lags[1]) * 1000, statistics.median(lags[2]) * 1000


# --- what is said to the other ----------------------------------------------------------------------------------------


def reply(request: Request) -> Reply:
    """Speaks for ever when greeted; otherwise says one word."""
    piece = {"id": "1", "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": {"content": "word "}}]}
    last = {**piece, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    word, end = (sse.encode(json.dumps(one).encode()) for one in (piece, last))
    if request.json["messages"][-1]["content"] == "Hello?":
        return Reply.sse(repeat(word), pause=0.01)
    return Reply.sse(word + end + sse.encode(sse.DONE))


def question(session_id: str, text: str) -> dict[str, Any]:
    return {"model": "any", "session_id": session_id, "messages": [{"role": "user", "content": text}]}


async def stop(two: httpx.AsyncClient, session_id: str, response: httpx.Response, rest: AsyncIterator[bytes]) -> None:
    """Stops the run. Its reader gets the end."""
    run = (await two.post(f"/api/chat/runs/{response.headers['chatcore-run-id']}/stop")).json()
    assert (run["state"], run["reason"]) == ("stopped", "user")
    assert b"".join([data async for data in rest]).endswith(b"data: [DONE]\n\n")


async def delete(two: httpx.AsyncClient, session_id: str, response: httpx.Response, rest: AsyncIterator[bytes]) -> None:
    """Deletes the conversation. Its reader gets the end."""
    assert (await two.delete(f"/api/chat/conversations/{session_id}")).status_code == 204
    assert (await two.get(f"/api/chat/session/{session_id}/messages")).status_code == 404
    assert [data async for data in rest]


async def ask_again(
    two: httpx.AsyncClient, session_id: str, response: httpx.Response, rest: AsyncIterator[bytes]
) -> None:
    """Asks the next question of the conversation, whose only reader has just left."""
    await response.aclose()
    answer = await two.post("/api/chat/stream", json=question(session_id, "And now?"))
    assert answer.text.endswith("data: [DONE]\n\n"), answer.text
    run = (await two.get(f"/api/chat/runs/{response.headers['chatcore-run-id']}")).json()
    assert (run["state"], run["reason"]) == ("stopped", "disconnected")


async def test_what_is_said_to_the_other_worker_reaches_the_run(
    start_workers: StartWorkers, figure: Callable[[str], None]
) -> None:
    """A stop, a deletion, and a question that needs the room: each closes the connection to the model's server within
    200 ms, as that sees it. More than five are measured only where others are so busy that these took longer."""
    loop = asyncio.get_running_loop()
    async with FakeUpstream() as upstream:
        upstream.answer(reply)
        server = await start_workers(workers=2, env={"OPENROUTER_API_KEY": "key", "OPENROUTER_BASE_URL": upstream.url})
        for say in (stop, delete, ask_again):
            taken: list[float] = []
            while len(taken) < 5 or (statistics.median(taken) > PATIENCE and len(taken) < 15):
                session_id = f"{say.__name__}-{len(taken)}"
                async with (
                    server.client_of(1) as one,
                    server.client_of(2) as two,
                    one.stream("POST", "/api/chat/stream", json=question(session_id, "Hello?")) as response,
                ):
                    rest = response.aiter_raw()
                    while b"word" not in await anext(rest):
                        pass
                    asked = loop.time()
                    saying = asyncio.create_task(say(two, session_id, response, rest))
                    taken.append(await asyncio.wait_for(upstream.requests[-1].closed, 5) - asked)
                    await saying
            figure(f"{say.__name__}: {', '.join(f'{1000 * seconds:.0f}' for seconds in taken)} ms")
            assert statistics.median(taken) <= PATIENCE
