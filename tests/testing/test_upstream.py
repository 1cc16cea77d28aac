"""The fake upstream of the kit, spoken to over plain sockets."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from chatcore.testing.upstream import FakeUpstream, Reply


@pytest_asyncio.fixture
async def upstream() -> AsyncIterator[FakeUpstream]:
    async with FakeUpstream() as upstream:
        yield upstream


class Client:
    """One connection to the fake."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def send(self, method: str, path: str, body: bytes = b"") -> None:
        self.writer.write(b"%b /api/v1%b HTTP/1.1\r\nX-A: b\r\n" % (method.encode(), path.encode()))
        self.writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def head(self) -> str:
        return (await self.reader.readuntil(b"\r\n\r\n")).decode()

    async def chunk(self) -> bytes:
        size = int(await self.reader.readuntil(b"\r\n"), 16)
        return (await self.reader.readexactly(size + 2))[:-2]

    async def body(self) -> list[bytes]:
        chunks = []
        while chunk := await self.chunk():
            chunks.append(chunk)
        return chunks


@asynccontextmanager
async def connect(upstream: FakeUpstream) -> AsyncIterator[Client]:
    port = int(upstream.url.split(":")[2].split("/")[0])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_it_plays_files_in_any_pieces(upstream: FakeUpstream, tmp_path: Path) -> None:
    """Whole, in equal pieces, in pieces of given sizes; one reply after the other, the last for ever."""
    file = tmp_path / "hello.sse"
    file.write_bytes(b"abcdefg")
    upstream.answer(
        Reply.sse(file),
        Reply.sse(file, chunks=3),
        Reply.sse(file, chunks=[1, 0, 2], status=201, headers={"x-b": "c"}),
        Reply.sse(b"", chunks=1),
    )
    bodies = []
    async with connect(upstream) as client:
        for _ in range(5):
            await client.send("POST", "/chat/completions", b'{"n": 1}')
            head = await client.head()
            assert "content-type: text/event-stream" in head
            bodies.append(await client.body())
            assert head.startswith("HTTP/1.1 201") is (len(bodies) == 3)
            assert ("x-b: c" in head) is (len(bodies) == 3)
    assert bodies == [[b"abcdefg"], [b"abc", b"def", b"g"], [b"a", b"bc", b"defg"], [], []]


async def test_it_takes_notes(upstream: FakeUpstream) -> None:
    """Of every request and connection."""
    for body in (b'{"n": 1}', b""):
        async with connect(upstream) as client:
            await client.send("POST", "/chat/completions?a=b", body)
            await client.head()
    first = await upstream.request(0)
    assert (first.method, first.path, first.headers["x-a"]) == ("POST", "/api/v1/chat/completions?a=b", "b")
    assert first.json == {"n": 1}
    assert (len(upstream.requests), upstream.connections) == (2, 2)


async def test_a_request_can_be_waited_for(upstream: FakeUpstream) -> None:
    """Before it has come."""
    waiting = asyncio.create_task(upstream.request(0))
    await asyncio.sleep(0)
    async with connect(upstream) as client:
        await client.send("GET", "/models")
        assert (await waiting).path == "/api/v1/models"


async def test_paths(upstream: FakeUpstream) -> None:
    """The catalogue and the key answer by themselves; others as they are told, or with 404 in OpenRouter's form."""
    upstream.route("/generation", Reply.json({"data": {"id": "gen-1"}}))
    answers = []
    async with connect(upstream) as client:
        for path in ("/models", "/key", "/generation?id=gen-1", "/nothing"):
            await client.send("GET", path)
            answers.append(((await client.head())[9:12], b"".join(await client.body())))
    assert [status for status, _ in answers] == ["200", "200", "200", "404"]
    assert b"fake/model" in answers[0][1]
    assert answers[2][1] == b'{"data": {"id": "gen-1"}}'
    assert answers[3][1] == b'{"error": {"code": 404, "message": "the fake has no reply for /nothing"}}'


async def test_gates(upstream: FakeUpstream) -> None:
    """Nothing is sent before its gate opens: the head, a piece, the end."""
    before, second, end = asyncio.Event(), asyncio.Event(), asyncio.Event()
    upstream.answer(Reply.sse(b"ab", chunks=1, before=before, gates={1: second, 2: end}))
    async with connect(upstream) as client:
        await client.send("POST", "/chat/completions")
        await upstream.request()
        head = asyncio.create_task(client.head())
        assert not (await asyncio.wait([head], timeout=0.02))[0]
        before.set()
        await head
        assert await client.chunk() == b"a"
        for gate, expected in ((second, b"b"), (end, b"")):
            chunk = asyncio.create_task(client.chunk())
            assert not (await asyncio.wait([chunk], timeout=0.02))[0]
            gate.set()
            assert await chunk == expected


async def test_it_breaks_off(upstream: FakeUpstream) -> None:
    """In the middle of a body, before its first byte, before the head."""
    upstream.answer(Reply.sse(b"abcdef", drop_after=3), Reply.sse(b"abcdef", drop_after=0), Reply(hang_up=True))
    seen = []
    for _ in range(3):
        async with connect(upstream) as client:
            await client.send("POST", "/chat/completions")
            seen.append((await client.reader.read()).partition(b"\r\n\r\n")[2])
    assert seen == [b"3\r\nabc\r\n", b"", b""]


async def test_it_resets(upstream: FakeUpstream) -> None:
    """The client gets an error then, not the end of a stream."""
    upstream.answer(Reply(reset=True))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(upstream.url.split(":")[2].split("/")[0]))
    await Client(reader, writer).send("POST", "/chat/completions")
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.transport.abort()


async def test_a_body_may_be_in_pieces_without_end(upstream: FakeUpstream) -> None:
    """Each is sent when its time has come, and no more when the client has gone."""
    upstream.answer(Reply.sse((b"%d" % number for number in count()), pause=0.005))
    async with connect(upstream) as client:
        await client.send("POST", "/chat/completions")
        await client.head()
        start = asyncio.get_running_loop().time()
        assert [await client.chunk() for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        assert asyncio.get_running_loop().time() - start >= 0.015
    await asyncio.wait_for(asyncio.gather(*upstream._tasks), 5)


async def test_a_reply_may_be_made_for_its_request(upstream: FakeUpstream) -> None:
    """Each time anew."""
    upstream.answer(lambda request: Reply.sse(request.body * 2))
    async with connect(upstream) as client:
        for body in (b"a", b"b"):
            await client.send("POST", "/chat/completions", body)
            await client.head()
            assert await client.body() == [body * 2]


async def test_it_tells_when_the_client_has_gone(upstream: FakeUpstream) -> None:
    """While it says nothing, and while it waits at a gate."""
    upstream.answer(Reply.silence(), Reply.sse(b"ab", chunks=1, gates={1: asyncio.Event()}))
    for number in range(2):
        async with connect(upstream) as client:
            await client.send("POST", "/chat/completions")
            request = await upstream.request(number)
            assert not request.closed.done()
            start = asyncio.get_running_loop().time()
        assert await asyncio.wait_for(request.closed, 10) >= start


async def test_another_base() -> None:
    """Local servers have theirs at /v1."""
    async with FakeUpstream(base="/v1") as upstream, connect(upstream) as client:
        assert upstream.url.endswith("/v1")
        client.writer.write(b"GET /v1/models HTTP/1.1\r\n\r\n")
        assert (await client.head()).startswith("HTTP/1.1 200")
