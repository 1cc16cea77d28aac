"""Responses that stream (chatcore/streams.py)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import httpx
import pytest
from quart import Blueprint, Response

from chatcore import streams
from chatcore.access import public
from chatcore.builtin.chat.formats import ChatFormat
from chatcore.errors import Overloaded
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.runs.readers import LiveReader
from chatcore.serving import sockets
from chatcore.serving.direct import WithDirect
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


async def test_a_stream_that_breaks_off_for_a_fault_of_ours_says_so(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever reads it would otherwise see a connection that is lost, and come back for the same again and again."""

    def fail(*_: object) -> bytes:
        raise ZeroDivisionError("a bug")

    chat = await make_chat(provider=ScriptedProvider([text("once")]))
    monkeypatch.setattr(ChatFormat, "frames", fail)
    async with chat.client.stream("POST", "/api/chat/stream", json=BODY) as response:
        last = frames(await response.aread())[-1]
    assert (last.event, last.data["type"]) == ("error", "internal")
    assert "ZeroDivisionError: a bug" in caplog.text


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


def rendering(first: int, events: Sequence[Event]) -> bytes:
    return b"".join(b"%d:%b\n" % (n, e.text.encode()) for n, e in enumerate(events, first) if isinstance(e, TextDelta))


async def test_a_large_event_goes_in_pieces_of_one_copy() -> None:
    """What a connection holds of it is bounded, and its other readers hold the same."""
    several = streams.Streams(10)
    batch = (7, [TextDelta("x" * 1_000_000)])
    taken = [iter(await several._rendered(batch, rendering)) for _ in range(3)]
    begun = [next(pieces) for pieces in taken]
    assert len(several._large) == 1
    whole = [b"".join((first, *pieces)) for first, pieces in zip(begun, taken, strict=True)]
    assert whole == [rendering(*batch)] * 3
    assert {len(piece) for piece in begun} == {streams.LARGEST_PIECE}
    assert not several._large


async def test_many_events_that_are_large_together_are_rendered_in_turn() -> None:
    """A reader that stalls at the first has no frames of the last."""
    rendered: list[int] = []

    def render(first: int, events: Sequence[Event]) -> bytes:
        rendered.append(first + len(events) - 1)
        return rendering(first, events)

    batch = (1, [TextDelta("x" * 100_000) for _ in range(16)])
    pieces = iter(await streams.Streams(10)._rendered(batch, render))
    begun = next(pieces)
    assert len(begun) <= streams.LARGE
    assert rendered.count(16) == 1  # the first try
    assert b"".join((begun, *pieces)) == rendering(*batch)


class Large(Plugin[NoSettings]):
    """An answer of 16 MiB: more than a system keeps for a client that does not read."""

    name = "large"

    @hookimpl
    def register_routes(self) -> Iterator[Blueprint]:
        routes = Blueprint("large", __name__)

        @routes.get("/large")
        @public
        async def large() -> Response:
            return Response(bytes(range(256)) * 2**16)

        yield routes


def sending_little(listening: socket.socket) -> socket.socket:
    """Has the connections of a server keep little of what they are to send."""
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**16)
    return listening


async def test_large_answers_that_wait_for_their_clients_are_bounded(
    make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many are given as there is room for, and then 503, until those who have one have taken it or left."""
    monkeypatch.setattr(streams, "MOST_WAITING", 2**25)
    monkeypatch.setattr(sockets, "listen", lambda config, listen=sockets.listen: sending_little(listen(config)))
    chat = await make_chat(Large)
    # How much a system takes for a client is its own affair, unless both ends say it.
    little = httpx.AsyncHTTPTransport(socket_options=[(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**16)])
    async with (
        httpx.AsyncClient(base_url=chat.client.base_url, transport=little) as client,
        client.stream("GET", "/large"),
        client.stream("GET", "/large"),
    ):
        refused = await chat.client.get("/large")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        assert refused.json()["code"] == "overloaded"
        assert chat.app.extensions["chatcore"].answered.sums()[("503",)] == 1  # which an operator wants to be told of
    async with asyncio.timeout(10):
        while (answer := await chat.client.get("/large")).status_code == 503:
            pass  # those who left are soon forgotten
    assert answer.content == bytes(range(256)) * 2**16


async def test_what_comes_goes_the_short_way(make_chat: MakeChat, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model says goes to a client that has read what was before in the step in which it comes."""
    sent: list[bytes] = []
    write = WithDirect.write

    def watched(self: WithDirect, data: bytes) -> bool:
        sent.append(data)
        return write(self, data)

    monkeypatch.setattr(WithDirect, "write", watched)
    pauses = [asyncio.Event() for _ in range(20)]
    script = [step for n, pause in enumerate(pauses) for step in (text(f"<{n}>"), pause)]
    chat = await make_chat(provider=ScriptedProvider(script))
    received = b""
    async with chat.client.stream("POST", "/api/chat/stream", json=BODY) as response:
        async for chunk in response.aiter_bytes():
            received += chunk
            for n, pause in enumerate(pauses):
                if b"<%d>" % n in received:
                    pause.set()
    assert [n for n in range(1, 20) if any(b"<%d>" % n in frame for frame in sent)] == list(range(1, 20))
    numbers = [int(str(frame.id).rpartition(":")[2]) for frame in frames(received) if frame.id]
    assert numbers == sorted(set(numbers))
    assert frames(received)[-1].data == "[DONE]"
