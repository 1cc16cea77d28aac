"""Looks at a database without changing it: whether it is ours and sound, and what was migrated in it."""

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import attrs

from chatcore.database.histories import CORE
from chatcore.database.sqlite import APPLICATION_ID, Sqlite
from chatcore.database.urls import engine_for
from chatcore.errors import DatabaseError

_CORE = Path(__file__).with_name("migrations")
_SERVER = (
    "SELECT current_setting('server_version'), pg_database_size(current_database()), "
    "extract(epoch from clock_timestamp())"
)
_HISTORIES = r"SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%\_migrations' ESCAPE '\'"


@attrs.frozen(kw_only=True)
class Examined:
    """A sound database. `log_size` is the size of what is not in the file itself yet. `migrations` are those that were
    run, by history: of `chatcore`, and of each plugin with tables. An empty file has none."""

    size: int
    log_size: int
    migrations: Mapping[str, Sequence[str]]


def examine(path: Path, *, thorough: bool = False) -> Examined:
    """What there is to know of a database, which may be in use. `thorough` compares indexes with their tables and
    references with what they refer to, which takes longer.

    Raises:
        DatabaseError: there is no such file; it is not ours, or damaged.
    """
    if not path.is_file():
        raise DatabaseError(f"{path}: there is no such file", hint="'chatcore config' prints where the database is")
    engine = Sqlite(path, durable=False)
    log = path.with_name(f"{path.name}-wal")
    # Where there is no log nobody writes, and SQLite need not make the files that connections share.
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)) as connection:
            _refuse_unusable(engine, connection, thorough=thorough)
            migrations = _migrations(connection)
    except sqlite3.Error as error:
        raise engine.explain(error) from error
    log_size = log.stat().st_size if log.exists() else 0
    return Examined(size=path.stat().st_size, log_size=log_size, migrations=migrations)


@attrs.frozen(kw_only=True)
class Server:
    """A database of a PostgreSQL server. `name` is what it is called in messages, `ahead` by how many seconds the
    server's clock is ahead of ours."""

    name: str
    version: str
    size: int
    ahead: float
    migrations: Sequence[str]


def examine_server(url: str) -> Server:
    """What there is to know of a database of PostgreSQL. Of its soundness its server knows more.

    Raises:
        ConfigError: the URL cannot be used, or psycopg is not there.
        DatabaseError: it cannot be read.
    """
    name, make = engine_for(url, durable=False)
    engine = make()
    try:
        with engine.connection_context(), engine.unit(writes=False):
            before = time.time()
            [(version, size, now)] = engine.rows(_SERVER)
            ahead = float(now) - (before + time.time()) / 2
            tables = engine.own_tables()
            ours = f"{CORE}_migrations" in tables
            applied = engine.rows(f"SELECT name FROM {CORE}_migrations ORDER BY name") if ours else []  # noqa: S608
    except engine.faults as error:
        raise engine.explain(error) from error
    if tables and not ours:
        raise DatabaseError(f"{name} is the database of another program", hint="give chatcore one of its own")
    return Server(name=name, version=version, size=size, ahead=ahead, migrations=[row[0] for row in applied])


def history(directory: Path = _CORE) -> Sequence[str]:
    """The names of the migrations in a directory, in their order: of the core's, if none is named."""
    return sorted(path.stem for path in directory.glob("[0-9]*.py"))


def _refuse_unusable(engine: Sqlite, connection: sqlite3.Connection, *, thorough: bool) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (objects,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (application or objects):
        raise engine.foreign()
    check = "integrity_check" if thorough else "quick_check"
    (found,) = connection.execute(f"PRAGMA {check}(1)").fetchone()
    if found != "ok":
        raise engine.damaged(found)
    if thorough and (broken := connection.execute("PRAGMA foreign_key_check").fetchone()):
        raise engine.damaged(f"rows of {broken[0]} lack the {broken[2]} that they belong to")


def _migrations(connection: sqlite3.Connection) -> Mapping[str, Sequence[str]]:
    tables = [name for (name,) in connection.execute(_HISTORIES)]
    return {
        table.removesuffix("_migrations"): [
            name
            for (name,) in connection.execute(f'SELECT name FROM "{table}" ORDER BY name')  # noqa: S608  a table's
        ]
        for table in tables
    }
