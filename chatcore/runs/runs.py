"""Runs: turns that live on their own, with a log that any number of readers follow.

A run is a task of the worker that was asked. It appends events to a log; an HTTP response is one reader of that log,
and closing it changes nothing but the number of readers. In this worker readers follow the log in memory; the log's
writer brings it to the database in groups, from where every other worker, and this one after a restart, reads it.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Container, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from chatcore import logs
from chatcore.attachments import Attachments
from chatcore.database import Approvals as ApprovalTable
from chatcore.database import Begun, Conversations, Database, Jobs, RunRecord
from chatcore.database import Runs as RunTable
from chatcore.database.runs import Signal
from chatcore.errors import ChatcoreError, NotFound, RunLost
from chatcore.plugins import Plugins
from chatcore.protocols import Provider
from chatcore.runs.approvals import Approvals
from chatcore.runs.counts import RunCounts
from chatcore.runs.log import LogWriter
from chatcore.runs.readers import LiveReader, Reader, StoredReader, Tail
from chatcore.runs.recovery import close_abandoned, keep_unfinished
from chatcore.runs.replay import replayed
from chatcore.runs.run import Run
from chatcore.runs.stop import NOT_STORED, SERVER_STOPPED
from chatcore.runs.takeover import go_on, take_over
from chatcore.runs.turn import failed, origin_of, run_turn
from chatcore.types import (
    FINAL_STATES,
    Event,
    Failed,
    ModelEvent,
    Principal,
    RunEnded,
    RunStarted,
    Tell,
    Turn,
    TurnResult,
)
from chatcore.worker import Presence

logger = logging.getLogger(__name__)

TIDY_INTERVAL = 3600.0
"""Seconds between two looks for what can be dropped: logs that are old enough, files of deleted conversations."""
LEASE = 15.0
"""Seconds for which a worker may be silent before its runs are taken for dead."""
SIGNAL_INTERVAL = 0.1
"""Seconds between two looks at what other workers ask of this one's runs."""
RETRY = 1.0
"""Seconds until the next look after one that failed."""
BEGIN_DELAY = 0.005
"""Seconds after which a turn is stored although the model has said nothing yet."""
STOP_PATIENCE = 20.0
"""Seconds to wait for another worker to end a run: it may be dead, and is known to be after its lease."""
ROOM_PATIENCE = 1.0
"""Seconds to wait for another worker to end a run that nobody reads: it does not, if somebody does."""

_END = 2**62  # after the last event of any run


