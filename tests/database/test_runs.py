"""Runs: their logs, leases and ends."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatcore.database import Conversations, Database, LogRow, NewMessage, NewRun, Runs, tables
from chatcore.database.runs import set_state
from chatcore.errors import NotFound
from chatcore.types import Principal


@pytest.fixture
def start(
    conversations: Conversations, ann: Principal, user: Callable[..., NewMessage], new_run: Callable[..., NewRun]
) -> Callable[..., Awaitable[str]]:
    """Starts runs of Ann's, each in a conversation of its own."""

    async def start(run_id: str, **fields: Any) -> str:
        run = new_run(run_id, **fields)
        await conversations.begin(ann, conversation_id=f"of {run_id}", messages=[user("Hello")], run=run)
        return run_id

    return start


Start = Callable[..., Awaitable[str]]


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)


def row(run_id: str, first: int, last: int) -> LogRow:
    return LogRow(run_id, first, last, f"{run_id} {first}-{last}".encode())


def spans(rows: Any) -> list[tuple[int, int]]:
    for one in rows:
        assert one == row(one.run_id, one.first, one.last)
    return [(one.first, one.last) for one in rows]


async def test_record(start: Start, runs: Runs, ann: Principal) -> None:
    """A run is known with all that it was started with, and with its end."""
    await start("r1", client_id="cli", format="openai", model="echo/x", turn={"origin": {"a": None}})
    record = await runs.get(ann, "r1")
    assert (record.id, record.owner, record.conversation_id) == ("r1", "ann", "of r1")
    assert (record.client_id, record.format, record.model) == ("cli", "openai", "echo/x")
    assert (record.state, record.reason, record.ended_at, record.last_seq) == ("running", None, None, 0)
    assert record.turn == {"origin": {"a": None}}
    assert list(await runs.running(ann, "of r1")) == [record]
    await runs.database.write(lambda: set_state("r1", "waiting", "approval"))
    assert ((await runs.get(ann, "r1")).state, (await runs.get(ann, "r1")).reason) == ("waiting", "approval")
    assert [run.id for run in await runs.running(ann, "of r1")] == ["r1"]
    await runs.finish("r1", "completed", "stop", 7)
    ended = await runs.get(ann, "r1")
    assert (ended.state, ended.reason, ended.last_seq) == ("completed", "stop", 7)
    assert ended.ended_at is not None
    assert list(await runs.running(ann, "of r1")) == []


async def test_end_is_final(start: Start, runs: Runs, ann: Principal) -> None:
    """What has ended stays as it is, whoever says what later."""
    await start("r1")
    await runs.finish("r1", "incomplete", "server_stopped", 3)
    ended = await runs.get(ann, "r1")
    await runs.finish("r1", "completed", "stop", 9)
    await runs.database.write(lambda: set_state("r1", "running"))
    assert await runs.get(ann, "r1") == ended
    await runs.finish("nobody", "completed", "stop", 9)


async def test_log(start: Start, runs: Runs, ann: Principal) -> None:
    """A log is read from any place, gapless and in order, whether it is in the journal still or in its place."""
    await start("r1")
    await start("r2")
    await runs.journal("here", [row("r1", 1, 2), row("r2", 1, 5)])
    await runs.journal("here", [row("r1", 3, 3)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 2), (3, 3)]
    assert spans(await runs.log(ann, "r1", 1)) == [(1, 2), (3, 3)]
    assert spans(await runs.log(ann, "r1", 2)) == [(3, 3)]
    await runs.settle("here", [row("r1", 1, 3), row("r2", 1, 5)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 3)]
    await runs.journal("here", [row("r1", 4, 6), row("r2", 6, 6)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 3), (4, 6)]
    assert spans(await runs.log(ann, "r1", 5)) == [(4, 6)]
    assert spans(await runs.log(ann, "r1", 6)) == []
    await runs.finish("r1", "completed", "stop", 7, [row("r1", 4, 7)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 3), (4, 7)]
    assert spans(await runs.log(ann, "r2", 0)) == [(1, 5), (6, 6)]
    await runs.settle("here", [row("r2", 6, 6)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 3), (4, 7)]
    assert spans(await runs.log(ann, "r2", 0)) == [(1, 5), (6, 6)]


