"""The histories of migrations, each in a table `NAME_migrations`: the core's, and one for each plugin with tables."""

from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import peewee

from chatcore.errors import DatabaseError

if TYPE_CHECKING:
    from playhouse.migrations import Runner  # type: ignore[import-untyped]  # playhouse has no type hints

CORE = "chatcore"
"""The name of the core's own history."""

Runners: TypeAlias = "Mapping[str, Runner]"
"""What runs the migrations of each history that is not up to date."""
Failed: TypeAlias = dict[str, DatabaseError]
"""The histories of plugins that cannot be used, with the reason."""


def usable(
    database: peewee.Database, directories: Mapping[str, Path], newer: Callable[[str, Sequence[str]], DatabaseError]
) -> tuple[Runners, Failed]:
    """The histories in which something is due and whose migrations this version knows, and those with others, with what
    `newer` makes of their name and the unknown migrations.

    Raises:
        DatabaseError: the core's has others.
    """
    runners: dict[str, Runner] = {}
    failed: Failed = {}
    for name, directory in directories.items():
        if _is_up_to_date(database, name, directory):
            continue
        runner = _runner(database, name, directory)
        if unknown := [entry.name for entry in runner.status() if entry.path is None]:
            failed[name] = newer(name, unknown)
        else:
            runners[name] = runner
    if CORE in failed:
        raise failed[CORE]
    return runners, failed


def _is_up_to_date(database: peewee.Database, name: str, directory: Path) -> bool:
    """Whether exactly the migrations of a directory were run, as nearly always. A start then does without the runner,
    which takes longer to import than the database to open."""
    if not database.table_exists(_table(name)):
        return False
    history = peewee.Table(_table(name))
    applied = {row[0] for row in history.select(history.c.name).tuples().execute(database)}
    return applied == {path.stem for path in directory.glob("[0-9]*.py")}


def _runner(database: peewee.Database, name: str, directory: Path) -> "Runner":
    from playhouse.migrations import Runner  # noqa: PLC0415  slow, see above

    return Runner(database, str(directory), table_name=_table(name))


def _table(name: str) -> str:
    return f"{name}_migrations"


def pending(runners: Runners) -> str | None:
    """The first migration that is due, with its history's name."""
    due = (f"{name}-{entry.name}" for name, runner in runners.items() for entry in runner.status() if not entry.applied)
    return next(due, None)


def run(database: peewee.Database, runners: Runners, check: Callable[[], None] = lambda: None) -> Failed:
    """Runs what is due, within a transaction. Of a plugin's history that fails, nothing remains; `check` raises where
    one has left what must not stay."""
    return dict(filter(None, (_run_one(database, name, runner, check) for name, runner in runners.items())))


def _run_one(
    database: peewee.Database, name: str, runner: "Runner", check: Callable[[], None]
) -> tuple[str, DatabaseError] | None:
    try:
        with database.atomic():
            runner.up()
            check()
    except Exception as error:
        if name == CORE:
            raise
        # A migration is a plugin's code and may fail in any way; the others' must run all the same.
        failure = DatabaseError(f"the migrations of {name} failed and were undone: {error}")
        failure.__cause__ = error
        return name, failure
    return None


def shape(database: peewee.Database, table: str) -> tuple[Sequence[str], Sequence[str], Set[str]]:
    """The columns of a table, those of its primary key, and the other tables that it refers to."""
    columns = [column.name for column in database.get_columns(table)]
    references = {key.dest_table for key in database.get_foreign_keys(table)} - {table}
    return columns, database.get_primary_keys(table), references
