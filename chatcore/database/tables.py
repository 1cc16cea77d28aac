"""The tables of the core, and what every table is made of.

Every row belongs to an owner: a principal's id, in the row itself or in the row that it hangs on. The statements that
make these tables are in `migrations/`; a test holds the two together.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import repeat
from typing import Any, TypeVar

import attrs
import msgspec
import peewee

from chatcore.database.engine import Cursor
from chatcore.errors import DatabaseError, RequestError

R = TypeVar("R", bound=attrs.AttrsInstance)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_thread = threading.local()  # each thread of a `Database` serves that one only


class ThreadDatabase(peewee.DatabaseProxy):
    """The database that the running thread serves.

    It lets the same models work in every `Database` of the process: the threads of a `Database` are bound to it, and
    a unit of work runs in one of them. Anywhere else a model has no database.
    """

    @property
    def obj(self) -> peewee.Database | None:
        return getattr(_thread, "database", None)

    @obj.setter
    def obj(self, database: peewee.Database | None) -> None:
        _thread.database = database

    def __getattr__(self, name: str) -> Any:
        database = self.obj
        if database is None:
            raise DatabaseError(
                "a table was used outside a unit of work",
                hint="put the query into a function, and that into 'await database.read(…)' or '.write(…)'",
            )
        return getattr(database, name)


bound = ThreadDatabase()


def execute(sql: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Runs a statement as it is, with `?` for the parameters, and gives its rows.

    For what every turn runs, in SQL that all databases know: peewee takes longer to build such a statement than the
    database to run it.
    """
    cursor: Cursor = bound.run(sql, parameters)
    return cursor.fetchall() if cursor.description else []


def execute_many(sql: str, rows: Iterable[Sequence[object]]) -> None:
    """As `execute`, once for each row of parameters."""
    bound.cursor().executemany(sql.replace("?", bound.param), rows)


def rows(model: type[peewee.Model], sql: str, *parameters: object) -> list[list[Any]]:
    """As `execute`, with the columns named like the model's fields converted as these do it."""
    cursor: Cursor = bound.run(sql, parameters)
    converters = _converters(model, tuple(column[0] for column in cursor.description or ()))
    found = list(map(list, cursor.fetchall()))
    for row in found:
        for number, convert in converters:
            row[number] = convert(row[number])
    return found


@cache
def _converters(model: type[peewee.Model], names: Sequence[str]) -> Sequence[tuple[int, Callable[[Any], Any]]]:
    """What converts the values of columns with these names, and the numbers of those columns."""
    fields = {number: model._meta.fields.get(name) for number, name in enumerate(names)}  # noqa: SLF001  documented
    kinds = (JsonField, Moment, peewee.BooleanField)  # the others are stored as they are
    return [(number, field.python_value) for number, field in fields.items() if isinstance(field, kinds)]


def fetch(query: Any) -> list[tuple[Any, ...]]:
    """Runs a query that peewee built and gives its rows as tuples, converted."""
    return list(query.tuples())


def columns(cls: type[attrs.AttrsInstance], table: type["Table"], **others: Any) -> dict[str, Any]:
    """The column for each field of an attrs class: that of the table with the same name, or the one of `others`."""
    return {field.name: others.get(field.name) or getattr(table, field.name) for field in attrs.fields(cls)}


def records(cls: type[R], query: Any) -> list[R]:
    """As `fetch`, for a query of the `columns` of an attrs class: its rows as values of the class."""
    names = [field.name for field in attrs.fields(cls)]
    return [cls(**dict(zip(names, row, strict=True))) for row in fetch(query)]


def insert(table: type["Table"], record: object, columns: Mapping[str, Any], **others: Any) -> None:
    """Stores a value of an attrs class, as far as its `columns` are the table's; `others` are fields that it lacks, or
    has in another form."""
    fields = {column.name: getattr(record, name) for name, column in columns.items() if column.model is table}
    table.insert(**{**fields, **others}).execute()


def padded(values: Sequence[str]) -> Sequence[str]:
    """Values for `IN`, the last of them repeated until their number is a power of two.

    Each number of values is a statement of its own, and each connection keeps the last hundred or so: with hundreds of
    values in each, these would take tens of megabytes.
    """
    if not values:
        return values
    return [*values, *repeat(values[-1], (1 << (len(values) - 1).bit_length()) - len(values))]


def locked(select: str) -> str:
    """A SELECT of rows that the unit of work may change. No other unit changes them until this one ends.

    Where several units write at a time (PostgreSQL), one that waited for a row sees it as the other left it. What is
    not there cannot be locked: a unit that then inserts it, after another has, is run again and finds it. In a unit
    that only reads, it locks nothing.
    """
    return f"{select} {bound.row_lock}"


