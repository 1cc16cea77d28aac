"""From the URL of a database to the engine that opens it."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import unquote, urlsplit

from chatcore.database.engine import Engine
from chatcore.errors import ConfigError

_POSTGRES = ("postgresql", "postgres")
_POSTGRES_URL = "postgresql://USER:PASSWORD@HOST/NAME"
_ANY_URL = f"write a path, sqlite:///PATH or {_POSTGRES_URL}"


def engine_for(url: str, *, durable: bool) -> tuple[str, Callable[[], Engine]]:
    """What a database is called in messages, and what makes its engine, of which importing takes a while.

    Raises:
        ConfigError: the URL cannot be used.
    """
    path = sqlite_file(url)
    if path is not None:
        return str(path), partial(_sqlite, path, durable=durable)
    return _without_secrets(url), partial(_postgres, url, durable=durable)


def sqlite_file(url: str) -> Path | None:
    """The file that a database URL names; None if the database is not in a file. Raises ConfigError."""
    scheme, separator, rest = url.partition("://")
    if separator and scheme in _POSTGRES:
        return None
    if not separator:
        path = url
    elif scheme == "sqlite" and rest.startswith("/") and "?" not in rest:
        path = unquote(rest[1:])
    else:
        # Without the rest of it, which may hold a password.
        raise ConfigError(f"the database URL {scheme}://… cannot be used", hint=_ANY_URL)
    if path in ("", ":memory:") or "\0" in path:
        raise ConfigError("the database URL names no file", hint=_ANY_URL)
    return Path(path)


def unreadable() -> ConfigError:
    """The error for a URL of PostgreSQL that cannot be read. Its text is not told: it may hold a password."""
    return ConfigError(
        "the database URL cannot be read",
        hint=f"write {_POSTGRES_URL}; in a user or password, write %40 for @, %2F for / and %25 for %",
    )


def _without_secrets(url: str) -> str:
    """A URL without user, password and options."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise unreadable() from error
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _sqlite(path: Path, *, durable: bool) -> Engine:
    from chatcore.database.sqlite import Sqlite  # noqa: PLC0415  commands that need no database do not pay for it

    return Sqlite(path, durable=durable)


def _postgres(url: str, *, durable: bool) -> Engine:
    try:
        from chatcore.database.postgres import Postgres  # noqa: PLC0415  as above, and it may not be installed
    except ImportError as error:
        raise ConfigError(
            f"a PostgreSQL database needs psycopg, which cannot be imported: {error}",
            hint="pip install 'chatcore[postgres]'",
        ) from error
    return Postgres(url, _without_secrets(url), durable=durable)
