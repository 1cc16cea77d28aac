"""Copies of databases (chatcore/database/copy.py), from SQLite to PostgreSQL and back."""

import sqlite3
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatcore.database import Conversations, Database, Documents, Jobs, LogRow, Runs, Tokens
from chatcore.database.copy import copy
from chatcore.database.engine import Engine
from chatcore.database.sqlite import Sqlite
from chatcore.database.urls import engine_for
from chatcore.errors import DatabaseError
from chatcore.types import Principal

ANN = Principal("ann")
OWN = """
import peewee


def up(migrator, db):
    class Note(peewee.Model):
        text = peewee.CharField()
        done = peewee.BooleanField()
        size = peewee.DoubleField(null=True)
        data = peewee.BlobField()

        class Meta:
            database = db
            table_name = "notes_note"

    db.create_tables([Note])
"""


@pytest.fixture
def migrations(tmp_path: Path) -> Mapping[str, Path]:
    """Those of a plugin with a table, and rows in it."""
    directory = tmp_path / "notes"
    directory.mkdir()
    (directory / "0001_notes.py").write_text(OWN)
    return {"notes": directory}


@pytest.fixture
async def source(tmp_path: Path, migrations: Mapping[str, Path], new_run: Any, user: Any, answer: Any) -> str:
    """A database with something of everything."""
    url = str(tmp_path / "source.db")
    database = Database(url)
    await database.open(migrations)
    conversations, runs = Conversations(database), Runs(database)
    for number in range(3):
        run = new_run(f"r{number}")
        begun = await conversations.begin(ANN, conversation_id=f"c{number}", messages=[user("Ä \U0001f642 ?")], run=run)
        stored = await conversations.add_answer(
            ANN, f"c{number}", begun.path[-1].id, answer(None, "look", run_id=run.id)
        )
        await conversations.finish_tool(ANN, stored[-1].id, "[]", is_error=False, metadata={"b": 1.50, "a": [None]})
        await runs.journal("here", [LogRow(run.id, 1, 2, b"\0\xff")])
        await runs.settle("here", [LogRow(run.id, 1, 2, b"\0\xff")])
        await runs.finish(run.id, "completed", "stop", 2)
    await conversations.save(ANN, "c0")
    await conversations.delete(ANN, "c2", even_saved=True)
    await Documents(database).put(ANN, "n", "k", {"z": 1, "a": "\N{SNOWMAN}"})
    await Tokens(database).create("ann", "phone", ["chat"])
    await database.close()
    with closing(sqlite3.connect(url)) as connection, connection:
        insert = "INSERT INTO notes_note (text, done, size, data) VALUES (?, ?, ?, ?)"
        connection.executemany(insert, [("b", True, 0.1, b"\0\xff"), ("a", False, None, b"")])
    return url


def everything(url: str) -> Mapping[str, Any]:
    """The rows of all tables, as they are copied, and the numbers that were given."""
    engine: Engine = engine_for(url, durable=False)[1]()
    with engine.connection_context(), engine.unit(writes=False):
        tables = {table: [row for some in engine.portable_rows(table) for row in some] for table in engine.own_tables()}
        given = {table: number for table, number in engine.row_ids().items() if number}
    return {**{table: rows for table, rows in tables.items() if not table.endswith("_migrations")}, "given": given}


@pytest.mark.slow
async def test_there_and_back(
    source: str, empty_postgres_url: str, tmp_path: Path, migrations: Mapping[str, Path], user: Any
) -> None:
    """Everything arrives as it was, plugins' tables and the numbers of deleted rows among it; the search finds it."""
    counts = copy(source, empty_postgres_url, migrations)
    back = str(tmp_path / "back.db")
    assert copy(empty_postgres_url, back, migrations) == counts
    assert counts["message"] == 6
    assert counts["notes_note"] == 2
    before, there, after = (everything(url) for url in (source, empty_postgres_url, back))
    assert {**there, "given": ()} == {**before, "given": ()} == {**after, "given": ()}
    for name in ("conversation", "message"):
        assert before["given"][name] == there["given"][name] == after["given"][name]
    for url in (empty_postgres_url, back):
        database = Database(url)
        await database.open(migrations)
        conversations = Conversations(database)
        assert [row.conversation.id for row in await conversations.list_saved(ANN, search="ä")] == ["c0"]
        begun = await conversations.path(ANN, "c1")
        assert begun[0].message.content == "Ä \U0001f642 ?"
        await conversations.save(ANN, "new")
        await database.close()
    with closing(sqlite3.connect(back)) as connection:
        assert connection.execute("SELECT key FROM conversation WHERE id = 'new'").fetchall() == [(4,)]
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


async def test_what_cannot_be_copied_is_refused(
    source: str, tmp_path: Path, migrations: Mapping[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source that a server uses, or of another version, or with tables of a plugin that is not there; a target with
    data; and what does not arrive. The target has nothing of it then."""
    target = str(tmp_path / "target.db")
    for url, given, what in (
        (str(tmp_path / "nowhere.db"), migrations, "there is no such file"),
        (source, {}, "has a table notes_"),
    ):
        with pytest.raises(DatabaseError, match=what):
            copy(url, target, given)
    assert not (tmp_path / "nowhere.db").exists()
    with pytest.raises(DatabaseError, match="both source and target"):
        copy(source, source, migrations)
    (tmp_path / "target.db").unlink()
    with closing(sqlite3.connect(source)) as connection, connection:
        [(last,)] = connection.execute("SELECT max(name) FROM chatcore_migrations").fetchall()
        connection.execute("UPDATE chatcore_migrations SET name = '9999_later' WHERE name = ?", (last,))
    with pytest.raises(DatabaseError, match="was written by another version of chatcore"):
        copy(source, target, migrations)
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("UPDATE chatcore_migrations SET name = ? WHERE name = '9999_later'", (last,))
    database = Database(source)
    await database.open(migrations)
    await Jobs(database).claim("clean_up", "here", datetime.now(UTC) + timedelta(seconds=15))
    with pytest.raises(DatabaseError, match="a server uses"):
        copy(source, target, migrations)
    await Jobs(database).release("here")
    await database.close()
    insert = Sqlite.insert_rows
    with monkeypatch.context() as patch:
        patch.setattr(Sqlite, "insert_rows", lambda db, table, columns, rows: insert(db, table, columns, rows[:-1]))
        with pytest.raises(DatabaseError, match="did not arrive as they were sent"):
            copy(source, target, migrations)
    assert not any(rows for rows in everything(target).values())
    copy(source, target, migrations)
    with pytest.raises(DatabaseError, match="has data already"):
        copy(source, target, migrations)


async def test_what_a_database_says_is_told_in_our_words(source: str, tmp_path: Path) -> None:
    """A table that somebody took out is an error of the command, not a traceback."""
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("DROP TABLE job")
    with pytest.raises(DatabaseError, match=r"source\.db: no such table: job"):
        copy(source, str(tmp_path / "target.db"), {})
