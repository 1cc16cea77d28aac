"""Pins: a tool of a source is what it was when it was first seen, until somebody accepts another definition."""

from typing import Any

import attrs
import pytest

from chatcore.database import Database, Pin, Pins
from chatcore.errors import Conflict, NotFound
from chatcore.tools import Tool


async def read(path: str) -> str:
    """Reads."""
    return path


def tool(name: str = "read", **fields: Any) -> Tool:
    return attrs.evolve(Tool.of(read, name=name), source="files", **fields)


def pin_of(one: Tool, changed: Tool | None = None) -> Pin:
    return Pin(
        source="files",
        name=one.name,
        definition=dict(one.definition),
        fingerprint=one.fingerprint,
        changed=None if changed is None else dict(changed.definition),
        changed_fingerprint=None if changed is None else changed.fingerprint,
    )


@pytest.fixture
def pins(database: Database) -> Pins:
    return Pins(database)


BEFORE, AFTER, LATER = tool(), tool(description="Reads, and tells."), tool(description="Reads, and tells all.")


async def test_the_first_definition_is_the_trusted_one(pins: Pins) -> None:
    """Later ones are noted beside it, the last of them; the first one again takes that away."""
    assert await pins.see([BEFORE]) == [pin_of(BEFORE)]
    for changed in (AFTER, LATER, None):
        assert await pins.see([changed or BEFORE]) == [pin_of(BEFORE, changed)]
        assert await pins.all() == [pin_of(BEFORE, changed)]


async def test_several_at_once(pins: Pins) -> None:
    """Each tool has a pin of its own; what was not asked for is not given."""
    other = tool("other")
    await pins.see([BEFORE, other])
    assert await pins.see([AFTER]) == [pin_of(BEFORE, AFTER)]
    assert await pins.all() == [pin_of(other), pin_of(BEFORE, AFTER)]


async def test_accepting(pins: Pins) -> None:
    """What was looked at is trusted from then on, and the first one is not any more."""
    await pins.see([BEFORE])
    await pins.see([AFTER])
    assert await pins.accept("files", "read", AFTER.fingerprint) == pin_of(AFTER)
    assert await pins.see([BEFORE]) == [pin_of(AFTER, BEFORE)]


async def test_what_cannot_be_accepted(pins: Pins) -> None:
    """A definition that it has not any more, one that has not changed, and a tool that nobody knows."""
    await pins.see([BEFORE])
    with pytest.raises(Conflict):
        await pins.accept("files", "read", BEFORE.fingerprint)
    await pins.see([AFTER])
    await pins.see([LATER])
    with pytest.raises(Conflict):
        await pins.accept("files", "read", AFTER.fingerprint)
    for source, name in (("others", "read"), ("files", "write")):
        with pytest.raises(NotFound):
            await pins.accept(source, name, LATER.fingerprint)
    assert await pins.all() == [pin_of(BEFORE, LATER)]
