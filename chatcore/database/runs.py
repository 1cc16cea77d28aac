"""Runs and their logs in the database."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from typing import Literal, TypeAlias

import attrs
import msgspec
import peewee

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.watch import Watcher
from chatcore.errors import Conflict, NotFound, RunLost
from chatcore.tools import JsonObject
from chatcore.types import FINAL_STATES, Principal, RunState

Signal: TypeAlias = Literal["stop", "make_room", "reader", "decided", "lost"]
"""What one worker tells another of a run: stop it, stop it if nobody reads it, somebody reads it here, a call of it was
decided, it is another's now."""

_GROWN = "run_log"  # the channel where it is announced that the log of a run has grown, or that the run has ended
_LIVE = ("running", "waiting")
_pack = msgspec.msgpack.Encoder().encode
_unpack = msgspec.msgpack.Decoder(list[tuple[str, int, int, bytes]]).decode
_ALL = 2**31  # rows, more than any log has
_TOLD = timedelta(days=1)  # for which a worker that has lost a run is told of it
_PRUNED_AT_ONCE = 50  # runs; a longer transaction would keep the answers of others waiting


@attrs.frozen(kw_only=True)
class NewRun:
    """A run about to start. `worker` holds its lease until `lease_until`. `turn` is what its readers and its recovery
    need to know of its turn, as JSON."""

    id: str
    worker: str
    lease_until: datetime
    model: str
    format: str
    client_id: str | None = None
    turn: JsonObject = attrs.field(factory=dict)
    created_at: datetime = attrs.field(factory=lambda: datetime.now(UTC))


@attrs.frozen
class RunRecord:
    """A run. `question` is the id of the message that it answers, `last_seq` the number of its last event, known once
    it has ended. `reason` says why it is in its state."""

    id: str
    owner: str
    conversation_id: str
    client_id: str | None
    format: str
    model: str
    state: RunState
    reason: str | None
    worker: str
    lease_until: datetime
    question: int | None
    last_seq: int
    turn: JsonObject
    created_at: datetime
    ended_at: datetime | None


@attrs.frozen
class LogRow:
    """The events `first` to `last` of a run, packed."""

    run_id: str
    first: int
    last: int
    data: bytes


@attrs.frozen
class News:
    """What is new of some runs. `rows` may repeat what is known; what a row is not there for is in the log. `ended` are
    the runs whose log is complete, or that are gone; `seen` says of each worker how far its journal was read."""

    rows: Mapping[str, Sequence[LogRow]]
    ended: frozenset[str]
    seen: Mapping[str, int]