def locking(query: Any) -> Any:
    """As `locked`, for a query that peewee builds."""
    return query.for_update() if bound.row_lock else query


def without_nul(text: str) -> str:
    """A text as a column can keep it: without the character NUL, which PostgreSQL refuses."""
    return text.replace("\0", "\ufffd")


def nul_refused() -> RequestError:
    """The error for a text that should have been `without_nul`."""
    return RequestError("the text has the character NUL", hint="leave it out")


def announce(channel: str) -> None:
    """Tells everybody who watches a channel (`Database.watch`), in whatever process, when this unit of work commits."""
    bound.announce(channel)


def microseconds(moment: datetime) -> int:
    """A time as it is stored."""
    return (moment - _EPOCH) // _MICROSECOND


def json_text(value: object) -> str:
    """JSON as it is stored. attrs values and tuples are written too; they come back as dicts and lists."""
    return msgspec.json.encode(value).decode()


class Moment(peewee.BigIntegerField):
    """A time with its zone, stored as microseconds since 1970 in UTC: exact, sortable, the same in every database."""

    def db_value(self, value: datetime | None) -> int | None:
        return None if value is None else microseconds(value)

    def python_value(self, value: int | None) -> datetime | None:
        return None if value is None else _EPOCH + value * _MICROSECOND


class JsonField(peewee.JSONField):
    """JSON, kept as it was written: the order of keys, and the form of numbers."""

    def __init__(self, *, null: bool = False) -> None:
        super().__init__(dumps=json_text, loads=msgspec.json.decode, null=null)


class Table(peewee.Model):
    """The base of every model, also of those of plugins, whose table names begin with the plugin's."""

    class Meta:
        database = bound
        legacy_table_names = False


class Conversation(Table):
    """`id` is the client's choice and unique for one owner only; `key` is what other rows point to. `leaf` is the
    last message of the active path. `size` is what all messages and files take (see `messages.py`)."""

    key = peewee.BigAutoField()
    id = peewee.TextField()
    owner = peewee.TextField()
    title = peewee.TextField(null=True)
    title_source = peewee.TextField(default="auto")
    saved = peewee.BooleanField(default=False)
    timezone = peewee.TextField(null=True)
    llm_settings = JsonField(null=True)
    leaf = peewee.BigIntegerField(null=True)
    created_at = Moment()
    updated_at = Moment()
    size = peewee.BigIntegerField(default=0)

    class Meta:
        indexes = ((("owner", "id"), True), (("owner", "saved", "updated_at"), False))


class Message(Table):
    """A node of a conversation's tree. A parent is always older than its child, so there are no circles.

    `text` is the text of the content, for reading and for the search; `body` what else the message has (see
    `messages.py`), null for most messages of users.
    """

    id = peewee.BigAutoField()
    conversation = peewee.ForeignKeyField(Conversation, on_delete="CASCADE", index=False, backref="+")
    parent = peewee.ForeignKeyField("self", null=True, backref="+")
    role = peewee.TextField()
    state = peewee.TextField()
    text = peewee.TextField(null=True)
    body = JsonField(null=True)
    run_id = peewee.TextField(null=True)
    client_id = peewee.TextField(null=True)
    parent_client_id = peewee.TextField(null=True)
    created_at = Moment()

    class Meta:
        indexes = ((("conversation", "role"), False),)
        constraints = (peewee.Check("parent_id < id"),)


class Attachment(Table):
    """A file of a conversation; `blob` is its key in the blob store. When the conversation is gone, the row says that
    the file is still there."""

    id = peewee.TextField(primary_key=True)
    conversation = peewee.ForeignKeyField(Conversation, null=True, on_delete="SET NULL", backref="+")
    blob = peewee.TextField()
    media_type = peewee.TextField()
    filename = peewee.TextField()
    size = peewee.BigIntegerField()
    created_at = Moment()


class Run(Table):
    """A turn under way or ended. `question` is the id of the message that it answers; that message may be gone."""

    id = peewee.TextField(primary_key=True)
    owner = peewee.TextField()
    conversation = peewee.ForeignKeyField(Conversation, on_delete="CASCADE", backref="+")
    client_id = peewee.TextField(null=True)
    format = peewee.TextField()
    model = peewee.TextField()
    state = peewee.TextField(index=True)
    reason = peewee.TextField(null=True)
    worker = peewee.TextField()
    lease_until = Moment()
    question = peewee.BigIntegerField(null=True)
    last_seq = peewee.BigIntegerField(default=0)
    turn = JsonField()
    created_at = Moment()
    ended_at = Moment(null=True)


