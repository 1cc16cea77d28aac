"""What a `Database` needs of the program that keeps its data."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from chatcore.database.watch import Watch
from chatcore.errors import DatabaseError


class Engine(Protocol):
    """One kind of database. Each thread that calls `join` has a connection of its own.

    A unit of work reaches it as `tables.bound`; what `tables.py` and the migrations call there is part of it, too:
    `row_lock`, `announce`, `row_id_constraints`, `create_search_index`, `matching`.
    """

    readers: int
    """How many threads read."""
    writers: int
    """How many threads write."""
    largest_group: int
    """How many units of work may share a transaction."""

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
