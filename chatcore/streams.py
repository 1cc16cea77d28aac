"""Responses that stream: one wrapper for all of them.

Quart and hypercorn leave five things to whoever streams: no time-out of the response, a truly suspended generator (a
client that resets the connection would otherwise freeze the worker), a word at least every 15 s so that no proxy takes
the stream for dead, an end when the client takes nothing any more, and an end when the server stops.
"""

import asyncio
import logging
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TypeAlias
from weakref import WeakValueDictionary

import attrs
from quart import Response, has_request_context, request
from quart.typing import ResponseTypes
from quart.wrappers.response import DataBody, IterableBody

from chatcore import wire
from chatcore.errors import ChatcoreError, Overloaded
from chatcore.room import Room
from chatcore.runs.readers import Batch, Reader
from chatcore.runs.stop import SERVER_STOPPED, Stop
from chatcore.serving.direct import EXTENSION, Write
from chatcore.types import Event

logger = logging.getLogger(__name__)

BEAT = 5.0
"""Seconds between two looks at whether a stream has been silent, or its client."""
SILENCE = 10.0
"""Seconds of silence after which a comment is sent, at the next look: so at most 15 s after the last word."""
STALLED = 60.0
"""Seconds after which a client that takes nothing of what it is sent is let go, at the next look."""

MANY = 100
"""Events in one piece from which on their reader counts as far behind."""

LARGEST_PIECE = 2**16
"""Bytes that a connection is given at once, of frames that are large: it keeps some pieces of what it cannot send."""
MOST_WAITING = 2**28
"""Bytes of answers that are not streams and have more than such a piece, which wait for their clients together."""
LARGE = 2**18
"""Bytes of frames that are made for one reader at once. Of an event with more there is one copy for all readers."""

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store, no-transform",
    "X-Accel-Buffering": "no",
}

SHUTDOWN_FRAME = (
    b'retry: 1000\nevent: shutdown\ndata: {"message":"The server restarts; resume with Last-Event-ID."}\n\n'
)

FAILED_FRAME = b'event: error\ndata: {"error":"The stream failed; the server\'s log says why.","type":"internal"}\n\n'

_FULL = "so many large answers wait for their clients that there is no room for another"

Render: TypeAlias = Callable[[int, Sequence[Event]], bytes]
"""The frames of a batch of events."""


class Streams:
    """The streams that are open in this worker."""

    def __init__(self, limit: int) -> None:
        """`limit` is how many there may be."""
        self.draining = False
        self._limit = limit
        self._readers: set[Reader] = set()
        self._catching_up = asyncio.Lock()
        self._large: WeakValueDictionary[bytes, _Shared] = WeakValueDictionary()
        self._waiting = Room(MOST_WAITING, small=LARGEST_PIECE, full=_FULL)
        self._stops: set[Stop] = set()

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._readers)

    def admit(self) -> None:
        """Lets one more in.

        Raises:
            Overloaded: there are too many.
        """
        if self.count >= self._limit:
            raise Overloaded(f"{self._limit} streams are open, which is the limit", hint="raise max_streams")

    def drain(self) -> None:
        """Ends every stream: those that follow runs, which go on, with a frame that tells the client to come back."""
        self.draining = True
        for reader in self._readers:
            reader.wake()
        for stop in self._stops:
            stop.request(SERVER_STOPPED)

    def respond(self, reader: Reader, render: Render, *, greeting: bytes = b"") -> Response:
        """A response that follows a run. The reader is closed when the client has gone or has everything.

        `greeting` is sent at once. A client gets the response's head with the first bytes, not earlier.
        """
        response = StreamResponse(
            self._frames(reader, render, greeting, _short_way()),
            headers={**HEADERS, "Chatcore-Run-Id": reader.run_id},
        )
        response.timeout = None
        self._readers.add(reader)
        weakref.finalize(response, self._readers.discard, reader)  # if the client goes before the first frame
        return response

    async def _frames(
        self,
        reader: Reader,
        render: Render,
        greeting: bytes,
        write: Write | None,
    ) -> AsyncIterator[bytes]:
        pulse = _Pulse(reader.wake)
        take = write and partial(_send, write, render, pulse)
        reader.open()
        try:
            if greeting:
                yield greeting
            while not self.draining:
                batch = await reader.next(take)
                pieces = (pulse.ping(),) if batch is None else await self._rendered(batch, render)
                del batch  # it may be large, and this may take long
                for piece in pieces:
                    if piece:
                        pulse.sending()
                        yield piece
                        pulse.sent()
            yield SHUTDOWN_FRAME
        except StopAsyncIteration:
            return
        except Exception as error:  # noqa: BLE001  the stream's boundary: its status is long sent
            yield _last_frame(reader.run_id, error)
        finally:
            self._readers.discard(reader)
            pulse.stop()
            reader.close()

    async def _rendered(self, batch: Batch, render: Render) -> Iterable[bytes]:
        """A batch as frames, in pieces. Of the readers that are far behind, one has its turn at a time: what they want
        is long, and everybody else would have to wait for all of them."""
        if len(batch[1]) < MANY:
            frames = render(*batch)
        else:
            async with self._catching_up:
                await asyncio.sleep(0)
                frames = render(*batch)
        return (frames,) if len(frames) <= LARGE else self._pieces(frames, batch, render)

    def _pieces(self, frames: bytes, batch: Batch, render: Render) -> Iterator[bytes]:
        """The frames of a batch as they are to be sent if they are large: made when their turn comes, and if one event
        is large by itself, one copy of it for all its readers."""
        first, events = batch
        if len(frames) <= LARGE:
            yield frames
        elif len(events) > 1:
            del frames
            middle = len(events) // 2
            for half in ((first, events[:middle]), (first + middle, events[middle:])):
                yield from self._pieces(render(*half), half, render)
        else:
            del batch, events
            shared = self._large.setdefault(frames, _Shared(frames))
            del frames
            for start in range(0, len(shared.frames), LARGEST_PIECE):
                yield shared.frames[start : start + LARGEST_PIECE]

    def tame(self, response: ResponseTypes, blame: str) -> ResponseTypes:
        """Makes the response of any route, a plugin's included, safe for the worker; gives it back.

        `blame` is who made it, for the log.

        Raises:
            Overloaded: it is large, and so many large ones wait for their clients that it would be too much.
        """
        if isinstance(response, StreamResponse) or not isinstance(response, Response):
            return response
        if isinstance(response.response, IterableBody):
            speaks_sse = response.mimetype == "text/event-stream"
            response.response = IterableBody(self._tamed(response.response, speaks_sse=speaks_sse, blame=blame))
            response.timeout = None
        elif isinstance(response.response, DataBody) and len(response.response.data) > LARGEST_PIECE:
            whole = _Whole(response.response, self._waiting.leave)
            self._waiting.take(whole, len(whole.data))
            response.response = whole
        return response

    async def _tamed(self, body: IterableBody, *, speaks_sse: bool, blame: str) -> AsyncIterator[bytes]:
        pulse, stop = _Pulse(lambda: None), Stop()
        if speaks_sse:  # anything else, such as a file, has an end of its own
            self._stops.add(stop)
        try:
            async with body as chunks:
                pending = aiter(chunks)
                while (chunk := await _next(pending, stop)) is not None:
                    pulse.sending()
                    yield chunk
                    pulse.sent()
                    # A generator that never awaits would otherwise run on for a client that has gone, and freeze us.
                    await asyncio.sleep(0)
        except Exception:
            if not speaks_sse:
                raise
            # The stream's boundary: its status is long sent, so that only a frame can still tell the client.
            logger.exception("%s: a stream broke off", blame)
            yield FAILED_FRAME
        finally:
            self._stops.discard(stop)
            pulse.stop()


