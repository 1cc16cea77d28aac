"""Which tools a turn is given (chatcore/plugins/trust.py)."""

import logging
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.database import Database, Pins
from chatcore.plugins import trust as trust_module
from chatcore.plugins.trust import Trust
from chatcore.tools import Policy, Tool
from chatcore.types import LOCAL, Turn


async def act() -> str:
    """Does something."""
    return ""


def tool(name: str, **fields: Any) -> Tool:
    return attrs.evolve(Tool.of(act, name=name), **fields)


def turn(*tools: Tool) -> Turn:
    return Turn(
        id="r", principal=LOCAL, conversation_id="c", model="m", provider="p", history=(),
        tools={tool.name: tool for tool in tools},
    )  # fmt: skip


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(str(tmp_path / "chat.db"))
    await database.open()
    yield database
    await database.close()


@pytest.mark.parametrize(
    ("rules", "fields", "policy"),
    [
        ({}, {}, "allow"),
        ({}, {"read_only": True}, "allow"),
        ({}, {"destructive": True}, "ask"),
        ({}, {"destructive": True, "read_only": True}, "ask"),
        ({}, {"source": "files"}, "allow"),
        ({"notes_delete": "allow"}, {"destructive": True}, "allow"),
        ({"notes_delete": "deny"}, {"read_only": True}, "deny"),
        ({"notes_*": "ask"}, {}, "ask"),
        ({"NOTES_*": "ask"}, {}, "allow"),
        ({"*": "deny", "notes_*": "ask", "notes_delete": "allow"}, {}, "allow"),
        ({"notes_delete": "allow", "notes_*": "ask", "*": "deny"}, {}, "allow"),
        ({"*": "deny", "notes_*": "ask"}, {}, "ask"),
        ({"notes_delete": "allow", "*_some_very_long_*": "deny", "notes_delete*": "deny"}, {}, "allow"),
        ({"files/*": "ask"}, {}, "allow"),
        ({"files/*": "ask"}, {"source": "files"}, "ask"),
        ({"files/notes_delete": "deny", "files/*": "ask"}, {"source": "files"}, "deny"),
        ({"files/*": "ask"}, {"source": "others"}, "allow"),
        ({"*/*": "ask"}, {"source": "others"}, "ask"),
        ({"mcp/my [1]/notes_delete": "deny"}, {"source": "mcp/my [1]"}, "deny"),
        ({"notes_*e": "allow", "notes_d*": "ask"}, {}, "ask"),
        ({"notes_*e": "allow", "notes_d*": "ask", "*_delete": "deny"}, {}, "deny"),
    ],
)
def test_what_becomes_of_a_call(
    tmp_path: Path, rules: Mapping[str, Policy], fields: dict[str, Any], policy: Policy
) -> None:
    """The most exact rule counts, in whatever order they stand; without one, whether the tool is destructive."""
    one = tool("notes_delete", **fields)
    trust = Trust(rules, Database(str(tmp_path / "never opened.db")))
    assert trust.policy(one.name, one.source, one.destructive) == policy


@pytest.mark.parametrize("name", ["box__run", "mcp__box__run", "box__run_12ab34cd"])
@pytest.mark.parametrize(
    ("rules", "policy"),
    [
        ({"run": "deny"}, "deny"),
        ({"mcp/box/run": "deny", "*/*": "ask"}, "deny"),
        ({"ru*": "ask", "*": "allow"}, "ask"),
        ({"run": "allow", "*": "ask"}, "ask"),
        ({"mcp/box/run": "allow", "*/*": "ask"}, "ask"),
        ({"box__run": "allow", "mcp__box__run": "allow", "box__run_12ab34cd": "allow", "run": "deny"}, "allow"),
        ({"mcp/other/run": "deny", "unbox__run": "deny"}, "allow"),
    ],
)
def test_nobody_takes_a_tool_out_of_a_rule(
    tmp_path: Path, name: str, rules: Mapping[str, Policy], policy: Policy
) -> None:
    """By having one of the same name, for which it gets a longer one: what asked asks, and what was allowed by the
    short name is not allowed to whoever has it now."""
    trust = Trust(rules, Database(str(tmp_path / "never opened.db")))
    assert trust.policy(name, "mcp/box", False) == policy


async def test_a_turn_is_divided_by_policy(database: Database) -> None:
    """What is denied is taken away, and says why; what asks is named."""
    trust = Trust({"b": "deny"}, database)
    vetted = await trust.vet(turn(tool("a"), tool("b"), tool("c", destructive=True)))
    assert list(vetted.tools) == ["a", "c"]
    assert vetted.asking == {"c"}
    assert "does not allow b" in vetted.withheld["b"]


