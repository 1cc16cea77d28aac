"""Responses that stream: one wrapper for all of them.

Quart and hypercorn leave four things to whoever streams: no time-out of the response, a truly suspended generator (a
client that resets the connection would otherwise freeze the worker), a word at least every 15 s so that no proxy takes
the stream for dead, and an end when the server stops.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence

from quart import Response
from quart.typing import ResponseTypes
from quart.wrappers.response import IterableBody

from chatcore import wire
from chatcore.errors import ChatcoreError
from chatcore.readers import Reader
from chatcore.types import Event

logger = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two looks at whether a stream has been silent."""
SILENCE = 10.0
"""Seconds of silence after which a comment is sent, at the next look: so at most 15 s after the last word."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}

SHUTDOWN_FRAME = (
    b'retry: 1000\nevent: shutdown\ndata: {"message":"The server restarts; resume with Last-Event-ID."}\n\n'
)


class Streams:
    """The streams that are open in this worker."""

    def __init__(self) -> None:
        self.draining = False
        self._readers: set[Reader] = set()

    def drain(self) -> None:
        """Ends every stream with a frame that tells its client to come back. The runs go on."""
        self.draining = True
        for reader in self._readers:
            reader.wake()

    def respond(
        self, reader: Reader, render: Callable[[int, Sequence[Event]], bytes], *, greeting: bytes = b""
    ) -> Response:
        """A response that follows a run. The reader is closed when the client has gone or has everything.

        `greeting` is sent at once. A client gets the response's head with the first bytes, not earlier.
        """
        response = StreamResponse(
            self._frames(reader, render, greeting), headers={**HEADERS, "Chatcore-Run-Id": reader.run_id}
        )
        response.timeout = None
        return response

    async def _frames(
        self, reader: Reader, render: Callable[[int, Sequence[Event]], bytes], greeting: bytes
    ) -> AsyncIterator[bytes]:
        loop = asyncio.get_running_loop()
        heartbeat = _Heartbeat(reader)
        spoken = loop.time()
        self._readers.add(reader)
        reader.open()
        try:
            if greeting:
                yield greeting
            while not self.draining:
                batch = await reader.next()
                if batch is None:
                    frames = b": ping\n\n" if loop.time() - spoken >= SILENCE else b""
                else:
                    frames = render(*batch)
                if frames:
                    spoken = loop.time()
                    yield frames
            yield SHUTDOWN_FRAME
        except StopAsyncIteration:
            return
        except ChatcoreError as error:
            told = {"error": error.message, "type": error.code, "status": error.status}
            yield b"event: error\ndata: %b\n\n" % wire.dumps(told)
        finally:
            self._readers.discard(reader)
            heartbeat.stop()
            reader.close()


class _Heartbeat:
    """Wakes a reader often enough for a comment to be sent in time; costs nothing for each event."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._beat(first=True)

    def _beat(self, *, first: bool = False) -> None:
        self._timer = asyncio.get_running_loop().call_later(BEAT, self._beat)
        if not first:
            self._reader.wake()

    def stop(self) -> None:
        self._timer.cancel()


class StreamResponse(Response):
    """The response that `Streams` makes, which needs no taming."""


def tame(response: ResponseTypes, blame: str) -> ResponseTypes:
    """Makes the streaming response of any route, a plugin's included, safe for the worker; gives it back.

    `blame` is who made it, for the log.
    """
    if isinstance(response, StreamResponse) or not isinstance(response, Response):
        return response
    if isinstance(response.response, IterableBody):
        speaks_sse = response.mimetype == "text/event-stream"
        response.response = IterableBody(_tamed(response.response, speaks_sse=speaks_sse, blame=blame))
        response.timeout = None
    return response


async def _tamed(body: IterableBody, *, speaks_sse: bool, blame: str) -> AsyncIterator[bytes]:
    try:
        async with body as chunks:
            async for chunk in chunks:
                yield chunk
                # A generator that never awaits would otherwise run on for a client that has gone, and freeze us.
                await asyncio.sleep(0)
    except Exception:
        if not speaks_sse:
            raise
        # The stream's boundary: its status is long sent, so that only a frame can still tell the client.
        logger.exception("%s: a stream broke off", blame)
        yield b'event: error\ndata: {"error":"The stream failed; the server\'s log says why.","type":"internal"}\n\n'