async def test_log_of_a_deleted_run(start: Start, runs: Runs, conversations: Conversations, ann: Principal) -> None:
    """Events of a run whose conversation was deleted are dropped; those of the others in the same write are kept."""
    await start("gone")
    await start("r1")
    await conversations.delete(ann, "of gone", even_saved=True)
    await runs.journal("here", [row("gone", 1, 1), row("r1", 1, 1)])
    await runs.settle("here", [row("gone", 1, 1), row("r1", 1, 1)])
    await runs.finish("gone", "completed", "stop", 2, [row("gone", 2, 2)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 1)]
    with pytest.raises(NotFound):
        await runs.log(ann, "gone", 0)


async def test_leases(start: Start, runs: Runs, ann: Principal) -> None:
    """A worker renews what it holds and is told what that is."""
    await start("mine")
    await start("ended")
    await start("taken", worker="other")
    await runs.finish("ended", "completed", "stop", 1)
    until = ago(-100)
    assert await runs.renew("here", ["mine", "ended", "taken", "unknown"], until) == {"mine"}
    assert (await runs.get(ann, "mine")).lease_until == until
    assert await runs.renew("here", [], until) == frozenset()


async def test_claims(start: Start, runs: Runs, ann: Principal) -> None:
    """Runs whose lease has run out, or whose worker is dead, go to the first worker that asks; others are left."""
    await start("expired", lease_until=ago(1))
    await start("waiting", lease_until=ago(1))
    await runs.database.write(lambda: set_state("waiting", "waiting"))
    await start("ended", lease_until=ago(1))
    await runs.finish("ended", "completed", "stop", 1)
    await start("alive", worker="other")
    await start("dead", worker="dead")
    until = ago(-15)
    claimed = await runs.claim_expired("here", datetime.now(UTC), until, ["dead"])
    assert [(record.id, record.worker, record.lease_until) for record in claimed] == [
        (name, "here", until) for name in ("expired", "waiting", "dead")
    ]
    assert await runs.get(ann, "dead") in claimed
    assert list(await runs.claim_expired("third", datetime.now(UTC), until)) == []


async def test_every_run_is_claimed_once(start: Start, runs: Runs, database: Database, tmp_path: Any) -> None:
    """Of several workers that ask at the same time each gets different runs."""
    for number in range(20):
        await start(f"r{number}", lease_until=ago(1))
    other = Database(str(tmp_path / "chatcore.db"))
    await other.open()
    claimed = []
    for handle in (other, database, other):
        claimed += [run.id for run in await Runs(handle).claim_expired("w", datetime.now(UTC), ago(-15))]
    await other.close()
    assert sorted(claimed) == sorted(f"r{number}" for number in range(20))


async def test_journal_of_a_dead_worker(start: Start, runs: Runs, ann: Principal, database: Database) -> None:
    """What a dead worker journaled goes to the logs of its runs, and what it journals later nowhere; when they are
    closed its journal goes, and nobody else's."""
    await start("r1", worker="dead")
    await start("r2", worker="other")
    await runs.journal("dead", [row("r1", 1, 2)])
    await runs.journal("other", [row("r2", 1, 2)])
    await runs.journal("here", [])
    await runs.forget("here")
    await runs.claim_expired("here", datetime.now(UTC), ago(-15), ["dead"])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 2)]
    await runs.journal("dead", [row("r1", 3, 9)])
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 2)]
    await runs.finish("r1", "incomplete", "server_stopped", 3, [row("r1", 3, 3)])
    await runs.forget("here")
    assert spans(await runs.log(ann, "r1", 0)) == [(1, 2), (3, 3)]
    assert spans(await runs.log(ann, "r2", 0)) == [(1, 2)]
    workers = await database.read(lambda: tables.execute("SELECT worker FROM run_journal ORDER BY id"))
    assert workers == [("other",), ("here",)]


async def test_pruning(start: Start, runs: Runs, ann: Principal) -> None:
    """Logs of runs that ended long ago go; the runs themselves stay, and so do the logs of all others."""
    for number in range(120):
        await start(f"old{number}")
        await runs.finish(
            f"old{number}", "completed", "stop", 2, [row(f"old{number}", 1, 1), row(f"old{number}", 2, 2)]
        )
    await start("running")
    await runs.settle("here", [row("running", 1, 1)])
    assert await runs.prune(ago(60)) == 0
    assert await runs.prune(ago(-1)) == 120
    assert await runs.prune(ago(-1)) == 0
    assert spans(await runs.log(ann, "running", 0)) == [(1, 1)]
    assert spans(await runs.log(ann, "old7", 0)) == []
    assert (await runs.get(ann, "old7")).state == "completed"
