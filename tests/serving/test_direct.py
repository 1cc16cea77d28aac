"""The short way to a client (chatcore/serving/direct.py)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from quart import Quart, Response, request

from chatcore.config import Config
from chatcore.serving import sockets
from chatcore.serving.connections import Connections
from chatcore.serving.direct import EXTENSION, MOST, Write

NETWORK = 2**16
"""Bytes that the network stack takes of what is sent, and of what is not read. By itself it takes megabytes."""

Serve = Callable[[Callable[[Write], Awaitable[None]]], Awaitable[int]]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serves a route whose body is `usual`, then what a function writes directly, then `over`; gives the port."""
    opened: list[Connections] = []

    async def start(speak: Callable[[Write], Awaitable[None]]) -> int:
        app, config = Quart("test"), Config(port=0)

        async def body(write: Write | None) -> AsyncIterator[bytes]:
            yield b"usual "
            if write is not None:
                await speak(write)
            yield b"over"

        @app.get("/")
        async def answer() -> Response:
            return Response(body(request.scope["extensions"].get(EXTENSION, {}).get("write")))

        listening = sockets.listen(config)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, NETWORK)  # the connections inherit it
        opened.append(Connections(app, config))
        await opened[-1].accept(listening)
        return int(listening.getsockname()[1])

    yield start
    for connections in opened:
        await connections.close()


async def ask(port: int, line: str) -> bytes:
    """All that a server answers to a request, until it closes the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    answer = await reader.read()
    writer.close()
    return answer


async def test_pieces_of_both_ways_are_one_body(serve: Serve) -> None:
    """In the order in which they were sent, each a chunk of its own."""

    async def speak(write: Write) -> None:
        assert write(b"direct ")
        assert write(b"and more ")

    _, _, body = (await ask(await serve(speak), "GET / HTTP/1.1")).partition(b"\r\n\r\n")
    assert body == b"6\r\nusual \r\n7\r\ndirect \r\n9\r\nand more \r\n4\r\nover\r\n0\r\n\r\n"


@pytest.mark.parametrize("line", ["GET / HTTP/1.0", "HEAD / HTTP/1.1"])
async def test_who_knows_no_chunks_is_answered_as_usual(serve: Serve, line: str) -> None:
    """A client of HTTP/1.0, and one that wants no body: there is no short way to them."""

    async def speak(write: Write) -> None:
        raise AssertionError

    answer = await ask(await serve(speak), line)
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(b"\r\n\r\nusual over" if line.startswith("GET") else b"\r\n\r\n")


async def test_a_client_that_takes_nothing_is_sent_no_more(serve: Serve) -> None:
    """When more than `MOST` bytes wait for it, and what would be more than that in one piece never goes directly."""
    sent: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def speak(write: Write) -> None:
        assert not write(bytes(MOST + 1))
        count = 0
        while write(bytes(1000)):
            count += 1000
            await asyncio.sleep(0)
        sent.set_result(count)

    port = await serve(speak)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, NETWORK)
        client.connect(("127.0.0.1", port))
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert MOST < await asyncio.wait_for(sent, 10) < MOST + 8 * NETWORK  # it doubles what it is told, at both ends


async def test_nothing_is_written_to_who_has_left(serve: Serve) -> None:
    """The short way ends where the connection does."""
    over = asyncio.Event()

    async def speak(write: Write) -> None:
        try:
            while write(b"still here? "):
                await asyncio.sleep(0)
        finally:
            over.set()

    _, writer = await asyncio.open_connection("127.0.0.1", await serve(speak))
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    writer.transport.abort()
    assert await asyncio.wait_for(over.wait(), 10)
