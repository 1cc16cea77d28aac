"""The handle of a database: open, read, write, close."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, TypeVar
from urllib.parse import unquote

from chatcore.database.units import Queue, Unit, run_reader, run_writer
from chatcore.database.watch import Watch, Watcher
from chatcore.errors import ConfigError, DatabaseError

if TYPE_CHECKING:
    from chatcore.database.sqlite import Sqlite

T = TypeVar("T")

_MIGRATIONS = Path(__file__).with_name("migrations")
_READERS = 3


class Database:
    """A database, closed until it is opened. Making one costs nothing.

    Its units of work are plain synchronous functions, which use the models of `tables.py`, or a plugin's own, as they
    are: they run in threads that belong to this database. Any number of event loops may use it, and any number of
    databases may be open.
    """

    def __init__(self, url: str, *, durability: Literal["relaxed", "strict"] = "relaxed") -> None:
        """`url` is a path, or `sqlite:///PATH` (so an absolute path gives four slashes).

        With `strict` a commit survives a loss of power; with `relaxed` it survives the end of the process, and a loss
        of power may take the last commits, never a part of one.

        Raises:
            ConfigError: the URL cannot be used.
        """
        self._path = _path(url)
        self._durable = durability == "strict"
        self._threads: list[threading.Thread] = []
        self._writes: Queue = SimpleQueue()
        self._reads: Queue = SimpleQueue()
        self._lock = threading.Lock()  # so that nothing is asked behind the end of a queue
        self._engine: Sqlite
        self._watch: Watch | None = None

    async def open(self, migrations: Mapping[str, Path] | None = None) -> Mapping[str, DatabaseError]:
        """Opens the database, made if there is none, and runs the migrations that are due.

        `migrations` has a directory of migrations (see `playhouse.migrations`) for each plugin that has one, by the
        plugin's name. All of them are one transaction, so none may say `atomic = False`. Before the first, the
        database is copied to `FILE.before-MIGRATION`. Gives the plugins whose migrations failed, with the reason:
        their part was undone.

        Raises:
            DatabaseError: the file is not a database, another program's, damaged, or of a newer version of chatcore;
                or it cannot be written. It was not changed.
        """
        if self._threads:
            raise DatabaseError(f"{self._path} is open already")
        engine, failed = await asyncio.to_thread(self._prepare, migrations or {})
        self._engine = engine
        self._threads = [
            threading.Thread(target=run, args=(engine, queue), name="chatcore database", daemon=True)
            for run, queue in [(run_writer, self._writes), *[(run_reader, self._reads)] * _READERS]
        ]
        for thread in self._threads:
            thread.start()
        return failed

    def _prepare(self, migrations: Mapping[str, Path]) -> "tuple[Sqlite, Mapping[str, DatabaseError]]":
        # peewee takes 0.1 s to import, which a command that needs no database must not pay.
        from chatcore.database.sqlite import Sqlite  # noqa: PLC0415

        engine = Sqlite(self._path, durable=self._durable)
        return engine, engine.prepare(_MIGRATIONS, migrations)

    async def close(self) -> None:
        """Closes the database after everything that was asked of it until now. It may be opened again."""
        with self._lock:
            threads, self._threads = self._threads, []
            watch, self._watch = self._watch, None
            if watch is not None:
                watch.close()
            for queue in [self._writes, *[self._reads] * _READERS] if threads else ():
                queue.put(None)
        await asyncio.to_thread(_join, threads)

    async def write(self, work: Callable[[], T]) -> T:
        """Runs `work` in the one thread that writes, in a transaction, and gives what it gives once that is committed.

        If it raises, nothing of it is stored and the caller gets the error. It changes nothing but the database, for
        it may be run a second time: units that wait together share a commit, and get one each when that fails. When
        the caller is cancelled, it runs all the same.

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
            raise DatabaseError(f"{self._path} is not open")
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
                raise DatabaseError(f"{self._path} is not open")
            queue.put(Unit(work, future))
        return future


def _join(threads: Sequence[threading.Thread]) -> None:
    for thread in threads:
        thread.join()


def _path(url: str) -> Path:
    scheme, separator, rest = url.partition("://")
    if not separator:
        path = url
    elif scheme == "sqlite" and rest.startswith("/") and "?" not in rest:
        path = unquote(rest[1:])
    else:
        # Without the rest of it, which may hold a password.
        raise ConfigError(f"the database URL {scheme}://… cannot be used", hint="write a path, or sqlite:///PATH")
    if path in ("", ":memory:") or "\0" in path:
        raise ConfigError("the database URL names no file", hint="write a path, or sqlite:///PATH")
    return Path(path)
