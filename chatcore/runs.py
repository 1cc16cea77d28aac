"""Runs: turns that live on their own, with a log that any number of readers follow.

A run is a task of the worker that was asked. It appends events to a log; an HTTP response is one reader of that log,
and closing it changes nothing but the number of readers. In this worker readers follow the log in memory; the log's
writer brings it to the database in groups, from where every other worker, and this one after a restart, reads it.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol, TypeAlias

from chatcore import eventlog, logs, wire
from chatcore.answer import Answer
from chatcore.database import Begun, Conversations, Database, LogRow, NewMessage, RunRecord
from chatcore.database import Runs as RunTable
from chatcore.errors import ChatcoreError
from chatcore.plugins import Plugins
from chatcore.protocols import Provider
from chatcore.tools import JsonObject
from chatcore.turn import SERVER_STOPPED, UNKNOWN_OUTCOME, Origin, Stop, answer_messages, failed, run_turn
from chatcore.types import (
    FINAL_STATES,
    Event,
    Failed,
    MessageStored,
    Principal,
    RunEnded,
    RunStarted,
    StoredMessage,
    Turn,
    TurnResult,
    Usage,
)
from chatcore.worker import Presence

logger = logging.getLogger(__name__)

FLUSH_INTERVAL = 0.025
"""Seconds between two group commits of the log, at the least: how much of an answer a crash may cost."""
SETTLE_INTERVAL = 5.0
"""Seconds after which events move from the worker's journal to the logs of their runs."""
PRUNE_INTERVAL = 3600.0
"""Seconds between two looks for logs that are old enough to be dropped."""
LEASE = 15.0
"""Seconds for which a worker may be silent before its runs are taken for dead."""
POLL_INTERVAL = 0.05
"""Seconds between two looks at the log of a run that lives in another worker."""

Batch: TypeAlias = tuple[int, Sequence[Event]]
"""The sequence number of the first event, and the events. Numbers start at 1 and have no gaps."""


