"""Ending from outside what runs in a task of its own."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SERVER_STOPPED = "server_stopped"
"""The reason of a stop that nobody asked for: the answer counts as broken off."""
NOT_STORED = "not_stored"
"""The reason of a stop because the turn could not be stored: its answer has no place."""
LOG_FAILED = "log_failed"
"""The reason of a stop because the log cannot keep its promise."""
LOST = "lost"
"""The reason of a stop because another worker has taken the run: nobody is told of an end here."""


class Stop:
    """Ends a running turn from outside. The turn stores what it has and comes to its end."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._scope: asyncio.Timeout | None = None

    def request(self, reason: str) -> None:
        """Stops the turn; the first reason counts. `reason` is a short name such as `user` or `disconnected`."""
        if self.reason is None:
            self.reason = reason
            if self._scope is not None:
                self._scope.reschedule(0)

    @asynccontextmanager
    async def interrupts(self) -> AsyncIterator[None]:
        """A block that ends, without an error, when the stop is requested. Check `reason` after it."""
        scope = asyncio.timeout(None if self.reason is None else 0)
        try:
            async with scope:
                self._scope = scope
                yield
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._scope = None
