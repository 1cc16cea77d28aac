"""The messages of a connection on their way: when no more can come, how much a server asks at a time, and what is used
of the tools that it lists."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import ErrorData, JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse

MOST_REQUESTS = 100
"""Requests of a server that are worked on at a time. The SDK begins a task for each that comes."""
MOST_LISTED = 2_000
"""Entries of a list that are taken. So many tools nobody can use, and every turn looks at all."""
_TOO_MANY = ErrorData(code=-32000, message=f"no more than {MOST_REQUESTS} requests at a time")


@asynccontextmanager
async def watched(transport: AbstractAsyncContextManager[Any], ended: Callable[[], None]) -> AsyncIterator[Any]:
    """The streams of a transport. `ended` is called when the one that is read has come to its end.

    What a server asks beyond `MOST_REQUESTS` is refused at once. Where it does not take the refusal, nothing more of it
    is read. Tools that cannot be used are left out of its lists, which the SDK would refuse as a whole.
    """
    async with transport as (inbox, outbox):
        answers = _Outbox(outbox)
        yield _Inbox(inbox, answers, ended), answers


class _Stream:
    """What both streams pass on."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class _Outbox(_Stream):
    """What goes to the server. `open` is how many of its requests have no answer yet."""

    open = 0

    async def __aenter__(self) -> "_Outbox":
        return self

    async def send(self, sent: SessionMessage) -> None:
        await self._stream.send(sent)
        if isinstance(sent.message, JSONRPCResponse | JSONRPCError):
            self.settled()

    def settled(self) -> None:
        self.open = max(0, self.open - 1)

    def takes(self, message: object) -> bool:
        """Whether a message of the server is to be worked on; counts it, if it is a request."""
        if isinstance(message, JSONRPCNotification) and message.method == "notifications/cancelled":
            self.settled()  # such a request is not answered any more
        if isinstance(message, JSONRPCRequest):
            if self.open >= MOST_REQUESTS:
                return False
            self.open += 1
        return True

    async def refuse(self, request: Any) -> None:
        await self._stream.send(SessionMessage(JSONRPCError(jsonrpc="2.0", id=request.id, error=_TOO_MANY)))


class _Inbox(_Stream):
    """What comes from the server."""

    def __init__(self, stream: Any, answers: _Outbox, ended: Callable[[], None]) -> None:
        super().__init__(stream)
        self._answers = answers
        self._ended = ended

    @property
    def last_context(self) -> object:
        """For the SDK, which looks for it."""
        return getattr(self._stream, "last_context", None)

    async def receive(self) -> Any:
        try:
            received = await self._stream.receive()
            while isinstance(received, SessionMessage) and not self._answers.takes(received.message):
                await self._answers.refuse(received.message)
                received = await self._stream.receive()
        except (anyio.EndOfStream, anyio.ClosedResourceError, anyio.BrokenResourceError):
            self._ended()
            raise
        if isinstance(received, SessionMessage) and isinstance(received.message, JSONRPCResponse):
            _mend(received.message.result)
        return received

    def __aiter__(self) -> "_Inbox":
        return self

    async def __anext__(self) -> Any:
        try:
            return await self.receive()
        except anyio.EndOfStream:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> "_Inbox":
        return self


# --- lists of tools ---------------------------------------------------------------------------------------------------


def _mend(result: dict[str, Any]) -> None:
    """Makes of the tools in an answer what the protocol wants them to be, as far as that can be done."""
    tools = result.get("tools")
    if isinstance(tools, list):
        result["tools"] = [_used(tool) for tool in tools[:MOST_LISTED] if _is_usable(tool)]


def _is_usable(tool: object) -> bool:
    return isinstance(tool, dict) and isinstance(tool.get("name"), str) and isinstance(tool.get("inputSchema"), dict)


def _used(tool: dict[str, Any]) -> dict[str, Any]:
    """What is used of a tool."""
    used = {key: tool[key] for key in ("name", "title", "description") if isinstance(tool.get(key), str)}
    hints = tool.get("annotations")
    if isinstance(hints, dict):
        used["annotations"] = {
            key: value for key, value in hints.items() if isinstance(value, str if key == "title" else bool)
        }
    return {**used, "inputSchema": _schema(tool["inputSchema"])}


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    """A tool's schema as that of an object; some languages write an empty object as `[]`."""
    properties, required = schema.get("properties"), schema.get("required")
    own = properties.items() if isinstance(properties, dict) else ()
    mended = {key: value for key, value in schema.items() if key != "$schema" or isinstance(value, str)}
    mended |= {"type": "object", "properties": {name: one if isinstance(one, dict | bool) else {} for name, one in own}}
    if required is not None:
        names = required if isinstance(required, list) else ()
        mended["required"] = [name for name in names if isinstance(name, str)]
    return mended