class Run:
    """One turn under way, in the worker that generates it."""

    def __init__(self, turn: Turn, *, strict: bool, grace: float | None) -> None:
        """`strict`: readers see an event only when it is on disk. `grace`: seconds without a reader after which the
        run is stopped; None lets it go on."""
        self.turn = turn
        self.stop = Stop()
        self.events: list[Event] = []
        self.durable = 0
        self.settled = 0
        self.ended = False
        self.messages: list[StoredMessage] = []
        self._strict = strict
        self._grace = grace
        self.over = asyncio.Event()
        self.begun: asyncio.Future[Begun]
        self._readers = 0
        self._waiting: list[asyncio.Future[None]] = []

    async def until_begun(self) -> Begun:
        """What is stored of the turn, once it is stored."""
        return await self.begun

    def append(self, events: Sequence[Event]) -> None:
        """Adds to the log. `RunEnded` is the last event of the last call."""
        self.events.extend(events)
        self.ended = isinstance(self.events[-1], RunEnded)
        if not self._strict:
            self.wake()

    def written(self, count: int) -> None:
        """Notes that the first `count` events are on disk."""
        self.durable = max(self.durable, count)
        if self._strict:
            self.wake()

    def give_up_durability(self) -> None:
        """The log cannot be written: a run that promised to be on disk first ends; what it has to say is shown."""
        if self._strict:
            self._strict = False
            self.stop.request("log_failed")
            self.wake()

    def wake(self) -> None:
        """Lets every waiting reader look again."""
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    @property
    def visible(self) -> int:
        """How many events readers may see."""
        return self.durable if self._strict else len(self.events)

    @property
    def exhausted(self) -> bool:
        """Whether nothing will follow what readers see now."""
        return self.ended and self.visible == len(self.events)

    async def changed(self) -> None:
        """Waits until `wake`."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        await future

    def reader_came(self) -> None:
        self._readers += 1

    def reader_left(self) -> None:
        self._readers -= 1
        if self._readers == 0:
            self.watch_for_desertion()

    @property
    def deserted(self) -> bool:
        """Whether nobody reads it any more, and it is to end for that."""
        return self._readers == 0 and self._grace is not None

    def watch_for_desertion(self) -> None:
        """Stops the run when its grace has passed without a reader."""
        if self._grace is not None and not self.ended:
            asyncio.get_running_loop().call_later(self._grace, self._stop_if_deserted)

    def _stop_if_deserted(self) -> None:
        if self.deserted:
            self.stop.request("disconnected")


class Reader(Protocol):
    """One reader's place in a run's log."""

    run_id: str

    async def next(self) -> Batch | None:
        """Waits for events after the reader's place. None: it was woken, and there are none yet.

        Raises:
            StopAsyncIteration: the run has ended and everything was read.
        """

    def wake(self) -> None:
        """Makes a waiting `next` return."""

    def open(self) -> None:
        """Says that somebody reads."""

    def close(self) -> None:
        """Says that the reader is gone. The run goes on, or is stopped after its grace."""


class LiveReader:
    """Reads a run of this worker from memory."""

    def __init__(self, run: Run, after: int) -> None:
        self.run_id = run.turn.id
        self._run = run
        self._position = after

    async def next(self) -> Batch | None:
        run = self._run
        if self._position < run.visible:
            # Always suspend: other streams get their turn, and what has come meanwhile goes out in one piece.
            await asyncio.sleep(0)
        elif run.exhausted:
            raise StopAsyncIteration
        else:
            await run.changed()
        visible = run.visible
        if self._position >= visible:
            return None
        first = self._position + 1
        batch = run.events[self._position : visible]
        self._position = visible
        return first, batch

    def wake(self) -> None:
        self._run.wake()

    def open(self) -> None:
        self._run.reader_came()

    def close(self) -> None:
        self._run.reader_left()


class StoredReader:
    """Reads a run from the database: one that has ended, or that lives in another worker."""

    def __init__(self, table: RunTable, record: RunRecord, after: int) -> None:
        self.run_id = record.id
        self._owner = Principal(record.owner)
        self._table = table
        self._record = record
        self._position = after
        self._woken = asyncio.Event()

    async def next(self) -> Batch | None:
        self._woken.clear()
        while True:
            ended = self._record.state in FINAL_STATES
            rows = await self._table.log(self._owner, self.run_id, self._position)
            if rows:
                return self._batch(rows)
            if ended:
                raise StopAsyncIteration
            if self._woken.is_set():
                return None
            try:
                async with asyncio.timeout(POLL_INTERVAL):
                    await self._woken.wait()
            except TimeoutError:
                self._record = await self._table.get(self._owner, self.run_id)

    def _batch(self, rows: Sequence[LogRow]) -> Batch:
        first = self._position + 1
        events = [event for row in rows for event in eventlog.unpack(row.data)][first - rows[0].first :]
        self._position = rows[-1].last
        return first, events

    def wake(self) -> None:
        self._woken.set()

    def open(self) -> None:
        """Nothing to say: the run's own worker counts its readers."""

    def close(self) -> None:
        """As `open`."""


