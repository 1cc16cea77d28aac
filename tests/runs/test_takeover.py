"""Runs that wait for consent when their worker ends (chatcore/runs/takeover.py), on a database and without HTTP."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.attachments import Attachments
from chatcore.builtin.disk import DiskFiles
from chatcore.config import Loaded
from chatcore.database import Approval, Approvals, Begun, Conversations, Database, NewMessage, NewRun, RunRecord, tables
from chatcore.database import Runs as RunTable
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.plugins import Plugins
from chatcore.runs import log as runlog
from chatcore.runs import takeover
from chatcore.runs.eventlog import unpack
from chatcore.runs.held import lease
from chatcore.runs.runs import Runs
from chatcore.runs.turn import origin_of
from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.tools import Tool
from chatcore.types import (
    LOCAL,
    ApprovalRequested,
    Event,
    Failed,
    Message,
    MessageStored,
    RunEnded,
    ToolFinished,
    Turn,
)
from chatcore.wire import unstructure


@attrs.define
class World:
    """Workers that share a database: what plugins they have, and what the tool of one did."""

    database: Database
    provider: ScriptedProvider
    done: list[str] = attrs.field(factory=list)
    there: bool = True
    workers: list[Runs] = attrs.field(factory=list)

    def plugins(self, *, provider: bool = True) -> Plugins:
        world = self

        class Danger(Plugin[NoSettings]):
            """Destroys things, when it is there."""

            name = "danger"

            @hookimpl
            def register_tools(self) -> list[Any]:
                return [self]

            def tools(self) -> Sequence[Tool]:
                return [Tool.of(self.destroy, destructive=True)] if world.there else []

            async def destroy(self) -> str:
                """Destroys everything."""
                world.done.append("destroyed")
                return "gone"

        class Scripted(Plugin[NoSettings]):
            """Answers by script."""

            @hookimpl
            def register_providers(self) -> list[ScriptedProvider]:
                return [world.provider]

        given: list[tuple[str, type[Plugin[Any]]]] = [("danger", Danger)]
        if provider:
            given.append(("scripted", Scripted))
        return Plugins.load(Loaded(), self.database, given=given, discover=False)

    def worker(self, name: str, **options: Any) -> Runs:
        attachments = Attachments.of(self.database, lambda: DiskFiles(Path("unused")), ())
        runs = Runs(self.database, self.plugins(**options), attachments)
        runs.join(name)
        self.workers.append(runs)
        return runs

    async def waiting(self) -> tuple[Runs, Approval]:
        """A worker with a run that waits. What it writes of the log is in its journal."""
        runs = self.worker("one")
        runs._log._settle_at = float("inf")
        plugins = runs.upkeep._plugins
        turn = Turn(
            id="run1", principal=LOCAL, conversation_id="c", model="scripted/model", provider="scripted",
            history=(Message(role="user", content="Destroy it."),), tools=plugins.registry.tools(), can_approve=True,
        )  # fmt: skip
        turn = await plugins.prepare(turn)
        run = NewRun(
            id="run1", worker="one", lease_until=lease(), model="m", format="chat", turn=unstructure(origin_of(turn))
        )
        new = [NewMessage(message=turn.history[0])]
        begun = await Conversations(self.database).begin(LOCAL, conversation_id="c", messages=new, run=run)

        async def begin() -> Begun:
            return begun

        started = runs.start(turn, self.provider, begin)
        reader = await runs.reader(LOCAL, "run1")
        while not any(isinstance(event, ApprovalRequested) for event in started.events):
            await reader.next()
        [asked] = await Approvals(self.database).open(LOCAL)
        return runs, asked

    async def kill(self, runs: Runs) -> None:
        """As near to a killed worker as one process comes: what it has not written is lost."""
        runs._log.touch = lambda run: None  # type: ignore[method-assign]
        runs._log._dirty.clear()
        tasks = list(runs._generation._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        runs._held.live.clear()

    async def record(self) -> RunRecord:
        return await self.workers[-1].get(LOCAL, "run1")

    async def events(self) -> list[Event]:
        """What the log has of the run, once it has ended."""
        reader = await self.workers[-1].reader(LOCAL, "run1")
        events: list[Event] = []
        reader.open()
        try:
            while True:
                batch = await reader.next()
                events += batch[1] if batch else ()
        except StopAsyncIteration:
            return events
        finally:
            reader.close()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    database = Database(str(tmp_path / "chat.db"))
    await database.open()
    world = World(database, ScriptedProvider([call("destroy")], [text("Done.")]))
    yield world
    for worker in world.workers:
        await worker.close()
    await database.close()


def of(kind: type[Any], events: Sequence[Event]) -> list[Any]:
    return [event for event in events if isinstance(event, kind)]


@pytest.mark.parametrize("end", ["close", "idle"])
async def test_a_worker_that_stops_leaves_the_run_to_the_next(world: World, end: str) -> None:
    """At once, without a lease that has to run out; the log goes on where it was, and each event is in it once."""
    first, asked = await world.waiting()
    await getattr(first, end)()
    second = world.worker("two")
    assert await second.upkeep.recover() == 1
    assert (await world.record()).state == "waiting"
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    events = await world.events()
    assert len(of(ApprovalRequested, events)) == 1
    assert [event.result.text for event in of(ToolFinished, events)] == ["gone"]
    assert [event.message.message.text for event in of(MessageStored, events)] == ["", "Done."]
    assert events[-1] == RunEnded("completed", "stop")
    assert world.done == ["destroyed"]
    assert [len(request.tools) for request in world.provider.requests] == [1, 1]


async def test_what_the_log_lost_is_told_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies before its log is written: readers of the next one see the answer stored and the call wait."""
    with monkeypatch.context() as patched:
        patched.setattr(runlog, "FLUSH_INTERVAL", 60.0)
        first, asked = await world.waiting()
        await world.kill(first)
    logged = [event for row in await RunTable(world.database).log(LOCAL, "run1", 0) for event in unpack(row.data)]
    assert not of(ApprovalRequested, logged)
    second = world.worker("two")
    await second.upkeep.recover(["one"])
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    events = await world.events()
    [again] = of(ApprovalRequested, events)
    assert again.digest == asked.digest
    assert len(of(MessageStored, events)) == 2
    assert world.done == ["destroyed"]


