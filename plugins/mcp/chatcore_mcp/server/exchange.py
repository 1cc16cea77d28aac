"""An ASGI application behind a view of Quart's: one request, and its response."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from contextvars import Context
from typing import Any, TypeAlias

from quart import Response
from werkzeug.datastructures import Headers

Message: TypeAlias = MutableMapping[str, Any]
Application: TypeAlias = Callable[
    [Message, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Awaitable[None]
]

EXCHANGE = "chatcore_mcp.exchange"
"""Where the application finds the exchange in its scope."""

_CONNECTION = (b"connection", b"transfer-encoding")  # headers that are the server's own affair
_GREETING = b": \n\n"  # the head of a response is sent with its first bytes, and whoever listens waits for it


class Exchange:
    """One request to an application. `gone` is set when its client has left, or has had its answer."""

    def __init__(self, scope: Mapping[str, Any], body: bytes) -> None:
        self.gone = asyncio.Event()
        self._scope = {**scope, EXCHANGE: self}
        self._requests: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        # One place, so that the application waits for a client that reads slowly.
        self._responses: asyncio.Queue[Message] = asyncio.Queue(1)

    async def run(self, application: Application) -> Response:
        """The application's response; called in a view. One that streams goes on until it ends or the client leaves.

        Raises:
            Exception: what the application raises before its response has begun.
        """
        # Without our context: an application that keeps tasks of its own would keep this request alive with it.
        task = asyncio.create_task(self._ask(application), context=Context())
        self._end_with_request(task)
        head = await self._next(task)
        named = [(k.decode("latin-1"), v.decode("latin-1")) for k, v in head["headers"] if k not in _CONNECTION]
        headers = Headers(named)
        if headers.get("content-type", "").startswith("text/event-stream"):
            return Response(self._stream(task), head["status"], headers)
        return Response(b"".join([piece async for piece in self._pieces(task)]), head["status"], headers)

    def _end_with_request(self, task: asyncio.Task[None]) -> None:
        """Ends the application's work when the request's own task ends, however that comes about."""

        def end(_: object) -> None:
            self.gone.set()
            task.cancel()

        request = asyncio.current_task()
        assert request is not None  # noqa: S101  coroutines run in tasks
        request.add_done_callback(end)

    async def _ask(self, application: Application) -> None:
        await application(self._scope, self._receive, self._responses.put)

    async def _receive(self) -> Message:
        if self._requests:
            return self._requests.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _stream(self, task: asyncio.Task[None]) -> AsyncIterator[bytes]:
        yield _GREETING
        async for piece in self._pieces(task):
            yield piece

    async def _pieces(self, task: asyncio.Task[None]) -> AsyncIterator[bytes]:
        more = True
        while more:
            message = await self._next(task)
            more = message.get("more_body", False)
            yield message.get("body", b"")
        await task  # what it does after its last word, such as to keep a session

    async def _next(self, task: asyncio.Task[None]) -> Message:
        """The application's next message. Raises what the application raises instead."""
        waiting = asyncio.create_task(self._responses.get())
        try:
            await asyncio.wait([waiting, task], return_when=asyncio.FIRST_COMPLETED)
            if not waiting.done() and self._responses.empty():
                await task
                raise RuntimeError("the application ended without an answer")
            return await waiting
        finally:
            waiting.cancel()
