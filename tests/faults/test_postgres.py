"""Servers of several machines on one PostgreSQL: any of them serves any conversation, and one may be killed. The
connections to the database may be, too, or be refused for a while."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from chatcore import sse
from chatcore.testing.chat import frames

StartServer = Callable[..., Awaitable[Any]]

WORDS = " ".join(f"word{number}" for number in range(400))


def body(text: str) -> dict[str, Any]:
    return {"model": "echo", "session_id": "s", "messages": [{"role": "user", "content": text}]}


async def test_servers_share_a_database(start_server: StartServer, postgres_url: str, tmp_path: Path) -> None:
    """A run is followed from another machine while it is written; when its server is killed, its text is kept, and
    the conversation goes on elsewhere."""

    async def machine(name: str) -> tuple[Any, httpx.AsyncClient]:
        plain = ("--disable", "llama", "--disable", "openrouter", "--data", str(tmp_path / name))
        server = await start_server(*plain, env={"CHATCORE_DATABASE": postgres_url})
        return server, httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30)

    (server, one), (_, two) = await asyncio.gather(machine("one"), machine("two"))
    parser, seen = sse.Parser(), 0
    async with one, two:
        async with one.stream("POST", "/api/chat/stream", json=body(f"/slow 0.01\n{WORDS}")) as response:
            run_id = response.headers["chatcore-run-id"]
            async with two.stream("GET", f"/api/chat/runs/{run_id}/events") as elsewhere:
                async for data in elsewhere.aiter_raw():
                    seen += len(list(parser.feed(data)))
                    if seen > 40:
                        break
            await server.kill()
        _, again = await machine("one")
        async with again:
            run = (await again.get(f"/api/chat/runs/{run_id}")).json()
            assert (run["state"], run["reason"]) == ("incomplete", "server_stopped")
        _, answer = (await two.get("/api/chat/session/s/messages")).json()["messages"]
        assert answer["status"] == "partial"
        assert answer["content"].startswith(" ".join(WORDS.split()[:20]))
        replay = frames((await two.get(f"/api/chat/runs/{run_id}/events")).content)
        assert replay[-1].data == "[DONE]"
        assert b"[DONE]" in (await two.post("/api/chat/stream", json=body("and now"))).content
        messages = (await two.get("/api/chat/session/s/messages")).json()["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]


# --- connections that are ended ---------------------------------------------------------------------------------------

STREAMS = 40
OUTAGE = 2.0
"""Seconds for which the database lets nobody in: fewer than a write waits for."""


def kill_connections(server: Any, name: str) -> int:
    """Ends all connections of chatcore to a database; gives how many there were."""
    found = server.run(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'")
    return len(found)


@asynccontextmanager
async def cuts(server: Any, name: str) -> AsyncIterator[None]:
    """Ends all connections, again and again."""

    async def cut() -> None:
        while True:
            await asyncio.sleep(0.3)
            killed.append(await asyncio.to_thread(kill_connections, server, name))

    killed: list[int] = []
    task = asyncio.create_task(cut())
    yield
    task.cancel()
    assert sum(killed) > len(killed) > 3


@asynccontextmanager
async def outage(server: Any, name: str) -> AsyncIterator[None]:
    """Lets nobody in for a while."""
    await asyncio.sleep(1)
    server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    kill_connections(server, name)
    await asyncio.sleep(OUTAGE)
    server.run(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    yield


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize("database", ["postgresql"], indirect=True)
@pytest.mark.parametrize("fault", [cuts, outage])
async def test_connections_that_end_are_made_anew(
    start_workers: StartServer,
    database: Mapping[str, str],
    postgres_server: Any,
    fault: Callable[..., Any],
    figure: Callable[[str], None],
) -> None:
    """Answers go on meanwhile, and are read at either worker; of each everything is told and stored, and nothing
    twice."""
    name = database["CHATCORE_DATABASE"].partition("?")[0].rpartition("/")[2]
    server = await start_workers(workers=2)
    words = " ".join(f"word{number}" for number in range(100))

    async def answer(client: httpx.AsyncClient, number: int) -> None:
        question = {**body(f"/slow 0.05\n{words}"), "session_id": f"s{number}"}
        async with client.stream("POST", "/api/chat/stream", json=question) as response:
            run_id = response.headers["chatcore-run-id"]
            again = asyncio.create_task(client.get(f"/api/chat/runs/{run_id}/events"))  # at one or the other
            received = await response.aread()
        assert [frame.id for frame in frames(received)] == [frame.id for frame in frames((await again).content)]
        assert b"event: error" not in received
        messages = (await client.get(f"/api/chat/session/s{number}/messages")).json()["messages"]
        assert [message["content"] for message in messages[1:]] == [words]
        for _ in range(1000):  # a worker that does not have the run knows of its end a moment later
            run = (await client.get(f"/api/chat/runs/{run_id}")).json()
            if run["state"] != "running":
                break
        assert (run["state"], run["reason"]) == ("completed", "stop")

    async with server.client() as client:
        answers = asyncio.gather(*(answer(client, number) for number in range(STREAMS)))
        async with fault(postgres_server, name):
            began = time.monotonic()
            await answers
            figure(f"the last answer was stored {time.monotonic() - began:.1f} s later")
