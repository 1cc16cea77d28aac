"""Looking at a database file, and leaving it as it is."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import psycopg
import pytest

from chatcore.database import Database, Documents
from chatcore.database.examine import examine, examine_server, history
from chatcore.errors import DatabaseError
from chatcore.types import Principal

ANN = Principal("ann")


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A closed database with content."""
    path = tmp_path / "a directory?" / "chatcore.db"  # a name that means something in a URL
    database = Database(str(path))
    await database.open()
    await Documents(database).put(ANN, "n", "k", "x" * 10_000)
    await database.close()
    return path


@contextmanager
def unchanged(directory: Path) -> Iterator[None]:
    """The files of a directory are the same afterwards, but for the memory that connections share."""

    def files() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in directory.iterdir() if p.is_file() and not p.name.endswith("-shm")}

    before = files()
    yield
    assert files() == before


def test_a_sound_database(path: Path) -> None:
    """Its size, and the migrations of every history."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE notes_migrations (name); INSERT INTO notes_migrations VALUES ('0001_a')")
    with unchanged(path.parent):
        examined = examine(path, thorough=True)
    assert list(path.parent.iterdir()) == [path]
    assert (examined.size, examined.log_size) == (path.stat().st_size, 0)
    assert examined.migrations == {"chatcore": history(), "notes": ["0001_a"]}


async def test_a_database_in_use(path: Path) -> None:
    """What is in the log only is seen, too."""
    database = Database(str(path))
    await database.open()
    try:
        await database.write(lambda: None)
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("INSERT INTO chatcore_migrations (name, applied) VALUES ('0099_new', '2030-01-01')")
            connection.commit()
            with unchanged(path.parent):
                examined = examine(path)
    finally:
        await database.close()
    assert examined.log_size > 0
    assert examined.migrations["chatcore"][-1] == "0099_new"


def test_an_empty_file(tmp_path: Path) -> None:
    """It is taken for a new database by the server, so nothing is wrong with it."""
    path = tmp_path / "empty.db"
    path.touch()
    assert examine(path).migrations == {}


def test_what_cannot_be_used(tmp_path: Path, path: Path) -> None:
    """Each kind of file that the server refuses is told as the server tells it, and stays as it is."""
    sound = path.read_bytes()
    files = {
        "nowhere.db": (None, "no such file"),
        "diary.db": (b"Dear diary, " * 1000, "not a database"),
        "cut.db": (sound[:-8192], "damaged"),
        "header.db": (b"SQLite format 4" + sound[15:], "not a database"),
        "middle.db": (sound[:8192] + b"\xff" * 4096 + sound[12288:], "damaged"),
    }
    for name, (content, _) in files.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    with closing(sqlite3.connect(tmp_path / "foreign.db")) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    for name, told in {**{name: told for name, (_, told) in files.items()}, "foreign.db": "another program"}.items():
        with unchanged(tmp_path), pytest.raises(DatabaseError, match=told) as caught:
            examine(tmp_path / name)
        assert caught.value.hint


def test_only_a_thorough_look_compares_references(path: Path) -> None:
    """A row that lacks what it belongs to."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "INSERT INTO message (conversation_id, role, state, created_at) VALUES (99, 'user', 'complete', 0)"
        )
        connection.commit()
    examine(path)
    with pytest.raises(DatabaseError, match="rows of message lack the conversation"):
        examine(path, thorough=True)


def test_a_database_of_a_server(postgres_url: str, empty_postgres_url: str) -> None:
    """One that is ours, a new one, and another program's, which is told."""
    assert list(examine_server(postgres_url).migrations) == history()
    assert examine_server(empty_postgres_url).migrations == []
    with psycopg.connect(empty_postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE bookmarks (url text)")
    with pytest.raises(DatabaseError, match="another program"):
        examine_server(empty_postgres_url)
