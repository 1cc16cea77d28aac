"""PostgreSQL: everything that only PostgreSQL can run.

Units of work run side by side, also those of several processes. `READ COMMITTED` and `tables.locked` keep them apart:
every unit that changes a conversation has locked its row when it looked it up, so those of one conversation come one
after the other; and what two units insert at once is refused to the second, which is run again and finds it.
"""

import re
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import attrs
import msgspec
import peewee
import psycopg
from psycopg.adapt import Dumper, PyFormat
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus
from psycopg.types.json import Json, set_json_loads
from psycopg.types.numeric import IntDumper

from chatcore.database import histories
from chatcore.database.engine import COPIED_AT_ONCE, Rows, insertion, selection
from chatcore.database.tables import bound, nul_refused
from chatcore.database.urls import unreadable
from chatcore.database.watch import Watch
from chatcore.errors import DatabaseError, DatabaseUnavailable, RequestError

OLDEST = 13
"""The oldest version of the server that will do."""

_PATIENCE = 10.0  # seconds for which a unit of work waits for a server that went away
_PAUSE = 0.1  # seconds between two attempts to reach it, of all threads together
_HEARD_EVERY = 1.0  # seconds after which those who watch look by themselves, whatever they were told
_CHANNEL = "chatcore"
_MIGRATING = 0x63686174  # the lock of the server that runs migrations: the four bytes `chat`
_MOST_WORDS = 32  # of a search; more of them narrow nothing further

# What the URL does not say. A server that vanished without a word must be noticed before leases run out.
_PARAMETERS = {
    "application_name": "chatcore",
    "client_encoding": "utf8",
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "3",
    "keepalives_count": "2",
    "tcp_user_timeout": "10000",
    "target_session_attrs": "read-write",
}
# A process that hangs must not keep the rows of others locked.
_SESSION = "SET lock_timeout = '30s'; SET idle_in_transaction_session_timeout = '60s'"
_STRICT = "SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
_TO_WRITE = "BEGIN ISOLATION LEVEL READ COMMITTED"
_TO_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"

# The last unit of work that each connection has committed: when it breaks in the middle of a COMMIT, the next one looks
# here. The server's own answer, pg_xact_status, does not do: one that crashed gives the numbers of transactions again.
_UNITS = "chatcore_units"
_MAKE_UNITS = (
    f"CREATE TABLE IF NOT EXISTS {_UNITS} "
    "(session bigint PRIMARY KEY, unit bigint NOT NULL, at timestamptz NOT NULL DEFAULT now()) WITH (fillfactor = 50)"
)
_DROP_OLD_UNITS = f"DELETE FROM {_UNITS} WHERE at < now() - interval '1 day'"  # noqa: S608  a name of ours
_NOTE_UNIT = (
    f"INSERT INTO {_UNITS} (session, unit) VALUES ({{}}, {{}}) "  # noqa: S608  a name of ours
    "ON CONFLICT (session) DO UPDATE SET unit = EXCLUDED.unit, at = EXCLUDED.at"
)
# Waits for the end of the transaction that has the row, also where the server does not know yet that we are gone.
_LAST_UNIT = (
    f"INSERT INTO {_UNITS} AS units (session, unit) VALUES (%s, 0) "  # noqa: S608  a name of ours
    "ON CONFLICT (session) DO UPDATE SET unit = units.unit RETURNING unit"
)

# JSON as it was written, where jsonb would sort the keys. Text in the order of its characters, whatever the locale of
# the server is: that may change with its system and leave indexes out of order.
_COLUMNS = {"JSON": "JSON", "TEXT": 'TEXT COLLATE "C"'}

