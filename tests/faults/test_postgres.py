"""Servers of several machines on one PostgreSQL: any of them serves any conversation, and one may be killed."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx

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
