"""A server that is killed while it answers keeps what it has sent, and runs no tool a second time.

Several answers are under way, some with a tool call; at some event of one of them the server gets kill -9. The next one
has all that any client had seen (`strict`), or all but what came in the last 25 ms and one commit (`relaxed`): the
figures are printed. Every client reads on where it was, and has then, joined, exactly the text of the stored answer.
"""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import attrs
import httpx
import pytest

from chatcore import sse
from chatcore.runs.toolcalls import UNKNOWN_OUTCOME

StartWorkers = Callable[..., Awaitable[Any]]

RUNS = 6
WORDS = 25
EVENTS = WORDS + 12
"""Of a run, about: it says some words, calls the tool, and says what that has said."""
ONE_COMMIT = 0.25
"""Seconds that a commit may take on a machine that is busy with other tests; on one that is not it takes 2 ms."""


@attrs.define
class Seen:
    """What a client has of a run: its events, and when each of them came."""

    session_id: str
    mark: str
    run_id: str = ""
    events: list[sse.Event] = attrs.field(factory=list)
    arrived: list[float] = attrs.field(factory=list)


@attrs.frozen
class Killed:
    """A server that was killed, and what its clients had seen until then."""

    strict: bool
    moment: float
    seen: Sequence[Seen]


@pytest.mark.parametrize(
    ("database", "seeds"),
    [
        ("sqlite", range(4)),
        pytest.param("sqlite", range(100), marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
        pytest.param("postgresql", range(20), marks=[pytest.mark.slow, pytest.mark.timeout(400)]),
    ],
    indirect=["database"],
)
async def test_a_server_that_is_killed_at_any_event(
    start_workers: StartWorkers, seeds: Sequence[int], figure: Callable[[str], None]
) -> None:
    """After the restart each text is whole or marked and equals what its readers have, joined, and the conversation
    goes on; no tool was run twice, and one whose outcome nobody knows is marked as such."""
    killed = None
    figures: Counter[str] = Counter()
    oldest = 0.0
    for seed in [*seeds, None]:
        strict = seed is not None and seed % 2 == 0
        server = await start_workers(env={"CHATCORE_DURABILITY": "strict" if strict else "relaxed"})
        if killed is not None:
            ages = await after_the_restart(server, killed, figures)
            oldest = max(oldest, *ages)
        if seed is not None:
            killed = await use_until_killed(server, seed, strict=strict)
    told = ", ".join(f"{count} {what}" for what, count in sorted(figures.items()))
    figure(f"{len(seeds)} kills: {told}; what was lost had been seen for {oldest * 1000:.0f} ms at the most")
    assert oldest <= 0.025 + ONE_COMMIT


# --- until it is killed -----------------------------------------------------------------------------------------------


async def use_until_killed(server: Any, seed: int, *, strict: bool) -> Killed:
    """Reads several answers, and kills the server at some event of one of them."""
    lot = random.Random(seed)
    seen = [Seen(f"s{seed}-{number}", f"{seed}-{number}") for number in range(RUNS)]
    victim, enough = lot.choice(seen), lot.randrange(1, EVENTS)
    moments: list[float] = []

    def came() -> None:
        if not moments and len(victim.events) >= enough:
            server.process.process.kill()
            moments.append(time.monotonic())

    async with server.client() as client:
        await asyncio.gather(*(follow(client, one, lot.randrange(WORDS), came) for one in seen))
    await server.process.process.wait()
    return Killed(strict, *moments, seen)


async def follow(client: httpx.AsyncClient, seen: Seen, words: int, came: Callable[[], None]) -> None:
    """Reads an answer, which calls a tool after so many words, until the server dies."""
    said = " ".join(f"word{number}" for number in range(words))
    seen.mark += " ab" * (WORDS - words)
    text = f'/slow 0.005\n/call note {{"mark": "{seen.mark}"}}\n{said}'
    body = {"model": "echo", "session_id": seen.session_id, "messages": [{"role": "user", "content": text}]}
    parser = sse.Parser()
    try:
        async with client.stream("POST", "/api/chat/stream", json=body) as response:
            seen.run_id = response.headers["chatcore-run-id"]
            async for data in response.aiter_raw():
                for event in parser.feed(data):
                    seen.events.append(event)
                    seen.arrived.append(time.monotonic())
                    came()
    except httpx.TransportError:
        return


# --- after the restart ------------------------------------------------------------------------------------------------


async def after_the_restart(server: Any, killed: Killed, figures: Counter[str]) -> Sequence[float]:
    """Checks what the clients find. Gives how long each of them had had the first of the events that were lost."""
    async with server.client() as client:
        for one in killed.seen:
            await check_history(client, one, server.marks, figures)
        losses = await asyncio.gather(*(check_reading_on(client, killed, one, figures) for one in killed.seen))
        await asyncio.gather(*(check_next_turn(client, one) for one in killed.seen))
    return losses


async def history(client: httpx.AsyncClient, seen: Seen) -> list[dict[str, Any]]:
    response = await client.get(f"/api/chat/session/{seen.session_id}/messages")
    return list(response.json()["messages"]) if response.status_code == 200 else []


async def check_history(client: httpx.AsyncClient, seen: Seen, marks: Sequence[str], figures: Counter[str]) -> None:
    """Each call has one answer, which tells the truth."""
    messages = await history(client, seen)
    calls = [call["id"] for message in messages for call in message.get("tool_calls", ())]
    tools = [message for message in messages if message["role"] == "tool"]
    times = marks.count(seen.mark)
    assert [tool["tool_call_id"] for tool in tools] == calls
    assert times <= len(calls) <= 1
    for tool in tools:
        assert (tool["content"], times) in ((f"noted {seen.mark}", 1), (UNKNOWN_OUTCOME, times))
        figures["calls with an unknown outcome" if tool["content"] == UNKNOWN_OUTCOME else "calls"] += 1


async def check_reading_on(client: httpx.AsyncClient, killed: Killed, seen: Seen, figures: Counter[str]) -> float:
    """What a client has, and what it reads now, is what there is. Gives how old the oldest lost event was."""
    if not seen.events:
        figures["runs that nobody had seen"] += 1
        return 0.0
    run = (await client.get(f"/api/chat/runs/{seen.run_id}")).json()
    answers = [message for message in await history(client, seen) if message["role"] == "assistant"]
    log = await read(client, seen.run_id, "0")
    whole = seen.events[-1].data == sse.DONE
    rest = [] if whole else await read(client, seen.run_id, number_of(seen.events[-1]))
    assert (run["state"], run["reason"]) in (("incomplete", "server_stopped"), ("completed", "stop"))
    assert log[-1].data == sse.DONE
    assert spoken(log) == "".join(answer.get("content", "") for answer in answers)
    numbers = [int(number_of(event)) for event in log]
    assert numbers == sorted(set(numbers))
    figures[run["state"]] += 1
    figures["events"] += len(seen.events)
    kept = len([event for event in seen.events if event in log])
    if kept == len(seen.events):
        assert [*seen.events, *rest] == log
        return 0.0
    figures["events lost"] += len(seen.events) - kept
    assert not killed.strict
    assert seen.events[:kept] == log[:kept]  # what was lost is the end
    assert len(log) - kept <= 5  # of each of two answers the rest of the text and the message; the end of the run
    assert whole or rest[-1] == log[-1]
    return killed.moment - seen.arrived[kept]


async def check_next_turn(client: httpx.AsyncClient, seen: Seen) -> None:
    """The conversation goes on."""
    before = await history(client, seen)
    body = {"model": "echo", "session_id": seen.session_id, "messages": [{"role": "user", "content": "and now"}]}
    assert (await client.post("/api/chat/stream", json=body)).text.endswith("data: [DONE]\n\n")
    after = await history(client, seen)
    assert after[: len(before)] == before
    assert [message["content"] for message in after[len(before) :]] == ["and now", "and now"]


async def read(client: httpx.AsyncClient, run_id: str, after: str) -> list[sse.Event]:
    headers = {"Last-Event-ID": f"{run_id}:{after}"}
    return sse.Parser().feed((await client.get(f"/api/chat/runs/{run_id}/events", headers=headers)).content)


def number_of(event: sse.Event) -> str:
    return str(event.id).rpartition(":")[2]


def spoken(events: Sequence[sse.Event]) -> str:
    """The text of the chunks among these events."""
    chunks = [json.loads(event.data) for event in events if event.event == "message" and event.data != sse.DONE]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])