# By SQLSTATE (https://www.postgresql.org/docs/current/errcodes-appendix.html) or the beginning of one; of the server's
# refusal to let us in only the text is known. What is wrong, what to do.
_CAUSES = {
    "53100": ("the disk of the server is full", "free some space: nothing was lost, and writing goes on by itself"),
    "53300": (
        "the server has no free connections",
        "raise its max_connections, or run fewer workers: each takes up to 8 connections",
    ),
    "53": ("the server is out of memory or connections", "see its log"),
    "25006": (
        "the database is read-only",
        "give what writes to 'write'; or, if the server is a standby, name the primary one in 'database'",
    ),
    "42501": (
        "the user may not do this",
        "make it the owner of the database: ALTER DATABASE name OWNER TO user",
    ),
    "3F000": ("the search_path names no schema that exists", "create the schema, or name another in 'database'"),
    "28": ("the server refuses the user or the password", "see to both in 'database', and to pg_hba.conf"),
    "3D000": ("there is no such database", "create it: createdb NAME"),
    "55P03": ("another process keeps rows locked", "find it in pg_stat_activity and end it"),
    "57014": ("the statement was cancelled", "see whether statement_timeout is set for the user, and raise it"),
    "XX001": ("the database is damaged", "restore a backup; the server's log says more"),
    "XX002": ("an index of the database is damaged", "rebuild it: REINDEX DATABASE; the server's log says more"),
    "58": ("the server could not read or write its disk", "see its log"),
    "57P": ("the server is stopping or starting", "try again in a moment"),
    "08": ("the server cannot be reached", "see that it runs, and that 'database' names its host and port"),
}
_TEXTS = (
    ("too many clients|too many connections|connection slots", "53300"),
    ("session is read-only|server is in hot standby", "25006"),
    ('database ".*" does not exist', "3D000"),
    ("authentication failed|no password supplied|pg_hba.conf|role .* does not exist", "28"),
    ("starting up|shutting down", "57P"),
    ("", "08"),
)
_CONNECTION_LOST = ("08", "57P", "25P03")
_IN_THE_WAY = ("40001", "40P01", "23505", "23503")  # serialization, deadlock; what another unit inserted or deleted


# Words as the index has them: of small letters without accents, cut where no search is more exact. The accents go
# first, for a server whose locale is C knows the capitals of ASCII only.
_WORDS = r"""
CREATE FUNCTION chatcore_words(said text) RETURNS tsvector
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
    SELECT array_to_tsvector(array_agg(DISTINCT left(word, 64)))
    FROM regexp_split_to_table(
        normalize(
            lower(regexp_replace(normalize(left(said, 200000), NFD), '[\u0300-\u036f]+', '', 'g') COLLATE "default"),
            NFC
        ),
        '[\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u2000-\u206f\u3000-\u303f\uff00-\uff0f]+'
    ) AS word
    WHERE word <> ''
$$
"""
_PORTABLE = {"boolean": "int", "json": "text"}
_SEQUENCES = """
    SELECT table_name, column_name, pg_get_serial_sequence(quote_ident(table_name), column_name)
    FROM information_schema.columns WHERE table_schema = current_schema() AND column_default LIKE 'nextval(%'
"""
_SPOKEN = "role IN ('user', 'assistant')"


@attrs.frozen
class _Away:
    """The server cannot be reached: since when, when that was last tried, and how that ended."""

    since: float
    tried: float
    error: str


class _Integer(IntDumper):
    """Refuses what no column holds; PostgreSQL would look for it in the whole table."""

    def upgrade(self, obj: int, format: PyFormat) -> Dumper:  # noqa: A002  psycopg's name
        if not -(2**63) <= obj < 2**63:
            raise OverflowError
        return super().upgrade(obj, format)


