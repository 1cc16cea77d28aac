"""A value from elsewhere that is fetched once for all who ask at a time, and then kept for a while."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from chatcore.errors import ChatcoreError, ProviderUnavailable

logger = logging.getLogger(__name__)

T = TypeVar("T")

CLOSED = "Its plugin was reloaded or taken away: ask again, or use another one."
"""What to do when something was closed that is being waited for."""


class Kept(Generic[T]):
    """Gives what `fetch` gave, at most `ttl` seconds old; if it cannot be had again within `patience`, the last there
    was.

    `what` names it in the log.
    """

    def __init__(self, what: str, fetch: Callable[[], Awaitable[T]], *, ttl: float, patience: float = 5.0) -> None:
        self._what = what
        self._fetch = fetch
        self._ttl = ttl
        self._patience = patience
        self._known: list[T] = []  # one or none
        self._fresh_until = 0.0
        self._fetching: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """The value.

        Raises:
            ChatcoreError: as `fetch` does, if there is no earlier value.
            ProviderUnavailable: it was closed while the value was being fetched.
        """
        if self._known and time.monotonic() < self._fresh_until:
            return self._known[0]
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._refresh())
            self._fetching.add_done_callback(self._fetched)
        fetching = self._fetching
        # One who asks may go away; the others still wait.
        await asyncio.wait((fetching,), timeout=self._patience if self._known else None)
        if self._known and (fetching.cancelled() or not fetching.done()):
            return self._last_known("nothing has come yet")
        if fetching.cancelled():  # who asks was not: it is an error for them, and they can handle it
            raise ProviderUnavailable(
                f"{self._what} was not fetched: the provider is closed", kind="closed", hint=CLOSED
            )
        return fetching.result()

    def close(self) -> None:
        """Ends a fetch that still runs. Those who wait for it get the last value, or the error that it was closed."""
        if self._fetching is not None:
            self._fetching.cancel()

    async def _refresh(self) -> T:
        try:
            self._known = [await self._fetch()]
        except ChatcoreError as error:
            if not self._known:
                raise
            return self._last_known(error)
        self._fresh_until = time.monotonic() + self._ttl
        return self._known[0]

    def _last_known(self, why: object) -> T:
        """The last value there was, for as long again as a new one."""
        if time.monotonic() >= self._fresh_until:
            logger.warning("%s cannot be refreshed, so the last known is used: %s", self._what, why)
            self._fresh_until = time.monotonic() + self._ttl
        return self._known[0]

    def _fetched(self, task: asyncio.Task[T]) -> None:
        self._fetching = None
        if not task.cancelled():
            task.exception()  # if everybody who asked has gone, nobody else looks at it