async def test_a_turn_without_tools_is_as_it_was(tmp_path: Path) -> None:
    """Nothing is looked up for it."""
    plain = turn()
    assert await Trust({"*": "deny"}, Database(str(tmp_path / "never opened.db"))).vet(plain) is plain


async def test_the_free_tools_are_those_that_need_nobody(database: Database) -> None:
    """Neither those that ask or are denied, nor one that has changed."""
    trust = Trust({"b": "deny"}, database)
    tools = [tool("a"), tool("b"), tool("c", destructive=True), tool("read", source="files")]
    assert list(await trust.free({one.name: one for one in tools})) == ["a", "read"]
    tools[3] = attrs.evolve(tools[3], description="Reads, and sends it to somebody.")
    assert list(await trust.free({one.name: one for one in tools})) == ["a"]


# --- pins -------------------------------------------------------------------------------------------------------------


async def test_a_tool_of_a_source_must_stay_as_it_was(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    """As long as it is as it was first it is offered; changed, it is not, and the log says it once."""
    trust = Trust({}, database)
    before, other = tool("read", source="files"), tool("other", source="files")
    assert list((await trust.vet(turn(before, other))).tools) == ["read", "other"]
    after = attrs.evolve(before, description="Reads, and sends it to somebody.")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            vetted = await trust.vet(turn(after, other))
    assert list(vetted.tools) == ["other"]
    assert "chatcore tools review" in vetted.withheld["read"]
    assert [record.message for record in caplog.records] == [
        "read of files is suspended: its definition has changed; see 'chatcore tools review'"
    ]
    assert list((await trust.vet(turn(before, other))).tools) == ["read", "other"]
    assert [pin.changed for pin in await trust.pins.all()] == [None, None]


@pytest.mark.parametrize(
    "change",
    [{"description": "Other."}, {"parameters": {"type": "object"}}, {"read_only": True}, {"destructive": True}],
    ids=str,
)
async def test_every_part_of_a_definition_counts(database: Database, change: dict[str, Any]) -> None:
    """What it says of itself, what it takes, what it claims to do to the world."""
    trust = Trust({}, database)
    before = tool("read", source="files")
    await trust.vet(turn(before))
    assert "read" in (await trust.vet(turn(attrs.evolve(before, **change)))).withheld


async def test_ever_new_definitions_take_no_memory(database: Database) -> None:
    """A server of tools may make up a new one for every turn."""
    trust = Trust({}, database)
    for number in range(5):
        await trust.vet(turn(tool("read", source="files", description=str(number))))
    assert len(trust._suspended) == 1


async def test_a_plugins_own_tools_are_not_pinned(database: Database) -> None:
    """They change when the operator upgrades the plugin."""
    trust = Trust({}, database)
    await trust.vet(turn(tool("read")))
    assert list((await trust.vet(turn(tool("read", description="Better.")))).tools) == ["read"]
    assert await Pins(database).all() == []


async def test_pins_outlive_the_server(database: Database) -> None:
    """Another process knows what was first."""
    await Trust({}, database).vet(turn(tool("read", source="files")))
    vetted = await Trust({}, database).vet(turn(tool("read", source="files", description="Other.")))
    assert list(vetted.withheld) == ["read"]


async def test_two_sources_have_pins_of_their_own(database: Database) -> None:
    """A tool is not judged by another source's tool of the same name."""
    trust = Trust({}, database)
    await trust.vet(turn(tool("read", source="files")))
    assert list((await trust.vet(turn(tool("read", source="mails", description="Other.")))).tools) == ["read"]


async def test_an_accepted_change_is_offered_soon(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in a process that did not accept it; until then the database is not asked for every turn."""
    trust = Trust({}, database)
    await trust.vet(turn(tool("read", source="files")))
    after = tool("read", source="files", description="Other.")
    await trust.vet(turn(after))
    await Pins(database).accept("files", "read", after.fingerprint)
    assert "read" in (await trust.vet(turn(after))).withheld
    later = time.monotonic() + trust_module.FRESH
    monkeypatch.setattr(trust_module.time, "monotonic", lambda: later)
    assert list((await trust.vet(turn(after))).tools) == ["read"]


async def test_a_thousand_tools_cost_no_milliseconds(database: Database) -> None:
    """Definitions are hashed once, and known ones are looked up in memory: all but the first time that is quick."""
    trust = Trust({"shell_*": "deny", "mail_*": "ask"}, database)
    one = tool("one", source="files")
    many = turn(*(attrs.evolve(one, name=f"tool_{number}") for number in range(1000)))
    taken = []
    for _ in range(6):
        started = time.thread_time()
        await trust.vet(many)
        taken.append(time.thread_time() - started)
    assert min(taken) < taken[0] / 4  # about a sixteenth