class RunLog(Table):
    """The events `first_seq` to `last_seq` of a run, packed."""

    run = peewee.ForeignKeyField(Run, on_delete="CASCADE", index=False, backref="+")
    first_seq = peewee.BigIntegerField()
    last_seq = peewee.BigIntegerField()
    data = peewee.BlobField()

    class Meta:
        primary_key = peewee.CompositeKey("run", "first_seq")


class RunJournal(Table):
    """The latest events of all runs of a worker, a row for each commit. They move to `run_log` within seconds."""

    id = peewee.BigAutoField()
    worker = peewee.TextField()
    data = peewee.BlobField()


class RunSignal(Table):
    """What another worker tells the worker of a run, of use until a time (see `Signal` in `runs.py`)."""

    worker = peewee.TextField()
    run_id = peewee.TextField()
    kind = peewee.TextField()
    until = Moment()

    class Meta:
        primary_key = peewee.CompositeKey("worker", "run_id", "kind")


class Approval(Table):
    """A tool call that needs somebody's consent. `place` is the message that will hold its answer. It is `settled` when
    the run's worker has acted on the decision, or has found that there is none in time."""

    place = peewee.ForeignKeyField(Message, on_delete="CASCADE", primary_key=True, backref="+")
    run = peewee.ForeignKeyField(Run, on_delete="CASCADE", backref="+")
    call_id = peewee.TextField()
    tool = peewee.TextField()
    arguments = JsonField()
    digest = peewee.TextField()
    expires_at = Moment()
    decision = peewee.TextField(null=True)
    settled = peewee.BooleanField(default=False)


class Question(Table):
    """What a running tool call asks a person. `content` is what was filled in, until the run's worker has taken it. A
    question is `closed` when nobody waits for an answer any more."""

    id = peewee.TextField(primary_key=True)
    run = peewee.ForeignKeyField(Run, on_delete="CASCADE", backref="+")
    call_id = peewee.TextField()
    asker = peewee.TextField()
    message = peewee.TextField()
    form = JsonField()
    url = peewee.TextField(null=True)
    digest = peewee.TextField()
    expires_at = Moment()
    action = peewee.TextField(null=True)
    content = JsonField(null=True)
    closed = peewee.BooleanField(default=False)


class PausedTurn(Table):
    """What a worker needs to go on with a run that waits for approvals."""

    run = peewee.ForeignKeyField(Run, on_delete="CASCADE", primary_key=True, backref="+")
    data = JsonField()


class ToolPin(Table):
    """The definition of a source's tool that is trusted, and the one that it has now, if that is another."""

    source = peewee.TextField()
    name = peewee.TextField()
    definition = JsonField()
    fingerprint = peewee.TextField()
    changed = JsonField(null=True)
    changed_fingerprint = peewee.TextField(null=True)

    class Meta:
        primary_key = peewee.CompositeKey("source", "name")


class Job(Table):
    """Who does a job that one worker does for all, until when."""

    name = peewee.TextField(primary_key=True)
    worker = peewee.TextField()
    until = Moment()


class Document(Table):
    """A JSON document of somebody, found by its namespace and key."""

    owner = peewee.TextField()
    namespace = peewee.TextField()
    key = peewee.TextField()
    value = JsonField()
    updated_at = Moment()

    class Meta:
        primary_key = peewee.CompositeKey("owner", "namespace", "key")


class Token(Table):
    """A bearer token. Only its SHA-256 is kept; `id` is how the token begins."""

    id = peewee.TextField(primary_key=True)
    owner = peewee.TextField()
    name = peewee.TextField()
    scopes = JsonField()
    hash = peewee.BlobField(unique=True)
    created_at = Moment()
    expires_at = Moment(null=True)
    last_used_at = Moment(null=True)
    revoked_at = Moment(null=True)


class Account(Table):
    """What somebody has with another service. `sealed` is encrypted; the rest is what may be seen without the key.
    `refused`: the service takes it no more, its owner has to sign in again."""

    owner = peewee.TextField()
    name = peewee.TextField()
    subject = peewee.TextField()
    scopes = JsonField()
    sealed = peewee.TextField()
    expires_at = Moment(null=True)
    refused = peewee.BooleanField(default=False)
    updated_at = Moment()

    class Meta:
        primary_key = peewee.CompositeKey("owner", "name")


class SignIn(Table):
    """A sign-in under way, found by the hash of its state. One that `waits` gets its `answer`, encrypted as `sealed`
    is; any other goes when it is used."""

    id = peewee.TextField(primary_key=True)
    owner = peewee.TextField()
    sealed = peewee.TextField()
    waits = peewee.BooleanField()
    answer = peewee.TextField(null=True)
    expires_at = Moment()
