"""Readers of runs that live in other workers (chatcore/runs/readers.py): two workers on one database."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest

from chatcore.attachments import Attachments
from chatcore.builtin.disk import DiskFiles
from chatcore.config import Loaded
from chatcore.database import Approvals as ApprovalTable
from chatcore.database import Conversations, Database, LogRow, NewMessage, NewRun, tables
from chatcore.database import Runs as RunTable
from chatcore.database.runs import Signal
from chatcore.errors import DatabaseError, RunLost
from chatcore.plugins import Plugins
from chatcore.runs import log as runlog
from chatcore.runs import readers, signals
from chatcore.runs.held import lease
from chatcore.runs.readers import Reader, StoredReader
from chatcore.runs.run import Run
from chatcore.runs.runs import Runs
from chatcore.runs.turn import origin_of
from chatcore.testing.scripted import ScriptedProvider, Step, text
from chatcore.types import Event, Message, Principal, RunEnded, TextDelta, Turn
from chatcore.wire import unstructure

ANN = Principal("ann")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "chat.db" if request.param == "sqlite" else request.getfixturevalue("postgres_url"))


@asynccontextmanager
async def worker(url: str, name: str) -> AsyncIterator[Runs]:
    database = Database(url)
    await database.open()
    attachments = Attachments.of(database, lambda: DiskFiles(Path("unused")), ())
    runs = Runs(database, Plugins.load(Loaded(), database, discover=False), attachments)
    runs.join(name)
    yield runs
    await runs.close()
    await database.close()


@pytest.fixture
async def here(url: str) -> AsyncIterator[Runs]:
    async with worker(url, "here") as runs:
        yield runs


@pytest.fixture
async def there(url: str) -> AsyncIterator[Runs]:
    async with worker(url, "there") as runs:
        yield runs


async def start(runs: Runs, *script: Step, run_id: str = "run", grace: float | None = None) -> Run:
    """Starts a run in a worker, in the conversation `c` followed by the run's id."""
    turn = Turn(
        id=run_id, principal=ANN, conversation_id=f"c{run_id}", model="m", provider="scripted",
        history=(Message(role="user", content="hi"),),
    )  # fmt: skip
    new = NewRun(
        id=run_id, worker=runs.worker, lease_until=lease(), model="m", format="chat", turn=unstructure(origin_of(turn))
    )
    begin = partial(
        Conversations(runs._database).begin,
        ANN,
        conversation_id=turn.conversation_id,
        messages=[NewMessage(message=turn.history[0])],
        run=new,
    )
    run = runs.start(turn, ScriptedProvider(list(script)), begin, grace=grace)
    await run.begun
    return run


async def rest(reader: Reader) -> list[Event]:
    """What a reader gives until the run ends, without a gap."""
    events: list[Event] = []
    reader.open()
    try:
        while True:
            if batch := await reader.next():
                events += batch[1]
    except StopAsyncIteration:
        return events
    finally:
        reader.close()


async def test_a_reader_in_another_worker_sees_the_same_soon(here: Runs, there: Runs) -> None:
    """Every event, once and in order; at the median less than 100 ms after the worker of the run has it."""
    gates = [asyncio.Event() for _ in range(20)]
    run = await start(here, *(step for gate in gates for step in (text("x", "y"), gate)))
    reader = await there.reader(ANN, "run")
    reader.open()
    events: list[Event] = []
    lags = []
    for gate in gates:
        told = time.perf_counter()
        while len(events) < len(run.events):
            if batch := await reader.next():
                events += batch[1]
        lags.append(time.perf_counter() - told)
        count = len(run.events)
        gate.set()
        while len(run.events) == count:
            await asyncio.sleep(0)
    reader.close()
    events += await rest(await there.reader(ANN, "run", len(events)))
    assert events == run.events
    assert statistics.median(lags) < 0.1


