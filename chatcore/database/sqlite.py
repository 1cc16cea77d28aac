"""SQLite: everything that only SQLite can run.

`Sqlite` is an `Engine` (see `engine.py`); nothing else in chatcore knows which one it is.
"""

import errno
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, closing, suppress
from functools import partial
from pathlib import Path

import peewee

from chatcore.database import histories
from chatcore.database.engine import COPIED_AT_ONCE, Rows, insertion, selection
from chatcore.database.tables import bound, nul_refused
from chatcore.database.watch import Watch
from chatcore.errors import DatabaseError, DatabaseUnavailable

APPLICATION_ID = 0x63686174
"""The four bytes `chat` in the header of our files tell them from those of other programs."""

_CHECKED_SIZE = 64 * 2**20  # bytes; checking costs about 1 ms per MiB, at every start
_LOCK_PATIENCE = 30.0  # seconds; where SQLite waits by itself it waits 5
_LOCK_PAUSE = 0.001  # seconds; as long as a busy writer pauses
_TURN = 0.01  # seconds for which a busy writer writes without a pause
_LOOK_PAUSE = 0.02  # seconds between two looks for changes, while somebody waits for one
_COPIED_AT_ONCE = 2000  # pages
_MOST_WORDS = 32  # of a search; more of them narrow nothing further

# By the first two words of SQLite's name for the error (https://sqlite.org/rescode.html): what is wrong, what to do.
_CAUSES = {
    "SQLITE_FULL": ("the disk is full", "free some space: nothing was lost, and writing goes on by itself"),
    "SQLITE_BUSY": ("another process keeps the database locked", "find it and end it; a backup program may be the one"),
    "SQLITE_LOCKED": ("another process keeps the database locked", "find it and end it"),
    "SQLITE_READONLY": ("the database is read-only", "let the server's user write the file and its directory"),
    "SQLITE_PERM": ("the database may not be read", "let the server's user read and write the file and its directory"),
    "SQLITE_CANTOPEN": ("the database cannot be opened", "see that its directory exists and may be written"),
    "SQLITE_IOERR": ("the disk could not be read or written", "see whether it is full or failing; back up the file"),
    "SQLITE_NOTADB": ("the file is not a database", "move it away, or put a backup in its place"),
}


