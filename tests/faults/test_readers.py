"""A reader may lose its connection after any event: when it comes back it gets exactly the rest, to the byte."""

import asyncio
from contextlib import aclosing, asynccontextmanager
from urllib.parse import urlsplit

import pytest

from chatcore.testing.chaos import Chaos

PIECES = 296
"""Pieces of the answer: with its beginning and its end they are a run of 300 frames."""


@pytest.fixture
async def chat(make_chat):
    return await make_chat(Chaos)


async def start(chat, interval):
    """Starts a run that goes on without readers, a piece each `interval` ms; gives its id."""
    body = {"model": f"chaos/steady-{PIECES}-{interval}", "messages": [{"role": "user", "content": "Hello?"}]}
    headers = {"Chatcore-On-Disconnect": "continue"}
    async with chat.client.stream("POST", "/api/chat/stream", json=body, headers=headers) as response:
        return response.headers["chatcore-run-id"]


async def read(chat, run_id, *, after=None, count=None):
    """Reads a run, from its beginning or after a frame, over a connection of its own, which is cut after so many
    frames, or at the end."""
    async with connected(chat, run_id, id_of(after) if after else None) as stream:
        received = []
        async for frame in stream:
            received.append(frame)
            if len(received) == count:
                break
        return received


@asynccontextmanager
async def connected(chat, run_id, last_event_id):
    """The frames of a run as they come, each as its bytes; comments are none."""
    place = urlsplit(chat.url)
    head = [f"GET /api/chat/runs/{run_id}/events HTTP/1.1", f"Host: {place.netloc}"]
    head += [f"Last-Event-ID: {last_event_id}"] if last_event_id else []
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        writer.write("\r\n".join([*head, "", ""]).encode())
        assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        async with aclosing(frames(reader)) as stream:
            yield stream
    finally:
        writer.transport.abort()


async def frames(reader):
    rest = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        *whole, rest = (rest + (await reader.readexactly(size + 2))[:-2]).split(b"\n\n")
        for frame in whole:
            if not frame.startswith(b":"):
                yield frame
    assert rest == b""


def id_of(frame):
    [line] = [line for line in frame.split(b"\n") if line.startswith(b"id: ")]
    return line[4:].decode()


async def test_a_run_that_has_ended_is_read_on_after_every_event(chat):
    """From the log in the database: what two connections read, cut anywhere, is what one reads."""
    run_id = await start(chat, 0)
    whole = await read(chat, run_id)
    await chat.client.get(f"/api/chat/runs/{run_id}")  # waits until all of it is there
    assert len(whole) == 300
    assert whole[-1].endswith(b"data: [DONE]")
    for count in range(1, len(whole)):
        first = await read(chat, run_id, count=count)
        assert first + await read(chat, run_id, after=first[-1]) == whole, f"cut after {count} events"


async def test_a_run_under_way_is_read_on_after_any_event(chat):
    """By forty readers at once, each cut elsewhere: from memory, while the events come, and across its end."""
    run_id = await start(chat, 3)

    async def read_in_two(count):
        first = await read(chat, run_id, count=count)
        return first + await read(chat, run_id, after=first[-1])

    counts = [*range(1, 300, 8), 298, 299]
    received = dict(zip(counts, await asyncio.gather(*map(read_in_two, counts)), strict=True))
    whole = await read(chat, run_id)
    assert len(whole) == 300
    for count, both in received.items():
        assert both == whole, f"cut after {count} events"


async def test_a_reader_that_is_cut_after_every_event_gets_each_once(chat):
    """Hundreds of connections for one answer, while it is written."""
    run_id = await start(chat, 1)
    received = await read(chat, run_id, count=1)
    while not received[-1].endswith(b"data: [DONE]"):
        received += await read(chat, run_id, after=received[-1], count=1)
    assert received == await read(chat, run_id)
