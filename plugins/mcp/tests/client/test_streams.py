"""The messages of a connection on their way (chatcore_mcp/streams.py)."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from chatcore_mcp.streams import MOST_REQUESTS, watched
from mcp.shared.message import SessionMessage
from mcp_types import JSONRPCError, JSONRPCNotification, JSONRPCRequest, JSONRPCResponse


class Peer:
    """A transport, and a server at the other end of it."""

    def __init__(self) -> None:
        self._arriving, self._inbox = anyio.create_memory_object_stream[Any](1000)
        self._outbox, self.leaving = anyio.create_memory_object_stream[Any](1000)
        self.ended = False

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[Any]:
        with self._arriving, self._inbox, self._outbox, self.leaving:
            yield self._inbox, self._outbox

    def note_end(self) -> None:
        self.ended = True

    def says(self, message: Any) -> None:
        self._arriving.send_nowait(SessionMessage(message))

    def asks(self, number: int) -> None:
        self.says(JSONRPCRequest(jsonrpc="2.0", id=number, method="ping"))

    def leaves(self) -> None:
        self._arriving.close()


async def test_a_server_that_asks_without_end_is_refused() -> None:
    """Beyond so many requests that have no answer; what it takes back needs none. Its answers come through."""
    peer = Peer()
    async with watched(peer.transport(), peer.note_end) as (inbox, outbox):
        for number in range(MOST_REQUESTS):
            peer.asks(number)
            assert (await inbox.receive()).message.id == number
        peer.asks(500)
        peer.says(JSONRPCResponse(jsonrpc="2.0", id=1, result={}))
        assert isinstance((await inbox.receive()).message, JSONRPCResponse)
        refused = peer.leaving.receive_nowait().message
        assert (refused.id, refused.error.message) == (500, "no more than 100 requests at a time")
        await outbox.send(SessionMessage(JSONRPCResponse(jsonrpc="2.0", id=0, result={})))
        await outbox.send(SessionMessage(JSONRPCError.model_validate({**refused.model_dump(), "id": 1})))
        peer.says(JSONRPCNotification(jsonrpc="2.0", method="notifications/cancelled", params={"requestId": 2}))
        await inbox.receive()
        for number in range(600, 603):
            peer.asks(number)
            assert (await inbox.receive()).message.id == number
        assert peer.leaving.statistics().current_buffer_used == 2


async def test_tools_that_cannot_be_used_are_left_out_of_a_list() -> None:
    """The others are as the protocol wants them, with what is used of them."""
    peer = Peer()
    good = {"name": "a", "title": "A", "description": "d", "annotations": {"readOnlyHint": True, "title": "A"}}
    good["inputSchema"] = {"type": "object", "properties": {"x": {}}}
    odd = {"name": "b", "title": 5, "description": None, "annotations": {"readOnlyHint": "no", "title": 5}}
    odd |= {"inputSchema": {"type": ["object", "null"]}, "outputSchema": {"type": "array"}, "icons": "none"}
    php = {"name": "e", "inputSchema": {"$schema": 5, "properties": [], "required": {}}}
    any_ = {"name": "f", "inputSchema": {"properties": {"x": True, "y": 5}, "required": ["x", 5]}}
    unusable = [5, None, {}, {"name": 5, "inputSchema": {}}, {"name": "c"}, {"name": "d", "inputSchema": None}]
    async with watched(peer.transport(), peer.note_end) as (inbox, _):
        peer.says(
            JSONRPCResponse(jsonrpc="2.0", id=1, result={"tools": [*unusable, good, odd, php, any_], "nextCursor": "n"})
        )
        assert (await inbox.receive()).message.result == {
            "tools": [
                good,
                {"name": "b", "annotations": {}, "inputSchema": {"type": "object", "properties": {}}},
                {"name": "e", "inputSchema": {"type": "object", "properties": {}, "required": []}},
                {"name": "f", "inputSchema": {"type": "object", "properties": {"x": True, "y": {}}, "required": ["x"]}},
            ],
            "nextCursor": "n",
        }
        for result in ({"tools": None}, {"content": []}):
            peer.says(JSONRPCResponse(jsonrpc="2.0", id=1, result=dict(result)))
            assert (await inbox.receive()).message.result == result


async def test_the_end_of_what_comes_is_told() -> None:
    """To whoever reads it, and to who waits for that."""
    peer = Peer()
    async with watched(peer.transport(), peer.note_end) as (inbox, _):
        peer.leaves()
        with pytest.raises(anyio.EndOfStream):
            await inbox.receive()
    assert peer.ended
