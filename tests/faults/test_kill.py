"""A server that is killed while it answers loses nothing that it has sent."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx
import pytest

from chatcore.testing.chat import Frame, frames

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
