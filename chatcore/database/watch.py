"""Watching for what other processes change: one thread of a database wakes everybody who waits for that."""

import asyncio
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from chatcore.errors import DatabaseError


class Watcher:
    """Somebody who watches a channel, in the event loop where it was made."""

    def __init__(self, watch: "Watch") -> None:
        self._watch = watch
        self._loop = asyncio.get_running_loop()
        self._news = asyncio.Event()
        self._news.set()

    async def changed(self) -> None:
        """Returns when something may have been announced since it last returned; the first time at once.

        It may return although there is nothing new.

        Raises:
            DatabaseError: the database was closed.
        """
        if not self._news.is_set():
            with self._watch.awaited():
                await self._news.wait()
        self._news.clear()
        if self._watch.closed:
            raise DatabaseError("the database was closed")

    def wake(self) -> None:
        """Lets `changed` return, now or when it is called next. For any thread."""
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._news.set)


class Watch:
    """All who watch one database. An engine's `follow` runs in a thread and tells them."""

    def __init__(self) -> None:
        self._closed = threading.Event()
        self._watchers: dict[str, set[Watcher]] = defaultdict(set)
        self._lock = threading.Lock()
        self._waiting = 0
        self._wanted = threading.Event()

    @property
    def closed(self) -> bool:
        """Whether the database was closed, and the thread is to end."""
        return self._closed.is_set()

    @contextmanager
    def watching(self, channel: str) -> Iterator[Watcher]:
        """A watcher of a channel, for as long as the context is open."""
        watcher = Watcher(self)
        with self._lock:
            self._watchers[channel].add(watcher)
        try:
            yield watcher
        finally:
            with self._lock:
                self._watchers[channel].discard(watcher)
                if not self._watchers[channel]:
                    del self._watchers[channel]

    @contextmanager
    def awaited(self) -> Iterator[None]:
        """Says that somebody waits."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)

    def _count(self, number: int) -> None:
        with self._lock:
            self._waiting += number
            if self._waiting or self.closed:
                self._wanted.set()
            else:
                self._wanted.clear()

    def until_awaited(self) -> None:
        """Blocks the thread until somebody waits, or it is closed."""
        self._wanted.wait()

    def pause(self, seconds: float) -> None:
        """Blocks the thread for a time, or until it is closed."""
        self._closed.wait(seconds)

    def tell(self, channel: str | None = None) -> None:
        """Wakes those who watch a channel; without one, all."""
        with self._lock:
            channels = self._watchers if channel is None else {channel}
            woken = [watcher for name in channels for watcher in self._watchers.get(name, ())]
        for watcher in woken:
            watcher.wake()

    def close(self) -> None:
        """Ends the thread, and the waiting of all."""
        self._closed.set()
        self._wanted.set()
        self.tell()