class Runs:
    """All runs of this worker, and the way to those of others."""

    def __init__(self, database: Database, plugins: Plugins, attachments: Attachments, *, strict: bool = False) -> None:
        """`strict`: an event is sent only when it is on disk."""
        self._plugins = plugins
        self._attachments = attachments
        self._strict = strict
        self.counts = RunCounts()
        self.worker = ""
        self._database = database
        self._table = RunTable(database)
        self._jobs = Jobs(database)
        self._approvals = ApprovalTable(database)
        self._conversations = Conversations(database)
        self._log = LogWriter(self._table)
        self._tail = Tail(database)
        self._heeding: asyncio.Task[None] | None = None
        self._live: dict[str, Run] = {}
        self._unclosed: dict[str, Run] = {}
        self._preparing: dict[str, asyncio.Task[Any] | None] = {}
        self._by_conversation: defaultdict[tuple[str, str], set[Run]] = defaultdict(set)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """How many turns are under way in this worker."""
        return len(self._live)

    def start(
        self,
        turn: Turn,
        provider: Provider,
        begin: Callable[[], Awaitable[Begun]],
        *,
        new_conversation: bool = False,
        grace: float | None = None,
    ) -> Run:
        """Starts the run of a turn. `grace` as in `Run`.

        `begin` stores the turn, or knows what is stored of it. It is called soon, but after the model was asked. A run
        whose turn cannot be stored ends at once.
        """
        approvals = Approvals(self._approvals)
        run = Run(turn, approvals, strict=self._strict, grace=grace, new_conversation=new_conversation)
        self._launch(run, partial(run_turn, run, provider, self._conversations, self._attachments))
        run.begun = asyncio.create_task(_begin_soon(run, begin))
        run.begun.add_done_callback(partial(self._began, run))
        return run

    def _launch(self, run: Run, answer: Callable[[Tell], Awaitable[None]]) -> None:
        """Begins the task of a run, which is to answer its turn."""
        self._live[run.turn.id] = run
        self._by_conversation[_place(run)].add(run)
        run.watch_for_desertion()
        task = asyncio.create_task(self._generate(run, answer), name=f"run {run.turn.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._listen()

    async def reader(self, principal: Principal, run_id: str, after: int = 0) -> Reader:
        """A place in a run's log, after event number `after`. Close it.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
        """
        run = self._live.get(run_id)
        if run is not None and run.turn.principal.id == principal.id:
            return LiveReader(run, after, partial(self._read_stored, principal, run_id))
        return await self._read_stored(principal, run_id, after)

    async def _read_stored(self, principal: Principal, run_id: str, after: int) -> StoredReader:
        record = await self._table.get(principal, run_id)
        reader = self._stored_reader(record, after)
        unread = record.state in FINAL_STATES and after < record.last_seq
        if unread and not await self._table.log(principal, run_id, after, most=1):
            of_run = await self._conversations.tree(principal, record.conversation_id, run_id)
            shown = await self._attachments.shown(principal, of_run)
            reader.replay(record.last_seq, replayed(record, shown, whole=after == 0))
        return reader

    def _stored_reader(self, record: RunRecord, after: int, *, counts: bool = True) -> StoredReader:
        if record.reason == SERVER_STOPPED and after >= record.last_seq > 0:
            # It has seen events that were lost with the server. Their numbers were given again, also that of the end.
            after = record.last_seq - 1
        return StoredReader(self._table, self._tail, record, after, counts=counts)

    async def stop(self, principal: Principal, run_id: str) -> RunRecord:
        """Stops a run, in whatever worker it lives, and waits until it has ended; one that has ended already stays as
        it is.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
        """
        run = self._live.get(run_id)
        if run is not None and run.turn.principal.id == principal.id:
            run.stop.request("user")  # at once: who is asked next, the database, may take its time
        record = await self.get(principal, run_id)
        run = self._live.get(run_id)
        if run is not None:
            run.stop.request("user")
            await run.over.wait()
        elif task := self._preparing.get(run_id):
            task.cancel()
            await asyncio.wait([task])
        elif record.state not in FINAL_STATES:
            await self._tell_workers([record], "stop", STOP_PATIENCE)
        return await self._table.get(principal, run_id)

    async def stop_conversation(
        self, principal: Principal, conversation_id: str, only: Container[str] | None = None
    ) -> None:
        """Stops the runs of a conversation, or `only` those, and waits until they are over."""
        for record in await self._table.running(principal, conversation_id):
            if only is None or record.id in only:
                await self.stop(principal, record.id)

    async def make_room(self, principal: Principal, conversation_id: str) -> None:
        """Stops the runs of a conversation in this worker that nobody reads any more, if that is what leaving them
        means, and waits until they and those that have said their last word are over.

        Raises:
            DatabaseError: the end of one could not be stored, and still cannot.
        """
        place = principal.id, conversation_id
        runs = [run for run in self._by_conversation.get(place, ()) if _gives_way(run)]
        for run in runs:
            run.stop.request("disconnected")
        for run in runs:
            await run.over.wait()
        await self._close_late(run for run in self._unclosed.values() if _place(run) == place)

    async def make_room_elsewhere(self, principal: Principal, conversation_id: str) -> None:
        """As `make_room`, for the runs in other workers. Takes a second if one of them is to go on."""
        records = await self._table.running(principal, conversation_id)
        elsewhere = [record for record in records if record.id not in self._live]
        await self._tell_workers(elsewhere, "make_room", ROOM_PATIENCE)

    async def _tell_workers(self, records: Sequence[RunRecord], signal: Signal, patience: float) -> None:
        """Asks the workers of runs to end them, and waits for that, but not for ever."""
        readers = [self._stored_reader(record, _END, counts=False) for record in records]
        for reader in readers:
            reader.open()
        try:
            await self._table.signal([record.id for record in records], signal, lease(patience))
            async with asyncio.timeout(patience):
                for reader in readers:
                    await _ended(reader)
        except TimeoutError:
            logger.info("the runs %s have not been ended by their workers", [record.id for record in records])
        finally:
            for reader in readers:
                reader.close()

    @contextmanager
    def preparing(self, run_id: str) -> Iterator[None]:
        """Around what the current task does for a run that is stored and does not live yet. Who stops the run cancels
        the task."""
        self._preparing[run_id] = asyncio.current_task()
        self._listen()
        try:
            yield
        finally:
            del self._preparing[run_id]

    async def abandon(self, turn: Turn, reason: str) -> None:
        """Closes the row of a turn whose run does not begin."""
        await self._table.finish(turn.id, "stopped", reason, 0)

    async def get(self, principal: Principal, run_id: str) -> RunRecord:
        """What is known of a run; of one that has said its last word, how it ended. Raises NotFound."""
        run = self._live.get(run_id)
        if run is not None:
            await asyncio.wait([run.begun])
        if run is not None and run.ended:
            await run.over.wait()
        return await self._table.get(principal, run_id)

    async def idle(self) -> None:
        """Waits until no turn is under way in this worker. One that only waits for consent is left to another."""
        while self._live:
            for run in self._live.values():
                if run.approvals.nothing_else:
                    run.stop.request(SERVER_STOPPED)
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await next(iter(self._live.values())).over.wait()

    async def close(self) -> None:
        """Ends all runs of this worker, with their text stored, and waits for their hooks. Its jobs are free then."""
        if preparing := [task for task in self._preparing.values() if task]:
            for task in preparing:
                task.cancel()
            await asyncio.wait(preparing)
        for run in self._live.values():
            run.stop.request(SERVER_STOPPED)
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._heeding is not None:
            self._heeding.cancel()
        await self._tail.close()
        await self._jobs.release(self.worker)

    def join(self, worker: str) -> None:
        """Says under which name this worker leases its runs."""
        self.worker = self._log.worker = self._database.worker = worker

    async def keep(self, presence: Presence, *, retention: float) -> None:
        """Renews the leases of this worker's runs and, in one worker at a time, closes those of dead workers and drops
        old logs and the files of deleted conversations, until cancelled.

        `retention` is for how many seconds after its end the log of a run is kept.
        """
        tidy_at = 0.0
        async with asyncio.TaskGroup() as aside:
            while True:
                ahead = _clock_ahead()
                await asyncio.sleep(LEASE / 3)
                was_set = _clock_ahead() - ahead > LEASE / 3  # or the machine slept: others have still to renew theirs
                try:
                    await self._table.renew(self.worker, [*self._live, *self._preparing, *self._unclosed], lease())
                    await self._close_late(self._unclosed.values())
                    if not was_set and await self.clean_up(presence) and time.monotonic() >= tidy_at:
                        tidy_at = time.monotonic() + TIDY_INTERVAL
                        await self._table.prune(lease(-retention))
                        aside.create_task(self._attachments.sweep())  # which may wait long for the blob store
                except (ChatcoreError, OSError) as error:  # the latter of the files that show who is alive
                    logger.error("the upkeep of runs failed: %s", error)  # noqa: TRY400  the error says it all

    async def clean_up(self, presence: Presence) -> bool:
        """Closes the runs whose lease has run out, unless that is another worker's job now, and in any case those of
        workers that are seen to be dead. Gives whether the job is this worker's."""
        dead = presence.dead()
        mine = await self._jobs.claim("clean_up", self.worker, lease(), dead)
        if mine or dead:
            await self.recover(dead)
            presence.forget(dead)
        return mine

    async def recover(self, dead_workers: Sequence[str] = ()) -> int:
        """Closes the runs whose lease has run out, or whose worker is known to be dead. Gives their number."""
        records = await self._table.claim_expired(self.worker, datetime.now(UTC), lease(), dead_workers)
        for record in (record for record in records if record.id not in self._live | self._preparing):
            if record.state != "waiting" or not await self._go_on(record):
                await close_abandoned(self._database, record)
        if records:
            await self._table.forget(self.worker)
        return len(records)

    async def _go_on(self, record: RunRecord) -> bool:
        """Goes on with a run that waits for somebody's consent, if that is possible."""
        waiting = await take_over(self._database, record)
        if waiting is None:
            return False
        run = Run(waiting.paused.turn, Approvals(self._approvals), strict=self._strict, grace=None)
        run.begun = asyncio.get_running_loop().create_future()
        run.begun.set_result(waiting.begun)
        run.take_up(waiting.events)
        self._launch(run, partial(go_on, waiting, run, self._database, self._attachments, self._plugins))
        return True

    def _listen(self) -> None:
        if self._heeding is None:
            self._heeding = asyncio.create_task(self._heed_signals(), name="signals of other workers")

    async def _heed_signals(self) -> None:
        """While there are runs, does what other workers ask of them. Whoever writes the log sees signals in passing."""
        seen = self._log.signalled
        try:
            while self._live or self._preparing or self._unclosed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SIGNAL_INTERVAL):
                        await seen.wait()
                if not seen.is_set() and time.monotonic() - self._log.looked_at < SIGNAL_INTERVAL:
                    continue
                seen.clear()
                try:
                    for run_id, signal, until in await self._table.signals(self.worker):
                        if run_id in self._live:
                            _heed(self._live[run_id], signal, until)
                        elif signal == "stop" and (task := self._preparing.get(run_id)):
                            task.cancel()
                        elif run_id in self._unclosed:
                            await self._close_late([self._unclosed[run_id]])
                except ChatcoreError as error:
                    logger.error("the signals of other workers cannot be read: %s", error)  # noqa: TRY400  it says all
                    await asyncio.sleep(RETRY)
        finally:
            self._heeding = None

    # --- one run ------------------------------------------------------------------------------------------------------

    def _append(self, run: Run, events: Sequence[Event]) -> None:
        self.counts.events += len(events)
        if run.silent_since is not None and events and isinstance(events[0], ModelEvent):
            self.counts.spoke(run.turn, time.monotonic() - run.silent_since)
            run.silent_since = None
        run.append(events)
        if run.begun.done():
            self._log.touch(run)

    def _began(self, run: Run, begun: asyncio.Future[Begun]) -> None:
        """From here on the log has a row to belong to; or the answer has no place, and goes no further."""
        if begun.cancelled() or begun.exception() is not None:
            run.stop.request(NOT_STORED)
        else:
            self._tell_start(run)
            self._log.touch(run)

    def _tell_start(self, run: Run) -> None:
        """The first event, whichever comes first: the turn is stored, or the model says something."""
        if not run.events:
            self._append(run, [RunStarted(run.turn.id, run.turn.conversation_id, run.new_conversation)])

    def _tell(self, run: Run, events: Sequence[Event]) -> None:
        """Takes what happens in a turn into the log."""
        if run.stop.reason == NOT_STORED:
            run.begun.result()  # raises what was in the way
        if not run.events:
            self._tell_start(run)
        self._append(run, events)

    async def _generate(self, run: Run, answer: Callable[[Tell], Awaitable[None]]) -> None:
        """The task of a run: from the first call of the model to the `finish_turn` hooks, which are not called where
        another worker goes on with it."""
        logs.place.set(logs.Place(run=run.turn.id))
        try:
            await answer(partial(self._tell, run))
        except RunLost:
            run.lose()
        except Exception as error:  # noqa: BLE001  the run's boundary: readers and the database must learn of its end
            await self._fail(run, error)
        ended = run.ending
        await self._end(run, ended)
        if ended is not None and not run.lost:
            self.counts.end(ended, run.messages)
            result = TurnResult(state=ended.state, reason=ended.reason, messages=tuple(run.messages), usage=run.usage)
            await self._plugins.finish(run.turn, result)

    async def _fail(self, run: Run, error: Exception) -> None:
        reason = error.code if isinstance(error, ChatcoreError) else "internal"
        told = _told(run, error)
        self._append(run, [*await self._keep_unfinished(run), told, RunEnded("failed", reason)])

    async def _keep_unfinished(self, run: Run) -> Sequence[Event]:
        """Stores what readers were told of an answer that broke off in a way that nobody foresaw."""
        try:
            return await self._keep(run)
        except ChatcoreError:
            return ()  # the database may be what has failed: that is told already

    async def _keep(self, run: Run) -> Sequence[Event]:
        turn, origin = run.turn, origin_of(run.turn)
        question = (await run.begun).path[-1].id
        return await keep_unfinished(
            self._conversations, turn.principal, turn.conversation_id, question, origin, run.events
        )

    async def _end(self, run: Run, ended: RunEnded | None) -> None:
        try:
            if not run.lost:
                await self._log.finish(run, ended)
        except RunLost:
            run.lose()
        except ChatcoreError as error:
            logger.error("run %s has ended and could not be closed: %s", run.turn.id, error)  # noqa: TRY400
            run.give_up_durability()
            if run.stop.reason != NOT_STORED:
                self._unclosed[run.turn.id] = run
        finally:
            if run.lost:
                logger.warning("run %s was taken over by another worker while this one was silent", run.turn.id)
                self._log.drop(run)
            self._leave(run)

    async def _close_late(self, runs: Iterable[Run]) -> None:
        """Stores what could not be stored of runs when they ended. Raises DatabaseError: it still cannot be."""
        for run in list(runs):
            with suppress(RunLost, NotFound):
                if run.ended:
                    await self._keep(run)
                await self._log.finish(run, run.ending)
            self._unclosed.pop(run.turn.id, None)

    def _leave(self, run: Run) -> None:
        place = _place(run)
        del self._live[run.turn.id]
        self._by_conversation[place].discard(run)
        if not self._by_conversation[place]:
            del self._by_conversation[place]
        run.over.set()


