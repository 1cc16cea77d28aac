"""What a `Database` needs of the program that keeps its data."""

from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from chatcore.database.watch import Watch
from chatcore.errors import DatabaseError

Rows: TypeAlias = list[tuple[Any, ...]]
COPIED_AT_ONCE = 1000
"""Rows."""


class Cursor(Protocol):
    """What a statement has given, as DB-API 2.0 has it (PEP 249)."""

    @property
    def description(self) -> Sequence[Sequence[Any]] | None:
        """The columns, the name of each first; None if the statement gives no rows."""

    def fetchall(self) -> Rows:
        """The rows."""


class Engine(Protocol):
    """One kind of database. Each thread that calls `join` has a connection of its own.

    A unit of work reaches it as `tables.bound`; what `tables.py` and the migrations call there is part of it, too:
    `row_lock`, `announce`, `row_id_constraints`, `octets`, `create_search_index`, `matching`.
    """

    readers: int
    """How many threads read."""
    writers: int
    """How many threads write."""
    largest_group: int
    """How many units of work may share a transaction."""
    faults: tuple[type[Exception], ...]
    """What it, or peewee for it, raises when something is wrong: for `explain`."""

    def prepare(self, core: Path, plugins: Mapping[str, Path]) -> Mapping[str, DatabaseError]:
        """Makes the database ready: refuses what is not ours or not sound, and runs the migrations that are due.

        `core` and the values of `plugins` are directories of migrations. All of them are one transaction: of a
        process that is killed nothing remains, and of two that start together one waits. Gives the plugins whose
        migrations failed, undone, with the reason.

        Raises:
            DatabaseError: the database cannot be used.
        """

    def join(self, *, writes: bool) -> None:
        """Connects the calling thread, if it is not, and gives its models this database."""

    def leave(self) -> None:
        """Closes the calling thread's connection."""

    def unit(self, *, writes: bool) -> AbstractContextManager[object]:
        """The transaction of one or more units of work, in the calling thread.

        One that only reads sees the database as it was at one moment.
        """

    def rest(self) -> None:
        """Called by a thread that has written and has more to write."""

    def worth_repeating(self, error: BaseException) -> bool:
        """Whether the unit of work that failed may do better when it is run again."""

    def explain(self, error: BaseException) -> BaseException:
        """What a caller is told of an error of the engine's, with its remedy. Any other error stays as it is."""

    def follow(self, watch: Watch) -> None:
        """The thread that tells those who watch what units of work have announced, until the watch is closed."""

    def run(self, sql: str, parameters: Sequence[object] = ()) -> Cursor:
        """Runs a statement in the calling thread's connection, with `?` for each parameter."""

    # --- copying all of it, in the calling thread, which has called `connection_context` (see `copy.py`) --------------

    def connection_context(self) -> AbstractContextManager[object]:
        """Connects the calling thread, without waiting for anybody, until the end of the block."""

    def own_tables(self) -> Set[str]:
        """The tables, but for those that the engine fills by itself."""

    def shape(self, table: str) -> tuple[Sequence[str], Sequence[str], Set[str]]:
        """The columns of a table, those of its primary key, and the other tables that it refers to."""

    def rows(self, sql: str) -> Rows:
        """What a statement gives."""

    def portable_rows(self, table: str) -> Iterator[Rows]:
        """The rows of a table by primary key, some at a time, as every engine can take them: truth as 0 and 1, JSON as
        it was written."""

    def insert_rows(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        """Stores such rows."""

    def row_ids(self) -> Mapping[str, int]:
        """The highest number that was given to a row of each table, as far as that is kept."""

    def set_row_ids(self, given: Mapping[str, int]) -> None:
        """Sees that no such number is given again, nor one that a row has."""


def selection(table: str, columns: Sequence[str], order: Sequence[str]) -> str:
    """The statement that reads these columns, which may be expressions, of all rows."""
    by = ", ".join(f'"{column}"' for column in order)
    return f'SELECT {", ".join(columns)} FROM "{table}" ORDER BY {by}'  # noqa: S608  names of tables and columns


def insertion(table: str, columns: Sequence[str], values: Sequence[str]) -> str:
    """The statement that stores them. `values` are the places of the parameters."""
    names = ", ".join(f'"{column}"' for column in columns)
    return f'INSERT INTO "{table}" ({names}) VALUES ({", ".join(values)})'  # noqa: S608  as above
