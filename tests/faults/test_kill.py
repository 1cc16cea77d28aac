"""A server that is killed while it answers loses nothing that it has sent."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest

from chatcore import sse
from chatcore.database import Database, Runs
from chatcore.testing.chat import Frame, frames
from chatcore.types import Principal

StartServer = Callable[..., Awaitable[Any]]

BODY = {
    "model": "echo",
    "session_id": "s",
    "messages": [{"role": "user", "content": "/slow 0.01\n" + " ".join(f"word{n}" for n in range(500))}],
}


def spoken(all_frames: Sequence[Frame]) -> str:
    """The text of the chunks among these frames."""
    chunks = [frame.data for frame in all_frames if frame.event == "message" and frame.data != "[DONE]"]
    return "".join(choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"])


async def read_until(url: str, words: int) -> tuple[str, str]:
    """Reads an answer until so many words have come; gives the run's id and the text."""
    text = ""
    async with (
        httpx.AsyncClient(trust_env=False, timeout=30) as client,
        client.stream("POST", f"{url}/api/chat/stream", json=BODY) as response,
    ):
        received = b""
        async for chunk in response.aiter_bytes():
            received += chunk
            text = spoken(frames(received))
            if text.count(" ") >= words:
                return response.headers["chatcore-run-id"], text
    raise AssertionError(f"the answer ended after {text!r}")


@pytest.mark.parametrize("seed", range(4))
async def test_the_text_of_a_killed_server_is_kept_and_the_next_turn_works(
    start_server: StartServer, seed: int
) -> None:
    """After kill -9 and a restart the conversation has the text, marked; the run can be read; a new turn goes on."""
    server = await start_server("--disable", "llama", "--disable", "openrouter")
    run_id, seen = await read_until(server.url, random.Random(seed).randrange(1, 40))
    await asyncio.sleep(0.06)  # what was sent is on disk within two group commits; the promise is made after that
    await server.kill()
    server = await start_server("--disable", "llama", "--disable", "openrouter")
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        run = (await client.get(f"/api/chat/runs/{run_id}")).json()
        assert (run["state"], run["reason"]) == ("incomplete", "server_stopped")
        messages = (await client.get("/api/chat/session/s/messages")).json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        assert messages[1]["status"] == "partial"
        assert messages[1]["content"].startswith(seen)
        replay = frames((await client.get(f"/api/chat/runs/{run_id}/events")).content)
        assert replay[-1].data == "[DONE]"
        assert spoken(replay) == messages[1]["content"]
        body = {"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": "and now"}]}
        assert b"[DONE]" in (await client.post("/api/chat/stream", json=body)).content
        messages = (await client.get("/api/chat/session/s/messages")).json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]


# --- how much is on disk ----------------------------------------------------------------------------------------------

STREAMS = 8
ONE_COMMIT = 0.1
"""Seconds that a commit may take on a machine that is busy with other tests; on one that is not it takes 2 ms."""


@attrs.define
class Seen:
    """What a client has of a run: when each event came, by its number."""

    run_id: str = ""
    arrived: dict[int, float] = attrs.field(factory=dict)


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 5))])
async def test_how_much_of_what_was_seen_is_on_disk(
    start_server: StartServer, tmp_path: Path, durability: str, seed: int
) -> None:
    """After kill -9 at any moment the log has, with `strict`, all that any client has got; with `relaxed` all but
    what came in the last 25 ms and one commit."""
    server = await start_server(
        "--disable", "llama", "--disable", "openrouter", env={"CHATCORE_DURABILITY": durability}
    )
    seen = [Seen() for _ in range(STREAMS)]
    enough = random.Random(seed).randrange(400, 900)

    def came() -> None:
        if killed == [] and sum(len(one.arrived) for one in seen) >= enough:
            server.process.kill()
            killed.append(time.monotonic())

    killed: list[float] = []
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
        await asyncio.gather(*(follow(client, f"s{number}", one, came) for number, one in enumerate(seen)))
    await server.kill()
    missing, oldest = await missing_in(tmp_path / "data" / "chatcore.db", seen, killed[0])
    print(
        f"{durability}: of {sum(len(one.arrived) for one in seen)} events {missing} missing, {oldest * 1000:.1f} ms old"
    )
    if durability == "strict":
        assert missing == 0
    assert oldest <= 0.025 + ONE_COMMIT


async def follow(client: httpx.AsyncClient, session_id: str, seen: Seen, came: Callable[[], None]) -> None:
    """Reads an answer until the server dies."""
    parser = sse.Parser()
    words = " ".join(f"word{number}" for number in range(1000))
    body = {**BODY, "session_id": session_id, "messages": [{"role": "user", "content": f"/slow 0.005\n{words}"}]}
    try:
        async with client.stream("POST", "/api/chat/stream", json=body) as response:
            seen.run_id = response.headers["chatcore-run-id"]
            async for data in response.aiter_raw():
                for event in parser.feed(data):
                    seen.arrived[int(str(event.id).rpartition(":")[2])] = time.monotonic()
                came()
    except httpx.HTTPError:
        return


async def missing_in(path: Path, seen: Sequence[Seen], killed: float) -> tuple[int, float]:
    """How many of the events are not in the log, and for how long the oldest of them had been seen."""
    database = Database(str(path))
    await database.open()
    try:
        missing = []
        for one in seen:
            rows = await Runs(database).log(Principal("local"), one.run_id, 0)
            last = rows[-1].last if rows else 0
            missing += [moment for number, moment in one.arrived.items() if number > last]
    finally:
        await database.close()
    return len(missing), max((killed - moment for moment in missing), default=0.0)
