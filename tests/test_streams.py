"""Responses that stream (chatcore/streams.py)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from quart import Blueprint, Response

from chatcore import streams
from chatcore.access import public
from chatcore.errors import Overloaded
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.readers import LiveReader
from chatcore.testing.chat import Chat, frames
from chatcore.testing.scripted import ScriptedProvider, text
from chatcore.types import Event, TextDelta

MakeChat = Callable[..., Awaitable[Chat]]

BODY = {"messages": [{"role": "user", "content": "x"}], "session_id": "s"}


async def test_a_silent_stream_says_that_it_lives(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the model thinks, comments come; they change nothing in what is read."""
    monkeypatch.setattr(streams, "BEAT", 0.01)
    monkeypatch.setattr(streams, "SILENCE", 0.02)
    go_on = asyncio.Event()
    chat = await make_chat(provider=ScriptedProvider([go_on, text("done")]))
    received = b""
    async with chat.client.stream("POST", "/api/chat/stream", json=BODY) as response:
        async for chunk in response.aiter_bytes():
            received += chunk
            if received.count(b": ping\n\n") == 3:
                go_on.set()
    assert frames(received)[-1].data == "[DONE]"


async def test_the_head_of_a_response_does_not_wait_for_the_model(make_chat: MakeChat) -> None:
    """Of a known conversation too the client has the run's name before the first token, and can stop it."""
    chat = await make_chat(provider=ScriptedProvider([text("a")], [asyncio.Event()]))
    await chat.say("first", session_id="s")
    async with chat.client.stream("POST", "/api/chat/stream", json=BODY) as response:
        run_id = response.headers["chatcore-run-id"]
        stopped = await chat.client.post(f"/api/chat/runs/{run_id}/stop")
        assert stopped.json()["state"] == "stopped"
        assert frames(await response.aread())[-1].data == "[DONE]"


async def test_a_draining_server_tells_its_readers_to_come_back(make_chat: MakeChat) -> None:
    """Open streams end with a `shutdown` frame; nothing new is let in."""
    chat = await make_chat(provider=ScriptedProvider([text("once "), asyncio.Event()]))
    async with chat.client.stream("POST", "/api/chat/stream", json=BODY) as response:
        received = b""
        async for chunk in response.aiter_bytes():
            received += chunk
            if b"once" in chunk:
                chat.app.extensions["chatcore"].streams.drain()
    assert frames(received)[-1].event == "shutdown"
    refused = await chat.client.post("/api/chat/stream", json=BODY)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]


class Endless(Plugin[NoSettings]):
    """Streams for ever."""

    closed = asyncio.Event()

    @hookimpl
    def register_routes(self) -> list[Blueprint]:
        routes = Blueprint("endless", __name__)

        @routes.get("/endless")
        @public
        async def endless() -> Response:
            return Response(self.chunks(), mimetype="text/event-stream")

        return [routes]

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            yield b"data: 1\n\n"
            await asyncio.Event().wait()
        finally:
            self.closed.set()


async def test_a_draining_server_ends_the_streams_of_plugins(make_chat: MakeChat) -> None:
    """Wholly, after what they have sent; the plugin's generator is closed."""
    chat = await make_chat(Endless)
    async with asyncio.timeout(5), chat.client.stream("GET", "/endless") as response:
        received = b""
        async for chunk in response.aiter_bytes():
            received += chunk
            chat.app.extensions["chatcore"].streams.drain()
    assert received == b"data: 1\n\n"
    assert Endless.closed.is_set()


class NeverRead(LiveReader):
    """The reader of a stream that does not begin."""

    def __init__(self) -> None:
        self.run_id = "run"


async def test_a_stream_that_was_never_sent_takes_no_place() -> None:
    """Its client may go before the first frame; then nobody would say that it has ended."""
    limited = streams.Streams(1)
    response = limited.respond(NeverRead(), lambda first, events: b"")
    with pytest.raises(Overloaded):
        limited.admit()
    del response
    limited.admit()
    assert limited.count == 0


async def test_readers_that_are_far_behind_have_their_turns_one_after_the_other() -> None:
    """So that whoever else is being served waits for one of them at a time, however many there are."""
    turn = 0
    rendered = []

    async def count_turns() -> None:
        nonlocal turn
        while True:
            turn += 1
            await asyncio.sleep(0)

    def render(first: int, events: Sequence[Event]) -> bytes:
        rendered.append(turn)
        return b""

    counting = asyncio.create_task(count_turns())
    several = streams.Streams(10)
    behind = [TextDelta("x")] * streams.MANY
    await asyncio.gather(*(several._rendered((1, behind), render) for _ in range(5)))
    assert len(set(rendered)) == 5
    counting.cancel()
