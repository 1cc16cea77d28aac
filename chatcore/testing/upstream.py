"""A fake OpenAI-shaped server on a real port: it plays recorded streams, breaks off, says nothing, and takes notes.

First a recorded stream byte by byte, then for ever the answer that it is too busy:

    async with FakeUpstream() as upstream:
        upstream.answer(Reply.sse(Path("hello.sse"), chunks=1), Reply.json({"error": {"code": 429}}, status=429))
        provider = OpenAIProvider(name="fake", base_url=upstream.url)
"""

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Self, TypeAlias

import attrs

_Begin: TypeAlias = Callable[[asyncio.StreamReader, asyncio.StreamWriter, "asyncio.Future[float]"], None]

MODELS = {"data": [{"id": "fake/model", "name": "Fake", "context_length": 8192, "supported_parameters": ["tools"]}]}
KEY = {"data": {"label": "fake", "limit": None, "limit_remaining": None, "usage": 0, "is_free_tier": False}}


@attrs.frozen(kw_only=True)
class Reply:
    """What the fake answers.

    Args:
        body: the body, or its pieces as they are to be sent, of which there may be no end.
        chunks: how a body is cut that is not in pieces: None not at all, a number into pieces of so many bytes, a
            sequence into pieces of these sizes and the rest.
        pause: seconds after each piece.
        gates: events to wait for before the piece with that number is sent; the number of pieces is the end.
        before: an event to wait for before anything is sent.
        drop_after: bytes of the body after which the connection is closed, in the middle of the answer.
        hang_up: closes the connection instead of answering.
        reset: closes it as an operating system does whose program has crashed: with RST.
    """

    body: bytes | Iterable[bytes] = b""
    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    chunks: int | Sequence[int] | None = None
    pause: float = 0.0
    gates: Mapping[int, asyncio.Event] = attrs.field(factory=dict)
    before: asyncio.Event | None = None
    drop_after: int | None = None
    hang_up: bool = False
    reset: bool = False

    @classmethod
    def sse(
        cls,
        source: Path | bytes | Iterable[bytes],
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Self:
        """An event stream: a file's bytes, or these."""
        body = source.read_bytes() if isinstance(source, Path) else source
        return cls(body=body, headers={"content-type": "text/event-stream", **(headers or {})}, **options)

    @classmethod
    def json(
        cls,
        value: object,
        *,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Self:
        """A JSON document."""
        body = json.dumps(value).encode()
        return cls(body=body, headers={"content-type": "application/json", **(headers or {})}, **options)

    @classmethod
    def silence(cls) -> Self:
        """No answer, ever: until the client closes the connection."""
        return cls(before=asyncio.Event())

    def pieces(self) -> Iterator[bytes]:
        """The body, cut."""
        if not isinstance(self.body, bytes):
            yield from self.body
            return
        body = self.body if self.drop_after is None else self.body[: self.drop_after]
        sizes = [self.chunks] * len(body) if isinstance(self.chunks, int) else self.chunks or ()
        for size in sizes:
            if piece := body[:size]:
                yield piece
            body = body[size:]
        if body:
            yield body


@attrs.frozen(eq=False)
class Request:
    """A request as it came. `closed` is done when the client has closed the connection, with the loop's time of it."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    closed: asyncio.Future[float]

    @property
    def json(self) -> Any:
        """The body, parsed."""
        return json.loads(self.body)


class FakeUpstream:
    """The fake. `url` is its base URL; `requests` and `connections` are what it has seen.

    `answer` gives the replies to calls of a model, `route` those of any other path below the base. They are given in
    order, the last one for ever; a function is asked for one each time. `/models` and `/key` answer without being told
    to; other paths with 404.
    """

    def __init__(self, *, base: str = "/api/v1") -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self._base = base
        self._replies: dict[str, list[Reply | Callable[[Request], Reply]]] = {
            "/models": [Reply.json(MODELS)],
            "/key": [Reply.json(KEY)],
        }
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Condition()

    def answer(self, *replies: Reply | Callable[[Request], Reply]) -> None:
        """The replies to `POST /chat/completions`."""
        self.route("/chat/completions", *replies)

    def route(self, path: str, *replies: Reply | Callable[[Request], Reply]) -> None:
        """The replies to a path, such as `/generation`. The query is no part of it."""
        self._replies[path] = list(replies)

    async def request(self, number: int = 0) -> Request:
        """The request with that number, counted from 0; waits until it has come."""
        async with self._news:
            await self._news.wait_for(lambda: len(self.requests) > number)
        return self.requests[number]

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self._begin), "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}{self._base}"
        return self

    async def __aexit__(self, *error: object) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closed: asyncio.Future[float]) -> None:
        self.connections += 1
        task = asyncio.create_task(self._serve(reader, writer, closed))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, closed: asyncio.Future[float]
    ) -> None:
        try:
            while request := await _read_request(reader, closed):
                async with self._news:
                    self.requests.append(request)
                    self._news.notify_all()
                if not await _write_reply(self._reply(request), writer, closed):
                    break
        except ConnectionError:
            pass  # the client has gone, which `closed` tells
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    def _reply(self, request: Request) -> Reply:
        path = request.path.partition("?")[0].removeprefix(self._base)
        replies = self._replies.get(path)
        if not replies:
            return Reply.json({"error": {"code": 404, "message": f"the fake has no reply for {path}"}}, status=404)
        reply = replies.pop(0) if len(replies) > 1 else replies[0]
        return reply(request) if callable(reply) else reply


class _Connection(asyncio.StreamReaderProtocol):
    """A connection that knows when its other end has closed it, also while nobody reads."""

    def __init__(self, begin: _Begin) -> None:
        self._gone: asyncio.Future[float] = asyncio.get_running_loop().create_future()
        super().__init__(asyncio.StreamReader(), lambda reader, writer: begin(reader, writer, self._gone))

    def eof_received(self) -> bool | None:
        self._note()
        return super().eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._note()
        super().connection_lost(exc)

    def _note(self) -> None:
        if not self._gone.done():
            self._gone.set_result(asyncio.get_running_loop().time())


async def _read_request(reader: asyncio.StreamReader, closed: asyncio.Future[float]) -> Request | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
    except asyncio.IncompleteReadError:
        return None
    method, path, _ = first.split(" ")
    return Request(method, path, headers, body, closed)


async def _write_reply(reply: Reply, writer: asyncio.StreamWriter, closed: asyncio.Future[float]) -> bool:
    """Answers a request; gives whether the connection can serve another."""
    await _wait(reply.before, closed)
    if reply.reset:
        # Without time to linger, closing a socket resets its connection.
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    if reply.hang_up or reply.reset or closed.done():
        return False
    headers = {**reply.headers, "transfer-encoding": "chunked"}
    lines = [f"HTTP/1.1 {reply.status} Fake", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1"))
    number = 0
    for number, piece in enumerate(reply.pieces(), 1):
        await _wait(reply.gates.get(number - 1), closed)
        writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        await writer.drain()
        await asyncio.sleep(reply.pause)  # a read of its own for the client, as far as the network stack lets it
    await _wait(reply.gates.get(number), closed)
    if reply.drop_after is not None:
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


async def _wait(event: asyncio.Event | None, closed: asyncio.Future[float]) -> None:
    """Waits for an event, but no longer than the client does."""
    if event is not None:
        waiting = asyncio.ensure_future(event.wait())
        try:
            await asyncio.wait((waiting, closed), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
