"""Runs and their log (chatcore/runs/runs.py), on a real database and without HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from chatcore.attachments import Attachments
from chatcore.builtin.disk import DiskFiles
from chatcore.config import Loaded
from chatcore.database import Begun, Conversations, Database, LogRow, NewMessage, NewRun
from chatcore.database import Runs as RunTable
from chatcore.errors import DatabaseError, NotFound
from chatcore.plugins import Plugins
from chatcore.protocols import Provider
from chatcore.runs import eventlog
from chatcore.runs import log as runlog
from chatcore.runs.approvals import Approvals
from chatcore.runs.held import lease
from chatcore.runs.readers import Batch, Reader, StoredReader, Tail
from chatcore.runs.run import Run
from chatcore.runs.runs import Runs
from chatcore.runs.turn import UNKNOWN_OUTCOME, origin_of
from chatcore.runs.upkeep import Upkeep
from chatcore.testing.scripted import ScriptedProvider, Step, call, text
from chatcore.tools import Tool
from chatcore.types import (
    LOCAL,
    Event,
    Failed,
    Message,
    MessageStored,
    ModelEvent,
    ModelRequest,
    Principal,
    RunEnded,
    RunStarted,
    TextDelta,
    Turn,
)
from chatcore.wire import unstructure
from chatcore.worker import Presence

ANN = Principal("ann")


@attrs.define
class Bench:
    """A worker with a database, and turns to run."""

    database: Database
    runs: Runs
    count: int = 0

    @property
    def table(self) -> RunTable:
        return RunTable(self.database)

    async def begin(self, *, worker: str = "me", lease_until: datetime | None = None) -> tuple[Turn, Begun]:
        self.count += 1
        turn = Turn(
            id=f"run{self.count}",
            principal=ANN,
            conversation_id=f"c{self.count}",
            model="m",
            provider="scripted",
            history=(Message(role="user", content="hi"),),
        )
        run = NewRun(
            id=turn.id, worker=worker, lease_until=lease_until or lease(), model="m", format="chat",
            turn=unstructure(origin_of(turn)),
        )  # fmt: skip
        new = [NewMessage(message=turn.history[0])]
        begun = await Conversations(self.database).begin(
            ANN, conversation_id=turn.conversation_id, messages=new, run=run
        )
        return turn, begun

    async def start(self, *scripts: list[Step], **options: Any) -> str:
        turn, begun = await self.begin()
        provider: Provider = ScriptedProvider(*scripts)
        self.runs.start(turn, provider, lambda: ready(begun), **options)
        return turn.id

    async def read(self, run_id: str, after: int = 0) -> list[Event]:
        return await drain(await self.runs.reader(ANN, run_id, after))


async def ready(begun: Begun) -> Begun:
    return begun


async def drain(reader: Reader) -> list[Event]:
    """Everything that a reader gives until the run ends; checks that the numbers have no gap."""
    events: list[Event] = []
    expected: int | None = None
    reader.open()
    try:
        while True:
            batch: Batch | None = await reader.next()
            if batch is not None:
                assert expected in (None, batch[0])
                expected = batch[0] + len(batch[1])
                events += batch[1]
    except StopAsyncIteration:
        return events
    finally:
        reader.close()


@pytest.fixture(params=["relaxed", "strict", pytest.param("postgres", marks=pytest.mark.slow)])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    postgres = request.param == "postgres"
    database = Database(request.getfixturevalue("postgres_url") if postgres else str(tmp_path / "chat.db"))
    await database.open()
    plugins = Plugins.load(Loaded(), database, discover=False)
    attachments = Attachments.of(database, lambda: DiskFiles(tmp_path / "files"), ())
    runs = Runs(database, plugins, attachments, strict=request.param != "relaxed")
    runs.join("me")
    yield Bench(database, runs)
    await runs.close()
    await database.close()


async def test_readers_of_every_time_see_the_same(bench: Bench) -> None:
    """One that follows, one that joins in the middle, and one that comes after the end read the same events."""
    middle = asyncio.Event()
    run_id = await bench.start([text("one "), middle, text("two")])
    first = asyncio.create_task(bench.read(run_id))
    second = asyncio.create_task(bench.read(run_id))
    middle.set()
    events = await first
    assert await second == events
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunEnded)
    await bench.runs.close()
    assert await bench.read(run_id) == events


async def test_a_reader_gets_exactly_the_rest(bench: Bench) -> None:
    """From every event on, in memory and from the database."""
    run_id = await bench.start([text(*"abcdefgh")])
    events = await bench.read(run_id)
    for after in range(len(events) + 1):
        assert await bench.read(run_id, after) == events[after:]


async def test_an_answer_that_never_waits_can_be_stopped(bench: Bench) -> None:
    """Others have their turn only where the run lets them; a stop that comes there ends it like any other."""

    flows = asyncio.Event()

    class Flood(ScriptedProvider):
        async def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
            while True:
                yield text(*"x" * 101)
                flows.set()

    turn, begun = await bench.begin()
    bench.runs.start(turn, Flood(), lambda: ready(begun))
    async with asyncio.timeout(10):
        await flows.wait()
        record = await bench.runs.stop(ANN, turn.id)
    assert (record.state, record.reason) == ("stopped", "user")


async def test_a_run_is_its_owners(bench: Bench) -> None:
    """Nobody else can read, look at or stop it, under way or ended."""
    go_on = asyncio.Event()
    run_id = await bench.start([go_on])
    for _ in range(2):
        for act in (bench.runs.reader, bench.runs.get, bench.runs.stop):
            with pytest.raises(NotFound):
                await act(LOCAL, run_id)
        go_on.set()
        await bench.read(run_id)


async def test_a_run_without_readers_is_stopped_after_its_grace(bench: Bench) -> None:
    """If leaving means stopping; one that somebody reads goes on."""
    run_id = await bench.start([text("a"), asyncio.Event()], grace=0.01)
    run = bench.runs._held.live[run_id]
    await run.over.wait()
    record = await bench.runs.get(ANN, run_id)
    assert (record.state, record.reason) == ("stopped", "disconnected")


async def test_the_journal_moves_to_the_logs_of_the_runs(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a run goes on, another worker reads what is on disk, whether it has moved or not; each event once."""
    monkeypatch.setattr(runlog, "SETTLE_INTERVAL", 0.03)
    gates = [asyncio.Event() for _ in range(6)]
    run_id = await bench.start([step for gate in gates for step in (text("x", "y"), gate)])
    elsewhere = asyncio.create_task(
        drain(StoredReader(bench.table, Tail(bench.database), await bench.runs.get(ANN, run_id), 0))
    )
    run = bench.runs._held.live[run_id]
    for gate in gates:
        while run.durable < len(run.events):
            await asyncio.sleep(0.005)
        gate.set()
    events = await bench.read(run_id)
    assert await elsewhere == events
    assert sum(isinstance(event, TextDelta) for event in events) == 12


