"""Looks at a SQLite file without changing it: whether it is ours and sound, and what was migrated in it."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

import attrs

from chatcore.database.sqlite import APPLICATION_ID, Sqlite
from chatcore.errors import DatabaseError

_TABLES = r"SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE '%\_migrations' ESCAPE '\'"


@attrs.frozen(kw_only=True)
class Examined:
    """A sound database. `log_size` is the size of what is not in the file itself yet. `migrations` are those that were
    run, by history: of `chatcore`, and of each plugin with tables. A file that is still empty has none."""

    size: int
    log_size: int
    migrations: Mapping[str, Sequence[str]]


def examine(path: Path, *, thorough: bool = False) -> Examined:
    """What there is to know of a database, which may be in use. `thorough` compares every index with its table, and
    every reference with what it refers to, which takes longer.

    Raises:
        DatabaseError: there is no such file, or it is not ours, or damaged.
    """
    engine = Sqlite(path, durable=False)
    if not path.is_file():
        raise DatabaseError(f"{path}: there is no such file", hint="see where 'chatcore config' has the database")
    log = path.with_name(f"{path.name}-wal")
    # Where there is no log nobody writes, and SQLite need not make the files that it shares with others.
    mode = "mode=ro" if log.exists() else "mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path.absolute()))}?{mode}", uri=True)) as connection:
            engine.refuse_foreign(*_signature(connection))
            _refuse_damaged(engine, connection, thorough=thorough)
            migrations = _migrations(connection)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise engine.explain(error) from error
    return Examined(
        size=path.stat().st_size, log_size=log.stat().st_size if log.exists() else 0, migrations=migrations
    )