class LogWriter:
    """Brings the logs of this worker's runs to the database, at most 25 ms after they were told.

    The events of all runs go into the worker's journal, in one row and one commit. Every few seconds, and for each run
    when it ends, they move from there to the run's own log: rows of single runs lie so far apart on the disk that
    writing them for every group would cost more than all the rest.
    """

    def __init__(self, table: RunTable) -> None:
        self.worker = ""
        self._table = table
        self._dirty: set[Run] = set()
        self._journaled: set[Run] = set()
        self._ending: list[asyncio.Future[None]] = []
        self._settle_at = 0.0
        self._task: asyncio.Task[None] | None = None

    def touch(self, run: Run) -> None:
        """Notes that a run has events that are not on disk."""
        self._dirty.add(run)
        self._wake_up()

    def _wake_up(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._write_until_clean())

    async def finish(self, run: Run, ended: RunEnded) -> None:
        """Writes the end of a run, with what of its log is not in its place.

        It waits for the next group: the ends of runs, like their events, are cheap together and dear one by one. Until
        then the run counts as journaled, so that a move of the journal takes it along.
        """
        self._dirty.discard(run)
        group_written = asyncio.get_running_loop().create_future()
        self._ending.append(group_written)
        self._wake_up()
        await group_written
        count = len(run.events)
        self._journaled.discard(run)
        try:
            await self._table.finish(run.turn.id, ended.state, ended.reason, count, _rows([(run, run.settled, count)]))
        except ChatcoreError:
            self._journaled.add(run)  # what the journal has of it must not be dropped with the journal
            raise
        run.settled = count
        run.written(count)

    async def _write_until_clean(self) -> None:
        try:
            while self._dirty or self._ending:
                await asyncio.sleep(FLUSH_INTERVAL)
                ending, self._ending = self._ending, []
                try:
                    await self._write()
                finally:
                    for future in ending:
                        future.set_result(None)
        finally:
            self._task = None

    async def _write(self) -> None:
        dirty, self._dirty = self._dirty, set()
        ends = {run: len(run.events) for run in dirty}
        try:
            if ends and time.monotonic() >= self._settle_at:
                await self._settle(ends)
            elif ends:
                await self._table.journal(self.worker, _rows([(run, run.durable, end) for run, end in ends.items()]))
                self._journaled |= dirty
        except ChatcoreError as error:
            logger.error("the run log could not be written: %s", error)  # noqa: TRY400  the error says it all
            for run in dirty:
                run.give_up_durability()
            return
        for run, end in ends.items():
            run.written(end)

    async def _settle(self, ends: Mapping[Run, int]) -> None:
        self._settle_at = time.monotonic() + SETTLE_INTERVAL
        known = {**{run: run.durable for run in self._journaled}, **ends}
        await self._table.settle(self.worker, _rows([(run, run.settled, end) for run, end in known.items()]))
        for run, end in known.items():
            run.settled = max(run.settled, end)
        self._journaled.clear()


def _rows(parts: Iterable[tuple[Run, int, int]]) -> list[LogRow]:
    """The rows of parts of logs: of each the run, the number of its last event before the part, and the part's last."""
    return [
        LogRow(run.turn.id, after + 1, end, eventlog.pack(run.events[after:end]))
        for run, after, end in parts
        if end > after
    ]