@attrs.frozen
class Runs:
    """The runs in the database.

    What an HTTP request leads to takes the principal. The rest is for the worker that executes runs, and for the one
    that recovers them.
    """

    database: Database

    async def get(self, principal: Principal, run_id: str) -> RunRecord:
        """A run. Raises NotFound."""
        return await self.database.read(partial(_get, principal.id, run_id))

    async def running(self, principal: Principal, conversation_id: str) -> Sequence[RunRecord]:
        """The runs of a conversation that have not ended, the oldest first; none if there is no such conversation."""
        return await self.database.read(
            lambda: _records(
                tables.Run.owner == principal.id,
                tables.Conversation.id == conversation_id,
                tables.Run.state.in_(_LIVE),
            )
        )

    async def log(self, principal: Principal, run_id: str, after: int, *, most: int = _ALL) -> Sequence[LogRow]:
        """The rows of a run's log that hold events after number `after`, in order; the first `most` of them. Raises
        NotFound.

        Of a run under way this includes what is still in its worker's journal.
        """
        return await self.database.read(partial(_log, principal.id, run_id, after, most))

    def watch(self) -> AbstractAsyncContextManager[Watcher]:
        """Tells when the log of some run may have grown, in any worker."""
        return self.database.watch(_GROWN)

    async def news(self, run_ids: Collection[str], seen: Mapping[str, int]) -> News:
        """What has come of runs of other workers since their journals were read up to `seen`, for any number of them
        at once."""
        return await self.database.read(partial(_news, tuple(run_ids), seen))

    async def signal(self, run_ids: Collection[str], kind: Signal, until: datetime) -> None:
        """Tells the workers of runs something that is of use `until` a time; of runs that have ended, nothing."""
        await self.database.write(partial(signal, tuple(run_ids), kind, until))

    async def signals(self, worker: str) -> Sequence[tuple[str, Signal, datetime]]:
        """What other workers have told this one since it last asked: run, kind, until when."""
        if not await self.database.read(partial(_signals, worker)):
            return ()
        return await self.database.write(partial(_take_signals, worker))

    async def journal(self, worker: str, rows: Sequence[LogRow]) -> bool:
        """Stores the latest events of all runs of a worker. Costs the same for any number of runs. Gives whether there
        are signals for the worker.

        Raises:
            RunLost: one of the signals is that it has lost a run. Nothing is stored until it has read them.
        """
        return await self.database.write(partial(_journal, worker, rows))

    async def settle(self, worker: str, rows: Sequence[LogRow], latest: Sequence[LogRow] = ()) -> None:
        """Moves what is in a worker's journal to the logs of its runs: `rows` hold all of it that is still of use.
        What belongs to a run that was deleted meanwhile is dropped. `latest` stay in the journal besides, for those who
        follow it."""
        await self.database.write(partial(_settle, worker, rows, latest))

    async def finish(
        self, run_id: str, state: RunState, reason: str, last_seq: int, rows: Sequence[LogRow] = ()
    ) -> None:
        """Ends a run, with the number of its last event and the part of its log that is not in its place yet. One
        that has ended already stays as it is. Raises RunLost."""
        await self.database.write(partial(_finish, self.database.worker, run_id, state, reason, last_seq, rows))

    async def hand_over(self, run_id: str, rows: Sequence[LogRow]) -> None:
        """Leaves a run that waits to the worker that recovers runs next, with the part of its log that is not in its
        place yet. Raises RunLost."""
        await self.database.write(partial(_hand_over, self.database.worker, run_id, rows))

    async def renew(self, worker: str, run_ids: Collection[str], until: datetime) -> frozenset[str]:
        """Renews the leases of this worker's runs. Gives those it still holds: another worker may have taken one."""
        return await self.database.write(partial(_renew, worker, tuple(run_ids), until))

    async def claim_expired(
        self, worker: str, now: datetime, until: datetime, dead_workers: Collection[str] = ()
    ) -> Sequence[RunRecord]:
        """Takes over the runs whose lease has run out, or whose worker is known to be dead. No two workers get one.

        What the old worker's journal has of them moves to their logs. Should it come back, its journal counts for
        nothing, it is told, and what it writes of them is refused.
        """
        return await self.database.write(partial(_claim, worker, now, until, tuple(dead_workers)))

    async def forget(self, worker: str) -> None:
        """Drops the journals of workers that have no runs any more, but for this one's."""
        await self.database.write(partial(_forget, worker))

    async def prune(self, before: datetime) -> int:
        """Deletes the logs of the runs that ended before a time. Gives the number of those runs."""
        pruned = 0
        while count := await self.database.write(partial(_prune, before)):
            pruned += count
        return pruned


def insert(owner: str, key: int, run: NewRun, question: int | None) -> None:
    """Stores a run that starts now, of the conversation with this key."""
    tables.execute(
        "INSERT INTO run (id, owner, conversation_id, client_id, format, model, state, worker, lease_until, question, "
        "last_seq, turn, created_at) VALUES (?, ?, ?, ?, ?, ?, 'running', ?, ?, ?, 0, ?, ?)",
        run.id,
        owner,
        key,
        run.client_id,
        run.format,
        run.model,
        run.worker,
        tables.microseconds(run.lease_until),
        question,
        tables.json_text(run.turn),
        tables.microseconds(run.created_at),
    )


def refuse_second(key: int, now: datetime) -> None:
    """Raises Conflict when a run of the conversation with this key is under way in a live worker."""
    if tables.execute(
        "SELECT 1 FROM run WHERE conversation_id = ? AND state IN ('running', 'waiting') AND lease_until > ?",
        key,
        tables.microseconds(now),
    ):
        raise Conflict("an answer is being written in this conversation", hint="wait for its end, or stop it")


def hold(run_id: str, worker: str) -> None:
    """Keeps a run, if it is there, as it is until this unit of work ends, for a worker that holds it.

    Raises:
        RunLost: another holds it, or it has ended.
    """
    for holder, state in tables.execute(tables.locked("SELECT worker, state FROM run WHERE id = ?"), run_id):
        if worker and (holder != worker or state not in _LIVE):
            raise RunLost("this answer is another worker's, which has closed it", hint="read on: it has what is stored")


def questions(key: int) -> dict[str, int | None]:
    """For each run of the conversation with this key, the message that it answers."""
    return dict(tables.execute("SELECT id, question FROM run WHERE conversation_id = ?", key))