class Sqlite(peewee.SqliteDatabase):
    """A SQLite file."""

    faults: tuple[type[Exception], ...] = (peewee.PeeweeException, sqlite3.Error)
    readers = 3
    writers = 1
    largest_group = 100  # the first of them waits for the last

    row_lock = ""
    """What ends a SELECT of rows that the unit of work may change. Only one unit at a time writes: nothing."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        """`durable`: what is committed survives a loss of power, not only of the process."""
        self.path = path
        pragmas = {"foreign_keys": 1, "synchronous": "full" if durable else "normal"}
        super().__init__(str(path), pragmas=pragmas, timeout=5)
        self._rested = time.monotonic()
        self._opened: tuple[int, int] | None = None

    @property
    def row_id_constraints(self) -> list[peewee.Node]:
        """For primary keys that clients see: the number of a deleted row is not given again."""
        return [peewee.SQL("AUTOINCREMENT")]

    def octets(self, text: str) -> str:
        """The SQL for how many bytes a text has."""
        return f"length(CAST({text} AS BLOB))"

    # --- opening ------------------------------------------------------------------------------------------------------

    def prepare(self, core: Path, plugins: Mapping[str, Path]) -> Mapping[str, DatabaseError]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._refuse_read_only()
            with self.connection_context():
                self._refuse_foreign()
                if self.path.stat().st_size <= _CHECKED_SIZE:
                    self._refuse_damaged()
                _patiently(partial(self.pragma, "journal_mode", "wal"))
                return self._migrate({histories.CORE: core, **plugins})
        except OSError as error:
            raise DatabaseError(
                f"{self.path}: {error.strerror}", hint="choose a directory that the server's user may write"
            ) from error
        except self.faults as error:
            raise self.explain(error) from error

    def _refuse_read_only(self) -> None:
        """SQLite would open it, and refuse the first answer."""
        if self.path.exists() and not os.access(self.path, os.W_OK):
            what, remedy = _CAUSES["SQLITE_READONLY"]
            raise DatabaseError(f"{self.path}: {what}", hint=remedy)

    def _refuse_foreign(self) -> None:
        with self.atomic():  # another process may be making the tables just now
            ours = self.application_id == APPLICATION_ID or not (self.application_id or self.get_tables())
        if not ours:
            raise self.foreign()

    def _refuse_damaged(self) -> None:
        found = self.pragma("quick_check(1)")
        if found != "ok":
            raise self.damaged(found)

    def foreign(self) -> DatabaseError:
        """The error that tells that the file is not ours."""
        return DatabaseError(
            f"{self.path} is the database of another program",
            hint="give chatcore a file of its own: 'database' in chatcore.toml, or --data for a new directory",
        )

    def damaged(self, found: str) -> DatabaseError:
        """The error that tells what is wrong with the file, and how to rescue it."""
        backups = sorted(self.path.parent.glob(f"{self.path.name}.before-*"), key=lambda path: path.stat().st_mtime)
        copy = f", or put the backup {backups[-1]} in its place" if backups else ""
        return DatabaseUnavailable(
            f"{self.path}: the database is damaged ({found})",
            hint=f'stop the server and rescue what can be read: sqlite3 {self.path} ".recover" | '
            f"sqlite3 {self.path}.recovered{copy}",
        )

    def _migrate(self, directories: Mapping[str, Path]) -> Mapping[str, DatabaseError]:
        runners, failed = histories.usable(self, directories, self._from_the_future)
        if histories.pending(runners):
            failed |= self._run_migrations(runners)
        return failed

    def _from_the_future(self, name: str, unknown: Sequence[str]) -> DatabaseError:
        return DatabaseError(
            f"{self.path} was written by a newer version of {name}: it has the migrations {', '.join(unknown)}",
            hint=f"upgrade {name}, or put the backup {self.path}.before-{name}-{unknown[0]} in its place",
        )

    def _run_migrations(self, runners: histories.Runners) -> histories.Failed:
        # Off, because rebuilding a table would delete what refers to it. Only possible outside a transaction.
        self.foreign_keys = 0
        try:
            with self.atomic("IMMEDIATE"):
                due = histories.pending(runners)  # again: now no other process can run them
                if due and self.application_id:
                    self._refuse_damaged()
                    self._back_up(due)
                failed = histories.run(self, runners, self._refuse_orphans)
                self.application_id = APPLICATION_ID
        finally:
            self.foreign_keys = 1
        return failed

    def _refuse_orphans(self) -> None:
        if broken := self.run("PRAGMA foreign_key_check").fetchone():
            raise DatabaseError(f"there are rows of {broken[0]} without the {broken[2]} they belong to")

    def _back_up(self, due: str) -> None:
        """Copies the database as it is before migration `due`. A later attempt replaces the copy."""
        target = self.path.with_name(f"{self.path.name}.before-{due}")
        partial = target.with_name(f"{target.name}.partial")
        partial.unlink(missing_ok=True)
        with closing(_pinned(self.path)) as source:
            _copy(source, partial)
        partial.replace(target)

    def copy_to(self, target: Path, *, at_that_moment: Callable[[], None]) -> None:
        """Copies the database, as it is at one moment, to a new file; whoever writes goes on meanwhile.

        `at_that_moment` is called then, while nobody can write.

        Raises:
            DatabaseError: the database cannot be read.
            OSError: the copy cannot be written.
        """
        try:
            with self.connection_context(), self.atomic("IMMEDIATE"):
                at_that_moment()
                source = _pinned(self.path)
            with closing(source):
                _copy(source, target)
        except self.faults as error:
            raise self.explain(error) from error

    # --- threads and transactions -------------------------------------------------------------------------------------

    def join(self, *, writes: bool) -> None:
        there = _identity(self.path)
        if there is None or there != (self._opened or there):  # what is open has no name: what is written there is lost
            raise DatabaseUnavailable(
                f"{self.path}: the file was moved, deleted or replaced while it was in use",
                hint="put it back, or restart the server, which uses what is there then",
            )
        if self.is_closed():
            bound.initialize(self)
            self.connect()
            self.pragma("query_only", int(not writes))
            self._opened = there  # it stays the same as long as a thread has it open, on any file system
            if writes:
                self.pragma("busy_timeout", 0)  # `begin` waits, and more evenly: SQLite would sleep ever longer

    def leave(self) -> None:
        self.close()
        bound.obj = None

    def unit(self, *, writes: bool) -> AbstractContextManager[object]:
        unit: AbstractContextManager[object] = self.transaction("IMMEDIATE" if writes else None)
        return unit

    def rest(self) -> None:
        """A writer that always has something to write pauses now and then, or other processes would never come in."""
        if time.monotonic() - self._rested > _TURN:
            time.sleep(_LOCK_PAUSE)
            self._rested = time.monotonic()

    def worth_repeating(self, error: BaseException) -> bool:
        """Never: where other processes are in the way, `begin` has waited for them."""
        return False

    def begin(self, lock_type: str | None = None) -> None:
        """Begins a transaction; waits for other processes that write."""
        _patiently(partial(self._session.execute, f"BEGIN {lock_type}" if lock_type else "BEGIN"))

    def commit(self) -> None:
        """Commits."""
        self._session.execute("COMMIT")

    def rollback(self) -> None:
        """Undoes the transaction, unless SQLite has done that by itself, as it does when it runs out of disk."""
        if self._session.in_transaction:
            super().rollback()

    @property
    def _session(self) -> sqlite3.Connection:
        """The calling thread's connection."""
        connection: sqlite3.Connection = self.connection()  # type: ignore[no-untyped-call]  # peewee's stub
        return connection

    def run(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        # Not through peewee, which takes longer than SQLite for what every turn does.
        for value in parameters:
            if type(value) is str and "\0" in value:
                raise nul_refused()
        return self._session.execute(sql, parameters)

    def execute_sql(self, sql: str, params: Sequence[object] | None = None) -> sqlite3.Cursor:
        """Runs a statement. Refuses a text that not every database can keep."""
        if any(isinstance(value, str) and "\0" in value for value in params or ()):
            raise nul_refused()
        cursor: sqlite3.Cursor = super().execute_sql(sql, params)  # type: ignore[no-untyped-call]  # peewee's stub
        return cursor

    def explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, self.faults):
            return error
        name = _name(error)
        if name.startswith("SQLITE_CORRUPT") or "decode to UTF-8" in str(error):
            return self.damaged(name or "text that is none")
        if known := _CAUSES.get("_".join(name.split("_")[:2])):
            return DatabaseUnavailable(f"{self.path}: {known[0]}", hint=known[1])
        return DatabaseError(f"{self.path}: {error}")

    # --- changes of others -------------------------------------------------------------------------------------------

    def announce(self, channel: str) -> None:
        """Nothing: whoever watches sees that the file has changed."""

    def follow(self, watch: Watch) -> None:
        """Looks whether any connection has committed something, while somebody waits for that."""
        known = None
        while not watch.closed:
            watch.until_awaited()
            with suppress(*self.faults, DatabaseError):  # whoever is told and reads is told the cause
                self.join(writes=False)
                seen = self.pragma("data_version")
                if seen != known:
                    known = seen
                    watch.tell()
            watch.pause(_LOOK_PAUSE)
        self.leave()

    # --- copying ------------------------------------------------------------------------------------------------------

    def own_tables(self) -> Set[str]:
        found = self.run("PRAGMA table_list").fetchall()  # schema, name, kind; the index has other kinds
        return {name for _, name, kind, *_ in found if kind == "table" and not name.startswith("sqlite_")}

    def shape(self, table: str) -> tuple[Sequence[str], Sequence[str], Set[str]]:
        return histories.shape(self, table)

    def rows(self, sql: str) -> Rows:
        return self.run(sql).fetchall()

    def portable_rows(self, table: str) -> Iterator[Rows]:
        columns, order, _ = self.shape(table)
        cursor = self.run(selection(table, [f'"{column}"' for column in columns], order))
        while rows := cursor.fetchmany(COPIED_AT_ONCE):
            yield rows

    def insert_rows(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        self._session.executemany(insertion(table, columns, ["?"] * len(columns)), rows)

    def row_ids(self) -> Mapping[str, int]:
        return dict(self.rows("SELECT name, seq FROM sqlite_sequence"))

    def set_row_ids(self, given: Mapping[str, int]) -> None:
        for table, number in given.items():
            self.run("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
            self.run("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    # --- search -------------------------------------------------------------------------------------------------------

    def create_search_index(self) -> None:
        """The index that `matching` reads, kept by triggers: of the titles, and of what users and models said."""
        self._index("conversation", "key", "title", "{row}.title IS NOT NULL")
        self._index("message", "id", "text", "{row}.text IS NOT NULL AND {row}.role IN ('user', 'assistant')")

    def _index(self, table: str, key: str, column: str, condition: str) -> None:
        index = f"{table}_search"
        add = f"INSERT INTO {index} (rowid, {column}) SELECT new.{key}, new.{column} WHERE {condition};"
        drop = (
            f"INSERT INTO {index} ({index}, rowid, {column}) "
            f"SELECT 'delete', old.{key}, old.{column} WHERE {condition};"
        )
        add, drop = add.format(row="new"), drop.format(row="old")
        self.run(
            f"CREATE VIRTUAL TABLE {index} USING fts5({column}, content='{table}', content_rowid='{key}', "
            "columnsize=0, tokenize='unicode61 remove_diacritics 2')"
        )
        self.run(f"CREATE TRIGGER {index}_insert AFTER INSERT ON {table} BEGIN {add} END")
        self.run(f"CREATE TRIGGER {index}_delete AFTER DELETE ON {table} BEGIN {drop} END")
        self.run(f"CREATE TRIGGER {index}_update AFTER UPDATE OF {column} ON {table} BEGIN {drop} {add} END")

    def matching(self, table: str, text: str) -> peewee.Node | None:
        """A subquery of the keys of the rows that have words beginning with all the words of `text`, in any order.

        None if there is no word in it. No character of it has a special meaning.
        """
        words = re.findall(r"\w+", text)[:_MOST_WORDS]
        if not words:
            return None
        index = f"{table}_search"
        pattern = " ".join(f'"{word}"*' for word in words)
        return peewee.SQL(f"(SELECT rowid FROM {index} WHERE {index} MATCH ?)", (pattern,))  # noqa: S608  names of ours


def _pinned(path: Path) -> sqlite3.Connection:
    """A connection that goes on seeing the database as it is now."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master")
    return connection


def _copy(source: sqlite3.Connection, target: Path) -> None:
    with closing(sqlite3.connect(target)) as copy:
        try:
            # In steps, between which Python looks whether it is to stop.
            source.backup(copy, pages=_COPIED_AT_ONCE, progress=lambda *_: None)
        except sqlite3.OperationalError as error:
            if _name(error) in ("SQLITE_FULL", "SQLITE_IOERR_WRITE"):  # only the copy is written to
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target)) from error
            raise


def _patiently(work: Callable[[], object]) -> None:
    """Does something again until no other process is in its way."""
    give_up = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            work()
        except (peewee.OperationalError, sqlite3.OperationalError) as error:
            if not _name(error).startswith("SQLITE_BUSY") or time.monotonic() > give_up:
                raise
            time.sleep(_LOCK_PAUSE)
        else:
            return


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file it is that has this name."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _name(error: BaseException) -> str:
    """SQLite's own name of an error, such as SQLITE_IOERR_WRITE. peewee keeps the error it had as `orig`."""
    return getattr(getattr(error, "orig", error), "sqlite_errorname", "")