class Session(psycopg.Connection[tuple[Any, ...]]):
    """A connection to the server. `unit` is the number of the unit of work that it stores, if it does."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.key = secrets.randbits(63)
        self.units = 0
        self.unit: int | None = None


class Postgres(peewee.PostgresqlDatabase):
    """A database of a PostgreSQL server."""

    faults: tuple[type[Exception], ...] = (peewee.PeeweeException, psycopg.Error)
    readers = 3
    writers = 4
    # A statement that fails undoes the units before it, and units of two groups would wait for each other's rows.
    largest_group = 1

    def __init__(self, url: str, name: str, *, durable: bool) -> None:
        """`name` is what it is called in messages. `durable`: what is committed survives a loss of power, also where
        the server's settings say otherwise.

        Raises:
            ConfigError: the URL cannot be read.
        """
        self.name = name
        try:
            self._conninfo = make_conninfo("", **{**_PARAMETERS, **conninfo_to_dict(url)})
        except psycopg.Error:
            raise unreadable() from None
        self._durable = durable
        self._thread = threading.local()
        self._away: _Away | None = None
        super().__init__(name, prefer_psycopg3=True, field_types=_COLUMNS)
        self._adapter.jsonb_type = Json  # type: ignore[attr-defined]  # peewee's stub

    # --- opening ------------------------------------------------------------------------------------------------------

    def prepare(self, core: Path, plugins: Mapping[str, Path]) -> Mapping[str, DatabaseError]:
        try:
            with self.connection_context(), self.atomic():
                self._refuse_unfit()
                self._session.execute("SET LOCAL lock_timeout = 0")  # another server may be running long migrations
                self._session.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
                self._session.execute("SET LOCAL lock_timeout = '30s'")
                self._refuse_foreign()
                runners, failed = histories.usable(self, {histories.CORE: core, **plugins}, self._from_the_future)
                self._session.execute(_MAKE_UNITS)
                self._session.execute(_DROP_OLD_UNITS)
                return failed | histories.run(self, runners)
        except self.faults as error:
            raise self.explain(error) from error

    def _refuse_unfit(self) -> None:
        if self.server_version < OLDEST * 10_000:
            raise DatabaseError(
                f"{self.name}: the server is PostgreSQL {self.server_version // 10_000}",
                hint=f"upgrade it to {OLDEST} or newer",
            )
        [(encoding,)] = self._session.execute("SHOW server_encoding").fetchall()
        if encoding != "UTF8":
            raise DatabaseError(
                f"{self.name}: the database keeps text as {encoding}",
                hint="create one that can keep all of it: createdb --encoding=UTF8 --template=template0 NAME",
            )

    def _refuse_foreign(self) -> None:
        there = self.get_tables()
        if there and f"{histories.CORE}_migrations" not in there:
            raise DatabaseError(
                f"{self.name} is the database of another program",
                hint="give chatcore one of its own, or a schema: add ?options=-csearch_path%3DSCHEMA to the URL",
            )

    def _from_the_future(self, name: str, unknown: Sequence[str]) -> DatabaseError:
        return DatabaseError(
            f"{self.name} was written by a newer version of {name}: it has the migrations {', '.join(unknown)}",
            hint=f"upgrade {name}, or restore a backup from before {unknown[0]}",
        )

    @property
    def row_id_constraints(self) -> list[peewee.Node]:
        """None are needed: a sequence gives no number twice."""
        return []

    def octets(self, text: str) -> str:
        """The SQL for how many bytes a text has."""
        return f"octet_length({text})"

    # --- connections --------------------------------------------------------------------------------------------------

    def _connect(self) -> Session:
        away = self._away  # another thread may find that the server is back
        if away and time.monotonic() < away.tried + _PAUSE:
            raise psycopg.OperationalError(away.error)
        try:
            session = Session.connect(self._conninfo, autocommit=True)
            session.adapters.register_dumper(int, _Integer)
            set_json_loads(msgspec.json.decode, session)
            session.execute(_SESSION)
            if self._durable:
                session.execute(_STRICT)
        except psycopg.OperationalError as error:
            now, away = time.monotonic(), self._away
            self._away = _Away(away.since if away else now, now, str(error))
            raise
        self._away = None
        return session

    @property
    def _session(self) -> Session:
        """The calling thread's connection."""
        session: Session = self.connection()  # type: ignore[no-untyped-call]  # peewee's stub
        return session

    def join(self, *, writes: bool) -> None:
        if not self.is_closed() and self._session.closed:
            self._disconnect()
        if self.is_closed():
            bound.initialize(self)
            self._thread.writes = writes
            self._connect_patiently()

    def _connect_patiently(self) -> None:
        """Connects; waits for a server that is away for a moment.

        Raises:
            DatabaseError: it cannot be reached.
        """
        while True:
            try:
                self.connect()
            except peewee.OperationalError as error:
                away = self._away
                if away and time.monotonic() > away.since + _PATIENCE:
                    raise self.explain(error) from error
                time.sleep(_PAUSE)
            else:
                return

    def _disconnect(self) -> None:
        """Closes a connection that is of no use any more, whatever state it is in."""
        session = self._session
        self.dispose()
        session.close()

    def leave(self) -> None:
        self.close()
        bound.obj = None

    # --- transactions -------------------------------------------------------------------------------------------------

    @property
    def row_lock(self) -> str:
        """What ends a SELECT of rows that the unit of work may change."""
        return "FOR UPDATE" if self._thread.writes else ""

    def unit(self, *, writes: bool) -> AbstractContextManager[object]:
        transaction: AbstractContextManager[object] = self.atomic(_TO_WRITE if writes else _TO_READ)
        return transaction

    def begin(self, how: str | None = None) -> None:
        """Begins a transaction, with this statement."""
        session = self._session
        session.unit = None
        if how == _TO_WRITE:
            session.units += 1
            how = f"{how}; {_NOTE_UNIT.format(session.key, session.units)}"
            session.unit = session.units
        session.execute((how or "BEGIN").encode(), prepare=False)

    def commit(self) -> None:
        """Commits. When the connection breaks in the middle of it, finds out whether the server did it.

        Raises:
            DatabaseError: that cannot be known; or a statement of the transaction had failed, so that nothing of it
                can be stored.
        """
        session = self._session
        try:
            done = session.execute("COMMIT", prepare=False).statusmessage
        except psycopg.OperationalError as error:
            if session.unit is None or not _is_lost(error) or not self._was_committed(session.key, session.unit):
                raise
            self._disconnect()
        else:
            if done != "COMMIT":
                raise DatabaseError(
                    "nothing was stored: a statement had failed, and the unit of work went on all the same",
                    hint="put what may fail into 'with tables.bound.atomic():'",
                )

    def _was_committed(self, key: int, unit: int) -> bool:
        give_up = time.monotonic() + _PATIENCE
        while time.monotonic() < give_up:
            with suppress(psycopg.OperationalError), self._connect() as connection:
                connection.execute(f"SET lock_timeout = '{_PATIENCE:g}s'")
                [last] = connection.execute(_LAST_UNIT, (key,)).fetchall()
                return last == (unit,)
            time.sleep(_PAUSE)
        raise DatabaseError(
            f"{self.name}: the connection broke while a change was being stored, and nobody can say whether it was",
            hint="look whether it is there before you do it again",
        )

    def rollback(self) -> None:
        """Undoes the transaction. A server that has lost us does that by itself."""
        if self.is_closed():
            return
        if self._session.info.transaction_status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
            with suppress(psycopg.Error):
                self._session.execute("ROLLBACK", prepare=False)
                return
        self._disconnect()

    def run(self, sql: str, parameters: Sequence[object] = ()) -> "psycopg.Cursor[tuple[Any, ...]]":
        return self._session.execute(_with_places(sql), parameters)

    def rest(self) -> None:
        """Nothing: those who write do not keep each other out."""

    def worth_repeating(self, error: BaseException) -> bool:
        return _is_lost(error) or _state(error) in _IN_THE_WAY

    # --- errors -------------------------------------------------------------------------------------------------------

    def explain(self, error: BaseException) -> BaseException:
        if not isinstance(error, self.faults):
            return error
        cause, state = _cause(error), _state(error)
        if isinstance(cause, psycopg.DataError) and "NUL" in str(cause):
            return nul_refused()
        if state == "22003":
            return RequestError("a number is too large to be stored")
        if state is None and isinstance(cause, psycopg.OperationalError):
            state = next(state for pattern, state in _TEXTS if re.search(pattern, str(cause)))
        known = next((_CAUSES[key] for key in (state, state[:3], state[:2]) if key in _CAUSES), None) if state else None
        # The rest of the server's message may quote what was to be stored.
        said = (isinstance(cause, psycopg.Error) and cause.diag.message_primary) or str(cause).partition("\n")[0]
        if known:
            return DatabaseUnavailable(f"{self.name}: {known[0]} ({said})", hint=known[1])
        return DatabaseError(f"{self.name}: {said}")

    # --- changes of others --------------------------------------------------------------------------------------------

    def announce(self, channel: str) -> None:
        """Tells those who watch a channel when the transaction commits."""
        self._session.execute("SELECT pg_notify(%s, %s)", (_CHANNEL, channel))

    def follow(self, watch: Watch) -> None:
        """Hears what is announced, in a connection of its own."""
        while not watch.closed:
            with suppress(psycopg.Error), self._connect() as connection:
                connection.execute(f"LISTEN {_CHANNEL}")
                _hear(connection, watch)
            watch.tell()  # whoever reads is told what is wrong
            watch.pause(_HEARD_EVERY)

    # --- copying ------------------------------------------------------------------------------------------------------

    def own_tables(self) -> Set[str]:
        return {*self.get_tables()} - {_UNITS}

    def shape(self, table: str) -> tuple[Sequence[str], Sequence[str], Set[str]]:
        return histories.shape(self, table)

    def rows(self, sql: str) -> Rows:
        return self.run(sql).fetchall()

    def portable_rows(self, table: str) -> Iterator[Rows]:
        columns, order, _ = self.shape(table)
        kinds = self._kinds(table)
        casts = [f'"{column}"::{_PORTABLE.get(kinds[column], kinds[column])}' for column in columns]
        with self._session.cursor("chatcore_copy") as cursor:
            cursor.execute(selection(table, casts, order).encode())
            while rows := cursor.fetchmany(COPIED_AT_ONCE):
                yield rows

    def insert_rows(self, table: str, columns: Sequence[str], rows: Rows) -> None:
        kinds = self._kinds(table)
        values = ["%s::int::boolean" if kinds[column] == "boolean" else f"%s::{kinds[column]}" for column in columns]
        with self._session.cursor() as cursor:
            cursor.executemany(insertion(table, columns, values).encode(), rows)

    def _kinds(self, table: str) -> Mapping[str, str]:
        return {column.name: column.data_type for column in self.get_columns(table)}

    def row_ids(self) -> Mapping[str, int]:
        given = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM"
        return {table: self.rows(f"{given} {sequence}")[0][0] for table, _, sequence in self.rows(_SEQUENCES)}

    def set_row_ids(self, given: Mapping[str, int]) -> None:
        for table, column, sequence in self.rows(_SEQUENCES):
            [(most,)] = self.rows(f'SELECT COALESCE(MAX("{column}"), 0) FROM "{table}"')  # noqa: S608  names of theirs
            if number := max(most, given.get(table, 0)):
                self.rows(f"SELECT setval('{sequence}', {number})")

    # --- search -------------------------------------------------------------------------------------------------------

    def create_search_index(self) -> None:
        """The index that `matching` reads: of the titles, and of what users and models said."""
        self._session.execute(_WORDS)
        self._session.execute("CREATE INDEX conversation_search ON conversation USING gin (chatcore_words(title))")
        self._session.execute(
            f"CREATE INDEX message_search ON message USING gin (chatcore_words(text)) WHERE {_SPOKEN}"
        )

    def matching(self, table: str, text: str) -> peewee.Node | None:
        """A subquery of the keys of the rows that have words beginning with all the words of `text`, in any order.

        None if there is no word in it. No character of it has a special meaning.
        """
        words = re.findall(r"\w+", text)[:_MOST_WORDS]
        if not words:
            return None
        found = {
            "conversation": 'SELECT "key" FROM conversation WHERE chatcore_words(title)',
            "message": f"SELECT id FROM message WHERE {_SPOKEN} AND chatcore_words(text)",  # noqa: S608  names of ours
        }[table]
        pattern = (
            "SELECT string_agg('''' || lexeme || ''':*', ' & ')::tsquery FROM unnest(chatcore_words(%s::text)) AS word"
        )
        return peewee.SQL(f"({found} @@ ({pattern}))", (" ".join(words),))


@lru_cache(1000)
def _with_places(sql: str) -> bytes:
    """A statement with psycopg's places for the parameters."""
    return sql.replace("%", "%%").replace("?", "%s").encode()


def _hear(connection: Session, watch: Watch) -> None:
    look_at = 0.0
    while not watch.closed:
        if time.monotonic() >= look_at:
            look_at = time.monotonic() + _HEARD_EVERY
            watch.tell()
        for notice in connection.notifies(timeout=_PAUSE):
            watch.tell(notice.payload)


def _cause(error: BaseException) -> BaseException:
    """psycopg's error, which peewee keeps as `orig`."""
    cause: BaseException = getattr(error, "orig", error)
    return cause


def _state(error: BaseException) -> str | None:
    return getattr(_cause(error), "sqlstate", None)


def _is_lost(error: BaseException) -> bool:
    """Whether the connection broke. What the server did not say itself has no SQLSTATE."""
    state = _state(error)
    return isinstance(_cause(error), psycopg.OperationalError) and (state is None or state.startswith(_CONNECTION_LOST))
