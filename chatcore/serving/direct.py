"""The short way of a stream's frames to its client: from whoever makes them to the connection, in one call.

On the usual way each piece of a response wakes a task and goes through nine functions of Quart, hypercorn and h11,
which takes longer than it took to make it. An app finds the short way in `scope["extensions"][EXTENSION]["write"]`, and
may use it when the head of its response and all that it has sent as usual are out.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

if TYPE_CHECKING:
    from hypercorn.typing import AppWrapper, ASGIReceiveCallable, ASGISendCallable, Scope

EXTENSION = "chatcore.direct"
"""The name of the ASGI extension."""

Write: TypeAlias = Callable[[bytes], bool]
"""Sends a piece of the response's body at once. False: it must go as usual, which may have to wait for the client."""

MOST = 2**16
"""Bytes that wait for the client when hypercorn waits, too."""


@attrs.frozen
class WithDirect:
    """An app as hypercorn wants it, which is told of the short way through one connection."""

    _app: "AppWrapper"
    _transport: asyncio.WriteTransport

    async def __call__(
        self,
        scope: "Scope",
        receive: "ASGIReceiveCallable",
        send: "ASGISendCallable",
        sync_spawn: Callable[..., Any],
        call_soon: Callable[..., Any],
    ) -> None:
        # Only HTTP/1.1 has chunks, and an answer to HEAD has no body.
        if scope["type"] == "http" and scope["http_version"] == "1.1" and scope["method"] != "HEAD":
            scope["extensions"][EXTENSION] = {"write": self.write}
        await self._app(scope, receive, send, sync_spawn, call_soon)

    def write(self, data: bytes) -> bool:
        """A `Write`."""
        transport = self._transport
        if transport.is_closing() or transport.get_write_buffer_size() > MOST or len(data) > MOST:
            return False
        transport.write(b"%x\r\n%b\r\n" % (len(data), data))  # RFC 9112, section 7.1
        return True