def set_state(run_id: str, state: RunState, reason: str | None = None) -> None:
    """Notes that a run waits or goes on. One that has ended stays as it is."""
    run = tables.Run
    run.update(state=state, reason=reason).where(run.id == run_id, run.state.not_in(FINAL_STATES)).execute()


def signal(run_ids: tuple[str, ...], kind: Signal, until: datetime) -> None:
    """Leaves a signal for the workers of runs."""
    tables.execute_many(
        "INSERT INTO run_signal (worker, run_id, kind, until) "  # noqa: S608  constants of ours
        f"SELECT worker, id, ?, ? FROM run WHERE id = ? AND state IN {_LIVE} "
        "ON CONFLICT (worker, run_id, kind) DO UPDATE SET until = excluded.until",
        [(kind, tables.microseconds(until), run_id) for run_id in run_ids],
    )


def _records(*conditions: peewee.Expression) -> Sequence[RunRecord]:
    run, conversation = tables.Run, tables.Conversation
    names = [field.name for field in attrs.fields(RunRecord)]
    columns = [conversation.id if name == "conversation_id" else getattr(run, name) for name in names]
    query = run.select(*columns).join(conversation).where(*conditions).order_by(run.created_at, run.id)
    return [RunRecord(*row) for row in tables.fetch(query)]


def _get(owner: str, run_id: str) -> RunRecord:
    for record in _records(tables.Run.id == run_id, tables.Run.owner == owner):
        return record
    raise NotFound("Run not found")


def _log(owner: str, run_id: str, after: int, most: int = _ALL) -> Sequence[LogRow]:
    found = tables.execute("SELECT state, worker FROM run WHERE id = ? AND owner = ?", run_id, owner)
    if not found:
        raise NotFound("Run not found")
    rows = tables.execute(
        "SELECT run_id, first_seq, last_seq, data FROM run_log WHERE run_id = ? AND last_seq > ? ORDER BY first_seq"
        " LIMIT ?",
        run_id,
        after,
        most,
    )
    log = [LogRow(*row) for row in rows]
    state, worker = found[0]
    if state not in FINAL_STATES:
        log += islice(_journaled(worker, {run_id: log[-1].last if log else after}), most - len(log))
    return log


def _journaled(worker: str, after: Mapping[str, int]) -> Iterator[LogRow]:
    """What the journal of a worker has of some runs, after these events."""
    for (data,) in tables.execute("SELECT data FROM run_journal WHERE worker = ? ORDER BY id", worker):
        for entry in _unpack(data):
            if entry[2] > after.get(entry[0], entry[2]):
                yield LogRow(*entry)


def _news(run_ids: tuple[str, ...], seen: Mapping[str, int]) -> News:
    seen = dict(seen)  # here, for the unit may be run again
    run = tables.Run
    known = tables.fetch(run.select(run.id, run.worker, run.state).where(run.id.in_(tables.padded(run_ids))))
    live = {run_id for run_id, _, state in known if state in _LIVE}
    rows: defaultdict[str, list[LogRow]] = defaultdict(list)
    for worker in {worker for run_id, worker, _ in known if run_id in live}:
        read = "SELECT id, data FROM run_journal WHERE worker = ? AND id > ? ORDER BY id"
        for row_id, data in tables.execute(read, worker, seen.get(worker, 0)):
            seen[worker] = row_id
            for entry in _unpack(data):
                if entry[0] in live:
                    rows[entry[0]].append(LogRow(*entry))
    return News(rows, frozenset(run_ids) - live, seen)


def _signals(worker: str) -> bool:
    return bool(tables.execute("SELECT 1 FROM run_signal WHERE worker = ? LIMIT 1", worker))


def _take_signals(worker: str) -> Sequence[tuple[str, Signal, datetime]]:
    signal = tables.RunSignal
    taken = signal.delete().where(signal.worker == worker).returning(signal.run_id, signal.kind, signal.until)
    return tables.fetch(taken)


def _journal(worker: str, rows: Sequence[LogRow]) -> bool:
    entries = [(row.run_id, row.first, row.last, row.data) for row in rows]
    # One statement for all: each has to wait for the interpreter, and this runs forty times a second.
    sql = (
        "INSERT INTO run_journal (worker, data) VALUES (?, ?) RETURNING "
        "(SELECT MAX(CASE kind WHEN 'lost' THEN 1 ELSE 0 END) FROM run_signal WHERE worker = ?)"
    )
    [(lost,)] = tables.execute(sql, worker, _pack(entries), worker)
    if lost:
        raise RunLost("another worker has taken runs of this one", hint="see which")
    tables.announce(_GROWN)
    return lost is not None


