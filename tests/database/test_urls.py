"""The URLs of databases: what they name, and which are refused."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from chatcore.database import Database, sqlite_file
from chatcore.errors import ConfigError, DatabaseError


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("data/x.db", "data/x.db"),
        ("sqlite:///data/x.db", "data/x.db"),
        ("sqlite:////srv/x.db", "/srv/x.db"),
        ("sqlite:///my%20data/x.db", "my data/x.db"),
        ("100%25.db", "100%25.db"),
        ("postgresql://ann:se:cr@et@db.example:5433/chat?sslmode=require", "postgresql://db.example:5433/chat"),
        ("postgres:///chat?password=secret", "postgres:///chat"),
    ],
)
def test_what_a_url_names(url: str, name: str) -> None:
    """A plain path is taken as it is, that of a URL is unquoted, and four slashes make it absolute; a server is called
    by its address, without secrets."""
    with pytest.raises(DatabaseError, match="not open") as caught:
        asyncio.run(Database(url).write(lambda: None))
    assert str(caught.value).startswith(f"{name} ")
    assert sqlite_file(url) == (None if "postgres" in url else Path(name))


@pytest.mark.parametrize(
    "url",
    [
        "",
        ":memory:",
        "sqlite:///:memory:",
        "sqlite:///",
        "sqlite://data/x.db",
        "sqlite:///x.db?mode=ro",
        "mysql://u:secret@h/d",
        "postgresql://u:secret@[h/d",
        "a\0b",
    ],
)
def test_url_that_cannot_be_used(url: str) -> None:
    """Anything else is refused at once, without printing a password."""
    with pytest.raises(ConfigError) as caught:
        Database(url)
    assert caught.value.hint
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["postgresql://u:secret%@h/d", "postgresql://u:secret@h/d?sslnode=require"])
async def test_url_that_psycopg_cannot_read(url: str) -> None:
    """What is wrong in a URL of PostgreSQL is known when it is opened; the password is not printed then either."""
    with pytest.raises(ConfigError) as caught:
        await Database(url).open()
    assert "%40" in (caught.value.hint or "")
    assert "secret" not in f"{caught.value}{caught.value.__cause__}"


def test_psycopg_is_not_installed() -> None:
    """Without psycopg everything works but PostgreSQL, and that says what to install."""
    code = (
        "import asyncio, sys; sys.modules['psycopg'] = None\n"
        "from chatcore.database import Database\n"
        "from chatcore.errors import ConfigError\n"
        "try: asyncio.run(Database('postgresql://h/d').open())\n"
        "except ConfigError as error: print(error, error.hint)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "needs psycopg" in done.stdout
    assert "chatcore[postgres]" in done.stdout
