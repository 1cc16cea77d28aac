"""A fault of hypercorn's that this module mends when it is imported: without it, an HTTP/2 stream takes ever more.

A client opens a window for each stream: so much may be sent until it says more. While the window is closed, hypercorn's
buffer of the stream lets the next piece in whenever it looks whether something can be sent, which every piece makes it
do. So what a client does not read is kept in memory to its end. Here, a piece waits until those before it have gone.
"""

import asyncio

from hypercorn.protocol import h2
from hypercorn.typing import Event


class PatientBuffer(h2.StreamBuffer):
    """What is still to be sent of one stream: the largest piece and 32 KiB at the most."""

    def __init__(self, event_class: type[Event]) -> None:
        super().__init__(event_class)
        self._room = asyncio.Event()

    async def push(self, data: bytes) -> None:
        """Takes a piece, and waits while there is too much."""
        await super().push(data)
        if len(self.buffer) >= h2.BUFFER_HIGH_WATER:
            self._room.clear()
            await self._room.wait()

    async def pop(self, max_length: int) -> bytes:
        """Gives what the client has room for, which may be nothing."""
        data = await super().pop(max_length)
        if len(self.buffer) <= h2.BUFFER_LOW_WATER:
            self._room.set()
        return data

    async def close(self) -> None:
        """Drops what is there: the client has gone."""
        await super().close()
        self._room.set()


h2.StreamBuffer = PatientBuffer  # type: ignore[misc]  # there is no other way to hand it one