async def _begin_soon(run: Run, begin: Callable[[], Awaitable[Begun]]) -> Begun:
    """Stores a turn when the model begins to speak, or has let a moment pass: until then the request to it is prepared
    and sent, and the database's thread would be in the way."""
    await run.wait_for_events(BEGIN_DELAY)
    return await begin()


def _place(run: Run) -> tuple[str, str]:
    """Whose run it is, and in which conversation."""
    return run.turn.principal.id, run.turn.conversation_id


def _gives_way(run: Run) -> bool:
    """Whether the next turn of its conversation may end a run."""
    return run.ended or run.deserted


def _heed(run: Run, signal: Signal, until: datetime) -> None:
    """Does what another worker asks."""
    match signal:
        case "stop":
            run.stop.request("user")
        case "make_room" if _gives_way(run):
            run.stop.request("disconnected")
        case "reader":
            run.read_elsewhere(until)
        case "decided":
            run.approvals.wake()
        case "lost":
            run.lose()


async def _ended(reader: Reader) -> None:
    """Waits until a run has ended, or is gone."""
    with suppress(StopAsyncIteration, NotFound):
        while True:
            await reader.next()


def _told(run: Run, error: Exception) -> Failed:
    if isinstance(error, ChatcoreError):
        told = failed(error)
        if told.message != error.message:
            logger.error("run %s failed: %s", run.turn.id, error.in_full)
        return told
    logger.exception("run %s failed", run.turn.id)
    return Failed("The answer failed for a reason that is in the server's log.")


def _clock_ahead() -> float:
    """By how many seconds the clock by which leases end is ahead of the one that nobody sets."""
    return time.time() - time.monotonic()


def lease(seconds: float = LEASE) -> datetime:
    """Until when a run belongs to a worker that says so now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
