"""The definitions of tools that are trusted: those that each tool of a source had when it was first used."""

from collections.abc import Sequence

import attrs
import peewee

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
from chatcore.errors import Conflict, NotFound
from chatcore.tools import JsonObject, Tool


@attrs.frozen(kw_only=True)
class Pin:
    """The trusted definition of a tool. `changed` is the one that it has now, if that is another: then the tool is
    suspended until somebody has accepted it."""

    source: str
    name: str
    definition: JsonObject
    fingerprint: str
    changed: JsonObject | None = None
    changed_fingerprint: str | None = None


@attrs.frozen
class Pins:
    """The pins in the database. They are the operator's, and so the same for everybody."""

    database: Database

    @reads
    def all(self) -> Sequence[Pin]:
        """All pins, by source and name."""
        return _pins()

    @writes
    def see(self, tools: Sequence[Tool]) -> Sequence[Pin]:
        """The pins of tools of sources. One that has none is pinned as it is; one that has changed is noted."""
        tables.execute_many(
            "INSERT INTO tool_pin (source, name, definition, fingerprint) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(tool.source, tool.name, tables.json_text(tool.definition), tool.fingerprint) for tool in tools],
        )
        now = {(tool.source, tool.name): tool for tool in tools}
        return [_noted(pin, now[pin.source, pin.name]) for pin in _pins() if (pin.source, pin.name) in now]

    @writes
    def accept(self, source: str, name: str, fingerprint: str) -> Pin:
        """Trusts the changed definition of a tool from now on. `fingerprint` says which one was looked at.

        Raises:
            NotFound: there is no such tool.
            Conflict: it has no changed definition, or by now another one.
        """
        found = _pins(tables.ToolPin.source == source, tables.ToolPin.name == name)
        if not found:
            raise NotFound(f"there is no tool {name!r} of {source!r}", hint="see 'chatcore tools list'")
        pin = found[0]
        if pin.changed is None or pin.changed_fingerprint != fingerprint:
            raise Conflict("the tool has another definition by now", hint="look at it again")
        return _write(
            attrs.evolve(pin, definition=pin.changed, fingerprint=fingerprint, changed=None, changed_fingerprint=None)
        )


def _pins(*conditions: peewee.Expression) -> list[Pin]:
    pin = tables.ToolPin
    query = pin.select(*tables.columns(Pin, pin).values()).order_by(pin.source, pin.name)
    return tables.records(Pin, tables.locking(query.where(*conditions) if conditions else query))


def _noted(pin: Pin, tool: Tool) -> Pin:
    """The pin of a tool, with what has changed since."""
    same = tool.fingerprint == pin.fingerprint
    changed = (None, None) if same else (tool.definition, tool.fingerprint)
    if changed[1] == pin.changed_fingerprint:
        return pin
    return _write(attrs.evolve(pin, changed=changed[0], changed_fingerprint=changed[1]))


def _write(pin: Pin) -> Pin:
    table = tables.ToolPin
    table.update(**attrs.asdict(pin, recurse=False)).where(table.source == pin.source, table.name == pin.name).execute()
    return pin