async def test_a_run_that_cannot_be_closed_keeps_what_was_on_disk(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal moves just as a run ends, and closing the run fails: no event that was on disk is gone."""
    monkeypatch.setattr(runlog, "SETTLE_INTERVAL", 0.1)

    async def fail(*_: Any) -> None:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(RunTable, "finish", fail)
    go_on, other = asyncio.Event(), asyncio.Event()
    await bench.start([other])  # keeps the journal moving
    run_id = await bench.start([text("one "), go_on, text("two")])
    run = bench.runs._held.live[run_id]
    log = bench.runs._log
    while run.durable < 2 or run.settled == run.durable or log._settle_at > time.monotonic():
        run.append([TextDelta("more ")])
        log.touch(run)
        await asyncio.sleep(0.01)
    on_disk = run.durable
    go_on.set()
    await run.over.wait()
    for _ in range(2):
        bench.runs._held.live["run1"].append([TextDelta("")])
        log.touch(bench.runs._held.live["run1"])
        await asyncio.sleep(0.11)
    rows = await bench.table.log(ANN, run_id, 0)
    assert rows[0].first == 1
    assert all(row.first == before.last + 1 for before, row in pairwise(rows))
    assert rows[-1].last >= on_disk
    other.set()


async def test_abandoned_runs_are_closed_with_their_text(bench: Bench) -> None:
    """A run whose lease has run out: its text becomes a partial message, its readers get the end, once."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    turn, begun = await bench.begin(worker="dead", lease_until=past)
    told = [RunStarted(turn.id, turn.conversation_id, True), TextDelta("Once "), TextDelta("upon")]
    await bench.table.journal("dead", [LogRow(turn.id, 1, 3, eventlog.pack(told))])
    assert await bench.runs.upkeep.recover() == 1
    assert await bench.runs.upkeep.recover() == 0
    record = await bench.runs.get(ANN, turn.id)
    assert (record.state, record.reason, record.last_seq) == ("incomplete", "server_stopped", 5)
    events = await bench.read(turn.id)
    assert events[:3] == told
    assert isinstance(events[3], MessageStored)
    assert events[4] == RunEnded("incomplete", "server_stopped")
    assert await bench.read(turn.id, 20) == events[4:]  # a reader that was ahead of what was on disk gets the end, too
    path = await Conversations(bench.database).path(ANN, turn.conversation_id)
    assert [(m.message.text, m.state) for m in path] == [("hi", "complete"), ("Once upon", "partial")]
    assert path[1].parent_id == begun.path[-1].id


async def test_a_clock_that_is_set_takes_no_run_from_a_worker_that_lives(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All leases have run out by it, as after the machine has slept: nobody's runs are closed until each worker had the
    time to renew its own."""
    done: list[str] = []
    enough = asyncio.Event()

    async def renew(*_: object) -> frozenset[str]:
        done.append("renew")
        return frozenset()

    async def clean_up(*_: object) -> bool:
        done.append("clean up")
        enough.set()
        return False

    monkeypatch.setattr("chatcore.runs.upkeep.LEASE", 0.1)
    monkeypatch.setattr(RunTable, "renew", renew)
    monkeypatch.setattr(Upkeep, "clean_up", clean_up)
    keeping = asyncio.create_task(bench.runs.upkeep.keep(cast(Presence, None), retention=1))
    await asyncio.sleep(0)  # it has looked at the clock, and waits
    told_by_system = time.time
    monkeypatch.setattr("time.time", lambda: told_by_system() + 3600)
    await enough.wait()
    keeping.cancel()
    assert done == ["renew", "renew", "clean up"]


async def test_a_fault_that_nobody_foresaw_does_not_end_the_upkeep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in the log, and the next look is made: without it the worker would lose its runs."""
    again = asyncio.Event()
    faults = [ZeroDivisionError("a bug")]

    async def clean_up(*_: object) -> bool:
        if faults:
            raise faults.pop()
        again.set()
        return True

    async def sweep(*_: object) -> None:
        raise ZeroDivisionError("another bug")

    monkeypatch.setattr("chatcore.runs.upkeep.LEASE", 0.1)
    monkeypatch.setattr(Upkeep, "clean_up", clean_up)
    monkeypatch.setattr(Attachments, "sweep", sweep)
    keeping = asyncio.create_task(bench.runs.upkeep.keep(cast(Presence, None), retention=1))
    for _ in range(2):  # the first of them has had the files swept
        await asyncio.wait_for(again.wait(), 10)
        again.clear()
    keeping.cancel()
    assert "ZeroDivisionError: a bug" in caplog.text
    assert "ZeroDivisionError: another bug" in caplog.text


async def test_a_run_that_cannot_be_read_keeps_no_other_from_being_closed(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """It ends without what it had said. Nor does it keep the server from starting, which closes such runs first."""
    past = datetime.now(UTC) - timedelta(seconds=1)
    damaged, _ = await bench.begin(worker="dead", lease_until=past)
    whole, _ = await bench.begin(worker="dead", lease_until=past)
    await bench.table.journal("dead", [LogRow(damaged.id, 1, 3, b"not a log")])
    assert await bench.runs.upkeep.recover() == 2
    records = [await bench.runs.get(ANN, turn.id) for turn in (damaged, whole)]
    assert [(record.state, record.reason) for record in records] == [("incomplete", "server_stopped")] * 2
    assert f"what run {damaged.id} has said cannot be read" in caplog.text


async def test_an_answer_that_was_stored_before_the_log_had_all_of_it_is_told_to_its_end(bench: Bench) -> None:
    """By a worker that died just then: readers get the rest of the text, also of a second answer, and nothing twice."""
    turn, begun = await bench.begin(worker="dead", lease_until=datetime.now(UTC) - timedelta(seconds=1))
    conversations = Conversations(bench.database)
    parent = begun.path[-1].id
    answers = []
    bench.runs.join("dead")
    for said in ("Once upon", "a time"):
        new = NewMessage(message=Message(role="assistant", content=said), run_id=turn.id)
        answers += await conversations.add_answer(ANN, turn.conversation_id, parent, [new])
        parent = answers[-1].id
    told = [RunStarted(turn.id, turn.conversation_id, True), TextDelta("Once ")]
    await bench.table.journal("dead", [LogRow(turn.id, 1, 2, eventlog.pack(told))])
    bench.runs.join("me")
    assert await bench.runs.upkeep.recover() == 1
    assert await bench.read(turn.id) == [
        *told,
        TextDelta("upon"),
        MessageStored(answers[0]),
        TextDelta("a time"),
        MessageStored(answers[1]),
        RunEnded("incomplete", "server_stopped"),
    ]
    assert [m.message.text for m in await conversations.path(ANN, turn.conversation_id)] == [
        "hi",
        "Once upon",
        "a time",
    ]


async def test_a_tool_whose_outcome_nobody_knows_is_not_repeated(bench: Bench) -> None:
    """A worker that died while a tool ran leaves its place; recovery says that the outcome is unknown."""
    entered = asyncio.Event()
    turn, begun = await bench.begin(worker="dead", lease_until=datetime.now(UTC) - timedelta(seconds=1))

    async def pay() -> str:
        """Pays."""
        entered.set()
        await asyncio.Event().wait()
        return "paid"

    provider = ScriptedProvider([call("pay")])
    bench.runs.join("dead")
    bench.runs.start(attrs.evolve(turn, tools={"pay": Tool.of(pay)}), provider, lambda: ready(begun))
    await entered.wait()
    [task] = bench.runs._generation._tasks
    task.cancel()  # as near to a killed worker as one process comes
    await asyncio.wait([task])
    bench.runs._held.live.clear()
    bench.runs.join("me")
    await bench.runs.upkeep.recover()
    *_, answer = await Conversations(bench.database).path(ANN, turn.conversation_id)
    assert (answer.message.text, answer.state, answer.is_error) == (UNKNOWN_OUTCOME, "complete", True)


@pytest.mark.parametrize("spoken", [[], [text("one ")]])
async def test_a_turn_that_cannot_be_stored_ends_at_once(
    bench: Bench, spoken: list[Step], caplog: pytest.LogCaptureFixture
) -> None:
    """The reader is told, whether the model has said something or not, and the model is asked no further. The reason,
    which may name a file, is in the log."""
    turn, _ = await bench.begin()

    async def fails() -> Begun:
        raise DatabaseError("the disk is full")

    run = bench.runs.start(turn, ScriptedProvider([*spoken, asyncio.Event()]), fails)
    await run.over.wait()
    *_, told, ended = run.events
    assert told == Failed("The server's data cannot be read or written.", "database", 500)
    assert "the disk is full" in caplog.text
    assert ended == RunEnded("failed", "database")


async def test_a_turn_whose_storing_has_a_bug_ends(bench: Bench) -> None:
    """A run must come to its end whatever goes wrong: its readers wait for it, and it counts as under way."""
    turn, _ = await bench.begin()

    async def fails() -> Begun:
        raise ZeroDivisionError("a bug")

    run = bench.runs.start(turn, ScriptedProvider([text("one "), asyncio.Event()]), fails)
    await asyncio.wait_for(run.over.wait(), 10)
    assert run.events[-1] == RunEnded("failed", "internal")
    assert bench.runs.count == 0


async def test_what_was_told_of_a_turn_that_fails_is_kept(bench: Bench) -> None:
    """A fault that nobody foresaw ends the answer, not what its reader has seen of it."""
    run_id = await bench.start([text("one "), ZeroDivisionError("a bug")])
    *_, stored, told, ended = await bench.read(run_id)
    assert isinstance(stored, MessageStored)
    assert (isinstance(told, Failed), ended) == (True, RunEnded("failed", "internal"))
    *_, answer = await Conversations(bench.database).path(ANN, "c1")
    assert (answer.message.text, answer.state) == ("one ", "partial")


async def test_nothing_follows_the_end_of_a_run(bench: Bench) -> None:
    """Whatever a tool that was left behind still has to tell: readers take the end for the end."""
    turn, _ = await bench.begin()
    run = Run(turn, Approvals(bench.database), strict=False, grace=None)
    run.append([TextDelta("said"), RunEnded("completed", "stop")])
    run.append([TextDelta("too late")])
    assert run.ended
    assert len(run.events) == 2


async def test_who_waits_no_longer_for_the_end_of_a_run_holds_up_no_other(bench: Bench) -> None:
    """Such as the next request, whose client has left, where an end could not be stored before."""
    ending = []
    for _ in range(2):
        turn, _ = await bench.begin()
        run = Run(turn, Approvals(bench.database), strict=False, grace=None)
        run.append([RunEnded("completed", "stop")])
        ending.append(asyncio.create_task(bench.runs._log.finish(run)))
    await asyncio.sleep(0)
    ending[0].cancel()
    await asyncio.wait_for(ending[1], 10)
    assert (await bench.runs.get(ANN, "run2")).state == "completed"


async def test_a_log_that_cannot_be_written_does_not_stop_a_relaxed_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relaxed, the answer goes on and the fault is logged; strict, the run ends, since it could not keep its word."""

    async def fail(*_: Any) -> None:
        raise DatabaseError("the disk is full")

    monkeypatch.setattr(RunTable, "journal", fail)
    monkeypatch.setattr(RunTable, "settle", fail)
    go_on = asyncio.Event()
    run_id = await bench.start([text("one "), go_on, text("two")])
    run = bench.runs._held.live[run_id]
    reading = asyncio.create_task(bench.read(run_id))
    if bench.runs._strict:
        events = await reading
        assert events[-1] == RunEnded("stopped", "log_failed")
    else:
        while not run._readers:
            await asyncio.sleep(0)
        go_on.set()
        assert (await reading)[-1] == RunEnded("completed", "stop")