async def test_readers_of_one_worker_share_a_tail(here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifty readers of five runs ask the database together, not each for itself."""
    looks = 0
    look, end = RunTable.news, asyncio.Event()

    async def counted(*arguments: object) -> object:
        nonlocal looks
        looks += 1
        return await look(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RunTable, "news", counted)
    runs = [await start(here, text("a"), end, text("b"), run_id=f"r{n}") for n in range(5)]
    reading = [asyncio.create_task(rest(await there.reader(ANN, f"r{n % 5}"))) for n in range(50)]
    while looks < 3:
        await asyncio.sleep(0.001)
    before, started = looks, time.perf_counter()
    end.set()
    for number, events in enumerate(await asyncio.gather(*reading)):
        assert events == runs[number % 5].events
    assert looks - before <= 3 + (time.perf_counter() - started) / 0.01


async def test_what_has_moved_to_the_log_is_read_from_there(
    here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that finds a gap in what the tail tells reads the log, and one that falls far behind does, too."""
    monkeypatch.setattr("chatcore.runs.log.SETTLE_INTERVAL", 0.03)
    monkeypatch.setattr(readers, "BACKLOG", 2)
    gates = [asyncio.Event() for _ in range(12)]
    run = await start(here, *(step for gate in gates for step in (text("x"), gate)))
    slow = await there.reader(ANN, "run")
    slow.open()
    following = asyncio.create_task(rest(await there.reader(ANN, "run")))
    for gate in gates:
        while run.durable < len(run.events):
            await asyncio.sleep(0.001)
        gate.set()
    assert await following == run.events
    assert await rest(slow) == run.events


async def test_large_events_are_read_a_few_at_a_time(here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the log are bounded in bytes, and so is what a reader keeps of them; it gets every event."""
    monkeypatch.setattr(runlog, "LARGEST_ROW", 5_000)
    monkeypatch.setattr(readers, "LARGEST_READ", 8_000)
    run = await start(here, *(text("x" * size) for size in (10, 9_000, 9_000, *[900] * 30, 9_000, 10)))
    await run.over.wait()
    rows = await there._table.log(ANN, "run", 0)
    assert all(len(row.data) <= 5_000 or row.first == row.last for row in rows)
    assert len(rows) < len(run.events)
    reader = await there.reader(ANN, "run")
    assert isinstance(reader, StoredReader)
    kept = []
    events: list[Event] = []
    with suppress(StopAsyncIteration):
        while batch := await reader.next():
            events += batch[1]
            kept.append(sum(len(row.data) for row in reader._rows))
    assert events == run.events
    assert max(kept) <= 8_000


async def test_a_stop_reaches_the_run_wherever_it_lives(here: Runs, there: Runs) -> None:
    """Within 200 ms; it returns when the run has ended, and its readers everywhere get the end.

    More than three are measured only where others are so busy that these took longer.
    """
    taken: list[float] = []
    while len(taken) < 3 or (statistics.median(taken) >= 0.2 and len(taken) < 15):
        run_id = f"r{len(taken)}"
        run = await start(here, text("a"), asyncio.Event(), run_id=run_id)
        following = asyncio.create_task(rest(await there.reader(ANN, run_id)))
        while len(run.events) < 2:
            await asyncio.sleep(0)
        asked = time.perf_counter()
        stopping = asyncio.create_task(there.stop(ANN, run_id))
        while run.stop.reason is None:
            await asyncio.sleep(0.001)
        taken.append(time.perf_counter() - asked)
        record = await stopping
        assert (record.state, record.reason) == ("stopped", "user")
        assert (await following)[-1] == RunEnded("stopped", "user")
    assert statistics.median(taken) < 0.2, taken


@pytest.mark.parametrize("fault", [DatabaseError("the disk cannot be read"), ZeroDivisionError("a bug")], ids=repr)
async def test_signals_are_heeded_after_a_fault(
    here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, fault: Exception
) -> None:
    """It is logged, and those that came meanwhile count."""
    monkeypatch.setattr(signals, "RETRY", 0.01)
    works, faults = RunTable.signals, [fault]

    async def fails_once(table: RunTable, worker: str) -> object:
        if faults:
            raise faults.pop()
        return await works(table, worker)

    monkeypatch.setattr(RunTable, "signals", fails_once)
    await start(here, text("a"), asyncio.Event())
    record = await asyncio.wait_for(there.stop(ANN, "run"), 10)
    assert (record.state, record.reason) == ("stopped", "user")
    assert f"cannot be heeded: {fault}" in caplog.text


async def test_a_deleted_conversation_ends_its_run_in_another_worker(here: Runs, there: Runs) -> None:
    """`stop_conversation` ends the runs of all workers."""
    run = await start(here, asyncio.Event())
    await there.stop_conversation(ANN, "crun")
    assert run.ended


async def test_a_reader_in_another_worker_keeps_a_run_alive(
    here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that ends when nobody reads it goes on while somebody reads it there, and ends after that."""
    monkeypatch.setattr(readers, "PRESENCE", 0.5)
    monkeypatch.setattr(readers, "PRESENCE_INTERVAL", 0.1)
    run = await start(here, asyncio.Event(), grace=0.3)
    reader = await there.reader(ANN, "run")
    reader.open()
    while run._read_for() <= 0:
        await asyncio.sleep(0.001)
    alive_until = asyncio.get_running_loop().time() + 1
    while asyncio.get_running_loop().time() < alive_until:
        await asyncio.sleep(0.01)
        assert run.stop.reason is None
    reader.close()
    await run.over.wait()
    assert run.stop.reason == "disconnected"


async def test_the_next_turn_ends_a_deserted_run_in_another_worker(here: Runs, there: Runs) -> None:
    """One that nobody reads gives way at once; one that is read does not, and the asker does not wait for ever."""
    deserted = await start(here, asyncio.Event(), run_id="left", grace=60)
    await there.make_room_elsewhere(ANN, "cleft")
    assert deserted.ended
    read = await start(here, asyncio.Event(), run_id="read", grace=60)
    read.reader_came()
    await there.make_room_elsewhere(ANN, "cread")
    assert read.stop.reason is None


async def test_who_waits_for_the_end_of_a_run_is_no_reader_of_it(
    here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the worker that asks for room tells of its readers before it asks."""
    signal = RunTable.signal

    async def late(table: RunTable, run_ids: list[str], kind: Signal, until: datetime) -> None:
        while kind == "make_room" and not there._tail._tell_presence_at:
            await asyncio.sleep(0.001)
        await signal(table, run_ids, kind, until)

    monkeypatch.setattr(RunTable, "signal", late)
    deserted = await start(here, asyncio.Event(), run_id="left", grace=60)
    await there.make_room_elsewhere(ANN, "cleft")
    assert deserted.ended


@pytest.mark.parametrize("fault", [DatabaseError("the disk cannot be read"), ZeroDivisionError("a bug")], ids=repr)
async def test_a_tail_that_cannot_read_says_so_and_goes_on(
    here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch, fault: Exception
) -> None:
    """The database fails once: the readers read the log themselves, and follow again when it works."""
    monkeypatch.setattr(readers, "RETRY", 0.01)
    works = RunTable.news
    failures = 0

    async def fails_once(*arguments: object) -> object:
        nonlocal failures
        failures += 1
        if failures == 1:
            raise fault
        return await works(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(RunTable, "news", fails_once)
    go_on = asyncio.Event()
    run = await start(here, text("a"), go_on, text("b"))
    following = asyncio.create_task(rest(await there.reader(ANN, "run")))
    while failures < 3:
        await asyncio.sleep(0.001)
    go_on.set()
    assert await following == run.events
    assert sum(isinstance(event, TextDelta) for event in run.events) == 2


async def test_one_worker_at_a_time_cleans_up(here: Runs, there: Runs, tmp_path: Path) -> None:
    """The job is the first one's until it leaves or dies; then another has it."""
    from chatcore.worker import Presence

    presence = Presence(tmp_path / "workers")
    assert await here.upkeep.clean_up(presence)
    assert await here.upkeep.clean_up(presence)
    assert not await there.upkeep.clean_up(presence)
    await here.close()
    assert await there.upkeep.clean_up(presence)
    dead = tmp_path / "workers" / "there.lock"  # a file without a lock: its worker has died
    dead.touch()
    assert await here.upkeep.clean_up(presence)
    assert not dead.exists()
    presence.leave()


async def test_a_run_that_is_deleted_is_in_nobodys_way(here: Runs, there: Runs) -> None:
    """Who waits for its end goes on."""
    run = await start(here, asyncio.Event())
    making_room = asyncio.create_task(there.make_room_elsewhere(ANN, "crun"))
    while not there._tail._readers:
        await asyncio.sleep(0.001)
    await here._conversations.delete(ANN, "crun", even_saved=True)
    await making_room
    assert not run.ended
    run.stop.request("user")
    await run.over.wait()
    assert run.ended


async def test_signals_of_the_past_are_swept(here: Runs) -> None:
    """What a worker did not live to read goes with the logs."""
    table = here._table
    await start(here, asyncio.Event())
    await table.signal(["run"], "reader", datetime.now(UTC) - timedelta(seconds=1))
    await table.prune(datetime.now(UTC) - timedelta(days=1))
    assert await table.signals("here") == ()


async def test_a_worker_that_was_silent_for_too_long_loses_its_runs(here: Runs, there: Runs) -> None:
    """Another closes them. What it has to say after that is stored nowhere; its readers go on with what is stored."""
    silence = asyncio.Event()
    run = await start(here, text("one ", "two "), silence, text("three"))
    reading = asyncio.create_task(rest(await here.reader(ANN, "run")))
    while run.durable < 3:
        await asyncio.sleep(0.005)
    await here._table.renew("here", ["run"], lease(-1))
    assert await there.upkeep.recover() == 1
    silence.set()
    await run.over.wait()
    assert run.lost
    stored = await rest(await there.reader(ANN, "run"))
    assert "".join(event.text for event in stored if isinstance(event, TextDelta)) == "one two "
    assert stored[-1] == RunEnded("incomplete", "server_stopped")
    seen = await reading  # it may have seen a word before the worker knew
    assert [seen[:3], seen[-1]] == [stored[:3], stored[-1]]
    assert seen.count(stored[-1]) == 1
    assert await rest(await here.reader(ANN, "run")) == stored
    [_, answer] = await here._conversations.path(ANN, "crun")
    assert (answer.message.text, answer.state) == ("one two ", "partial")
    run = await start(here, text("next"), run_id="next")  # it is as good as any
    assert await rest(await there.reader(ANN, "next")) == run.events


async def test_what_a_worker_writes_of_a_run_that_it_has_lost_is_refused(here: Runs, there: Runs) -> None:
    """Each unit of work finds it out for itself; the journal is refused until the worker has read what it has lost."""
    await start(here, asyncio.Event())
    stored = await here._conversations.add_answer(
        ANN, "crun", None, [NewMessage(message=Message(role="tool", content="?"), state="pending", run_id="run")]
    )
    here._held.live["run"].stop.request("user")
    await here._held.live["run"].over.wait()
    while here._signals._task is not None:  # it would read what is told
        await asyncio.sleep(0.01)
    await here._table.database.write(partial(set_back, "run"))
    await there._table.claim_expired("there", datetime.now(UTC), lease())
    answer = NewMessage(message=Message(role="assistant", content="late"), run_id="run")
    row = LogRow("run", 90, 90, b"late")
    approvals = ApprovalTable(here._database)
    for refused in (
        here._table.journal("here", [row]),
        here._table.settle("here", [], [row]),
        here._table.finish("run", "completed", "stop", 90, [row]),
        here._table.hand_over("run", [row]),
        here._conversations.add_answer(ANN, "crun", None, [answer]),
        here._conversations.finish_tool(ANN, stored[0].id, "late", is_error=False, metadata={}),
        here._conversations.recover_answer(ANN, "crun", "run", None, [answer]),
        approvals.close("run"),
    ):
        with pytest.raises(RunLost):
            await refused
    assert [(run_id, kind) for run_id, kind, _ in await here._table.signals("here")] == [("run", "lost")]
    await here._table.journal("here", [row])
    await here._table.settle("here", [row])
    assert all(row.last < 90 for row in await there._table.log(ANN, "run", 0))
    assert len(await there._conversations.path(ANN, "crun")) == 1


def set_back(run_id: str) -> None:
    """Lets a run that has ended be under way, with a lease that has run out."""
    run = tables.Run
    run.update(state="running", lease_until=datetime.now(UTC) - timedelta(seconds=1)).where(run.id == run_id).execute()


async def test_a_reader_that_is_far_behind_gets_the_log_in_pieces(
    here: Runs, there: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From memory, and from the database, of which it reads some rows at a time: what waits for one that reads slowly
    is never long. Nothing is lost between the pieces."""
    monkeypatch.setattr(readers, "ROWS", 3)
    end = asyncio.Event()
    run = await start(here, text(*["word "] * 6000), end)
    while len(run.events) < 6000:
        await asyncio.sleep(0)
    behind = [await here.reader(ANN, "run"), await there.reader(ANN, "run")]
    end.set()
    await run.over.wait()
    for reader in (*behind, await here.reader(ANN, "run")):
        pieces = []
        reader.open()
        with suppress(StopAsyncIteration):
            while True:
                if batch := await reader.next():
                    pieces.append(batch)
        reader.close()
        assert max(len(events) for _, events in pieces) <= readers.LARGEST_BATCH
        assert [event for _, events in pieces for event in events] == run.events


async def test_a_reader_that_takes_what_comes_and_fails_harms_no_run(here: Runs) -> None:
    """What it did not take it is given in its own task; the run and its other readers go on."""
    go_on = asyncio.Event()
    run = await start(here, text("one "), go_on, text("two"))
    failing, other = await here.reader(ANN, run.turn.id), await here.reader(ANN, run.turn.id)

    def fail(first: int, events: Sequence[Event]) -> bool:
        raise ZeroDivisionError

    while (batch := await failing.next()) is None or not any(isinstance(event, TextDelta) for event in batch[1]):
        pass
    waiting = asyncio.ensure_future(failing.next(fail))
    await asyncio.sleep(0)
    go_on.set()
    assert await waiting is not None
    assert [event.text for event in await rest(other) if isinstance(event, TextDelta)] == ["one ", "two"]


async def test_to_wake_one_reader_wakes_no_other(here: Runs) -> None:
    """Each stream has a timer that wakes its own: a thousand streams of one run would otherwise wake each other."""
    go_on = asyncio.Event()
    run = await start(here, text("one "), go_on, text("two"))
    one, other = await here.reader(ANN, run.turn.id), await here.reader(ANN, run.turn.id)
    for reader in (one, other):
        while (batch := await reader.next()) is None or not any(isinstance(event, TextDelta) for event in batch[1]):
            pass
    waiting, undisturbed = asyncio.ensure_future(one.next()), asyncio.ensure_future(other.next())
    await asyncio.sleep(0)
    one.wake()
    assert await waiting is None
    assert not undisturbed.done()
    go_on.set()
    assert await undisturbed is not None