def _settle(worker: str, rows: Sequence[LogRow], latest: Sequence[LogRow]) -> None:
    held = tables.locked(f"SELECT id FROM run WHERE worker = ? AND state IN {_LIVE} ORDER BY id")  # noqa: S608
    mine = {run_id for (run_id,) in tables.execute(held, worker)}
    _append([row for row in rows if row.run_id in mine])
    tables.execute("DELETE FROM run_journal WHERE worker = ?", worker)
    if latest:
        _journal(worker, latest)


def _append(rows: Sequence[LogRow]) -> None:
    tables.execute_many(
        "INSERT INTO run_log (run_id, first_seq, last_seq, data) SELECT id, ?, ?, ? FROM run WHERE id = ? "
        "ON CONFLICT DO NOTHING",
        [(row.first, row.last, row.data, row.run_id) for row in rows],
    )


def _finish(worker: str, run_id: str, state: RunState, reason: str, last_seq: int, rows: Sequence[LogRow]) -> None:
    hold(run_id, worker)
    _append(rows)
    tables.execute(
        f"UPDATE run SET state = ?, reason = ?, last_seq = ?, ended_at = ? WHERE id = ? AND state IN {_LIVE}",  # noqa: S608
        state,
        reason,
        last_seq,
        tables.microseconds(datetime.now(UTC)),
        run_id,
    )
    tables.announce(_GROWN)


def _hand_over(worker: str, run_id: str, rows: Sequence[LogRow]) -> None:
    hold(run_id, worker)
    _append(rows)
    tables.execute("UPDATE run SET lease_until = 0 WHERE id = ? AND state = 'waiting'", run_id)


def _renew(worker: str, run_ids: tuple[str, ...], until: datetime) -> frozenset[str]:
    run = tables.Run
    mine = run.id.in_(tables.padded(run_ids)), run.worker == worker, run.state.in_(_LIVE)
    held = run.update(lease_until=until).where(*mine)
    return frozenset(run_id for (run_id,) in tables.fetch(held.returning(run.id)))


def _claim(worker: str, now: datetime, until: datetime, dead_workers: tuple[str, ...]) -> Sequence[RunRecord]:
    run = tables.Run
    lost = (run.lease_until < now) | run.worker.in_(dead_workers)
    found = run.select(run.id, run.worker).where(run.state.in_(_LIVE), lost).order_by(run.id)
    taken: defaultdict[str, list[str]] = defaultdict(list)
    for run_id, before in tables.fetch(tables.locking(found)):
        taken[before].append(run_id)
    for before, run_ids in taken.items():
        if before not in (worker, *dead_workers):
            signal(tuple(run_ids), "lost", now + _TOLD)
        known = {run_id: _last(run_id) for run_id in run_ids}
        _append(list(_journaled(before, known)))
    run_ids = [run_id for some in taken.values() for run_id in some]
    run.update(worker=worker, lease_until=until).where(run.id.in_(run_ids)).execute()
    signals = tables.RunSignal
    signals.delete().where(signals.worker == worker, signals.run_id.in_(run_ids)).execute()  # of when it lost them
    return _records(run.id.in_(run_ids))


def _last(run_id: str) -> int:
    """The number of the last event in the log of a run."""
    [(last,)] = tables.execute("SELECT COALESCE(MAX(last_seq), 0) FROM run_log WHERE run_id = ?", run_id)
    return int(last)


def _forget(worker: str) -> None:
    tables.execute(
        f"DELETE FROM run_journal WHERE worker <> ? AND worker NOT IN (SELECT worker FROM run WHERE state IN {_LIVE})",  # noqa: S608
        worker,
    )


def _prune(before: datetime) -> int:
    log, run = tables.RunLog, tables.Run
    ended = log.select(log.run).distinct().join(run).where(run.ended_at < before).limit(_PRUNED_AT_ONCE)
    run_ids = [run_id for (run_id,) in tables.fetch(ended)]
    log.delete().where(log.run.in_(run_ids)).execute()
    signal = tables.RunSignal
    signal.delete().where(signal.until < datetime.now(UTC)).execute()  # their workers did not live to read them
    return len(run_ids)
