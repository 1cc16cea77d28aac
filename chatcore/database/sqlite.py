"""SQLite: everything that only SQLite can run.

Another database needs a class with the public names of `Sqlite`; nothing else in chatcore knows which one it is.
"""

import re
import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import peewee
from playhouse.migrations import Runner  # type: ignore[import-untyped]  # playhouse has no type hints

from chatcore.database.tables import bound
from chatcore.database.watch import Watch
from chatcore.errors import DatabaseError

APPLICATION_ID = 0x63686174
"""The four bytes `chat` in the header of our files tell them from those of other programs."""

_CHECKED_SIZE = 64 * 2**20  # bytes; checking costs about 1 ms per MiB, at every start
_LOCK_PATIENCE = 30.0  # seconds; where SQLite waits by itself it waits 5
_LOCK_PAUSE = 0.001  # seconds; as long as a busy writer pauses, see `units.py`
_LOOK_PAUSE = 0.02  # seconds between two looks for changes, while somebody waits for one
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

_FAULTS = (peewee.PeeweeException, sqlite3.Error)


class Sqlite(peewee.SqliteDatabase):
    """A SQLite file. Each thread that calls `join` has a connection of its own."""

    def __init__(self, path: Path, *, durable: bool) -> None:
        """`durable`: what is committed survives a loss of power, not only of the process."""
        self.path = path
        pragmas = {"foreign_keys": 1, "synchronous": "full" if durable else "normal"}
        super().__init__(str(path), pragmas=pragmas, timeout=5)

    @property
    def row_id_constraints(self) -> list[peewee.Node]:
        """For primary keys that clients see: the number of a deleted row is not given again."""
        return [peewee.SQL("AUTOINCREMENT")]

    # --- opening ------------------------------------------------------------------------------------------------------

    def prepare(self, core: Path, plugins: Mapping[str, Path]) -> Mapping[str, DatabaseError]:
        """Makes the file ready: refuses what is not ours or not sound, and runs the migrations that are due.

        `core` and the values of `plugins` are directories of migrations. All of them are one transaction: of a
        process that is killed nothing remains, and of two that start together one waits. Gives the plugins whose
        migrations failed, undone, with the reason.

        Raises:
            DatabaseError: the file cannot be used.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.connection_context():
                self._refuse_foreign()
                if self.path.stat().st_size <= _CHECKED_SIZE:
                    self._refuse_damaged()
                _patiently(partial(self.pragma, "journal_mode", "wal"))
                return self._migrate({"chatcore": core, **plugins})
        except OSError as error:
            raise DatabaseError(
                f"{self.path}: {error.strerror}", hint="choose a directory that the server's user may write"
            ) from error
        except _FAULTS as error:
            raise self.explain(error) from error

    def _refuse_foreign(self) -> None:
        with self.atomic():  # another process may be making the tables just now
            ours = self.application_id == APPLICATION_ID or not (self.application_id or self.get_tables())
        if not ours:
            raise DatabaseError(
                f"{self.path} is the database of another program",
                hint="give chatcore a file of its own: 'database' in chatcore.toml, or --data for a new directory",
            )

    def _refuse_damaged(self) -> None:
        found = self.pragma("quick_check(1)")
        if found != "ok":
            raise self._damaged(found)

    def _damaged(self, found: str) -> DatabaseError:
        backups = sorted(self.path.parent.glob(f"{self.path.name}.before-*"), key=lambda path: path.stat().st_mtime)
        copy = f", or put the backup {backups[-1]} in its place" if backups else ""
        return DatabaseError(
            f"{self.path}: the database is damaged ({found})",
            hint=f'stop the server and rescue what can be read: sqlite3 {self.path} ".recover" | '
            f"sqlite3 {self.path}.recovered{copy}",
        )

    def _migrate(self, histories: Mapping[str, Path]) -> Mapping[str, DatabaseError]:
        runners = {
            name: Runner(self, str(directory), table_name=f"{name}_migrations") for name, directory in histories.items()
        }
        failed = {}
        for name in list(runners):
            if unknown := [entry.name for entry in runners[name].status() if entry.path is None]:
                failed[name] = self._from_the_future(name, unknown)
                del runners[name]
        if "chatcore" in failed:
            raise failed["chatcore"]
        if _pending(runners):
            failed |= self._run_migrations(runners)
        return failed

    def _from_the_future(self, name: str, unknown: Sequence[str]) -> DatabaseError:
        return DatabaseError(
            f"{self.path} was written by a newer version of {name}: it has the migrations {', '.join(unknown)}",
            hint=f"upgrade {name}, or put the backup {self.path}.before-{name}-{unknown[0]} in its place",
        )

    def _run_migrations(self, runners: Mapping[str, Runner]) -> dict[str, DatabaseError]:
        # Off, because rebuilding a table would delete what refers to it. Only possible outside a transaction.
        self.foreign_keys = 0
        try:
            with self.atomic("IMMEDIATE"):
                due = _pending(runners)  # again: now no other process can run them
                if due and self.application_id:
                    self._refuse_damaged()
                    self._back_up(due)
                failed = dict(filter(None, (self._run_history(name, runner) for name, runner in runners.items())))
                if broken := self.statement("PRAGMA foreign_key_check").fetchone():
                    raise DatabaseError(f"a migration left rows of {broken[0]} without the {broken[2]} they belong to")
                self.application_id = APPLICATION_ID
        finally:
            self.foreign_keys = 1
        return failed

    def _run_history(self, name: str, runner: Runner) -> tuple[str, DatabaseError] | None:
        try:
            with self.atomic():
                runner.up()
        except Exception as error:
            if name == "chatcore":
                raise
            # A migration is a plugin's code and may fail in any way; the others' must run all the same.
            failure = DatabaseError(f"the migrations of {name} failed and were undone: {error}")
            failure.__cause__ = error
            return name, failure
        return None

    def _back_up(self, due: str) -> None:
        """Copies the database as it is before migration `due`. A later attempt replaces the copy."""
        target = self.path.with_name(f"{self.path.name}.before-{due}")
        partial = target.with_name(f"{target.name}.partial")
        partial.unlink(missing_ok=True)
        with closing(sqlite3.connect(self.path)) as source, closing(sqlite3.connect(partial)) as copy:
            source.backup(copy)
        partial.replace(target)

    # --- threads and transactions -------------------------------------------------------------------------------------

    def join(self, *, writes: bool) -> None:
        """Connects the calling thread, if it is not, and gives its models this database."""
        if self.is_closed():
            bound.initialize(self)
            self.connect()
            self.pragma("query_only", int(not writes))
            if writes:
                self.pragma("busy_timeout", 0)  # `begin` waits, and more evenly: SQLite would sleep ever longer

    def leave(self) -> None:
        """Closes the calling thread's connection."""
        self.close()
        bound.obj = None

    def begin(self, lock_type: str | None = None) -> None:
        """Begins a transaction; waits for other processes that write."""
        _patiently(partial(super().begin, lock_type))

    def rollback(self) -> None:
        """Undoes the transaction, unless SQLite has done that by itself, as it does when it runs out of disk."""
        connection: sqlite3.Connection = self.connection()  # type: ignore[no-untyped-call]  # peewee's stub
        if connection.in_transaction:
            super().rollback()

    def statement(self, sql: str, parameters: Sequence[object] = ()) -> sqlite3.Cursor:
        """Runs one statement in the calling thread's connection."""
        cursor: sqlite3.Cursor = self.execute_sql(sql, parameters)  # type: ignore[no-untyped-call]  # peewee's stub
        return cursor

    def explain(self, error: BaseException) -> BaseException:
        """The DatabaseError that tells of an error of SQLite, with its remedy. Any other error stays as it is."""
        if not isinstance(error, _FAULTS):
            return error
        name = _name(error)
        if name.startswith("SQLITE_CORRUPT") or "decode to UTF-8" in str(error):
            return self._damaged(name or "text that is none")
        what, remedy = _CAUSES.get("_".join(name.split("_")[:2]), (str(error), None))
        return DatabaseError(f"{self.path}: {what}", hint=remedy)

    # --- changes of others -------------------------------------------------------------------------------------------

    def announce(self, channel: str) -> None:
        """Nothing: whoever watches sees that the file has changed."""

    def follow(self, watch: Watch) -> None:
        """The thread that tells those who watch that some connection has committed something."""
        known = None
        while watch.until_awaited():
            with suppress(peewee.PeeweeException):  # whoever is told and reads is told the cause
                self.join(writes=False)
                seen = self.pragma("data_version")
                if seen != known:
                    known = seen
                    watch.tell()
            time.sleep(_LOOK_PAUSE)
        self.leave()

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
        self.statement(
            f"CREATE VIRTUAL TABLE {index} USING fts5({column}, content='{table}', content_rowid='{key}', "
            "columnsize=0, tokenize='unicode61 remove_diacritics 2')"
        )
        self.statement(f"CREATE TRIGGER {index}_insert AFTER INSERT ON {table} BEGIN {add} END")
        self.statement(f"CREATE TRIGGER {index}_delete AFTER DELETE ON {table} BEGIN {drop} END")
        self.statement(f"CREATE TRIGGER {index}_update AFTER UPDATE OF {column} ON {table} BEGIN {drop} {add} END")

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


def _patiently(work: Callable[[], object]) -> None:
    """Does something again until no other process is in its way."""
    give_up = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            work()
        except peewee.OperationalError as error:
            if not _name(error).startswith("SQLITE_BUSY") or time.monotonic() > give_up:
                raise
            time.sleep(_LOCK_PAUSE)
        else:
            return


def _pending(runners: Mapping[str, Runner]) -> str | None:
    """The first migration that is due, with its history's name."""
    due = (f"{name}-{entry.name}" for name, runner in runners.items() for entry in runner.status() if not entry.applied)
    return next(due, None)


def _name(error: BaseException) -> str:
    """SQLite's own name of an error, such as SQLITE_IOERR_WRITE. peewee keeps the error it had as `orig`."""
    return getattr(getattr(error, "orig", error), "sqlite_errorname", "")
