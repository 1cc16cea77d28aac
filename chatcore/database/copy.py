"""Copies a database to another one, of whatever kind: so that one can begin with a file, and move to a server and back.

All of it is one transaction there. What was written is read back before it is committed, and compared with what was
read: the number of the rows of each table, and the sum of their SHA-256, which no order of rows changes.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import attrs
import msgspec

from chatcore.database import histories
from chatcore.database.engine import Engine
from chatcore.database.examine import examine
from chatcore.database.tables import microseconds
from chatcore.database.urls import engine_for, sqlite_file
from chatcore.errors import DatabaseError

_CORE = Path(__file__).with_name("migrations")
_HISTORY = "_migrations"


@attrs.define
class _Sum:
    """The number of rows, and the sum of their hashes."""

    count: int = 0
    hashes: int = 0

    def add(self, rows: Sequence[Sequence[Any]]) -> None:
        self.count += len(rows)
        for row in rows:
            self.hashes += int.from_bytes(hashlib.sha256(msgspec.msgpack.encode(row)).digest(), "big")


def copy(
    source: str, target: str, migrations: Mapping[str, Path], *, at_that_moment: Callable[[], None] | None = None
) -> Mapping[str, int]:
    """Copies everything to the database `target`, where there may be tables, but no rows in them. `migrations` are as
    in `Database.open`. Gives the number of rows by table.

    With `at_that_moment`, a server may go on using the source: this is called when it is seen as it is to be copied.

    Raises:
        DatabaseError: the source is none, damaged, or a server uses it; the two do not have the same tables; the target
            is not empty; or what arrived there is not what was sent. Nothing was stored then.
        ConfigError: a URL cannot be used.
    """
    (name, make), (new_name, make_new) = (engine_for(url, durable=True) for url in (source, target))
    if name == new_name:
        raise DatabaseError(f"{name} is both source and target", hint="name another target")
    if (file := sqlite_file(source)) is not None:
        examine(file)  # or connecting to it would make one
    with _reading(make()) as old:
        _refuse_unready(old, name, may_be_in_use=at_that_moment is not None)
        if at_that_moment:
            at_that_moment()
        new = make_new()
        if failed := new.prepare(_CORE, migrations):
            raise next(iter(failed.values()))
        with _told(new), new.connection_context(), new.unit(writes=True):
            tables = _same_tables(old, new, name)
            if full := [table for table in tables if new.rows(f'SELECT 1 FROM "{table}" LIMIT 1')]:  # noqa: S608
                raise DatabaseError(f"{new_name} has data already, in {full[0]}", hint="copy to a new database")
            counts = {table: _copy_table(old, new, table) for table in tables}
            new.set_row_ids(old.row_ids())
    return counts


@contextmanager
def _reading(engine: Engine) -> Iterator[Engine]:
    """An engine that sees the database as it is now, until the end of the block."""
    with _told(engine), engine.connection_context(), engine.unit(writes=False):
        yield engine


@contextmanager
def _told(engine: Engine) -> Iterator[None]:
    try:
        yield
    except engine.faults as error:
        raise engine.explain(error) from error


def _refuse_unready(old: Engine, name: str, *, may_be_in_use: bool) -> None:
    if f"{histories.CORE}{_HISTORY}" not in old.own_tables():
        raise DatabaseError(f"{name} is not a database of chatcore", hint="'chatcore config' prints where it is")
    if not may_be_in_use and old.rows(f"SELECT 1 FROM job WHERE until > {microseconds(datetime.now(UTC))}"):  # noqa: S608  a number
        raise DatabaseError(
            f"a server uses {name}: what it writes from now on would be missing",
            hint="stop it first; after one that was killed, wait for 15 s",
        )


def _same_tables(old: Engine, new: Engine, name: str) -> Sequence[str]:
    """The tables to be copied: what others refer to comes before them."""
    there, here = old.own_tables(), new.own_tables()
    for table in sorted(there):
        if table not in here:
            plugin = table.partition("_")[0]
            raise DatabaseError(f"{name} has a table {table} that the target has not", hint=f"is {plugin!r} installed?")
        query = f'SELECT name FROM "{table}" ORDER BY name'  # noqa: S608  a table's name
        if table.endswith(_HISTORY) and old.rows(query) != new.rows(query):
            of = table.removesuffix(_HISTORY)
            raise DatabaseError(
                f"{name} was written by another version of {of}", hint="start this version with it once"
            )
    copied = {table for table in there if not table.endswith(_HISTORY)}
    references = {table: new.shape(table)[2] for table in sorted(copied)}
    return [table for table in TopologicalSorter(references).static_order() if table in copied]


def _copy_table(old: Engine, new: Engine, table: str) -> int:
    columns, *_ = old.shape(table)
    sent, arrived = _Sum(), _Sum()
    for rows in old.portable_rows(table):
        sent.add(rows)
        new.insert_rows(table, columns, rows)
    for rows in new.portable_rows(table):
        arrived.add(rows)
    if sent != arrived:
        raise DatabaseError(
            f"the rows of {table} did not arrive as they were sent: {arrived.count} of {sent.count} are there",
            hint="nothing was stored; its columns may be of a kind that the target keeps in another form",
        )
    return sent.count
