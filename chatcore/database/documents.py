"""JSON documents in the database: settings, presets, and whatever a plugin keeps without a table of its own."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import attrs
import peewee

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
from chatcore.types import Principal


@attrs.frozen
class Documents:
    """The documents of each principal, by namespace (a plugin's name, or a name of the core's) and key."""

    database: Database

    @reads
    def get(self, principal: Principal, namespace: str, key: str) -> Any:
        """A document, or None if there is none."""
        found = _find(principal.id, namespace, key)
        return found[0][0] if found else None

    @reads
    def list(self, principal: Principal, namespace: str) -> Mapping[str, Any]:
        """The documents of a namespace by their keys, in the order of these."""
        document = tables.Document
        query = document.select(document.key, document.value).where(*_is(principal.id, namespace))
        return dict(tables.fetch(query.order_by(document.key)))

    @writes
    def put(self, principal: Principal, namespace: str, key: str, value: Any) -> None:
        """Stores a document, in place of an earlier one."""
        _put(principal.id, namespace, key, value)

    @writes
    def update(self, principal: Principal, namespace: str, key: str, change: Callable[[Any], Any]) -> Any:
        """Stores what `change` makes of a document, or of None, and gives that. Nobody comes between.

        `change` is quick, and changes nothing but its argument; what it raises leaves the document as it is.
        """
        found = _find(principal.id, namespace, key)
        changed = change(found[0][0] if found else None)
        # A document that somebody else makes meanwhile must not be replaced: then this unit fails, and is run again.
        _put(principal.id, namespace, key, changed, _PUT if found else _INSERT)
        return changed

    @writes
    def delete(self, principal: Principal, namespace: str, key: str) -> bool:
        """Deletes a document. False: there was none."""
        document = tables.Document
        return bool(document.delete().where(*_is(principal.id, namespace), document.key == key).execute())


_GET = 'SELECT value FROM document WHERE owner = ? AND namespace = ? AND "key" = ?'
_INSERT = 'INSERT INTO document (owner, namespace, "key", value, updated_at) VALUES (?, ?, ?, ?, ?)'
_PUT = (
    f'{_INSERT} ON CONFLICT (owner, namespace, "key") '
    "DO UPDATE SET value = excluded.value, updated_at = excluded.updated_at"
)


def _find(owner: str, namespace: str, key: str) -> list[list[Any]]:
    """A document, if there is one. A unit of work that writes has it for itself from here on."""
    return tables.rows(tables.Document, tables.locked(_GET), owner, namespace, key)


def _put(owner: str, namespace: str, key: str, value: Any, statement: str = _PUT) -> None:
    now = tables.microseconds(datetime.now(UTC))
    tables.execute(statement, owner, namespace, key, tables.json_text(value), now)


def _is(owner: str, namespace: str) -> tuple[peewee.Expression, ...]:
    return tables.Document.owner == owner, tables.Document.namespace == namespace
