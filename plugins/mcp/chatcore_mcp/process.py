"""A server that is a process: JSON-RPC messages on its standard input and output, a line each.

It is started as the leader of a process group of its own, and nothing of that group is left when it is ended. What it
writes to its standard error goes to the log, at debug.
"""

import asyncio
import contextlib
import logging
import os
import re
import signal
from asyncio.subprocess import PIPE, Process, SubprocessStreamProtocol
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

import anyio
import attrs
import mcp_types
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.client import Transport
from mcp.client.stdio import get_default_environment
from mcp.shared.message import SessionMessage

from chatcore_mcp.definitions import Endpoint
from chatcore_mcp.offers import ConnectionLost
from chatcore_mcp.sizes import LARGEST, refused, whole

GRACE = 1.0
"""Seconds that a server has to end by itself after its input was closed, and again after it was asked to (SIGTERM)."""
LAST_WORDS = 0.5
"""Seconds for the rest of the output of a process that has ended: another one may hold its end of it open."""

_CHUNK = 2**16
_POLL = 0.01
_LONGEST_LINE = 500  # bytes of a line of the standard error that are logged
_ID = re.compile(rb'"id"\s*:\s*(\d{1,15})')


@attrs.define
class Notes:
    """What is known of a process beside its messages: how it ended, and its last words."""

    name: str
    log: logging.Logger
    status: int | None = None
    broken: str = ""
    words: deque[str] = attrs.field(factory=lambda: deque(maxlen=3))

    def ending(self) -> str:
        """Why it is not there any more, as far as it is known."""
        said = f": {' / '.join(self.words)}" if self.words else ""
        if self.broken or self.status is None:
            return f"{self.broken or 'it closed its output'}{said}"
        how = f"was killed by signal {-self.status}" if self.status < 0 else f"ended with status {self.status}"
        return f"it {how}{said}"


@asynccontextmanager
async def _streams(endpoint: Endpoint, notes: Notes) -> AsyncIterator[tuple[object, object]]:
    try:
        process, transport, exited = await _start(endpoint)
    except (OSError, ValueError) as error:
        raise ConnectionLost(_not_started(error, endpoint)) from error
    arriving, inbox = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    outbox, leaving = anyio.create_memory_object_stream[SessionMessage](0)
    reading = asyncio.create_task(_read(process, arriving, notes))
    writing = asyncio.create_task(_write(process, leaving, arriving))
    tasks = [reading, writing]
    tasks += [asyncio.create_task(_overhear(process, notes)), asyncio.create_task(_mourn(exited, reading, arriving))]

    async def end() -> None:
        await _end(process, writing, outbox, notes)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        transport.close()
        for stream in (arriving, inbox, outbox, leaving):
            stream.close()

    try:
        yield inbox, outbox
    finally:
        await _surely(end())


def process_streams(endpoint: Endpoint, notes: Notes) -> Transport:
    """The messages of a server that is started for them, and ended with its group after them.

    Raises (when entered):
        ConnectionLost: it cannot be started, with the reason.
    """
    return _streams(endpoint, notes)  # type: ignore[return-value]  # anyio's streams are what the protocol wants


class _Protocol(SubprocessStreamProtocol):
    """Notices the end of a process even while another one that it has started keeps its pipes open."""

    def __init__(self, loop: asyncio.AbstractEventLoop, exited: asyncio.Event) -> None:
        super().__init__(limit=_CHUNK, loop=loop)
        self._exited = exited

    def process_exited(self) -> None:
        super().process_exited()
        self._exited.set()


async def _start(endpoint: Endpoint) -> tuple[Process, asyncio.SubprocessTransport, asyncio.Event]:
    loop, exited = asyncio.get_running_loop(), asyncio.Event()
    transport, protocol = await loop.subprocess_exec(
        lambda: _Protocol(loop, exited),
        *endpoint.command,
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**get_default_environment(), **endpoint.env},
        cwd=endpoint.cwd,
        start_new_session=True,
    )
    return Process(transport, protocol, loop), transport, exited


def _not_started(error: OSError | ValueError, endpoint: Endpoint) -> str:
    """Why a process cannot be started, in words for a person who can mend it."""
    command = endpoint.command[0]
    match error:
        case OSError() if endpoint.cwd is not None and error.filename == endpoint.cwd:
            return f"it cannot be started in the directory {endpoint.cwd}: {error.strerror}"
        case FileNotFoundError():
            return f"there is no command {command!r}: install it, or write its whole path"
        case PermissionError():
            return f"the command {command!r} may not be run"
        case OSError():
            return f"the command {command!r} cannot be run: {error.strerror}"
    return f"the command {command!r} cannot be run: {error}"


# --- its messages -----------------------------------------------------------------------------------------------------