def _last_frame(run_id: str, error: Exception) -> bytes:
    """What tells a client that the stream of a run breaks off."""
    if not isinstance(error, ChatcoreError):
        logger.error("the stream of run %s broke off", run_id, exc_info=error)
        return FAILED_FRAME
    if error.told != error.message:
        logger.error("a reader was sent away: %s", error.in_full)
    told = {"error": error.told, "type": error.code, "status": error.status}
    return b"event: error\ndata: %b\n\n" % wire.dumps(told)


class _Whole(DataBody):
    """A body that is there as a whole, and is sent in pieces: a connection keeps what it is given until it is sent.

    `over` is called when it was sent, or nobody wants it any more.
    """

    def __init__(self, body: DataBody, over: Callable[["_Whole"], None]) -> None:
        super().__init__(body.data)
        self.begin, self.end = body.begin, body.end
        self._over = over

    async def __aexit__(self, *_: object) -> None:
        self._over(self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(self.begin, self.end, LARGEST_PIECE):
            yield self.data[start : min(start + LARGEST_PIECE, self.end)]


@attrs.frozen(eq=False)
class _Shared:
    """The frames of an event, for as long as a reader needs them."""

    frames: bytes


def _short_way() -> Write | None:
    """That of the current request, if there is one."""
    if not has_request_context():
        return None
    write: Write | None = request.scope["extensions"].get(EXTENSION, {}).get("write")
    return write


def _send(write: Write, render: Render, pulse: "_Pulse", first: int, events: Sequence[Event]) -> bool:
    """Sends what has just come, if the client takes it now."""
    frames = render(first, events)
    if not frames:
        return True
    pulse.spoke()
    return write(frames)


async def _next(chunks: AsyncIterator[bytes], stop: Stop) -> bytes | None:
    """The next chunk; None if there is none any more, or if there shall be none."""
    chunk = None
    async with stop.interrupts():
        chunk = await anext(chunks, None)
    return chunk


class _Pulse:
    """One timer for a stream. To be made in the task that sends it, and stopped.

    `wake` is called often enough for a comment to be sent in time. A client that takes nothing is let go by cancelling
    the task: it waits for the connection, where no generator can help it.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._wake = wake
        self._spoken = self._loop.time()
        self._is_sending = False
        self._timer = self._loop.call_later(BEAT, self._beat)

    def _beat(self) -> None:
        self._timer = self._loop.call_later(BEAT, self._beat)
        if not self._is_sending:
            self._wake()
        elif self._loop.time() - self._spoken >= STALLED and self._task is not None:
            logger.info("a stream has ended: its client has taken nothing for %d s", STALLED)
            self._task.cancel()

    def sending(self) -> None:
        """Says that something is being sent."""
        self._spoken = self._loop.time()
        self._is_sending = True

    def spoke(self) -> None:
        """Says that something was sent at once."""
        self._spoken = self._loop.time()

    def sent(self) -> None:
        """Says that there is room for more."""
        self._is_sending = False

    def ping(self) -> bytes:
        """A comment if nothing was sent for too long, else nothing."""
        return b": ping\n\n" if self._loop.time() - self._spoken >= SILENCE else b""

    def stop(self) -> None:
        self._timer.cancel()


class StreamResponse(Response):
    """The response that `Streams` makes, which needs no taming."""