class Runs:
    """All runs of this worker, and the way to those of others."""

    def __init__(self, database: Database, plugins: Plugins, *, strict: bool = False) -> None:
        """`strict`: an event is sent only when it is on disk."""
        self._plugins = plugins
        self._strict = strict
        self.worker = ""
        self._table = RunTable(database)
        self._conversations = Conversations(database)
        self._log = LogWriter(self._table)
        self._live: dict[str, Run] = {}
        self._by_conversation: defaultdict[tuple[str, str], set[Run]] = defaultdict(set)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many turns are under way in this worker."""
        return len(self._live)

    def start(self, turn: Turn, provider: Provider, begun: Awaitable[Begun], *, grace: float | None = None) -> Run:
        """Starts the run of a turn. Nothing of it is told before `begun`, its row in the database, is there.

        `begun` may be a coroutine that makes the row; the run's `begun` is then its task. `grace` as in `Run`.
        """
        run = Run(turn, strict=self._strict, grace=grace)
        self._live[turn.id] = run
        self._by_conversation[turn.principal.id, turn.conversation_id].add(run)
        run.watch_for_desertion()
        task = asyncio.create_task(self._generate(run, provider), name=f"run {turn.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Behind the run's own task: the model is asked first, and the database is busy while everybody waits for it.
        run.begun = asyncio.ensure_future(begun)
        run.begun.add_done_callback(partial(self._began, run))
        return run

    async def reader(self, principal: Principal, run_id: str, after: int = 0) -> Reader:
        """A place in a run's log, after event number `after`. Close it.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
        """
        run = self._live.get(run_id)
        if run is not None and run.turn.principal.id == principal.id:
            return LiveReader(run, after)
        return StoredReader(self._table, await self._table.get(principal, run_id), after)

    async def stop(self, principal: Principal, run_id: str) -> RunRecord:
        """Stops a run and waits until it has ended; one that has ended already stays as it is.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
        """
        record = await self._table.get(principal, run_id)
        run = self._live.get(run_id)
        if run is None:
            return record
        run.stop.request("user")
        await run.over.wait()
        return await self._table.get(principal, run_id)

    async def stop_conversation(self, principal: Principal, conversation_id: str) -> None:
        """Stops the runs of a conversation in this worker, and waits until they are over."""
        runs = self._of(principal, conversation_id)
        for run in runs:
            run.stop.request("user")
        await _all_over(runs)

    async def make_room(self, principal: Principal, conversation_id: str) -> None:
        """Stops the runs of a conversation that nobody reads any more, if that is what leaving them means, and waits
        until they and those that have said their last word are over."""
        runs = [run for run in self._of(principal, conversation_id) if run.ended or run.deserted]
        for run in runs:
            run.stop.request("disconnected")
        await _all_over(runs)

    def _of(self, principal: Principal, conversation_id: str) -> list[Run]:
        return list(self._by_conversation.get((principal.id, conversation_id), ()))

    async def abandon(self, turn: Turn, error: ChatcoreError) -> None:
        """Closes the row of a turn that was refused before its run began."""
        await self._table.finish(turn.id, "failed", error.code, 0)

    async def get(self, principal: Principal, run_id: str) -> RunRecord:
        """What is known of a run; of one that has said its last word, how it ended. Raises NotFound."""
        run = self._live.get(run_id)
        if run is not None and run.ended:
            await run.over.wait()
        return await self._table.get(principal, run_id)

    async def close(self) -> None:
        """Ends all runs of this worker, with their text stored, and waits for their hooks."""
        for run in self._live.values():
            run.stop.request(SERVER_STOPPED)
        if self._tasks:
            await asyncio.wait(self._tasks)

    def join(self, worker: str) -> None:
        """Says under which name this worker leases its runs."""
        self.worker = self._log.worker = worker

    async def keep(self, presence: Presence, *, retention: float) -> None:
        """Renews the leases of this worker's runs, closes those of dead workers and drops old logs, until cancelled.

        `retention` is for how many seconds after its end the log of a run is kept.
        """
        prune_at = 0.0
        while True:
            await asyncio.sleep(LEASE / 3)
            try:
                await self._table.renew(self.worker, list(self._live), lease())
                await self.recover(presence.take_dead())
                if time.monotonic() >= prune_at:
                    prune_at = time.monotonic() + PRUNE_INTERVAL
                    await self._table.prune(lease(-retention))
            except ChatcoreError as error:
                logger.error("the upkeep of runs failed: %s", error)  # noqa: TRY400  the error says it all

    # --- one run ------------------------------------------------------------------------------------------------------

    def _append(self, run: Run, events: Sequence[Event]) -> None:
        run.append(events)
        self._log.touch(run)

    def _began(self, run: Run, begun: asyncio.Future[Begun]) -> None:
        if not begun.cancelled() and begun.exception() is None:
            self._tell_start(run, begun.result())

    def _tell_start(self, run: Run, begun: Begun) -> None:
        """The first event, whoever comes first: the one that waits for the row, or the model's first word."""
        if not run.events:
            self._append(run, [RunStarted(run.turn.id, run.turn.conversation_id, begun.created)])

    async def _generate(self, run: Run, provider: Provider) -> None:
        """The task of a run: from the first call of the model to the `finish_turn` hooks."""
        logs.place.set(logs.Place(run=run.turn.id))
        usage: JsonObject | None = None
        ended = RunEnded("failed", "internal")
        try:
            async with aclosing(
                run_turn(run.turn, provider, self._conversations, run.until_begun, run.stop)
            ) as batches:
                async for events in batches:
                    self._tell_start(run, await run.until_begun())
                    for event in events:
                        match event:
                            case MessageStored():
                                run.messages.append(event.message)
                            case Usage():
                                usage = event.usage
                            case RunEnded():
                                ended = event
                    self._append(run, events)
        except Exception as error:  # noqa: BLE001  the run's boundary: readers and the database must learn of its end
            self._append(run, [_told(run, error), ended])
        await self._end(run, ended)
        await self._plugins.finish(
            run.turn,
            TurnResult(state=ended.state, reason=ended.reason, messages=tuple(run.messages), usage=usage),
        )

    async def _end(self, run: Run, ended: RunEnded) -> None:
        try:
            await self._log.finish(run, ended)
        except ChatcoreError as error:
            # The row stays as it is: its lease runs out and recovery closes it when the database can be written again.
            logger.error("run %s has ended and could not be closed: %s", run.turn.id, error)  # noqa: TRY400
        finally:
            self._leave(run)

    def _leave(self, run: Run) -> None:
        place = run.turn.principal.id, run.turn.conversation_id
        del self._live[run.turn.id]
        self._by_conversation[place].discard(run)
        if not self._by_conversation[place]:
            del self._by_conversation[place]
        run.over.set()

    # --- runs of dead workers -----------------------------------------------------------------------------------------

    async def recover(self, dead_workers: Sequence[str] = ()) -> int:
        """Closes the runs whose lease has run out, or whose worker is known to be dead. Gives their number."""
        records = await self._table.claim_expired(self.worker, datetime.now(UTC), lease(), dead_workers)
        for record in records:
            await self._close_abandoned(record)
        if records:
            await self._table.forget(self.worker)
        return len(records)

    async def _close_abandoned(self, record: RunRecord) -> None:
        """Keeps the text that the log has of a broken-off run, marked, and ends the run as incomplete."""
        owner = Principal(record.owner)
        rows = await self._table.log(owner, record.id, 0)
        events = [event for row in rows for event in eventlog.unpack(row.data)]
        ended = events[-1] if events and isinstance(events[-1], RunEnded) else None
        if ended is None:
            ended = RunEnded("incomplete", SERVER_STOPPED)
            told = [event.message.id for event in events if isinstance(event, MessageStored)]
            stored = await self._conversations.recover_answer(
                owner, record.conversation_id, record.id, record.question, _unfinished(record, events), told=told
            )
            rest: list[Event] = [*(MessageStored(message) for message in stored[:1]), ended]
            last = rows[-1].last if rows else 0
            rows = [*rows, LogRow(record.id, last + 1, last + len(rest), eventlog.pack(rest))]
            events += rest
            logger.warning("run %s was broken off by the end of its server; its text is kept", record.id)
        await self._table.finish(record.id, ended.state, ended.reason, len(events), rows)


def _unfinished(record: RunRecord, events: Sequence[Event]) -> list[NewMessage]:
    """The rows of the answer that was being written when the log ended; none if it had not begun."""
    answer = Answer()
    for event in events:
        if isinstance(event, MessageStored):
            answer = Answer()
        else:
            answer.add([event])
    if answer.empty:
        return []
    return answer_messages(answer, wire.structure(record.turn, Origin), partial=True, not_run=UNKNOWN_OUTCOME)


async def _all_over(runs: Iterable[Run]) -> None:
    for run in runs:
        await run.over.wait()


def _told(run: Run, error: Exception) -> Failed:
    if isinstance(error, ChatcoreError):
        return failed(error)
    logger.exception("run %s failed", run.turn.id)
    return Failed("The answer failed for a reason that is in the server's log.")


def lease(seconds: float = LEASE) -> datetime:
    """Until when a run belongs to a worker that says so now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
