"""The runs of a worker, and the way to those of others.

A run is a task of the worker that was asked. It appends events to a log; an HTTP response is one reader of that log,
and closing it changes nothing but the number of readers. In this worker readers follow the log in memory; the log's
writer brings it to the database in groups, from where every other worker, and this one after a restart, reads it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial

from chatcore.attachments import Attachments
from chatcore.database import Begun, Conversations, Database, RunRecord
from chatcore.database import Runs as RunTable
from chatcore.database.runs import Signal
from chatcore.errors import NotFound
from chatcore.plugins import Plugins
from chatcore.protocols import Provider
from chatcore.runs.approvals import Approvals
from chatcore.runs.closing import Closing
from chatcore.runs.counts import RunCounts
from chatcore.runs.generation import Generation
from chatcore.runs.held import Held, lease
from chatcore.runs.log import LogWriter
from chatcore.runs.readers import LiveReader, Reader, StoredReader, Tail
from chatcore.runs.replay import replayed
from chatcore.runs.run import Run
from chatcore.runs.signals import Signals, gives_way
from chatcore.runs.stop import SERVER_STOPPED
from chatcore.runs.turn import run_turn
from chatcore.runs.upkeep import Upkeep
from chatcore.types import FINAL_STATES, Principal, Turn
from chatcore.waiting import within

logger = logging.getLogger(__name__)

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
        self.counts = RunCounts()
        self._attachments = attachments
        self._strict = strict
        self._database = database
        self._table = RunTable(database)
        self._conversations = Conversations(database)
        self._held = Held()
        self._log = LogWriter(self._table)
        self._tail = Tail(database)
        self._closing = Closing(self._held, self._log, self._conversations)
        self._signals = Signals(self._held, self._log, self._table, self._closing)
        self._generation = Generation(self._held, self._log, self.counts, plugins, self._closing, self._signals)
        self.upkeep = Upkeep(self._held, database, plugins, attachments, self._closing, self._generation, strict=strict)

    @property
    def worker(self) -> str:
        """Under which name this worker leases its runs."""
        return self._held.worker

    @property
    def count(self) -> int:
        """How many turns are under way in this worker."""
        return len(self._held.live)

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
        approvals = Approvals(self._database)
        run = Run(turn, approvals, strict=self._strict, grace=grace, new_conversation=new_conversation)
        self._generation.launch(run, partial(run_turn, run, provider, self._conversations, self._attachments))
        run.begun = asyncio.create_task(_begin_soon(run, begin))
        run.begun.add_done_callback(partial(self._generation.began, run))
        return run

    async def reader(self, principal: Principal, run_id: str, after: int = 0) -> Reader:
        """A place in a run's log, after event number `after`. Close it.

        Raises:
            NotFound: there is no such run, or it is somebody else's.
        """
        if run := self._live(principal, run_id):
            return LiveReader(run, after, partial(self._read_stored, principal, run_id))
        return await self._read_stored(principal, run_id, after)

    def _live(self, principal: Principal, run_id: str) -> Run | None:
        """A run of somebody's that is under way in this worker."""
        run = self._held.live.get(run_id)
        return run if run is not None and run.is_of(principal) else None

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
        if run := self._live(principal, run_id):
            run.stop.request("user")  # at once: who is asked next, the database, may take its time
        record = await self.get(principal, run_id)
        if run := self._live(principal, run_id):
            run.stop.request("user")
            await run.over.wait()
        elif task := self._held.preparing.get(run_id):
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
        runs = [run for run in self._held.live.values() if run.is_of(principal, conversation_id) and gives_way(run)]
        for run in runs:
            run.stop.request("disconnected")
        for run in runs:
            await run.over.wait()
        await self._closing.late(r for r in self._held.unclosed.values() if r.is_of(principal, conversation_id))

    async def make_room_elsewhere(self, principal: Principal, conversation_id: str) -> None:
        """As `make_room`, for the runs in other workers. Takes a second if one of them is to go on."""
        records = await self._table.running(principal, conversation_id)
        elsewhere = [record for record in records if record.id not in self._held.live]
        await self._tell_workers(elsewhere, "make_room", ROOM_PATIENCE)

    async def _tell_workers(self, records: Sequence[RunRecord], signal: Signal, patience: float) -> None:
        """Asks the workers of runs to end them, and waits for that, but not for ever."""
        readers = [self._stored_reader(record, _END, counts=False) for record in records]
        for reader in readers:
            reader.open()
        try:
            await self._table.signal([record.id for record in records], signal, lease(patience))
            if not await within(patience, asyncio.gather(*map(_ended, readers))):
                logger.info("the runs %s have not been ended by their workers", [record.id for record in records])
        finally:
            for reader in readers:
                reader.close()

    @contextmanager
    def preparing(self, run_id: str) -> Iterator[None]:
        """Around what the current task does for a run that is stored and does not live yet. Who stops the run cancels
        the task."""
        with self._held.prepared(run_id):
            self._signals.listen()
            yield

    async def abandon(self, turn: Turn, reason: str) -> None:
        """Closes the row of a turn whose run does not begin."""
        await self._table.finish(turn.id, "stopped", reason, 0)

    async def get(self, principal: Principal, run_id: str) -> RunRecord:
        """What is known of a run; of one that has said its last word, how it ended. Raises NotFound."""
        run = self._held.live.get(run_id)
        if run is not None:
            await asyncio.wait([run.begun])
        if run is not None and run.ended:
            await run.over.wait()
        return await self._table.get(principal, run_id)

    async def idle(self) -> None:
        """Waits until no turn is under way in this worker. One that only waits for consent is left to another."""
        while self._held.live:
            for run in self._held.live.values():
                if run.approvals.nothing_else:
                    run.stop.request(SERVER_STOPPED)
            await within(1.0, next(iter(self._held.live.values())).over.wait())

    async def close(self) -> None:
        """Ends all runs of this worker, with their text stored, and waits for their hooks. Its jobs are free then."""
        if preparing := [task for task in self._held.preparing.values() if task]:
            for task in preparing:
                task.cancel()
            await asyncio.wait(preparing)
        for run in self._held.live.values():
            run.stop.request(SERVER_STOPPED)
        await self._generation.close()
        self._signals.close()
        await self._tail.close()
        await self.upkeep.close()

    def join(self, worker: str) -> None:
        """Sets that name."""
        self._held.worker = self._log.worker = self._database.worker = worker


async def _begin_soon(run: Run, begin: Callable[[], Awaitable[Begun]]) -> Begun:
    """Stores a turn when the model begins to speak, or has let a moment pass: until then the request to it is prepared
    and sent, and the database's thread would be in the way."""
    await run.wait_for_events(BEGIN_DELAY)
    return await begin()


async def _ended(reader: Reader) -> None:
    """Waits until a run has ended, or is gone."""
    with suppress(StopAsyncIteration, NotFound):
        while True:
            await reader.next()