async def test_what_a_dead_worker_had_written_is_kept(world: World) -> None:
    """It was in the dead worker's journal; the journal goes, and each event is in the log once."""
    first, asked = await world.waiting()
    run = first._held.live["run1"]
    while run.durable < len(run.events):
        await asyncio.sleep(0.005)
    written = list(run.events)
    await world.kill(first)
    second = world.worker("two")
    await second.upkeep.recover(["one"])
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    while second.count:
        await asyncio.sleep(0.005)
    events = await world.events()
    assert events[: len(written)] == written
    assert len(of(ApprovalRequested, events)) == 1


async def test_a_decision_made_while_there_was_no_worker_counts(world: World) -> None:
    """The next worker finds it in the database."""
    first, asked = await world.waiting()
    await world.kill(first)
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    await world.worker("two").upkeep.recover(["one"])
    assert (await world.events())[-1] == RunEnded("completed", "stop")
    assert world.done == ["destroyed"]


async def test_an_allowed_call_waits_for_its_tool(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a start a source may not be connected yet."""
    monkeypatch.setattr(takeover, "TOOL_LOOK", 0.005)
    first, asked = await world.waiting()
    await first.close()
    world.there = False
    second = world.worker("two")
    looks = counted(monkeypatch, second.upkeep._plugins.registry, "tools")
    await second.upkeep.recover()
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    while len(looks) < 3:
        await asyncio.sleep(0)
    world.there = True
    assert (await world.events())[-1] == RunEnded("completed", "stop")
    assert world.done == ["destroyed"]


def counted(monkeypatch: pytest.MonkeyPatch, thing: Any, name: str) -> list[None]:
    """A list that grows with each call of a method."""
    calls: list[None] = []
    method: Callable[[], Any] = getattr(thing, name)

    def count() -> Any:
        calls.append(None)
        return method()

    monkeypatch.setattr(thing, name, count)
    return calls


async def test_a_tool_that_does_not_come_is_an_answer(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The turn does not wait for ever."""
    monkeypatch.setattr(takeover, "TOOL_PATIENCE", 0.01)
    monkeypatch.setattr(takeover, "TOOL_LOOK", 0.005)
    first, asked = await world.waiting()
    await first.close()
    world.there = False
    second = world.worker("two")
    await second.upkeep.recover()
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    [finished] = of(ToolFinished, await world.events())
    assert "There is no tool 'destroy'" in finished.result.text


async def test_without_its_provider_the_run_fails(world: World) -> None:
    """Its readers learn why; nothing of it waits any more."""
    first, asked = await world.waiting()
    await first.close()
    second = world.worker("two", provider=False)
    await second.upkeep.recover()
    await Approvals(world.database).decide(LOCAL, "run1", asked.call_id, asked.digest, "approve")
    *_, failed, ended = await world.events()
    assert isinstance(failed, Failed)
    assert ended.state == "failed"
    assert await Approvals(world.database).paused("run1") is None
    assert world.done == []


@pytest.mark.parametrize("lost", ["messages", "form", "everything"])
async def test_a_run_that_cannot_be_gone_on_with_is_closed(world: World, lost: str) -> None:
    """Its messages were deleted, or another version has kept it: it is incomplete, and waits no longer."""
    first, _ = await world.waiting()
    await first.close()
    if lost == "messages":
        path = await Conversations(world.database).path(LOCAL, "c")
        await Conversations(world.database).delete_message(LOCAL, "c", str(path[-1].id))
    elif lost == "form":
        await world.database.write(lambda: tables.PausedTurn.update(data={"turn": 1}).execute())
    else:
        await world.database.write(lambda: tables.PausedTurn.delete().execute())
    second = world.worker("two")
    await second.upkeep.recover()
    record = await world.record()
    assert (record.state, record.reason) == ("incomplete", "server_stopped")
    assert await Approvals(world.database).open(LOCAL) == []
    assert await Approvals(world.database).unsettled("run1") == []
    assert world.done == []
