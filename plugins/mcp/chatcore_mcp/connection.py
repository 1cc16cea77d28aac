"""The connection to one server, held by a task of its own.

The task enters the SDK's client, waits, leaves it, and begins anew: nobody else touches its cancel scopes, and when
they break, only this task is hit. A call runs in a task of its own beside it, so that a slow one delays no other;
whoever asked may go away at any time, which cancels the call at the server.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, TypeAlias, TypeVar

import attrs

from chatcore.errors import ToolFailed
from chatcore_mcp.offers import CLOSED, LOST, ConnectionLost, Offer, Session, SessionExpired

T = TypeVar("T")

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
"""Seconds between two attempts to connect: each time twice as many, and up to a quarter more or less by chance."""
LONG_LIFE = 10.0
"""Seconds after which a connection that breaks was a good one: it is made anew at once."""
KEPT = 30.0
"""Seconds for which the tools of a lost connection are still offered. Their calls wait for it to come back."""
PATIENCE = 10.0
"""Seconds that a call waits for a connection."""
CHECK = 60.0
"""Seconds after which a remote server that has said nothing is asked whether it is still there."""
ANSWER = 10.0
"""Seconds in which a server that is connected must tell its tools."""
SETTLE = 0.5
"""Seconds between two times of asking for the tools, however often the server says that they have changed."""
CLOSE = 4.0
"""Seconds that a connection may take to end."""

State: TypeAlias = Literal["connecting", "connected", "disconnected"]


@attrs.frozen
class Signals:
    """What wakes the owner of a connection. To be called from its event loop."""

    changed: Callable[[], None]
    ended: Callable[[], None]


Opener: TypeAlias = Callable[[Signals], Awaitable[AbstractAsyncContextManager[Session]]]
"""Gives a connection to be entered. What it raises, and what entering and leaving raise, is `ConnectionLost`."""


class Connection:
    """One server. Its task runs from `start` to `stop`; everything else may be called by anybody.

    `changed` is called whenever `offer`, `state` or `problem` may have become another.
    """

    def __init__(
        self, name: str, opener: Opener, changed: Callable[[], None], *, timeout: float, log: logging.Logger
    ) -> None:
        self.state: State = "connecting"
        self.problem = ""
        self.offer = Offer()
        self._name = name
        self._opener = opener
        self._changed = changed
        self._timeout = timeout
        self._log = log
        self._session: Session | None = None
        self._lost_at = 0.0
        self._calls: set[asyncio.Task[Any]] = set()
        self._up = asyncio.Event()
        self._settled = asyncio.Event()
        self._wake = asyncio.Event()
        self._hurry = False
        self._stale = False
        self._ended = ""
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    # --- for anybody --------------------------------------------------------------------------------------------------

    async def call(self, work: Callable[[Session], Awaitable[T]]) -> T:
        """Has something done by the session, waiting for a connection that was lost to come back.

        Raises:
            ConnectionLost: there is no connection, or it was lost meanwhile.
            ToolFailed: the server cannot do it.
        """
        session = await self._connected()
        try:
            return await self._run(session, work)
        except SessionExpired:
            self._end(session, "the server was started anew")
        return await self._run(await self._connected(), work)

    async def settled(self) -> None:
        """Waits until it is known whether the server can be reached."""
        await self._settled.wait()

    def retry(self) -> None:
        """Makes the next attempt to connect now; has a server that is connected tell its tools again."""
        self._settled.clear()
        self._hurry = True
        self._changes()

    async def _connected(self) -> Session:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._up.wait()
        except TimeoutError:
            raise ConnectionLost(f"the server {self._name} cannot be reached now: {self.problem}") from None
        assert self._session is not None  # noqa: S101  it is there while `_up` is set
        return self._session

    async def _run(self, session: Session, work: Callable[[Session], Awaitable[T]]) -> T:
        async def job() -> T:
            return await work(session)

        task: asyncio.Task[T] = asyncio.create_task(job(), name=f"call of {self._name}")
        self._calls.add(task)
        task.add_done_callback(self._forget)
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()  # for where whoever asked has gone; it tells the server, and nobody waits for that
        if task.cancelled():
            raise ConnectionLost(LOST)
        return task.result()

    def _forget(self, task: asyncio.Task[T]) -> None:
        self._calls.discard(task)
        if not task.cancelled():
            task.exception()  # if whoever asked has gone, nobody else looks at it

    # --- its task -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to connect, in the background."""
        self._task = asyncio.create_task(self._run_for_ever(), name=f"mcp server {self._name}")

    async def stop(self) -> None:
        """Ends the connection, and waits for it."""
        self._stopping = True
        while self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task], timeout=CLOSE)

    async def _run_for_ever(self) -> None:
        # What is cancelled may swallow that, and the SDK's scopes also take back how often a task was cancelled: only
        # `_stopping` tells for sure.
        pause = 0.0
        while not self._stopping:
            connected_at = await self._live()
            lived = time.monotonic() - connected_at if connected_at else 0.0
            pause = 0.0 if lived >= LONG_LIFE else min(max(2 * pause, FIRST_PAUSE), LONGEST_PAUSE)
            self._settled.set()
            await self._rest(pause * random.uniform(0.75, 1.25))  # noqa: S311  so that not all come at once

    async def _rest(self, seconds: float) -> None:
        """Waits before the next attempt, unless somebody wants it now."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._hurry:
                    self._wake.clear()
                    await self._wake.wait()
        self._hurry = False

    async def _live(self) -> float:
        """One connection, from its beginning to its end. Gives when it was made, 0 if it was not."""
        connected_at = 0.0
        try:
            async with asyncio.timeout(self._timeout) as limit:
                async with await self._opener(Signals(self._changes, self._closed)) as session:
                    await self._learn(session)
                    connected_at = time.monotonic()
                    self._begin(session)
                    limit.reschedule(None)
                    try:
                        await self._follow(session)
                    finally:
                        limit.reschedule(asyncio.get_running_loop().time() + CLOSE)
        except ToolFailed as error:
            self._lose(error.message, was_connected=connected_at > 0)
        except (TimeoutError, asyncio.CancelledError):
            if self._stopping:
                raise
            reason = self._ended or f"it did not answer within {self._timeout:g} s"
            self._lose(reason, was_connected=connected_at > 0)
        finally:
            self._drop()
        return connected_at

    async def _follow(self, session: Session) -> None:
        """Keeps the offer up to date, until the connection ends."""
        watching = asyncio.create_task(session.watch())
        try:
            while True:
                told = await self._woken(CHECK if session.remote else None)
                if self._ended or self._stopping:
                    raise ConnectionLost(self._ended or CLOSED)
                if told or not self._calls:  # one that works on calls is there
                    async with asyncio.timeout(ANSWER):
                        await self._learn(session)
                    self._changed()
                    self._settled.set()
                    await asyncio.sleep(SETTLE)
        except TimeoutError:
            raise ConnectionLost(f"it did not tell its tools within {ANSWER:g} s") from None
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)

    async def _learn(self, session: Session) -> None:
        self._stale = False
        self.offer = await session.learn()

    async def _woken(self, seconds: float | None) -> bool:
        """Waits until somebody has something to say, or for some time. False: the time has passed."""
        try:
            async with asyncio.timeout(seconds):
                while not (self._stale or self._ended):
                    self._wake.clear()
                    await self._wake.wait()
        except TimeoutError:
            return False
        self._stale = False
        return True

    def _begin(self, session: Session) -> None:
        self._session = session
        self._hurry = False
        self.state, self.problem = "connected", ""
        self._up.set()
        self._settled.set()
        self._log.info("%s is connected: %d tools", self._name, len(self.offer.tools))
        self._changed()

    def _lose(self, reason: str, *, was_connected: bool) -> None:
        """Notes why there is no connection. It is logged once, until it is another reason."""
        if self._stopping:
            return
        if was_connected:
            self._lost_at = time.monotonic()
            self._log.warning("%s was lost: %s", self._name, reason)
        elif reason != self.problem:
            self._log.warning("%s cannot be connected: %s", self._name, reason)
        self.state, self.problem = "disconnected", reason
        if time.monotonic() - self._lost_at >= KEPT:
            self.offer = Offer()
        self._changed()

    def _drop(self) -> None:
        self._session = None
        self._stale, self._ended = False, ""
        self._up.clear()
        for call in self._calls:
            call.cancel()

    # --- what wakes it ------------------------------------------------------------------------------------------------

    def _changes(self) -> None:
        self._stale = True
        self._wake.set()

    def _closed(self) -> None:
        self._end(self._session, CLOSED)

    def _end(self, session: Session | None, reason: str) -> None:
        if session is not self._session:
            return
        self._ended = self._ended or reason
        self._up.clear()
        self._wake.set()
        if self.state == "connected":
            self.state, self.problem = "disconnected", reason
            self._changed()
