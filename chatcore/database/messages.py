"""Messages as rows: how one is stored, read, and found on its path."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import attrs
import msgspec

from chatcore.database import tables
from chatcore.database.tree import Node, surviving_ancestor
from chatcore.errors import NotFound
from chatcore.types import Message, MessageRecord, StoredMessage


@attrs.frozen(kw_only=True)
class NewMessage(MessageRecord):
    """A message to be stored."""

    @property
    def size(self) -> int:
        """What it adds to the size of its conversation."""
        return _size(*_content(self))


VALUE = 32
"""What each value of the JSON in `body` counts beside its bytes: it takes more than these in memory."""

_COLUMNS = "m.id, m.parent_id, m.role, m.state, m.text, m.body, m.run_id, m.client_id, m.parent_client_id, m.created_at"
_INSERT = """
    INSERT INTO message (conversation_id, parent_id, role, state, text, body, run_id, client_id, parent_client_id,
                         created_at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id
"""
_PATH = f"""
    WITH RECURSIVE path (id, parent_id) AS (
        SELECT id, parent_id FROM message WHERE id = ? AND conversation_id = ?
        UNION ALL
        SELECT older.id, older.parent_id FROM message AS older JOIN path ON older.id = path.parent_id)
    SELECT {_COLUMNS} FROM path JOIN message AS m ON m.id = path.id ORDER BY m.id
"""  # noqa: S608  a constant of ours
_TREE = f"SELECT {_COLUMNS} FROM message AS m WHERE m.conversation_id = ? ORDER BY m.id"  # noqa: S608  a constant of ours
_TREE_OF_RUN = _TREE.replace("ORDER BY", "AND m.run_id = ? ORDER BY")
_ONE = f"""
    SELECT c.id AS conversation, {_COLUMNS} FROM conversation AS c JOIN message AS m ON m.conversation_id = c.key
    WHERE m.id = ? AND c.owner = ?
"""  # noqa: S608  a constant of ours


# What has no column of its own goes into `body`: fields of the message under the key `message`, the others beside it.
# Only what is not as in a blank message is written.
_BLANK = NewMessage(message=Message(role="user"))
_BEFORE_VALUES = ",[{"
_INNER = [field.name for field in attrs.fields(Message) if field.name not in ("role", "content")]
_COLUMNED = ("message", "state", "run_id", "client_message_id", "parent_client_message_id")
_OUTER = [field.name for field in attrs.fields(MessageRecord) if field.name not in _COLUMNED]


def append(
    key: int, conversation_id: str, parent: int | None, messages: Sequence[NewMessage], now: datetime
) -> tuple[tuple[StoredMessage, ...], int]:
    """Stores messages of a conversation, each the child of the one before. Gives them and their size."""
    stored = []
    size = 0
    for new in messages:
        message = new.message
        text, body = _content(new)
        size += _size(text, body)
        [(row_id,)] = tables.execute(
            _INSERT,
            key,
            parent,
            message.role,
            new.state,
            text,
            body,
            new.run_id,
            new.client_message_id,
            new.parent_client_message_id,
            tables.microseconds(now),
        )
        fields = attrs.asdict(new, recurse=False)
        stored.append(
            StoredMessage(id=row_id, conversation_id=conversation_id, parent_id=parent, created_at=now, **fields)
        )
        parent = row_id
    return tuple(stored), size


def replace(old: StoredMessage, new: StoredMessage) -> None:
    """Writes a message, its state and what stands beside it over its row."""
    text, body = _content(new)
    tables.execute("UPDATE message SET state = ?, text = ?, body = ? WHERE id = ?", new.state, text, body, new.id)
    tables.execute(
        'UPDATE conversation SET size = size + ? WHERE "key" = (SELECT conversation_id FROM message WHERE id = ?)',
        _size(text, body) - _size(*_content(old)),
        new.id,
    )


def path(key: int, conversation_id: str, leaf: int | None) -> tuple[StoredMessage, ...]:
    """The messages from the root to `leaf`; none if there is no such message in this conversation."""
    found = tables.rows(tables.Message, _PATH, leaf, key)
    return tuple(_stored(conversation_id, *row) for row in found)


def tree(key: int, conversation_id: str, run_id: str | None = None) -> tuple[StoredMessage, ...]:
    """All messages, or all of a run, the oldest first."""
    found = tables.rows(tables.Message, *((_TREE, key) if run_id is None else (_TREE_OF_RUN, key, run_id)))
    return tuple(_stored(conversation_id, *row) for row in found)


def one(owner: str, message_id: int) -> StoredMessage:
    """A message of somebody. A unit of work that writes has its conversation for itself from here on. Raises
    NotFound."""
    for row in tables.rows(tables.Message, tables.locked(_ONE), message_id, owner):
        return _stored(*row)
    raise NotFound("Message not found")


def role_of(key: int, message_id: int) -> str:
    """The role of a message. Raises NotFound if it is not in this conversation."""
    for (role,) in tables.execute("SELECT role FROM message WHERE id = ? AND conversation_id = ?", message_id, key):
        return str(role)
    raise NotFound("Message not found")


def place_under(key: int, message_id: int) -> int:
    """Where a message goes that is to follow this one: below the tool messages that belong to it, if there are any.

    Raises:
        NotFound: the message is not in this conversation.
    """
    if role_of(key, message_id) in ("assistant", "tool"):
        below = "SELECT id FROM message WHERE parent_id = ? AND role = 'tool' ORDER BY id"
        while found := tables.execute(below, message_id):
            message_id = found[0][0]
    return message_id


def nodes(key: int) -> dict[int, Node]:
    """The shape of a conversation's tree, the oldest message first."""
    found = tables.execute(
        "SELECT id, parent_id, role, run_id, client_id, parent_client_id FROM message WHERE conversation_id = ? "
        "ORDER BY id",
        key,
    )
    return {row[0]: Node(*row) for row in found}


def remove(nodes: Mapping[int, Node], gone: frozenset[int]) -> int:
    """Deletes messages, and gives their size; those below them that stay move up to the nearest above that stays."""
    for node in nodes.values():
        if node.id not in gone and node.parent_id in gone:
            above = surviving_ancestor(nodes, gone, node.parent_id)
            tables.execute("UPDATE message SET parent_id = ? WHERE id = ?", above, node.id)
    # A parent is older than its children, so none is deleted before them.
    delete = f"DELETE FROM message WHERE id = ? RETURNING {size_in_sql(tables.bound.octets)}"  # noqa: S608  ours
    return sum(tables.execute(delete, row_id)[0][0] for row_id in sorted(gone, reverse=True))


def size_in_sql(octets: Callable[[str], str]) -> str:
    """The size of a message's row, as SQL. `octets` makes the SQL for the bytes of a text."""
    body = without = "CAST(body AS TEXT)"
    for mark in _BEFORE_VALUES:
        without = f"replace({without}, '{mark}', '')"
    values = f"length({body}) - length({without})"
    return f"COALESCE({octets('text')}, 0) + COALESCE({octets(body)} + {VALUE} * ({values}), 0)"


def _content(value: MessageRecord) -> tuple[str | None, str | None]:
    """The columns `text` and `body`."""
    message = value.message
    body = _given(value, _BLANK, _OUTER)
    inner = _given(message, _BLANK.message, _INNER)
    text = None if message.content is None else tables.without_nul(message.text)
    if message.content != text:
        inner["content"] = message.content
    if inner:
        body["message"] = inner
    return text, tables.json_text(body) if body else None


def json_size(value: object) -> int:
    """The size of a JSON value: its bytes, and some more for each value in it."""
    return _size(None, tables.json_text(value))


def _size(text: str | None, body: str | None) -> int:
    size = _octets(text or "")
    if body:
        size += _octets(body) + VALUE * sum(map(body.count, _BEFORE_VALUES))
    return size


def _octets(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _given(value: object, blank: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: given for name in names if (given := getattr(value, name)) != getattr(blank, name)}


def _stored(  # noqa: PLR0913  the columns of a row
    conversation_id: str,
    row_id: int,
    parent_id: int | None,
    role: str,
    state: str,
    text: str | None,
    body: dict[str, Any] | None,
    run_id: str | None,
    client_id: str | None,
    parent_client_id: str | None,
    created_at: datetime,
) -> StoredMessage:
    rest = body or {}
    fields = {
        **rest,
        "id": row_id,
        "conversation_id": conversation_id,
        "parent_id": parent_id,
        "message": {"role": role, "content": text, **rest.get("message", {})},
        "created_at": created_at,
        "state": state,
        "run_id": run_id,
        "client_message_id": client_id,
        "parent_client_message_id": parent_client_id,
    }
    return msgspec.convert(fields, StoredMessage)
