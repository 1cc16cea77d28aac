"""The handle of a database: open, read, write, close."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, TypeVar

from chatcore.database.engine import Engine
from chatcore.database.units import Queue, Unit, run_reader, run_writer
from chatcore.database.urls import engine_for
from chatcore.database.watch import Watch, Watcher
from chatcore.errors import DatabaseError, DatabaseUnavailable
from chatcore.tally import Histogram

T = TypeVar("T")

COMMIT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds: the upper bounds of the buckets of how long a group of writes took."""

_MIGRATIONS = Path(__file__).with_name("migrations")


class Database:
    """A database, closed until it is opened. Making one costs nothing.

    Its units of work are plain synchronous functions, which use the models of `tables.py`, or a plugin's own, as they
    are: they run in threads that belong to this database. Any number of event loops may use it, and any number of
    databases may be open. `commits` has how long its groups of writes took.

    `worker` is the one that uses it: what it writes of a run that it does not hold is refused. Where it is empty,
    nothing is.
    """

    def __init__(self, url: str, *, durability: Literal["relaxed", "strict"] = "relaxed") -> None:
        """`url` is a path, or `sqlite:///PATH` (so an absolute path gives four slashes), or
        `postgresql://USER:PASSWORD@HOST/NAME`.

        With `strict` a commit survives a loss of power; with `relaxed` it survives the end of the process, and a loss
        of power may take the last commits, never a part of one. Of PostgreSQL `relaxed` asks nothing: its server's
        own settings decide.

        Raises:
            ConfigError: the URL cannot be used.
        """
        self._name, self._make_engine = engine_for(url, durable=durability == "strict")
        self._threads: list[threading.Thread] = []
        self._writes: Queue = SimpleQueue()
        self._reads: Queue = SimpleQueue()
        self.commits = Histogram(COMMIT)
        self.worker = ""
        self._lock = threading.Lock()  # so that nothing is asked behind the end of a queue
        self._engine: Engine
        self._watch: Watch | None = None

    async def open(self, migrations: Mapping[str, Path] | None = None) -> Mapping[str, DatabaseError]:
        """Opens the database, made if there is none, and runs the migrations that are due.

        `migrations` has a directory of migrations (see `playhouse.migrations`) for each plugin that has one, by the
        plugin's name. All of them are one transaction, so none may say `atomic = False`. Before the first, a
        SQLite file is copied to `FILE.before-MIGRATION`. Gives the plugins whose migrations failed, with the reason:
        their part was undone.

        Raises:
            DatabaseError: the file is not a database, another program's, damaged, or of a newer version of chatcore;
                or it cannot be written, or the server cannot be reached. Nothing was changed.
            ConfigError: a package is missing, or the URL cannot be read.
        """
        if self._threads:
            raise DatabaseError(f"{self._name} is open already")
        self._engine, failed = await asyncio.to_thread(self._prepare, migrations or {})
        runs: list[tuple[Callable[[Engine, Queue], None], Queue]] = [
            *[(partial(run_writer, commits=self.commits), self._writes)] * self._engine.writers,
            *[(run_reader, self._reads)] * self._engine.readers,
        ]
        self._threads = [
            threading.Thread(target=run, args=(self._engine, queue), name="chatcore database", daemon=True)
            for run, queue in runs
        ]
        for thread in self._threads:
            thread.start()
        return failed

    def _prepare(self, migrations: Mapping[str, Path]) -> tuple[Engine, Mapping[str, DatabaseError]]:
        engine = self._make_engine()
        return engine, engine.prepare(_MIGRATIONS, migrations)

    @property
    def waiting(self) -> Mapping[str, int]:
        """How many reads and writes wait for a thread."""
        return {"read": self._reads.qsize(), "write": self._writes.qsize()}

    async def close(self) -> None:
        """Closes the database after everything that was asked of it until now. It may be opened again."""
        with self._lock:
            threads, self._threads = self._threads, []
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.close()
            if threads:
                for queue in [self._writes] * self._engine.writers + [self._reads] * self._engine.readers:
                    queue.put(None)
        await asyncio.to_thread(_join, threads)

    async def write(self, work: Callable[[], T]) -> T:
        """Runs `work` in a thread that writes, in a transaction, and gives what it gives once that is committed.

        If it raises, nothing of it is stored and the caller gets the error. It changes nothing but the database, for
        it may be run again: units that wait together may share a commit, and get one each when that fails, and one
        that others were in the way of, or whose connection broke, gets another try. When the caller is cancelled, it
        runs all the same.

        SQLite runs one unit at a time. PostgreSQL runs several, also of one caller that does not wait for each: a unit
        that changes what it has read reads it with `tables.locked`.

        Raises:
            DatabaseError: the database could not be written. The hint says what to do.
            RequestError: text or a number cannot be stored as it is.
        """
        return await self._ask(self._writes, work)

    async def read(self, work: Callable[[], T]) -> T:
        """Runs `work`, which only reads, in one of a few threads, and gives what it gives.

        All its queries see the database as it was at one moment. What it gives must be complete: a query that was not
        run cannot be run by the caller.

        Raises:
            DatabaseError: the database could not be read. The hint says what to do.
        """
        return await self._ask(self._reads, work)

    @asynccontextmanager
    async def watch(self, channel: str) -> AsyncIterator[Watcher]:
        """Somebody whose `changed` tells when a unit of work, in any process, may have announced something in a channel
        (see `tables.announce`).

        Raises:
            DatabaseError: the database is not open.
        """
        with self._lock:
            watch = self._watching()
        with watch.watching(channel) as watcher:
            yield watcher

    def _watching(self) -> Watch:
        """What all watchers share, and its thread, which the first of them starts."""
        if not self._threads:
            raise DatabaseError(f"{self._name} is not open")
        if self._watch is None:
            self._watch = Watch()
            follow = threading.Thread(
                target=self._engine.follow, args=(self._watch,), name="chatcore database watch", daemon=True
            )
            follow.start()
            self._threads.append(follow)
        return self._watch

    def _ask(self, queue: Queue, work: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        with self._lock:
            if not self._threads:
                raise DatabaseUnavailable(f"{self._name} is not open")
            queue.put(Unit(work, future))
        return future


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()