async def _read(process: Process, arriving: MemoryObjectSendStream[SessionMessage | Exception], notes: Notes) -> None:
    assert process.stdout is not None  # noqa: S101  it was asked for
    with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):  # whoever read them has gone
        async with arriving:
            async for line in _lines(process.stdout, notes):
                message = _message(line, notes)
                if message is not None:
                    await arriving.send(SessionMessage(message))


async def _lines(stream: asyncio.StreamReader, notes: Notes) -> AsyncIterator[bytes]:
    pieces: list[bytes] = []
    size = 0
    while chunk := await stream.read(_CHUNK):
        first, *rest = chunk.split(b"\n")
        pieces.append(first)
        size += len(first)
        for line in rest:
            yield await whole(pieces)
            pieces, size = [line], len(line)
        if size > LARGEST:
            notes.broken = f"it sent a line of more than {LARGEST // 2**20} MB"
            return


def _message(line: bytes, notes: Notes) -> mcp_types.JSONRPCMessage | None:
    """The message on a line; None if there is none. A broken answer becomes an error, so that nobody waits for it."""
    line = line.strip()
    if not line:
        return None
    try:
        return mcp_types.jsonrpc_message_adapter.validate_json(line, by_name=False)
    except ValueError as error:
        shown = line[:_LONGEST_LINE].decode(errors="replace")
        notes.log.debug("%s: what it says is no message: %s", notes.name, shown)
        request = _ID.search(line, 0, 1000) or _ID.search(line[-1000:])
        if request is None or not line.startswith(b"{"):
            return None  # something that it prints for people
        reason = f"its answer cannot be read: {str(error).splitlines()[0]}: {shown[:100]}"
        return mcp_types.jsonrpc_message_adapter.validate_json(refused(request[1], reason), by_name=False)


async def _write(
    process: Process,
    leaving: MemoryObjectReceiveStream[SessionMessage],
    arriving: MemoryObjectSendStream[SessionMessage | Exception],
) -> None:
    assert process.stdin is not None  # noqa: S101  it was asked for
    try:
        async with leaving:
            async for sent in leaving:
                process.stdin.write(sent.message.model_dump_json(by_alias=True, exclude_unset=True).encode() + b"\n")
                await process.stdin.drain()
    except OSError:
        arriving.close()  # it does not listen any more: that is the end, even if it still lives


async def _mourn(
    exited: asyncio.Event, reading: asyncio.Task[None], arriving: MemoryObjectSendStream[SessionMessage | Exception]
) -> None:
    """Ends the messages when the process has ended, once those have been read that it had sent."""
    await exited.wait()
    await asyncio.wait([reading], timeout=LAST_WORDS)
    arriving.close()


async def _overhear(process: Process, notes: Notes) -> None:
    """Reads the standard error, so that nobody has to wait to write to it."""
    assert process.stderr is not None  # noqa: S101  it was asked for
    rest = b""
    while chunk := await process.stderr.read(_CHUNK):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in filter(None, map(bytes.strip, lines)):
            words = line[:_LONGEST_LINE].decode(errors="replace")
            notes.words.append(words)
            notes.log.debug("%s: %s", notes.name, words)
        rest = rest[:_LONGEST_LINE]


async def _surely(work: Coroutine[None, None, None]) -> None:
    """Does some work to its end, even if whoever waits for it is cancelled: then it passes that on."""
    task = asyncio.create_task(work)
    cancelled = False
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.shield(task)
            except asyncio.CancelledError:
                cancelled = True
    if cancelled:
        raise asyncio.CancelledError


# --- its end ----------------------------------------------------------------------------------------------------------


async def _end(
    process: Process, writing: asyncio.Task[None], outbox: MemoryObjectSendStream[SessionMessage], notes: Notes
) -> None:
    """Ends a process and its group: by closing its input, by asking it to end, by force. Notes how it has ended, if it
    was not forced to."""
    outbox.close()
    await asyncio.wait([writing], timeout=GRACE / 2)  # what was said last, such as that a call is cancelled
    assert process.stdin is not None  # noqa: S101  it was asked for
    process.stdin.close()
    await _within(GRACE, lambda: process.returncode is not None)
    notes.status = process.returncode
    if _signal(process, signal.SIGTERM):
        await _within(GRACE, lambda: process.returncode is not None and not _signal(process, 0))
        _signal(process, signal.SIGKILL)
        await _within(GRACE, lambda: process.returncode is not None)


async def _within(seconds: float, condition: Callable[[], bool]) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    while not condition() and loop.time() < until:  # noqa: ASYNC110  nobody tells when the last of a group has gone
        await asyncio.sleep(_POLL)


def _signal(process: Process, number: int) -> bool:
    """Sends a signal to everybody in the group of a process. False: there is nobody any more."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody in it is another user's, or not yet reaped
        return True
    return True
