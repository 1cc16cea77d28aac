"""Readers of runs: one that follows a run of this worker in memory, and one that follows any run in the database."""

import asyncio
import logging
import time
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol, TypeAlias

from chatcore import logs
from chatcore.database import Database, LogRow, RunRecord, Watcher
from chatcore.database import Runs as RunTable
from chatcore.runs import eventlog
from chatcore.runs.run import Run
from chatcore.types import FINAL_STATES, Event, Principal
from chatcore.waiting import within

logger = logging.getLogger(__name__)

PRESENCE = 6.0
"""Seconds for which the worker of a run counts a reader that another worker has told of."""
PRESENCE_INTERVAL = 2.0
"""Seconds after which the other worker tells of it again."""
RETRY = 1.0
"""Seconds until a tail that could not read the database tries again."""
BACKLOG = 64
"""Rows that wait for one reader, at the most. A reader that is slower than that reads on from the log."""

LARGEST_BATCH = 256
"""Events that a reader is given at once, at the most: one that is far behind costs no more memory than another."""
ROWS = 4
"""Rows of the log that a reader reads at once, at the most."""
LARGEST_READ = 2**19
"""Bytes of rows that it keeps of those, at the most, beside the first."""
READING = 2
"""Readers that read the log at the same time, at the most: one less than the database has threads for reading. What
they get may be large, and would pile up where the loop does not keep pace."""

Batch: TypeAlias = tuple[int, Sequence[Event]]
"""The sequence number of the first event, and the events. Numbers start at 1 and have no gaps."""


Take: TypeAlias = Callable[[int, Sequence[Event]], bool]
"""Takes a batch and gives True, or gives False and does nothing."""


class Reader(Protocol):
    """One reader's place in a run's log."""

    run_id: str

    async def next(self, take: Take | None = None) -> Batch | None:
        """Waits for events after the reader's place. None: it was woken, and there are none yet.

        What comes meanwhile may be given to `take` at once, by whoever makes it, as long as `take` gives True for it.

        Raises:
            StopAsyncIteration: the run has ended and everything was read.
        """

    def wake(self) -> None:
        """Makes a waiting `next` return."""

    def open(self) -> None:
        """Says that somebody reads. To be called before the first `next`."""

    def close(self) -> None:
        """Says that the reader is gone. The run goes on, or is stopped after its grace."""


class LiveReader:
    """Reads a run of this worker from memory."""

    def __init__(self, run: Run, after: int, stored: Callable[[int], Awaitable["StoredReader"]]) -> None:
        """`stored` gives a reader of what is stored of it, after an event: should another worker take the run, it is
        read on there."""
        self.run_id = run.turn.id
        self._run = run
        self._position = after
        self._find_stored = stored
        self._stored: StoredReader | None = None
        self._change: asyncio.Future[None] | None = None

    async def next(self, take: Take | None = None) -> Batch | None:
        run = self._run
        if run.lost:
            return await self._read_on(take)
        if self._position < run.visible:
            # Always suspend: other streams get their turn, and what has come meanwhile goes out in one piece.
            await asyncio.sleep(0)
        elif run.exhausted:
            raise StopAsyncIteration
        else:
            self._change = run.change(take and partial(self._pass_on, take))
            await self._change
        end = min(run.visible, self._position + LARGEST_BATCH)
        if self._position >= end or run.lost:
            return None
        first = self._position + 1
        batch = run.events[self._position : end]
        self._position = end
        return first, batch

    async def _read_on(self, take: Take | None) -> Batch | None:
        if self._stored is None:
            self._stored = await self._find_stored(self._position)
            self._stored.open()
        return await self._stored.next(take)

    def _pass_on(self, take: Take) -> bool:
        """Has somebody take what has come. False: it was not taken, or nothing has come, or nothing will."""
        run, end = self._run, self._run.visible
        if run.lost or self._position == end:
            return False
        try:
            taken = take(self._position + 1, run.events[self._position : end])
        except Exception:  # noqa: BLE001  it is the reader's: it meets it again in its own task, where it harms no run
            return False
        if taken:
            self._position = end
        return taken and not run.exhausted

    def wake(self) -> None:
        if self._change is not None and not self._change.done():
            self._change.set_result(None)
        if self._stored is not None:
            self._stored.wake()

    def open(self) -> None:
        self._run.reader_came()

    def close(self) -> None:
        self._run.reader_left()
        if self._stored is not None:
            self._stored.close()


class StoredReader:
    """Reads a run from the database: one that has ended, or that lives in another worker.

    It reads the log as far as that goes; from there on the worker's tail hands it what comes. Whenever the two do not
    fit together, it reads the log again.
    """

    def __init__(self, table: RunTable, tail: "Tail", record: RunRecord, after: int, *, counts: bool = True) -> None:
        """`counts`: the run is not deserted while it is read in this way."""
        self.run_id = record.id
        self.counts = counts
        self._owner = Principal(record.owner)
        self._table = table
        self._tail = tail
        self._position = after
        self._rows: deque[LogRow] = deque()
        self._behind = True
        self._ended = record.state in FINAL_STATES
        self._woken = False
        self._changed = asyncio.Event()

    async def next(self, take: Take | None = None) -> Batch | None:
        while True:
            self._changed.clear()
            if self._rows:
                batch = self._take(self._rows.popleft())
                if batch is not None:
                    return batch
            elif self._behind:
                self._behind = False  # before the look: what is told during it must lead to another
                async with self._tail.reading:
                    rows = await self._table.log(self._owner, self.run_id, self._position, most=ROWS)
                few = list(_few(rows))
                self._rows.extendleft(reversed(few))
                self._behind = self._behind or len(rows) == ROWS or len(few) < len(rows)
            elif self._ended:
                raise StopAsyncIteration
            elif self._woken:
                self._woken = False
                return None
            else:
                await self._changed.wait()

    def _take(self, row: LogRow) -> Batch | None:
        """What is new in a row: nothing if it is known, or if there is a gap before it."""
        first = self._position + 1
        if row.first > first:
            self._behind = True
        if row.first > first or row.last < first:
            return None
        self._position = row.last
        return first, eventlog.unpack(row.data)[first - row.first :]

    def replay(self, last: int, events: Sequence[Event]) -> None:
        """Has it read these events in place of the log of a run that has ended. The last of them has the number
        `last`."""
        first = max(1, last - len(events) + 1)
        self._position = max(self._position, first - 1)
        self._rows.append(LogRow(self.run_id, first, last, eventlog.pack(events)))
        self._behind = False

    def told(self, rows: Iterable[LogRow], *, ended: bool) -> None:
        """Takes what the tail has found of the run. `ended`: the log is complete now."""
        self._rows.extend(rows)
        self._ended = self._ended or ended
        if ended or len(self._rows) > BACKLOG:
            self.look_again()
        self._changed.set()

    def look_again(self) -> None:
        """Makes it read the log on from its place."""
        self._rows.clear()
        self._behind = True
        self._changed.set()

    def wake(self) -> None:
        self._woken = True
        self._changed.set()

    def open(self) -> None:
        if not self._ended:
            self._tail.join(self)

    def close(self) -> None:
        self._tail.leave(self)


def _few(rows: Sequence[LogRow]) -> Iterator[LogRow]:
    """The first row, and those after it as long as they are not large together."""
    size = 0
    for number, row in enumerate(rows):
        size += len(row.data) if number else 0
        if size > LARGEST_READ:
            return
        yield row


class Tail:
    """Follows the runs of other workers for all readers of this one, in one look at the database for all of them.

    It also tells those workers, again and again, that their runs are read, or they would take them for deserted.
    """

    def __init__(self, database: Database) -> None:
        self.reading = asyncio.Semaphore(READING)
        self._table = RunTable(database)
        self._readers: defaultdict[str, set[StoredReader]] = defaultdict(set)
        self._task: asyncio.Task[None] | None = None
        self._watcher: Watcher | None = None
        self._tell_presence_at = 0.0

    def join(self, reader: StoredReader) -> None:
        """Begins to tell a reader what is new of its run."""
        self._readers[reader.run_id].add(reader)
        self._tell_presence_at = 0.0
        if self._watcher is not None:
            self._watcher.wake()
        if self._task is None:
            self._task = asyncio.create_task(self._follow(), name="tail of the run log")

    def leave(self, reader: StoredReader) -> None:
        """Ends that. A reader that never joined may leave, too."""
        if reader.run_id in self._readers:
            self._readers[reader.run_id].discard(reader)
            if not self._readers[reader.run_id]:
                del self._readers[reader.run_id]

    async def close(self) -> None:
        """Ends the following; the readers read what is there and then wait for ever."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _follow(self) -> None:
        try:
            while self._readers:
                try:
                    await self._follow_while_it_works()
                except Exception as error:  # noqa: BLE001  whatever it is, no reader may wait for ever
                    logs.fault(logger, "the runs of other workers cannot be followed", error)
                    for reader in [reader for readers in self._readers.values() for reader in readers]:
                        reader.look_again()  # each meets the fault itself, and tells its client
                    await asyncio.sleep(RETRY)
        finally:
            self._task = self._watcher = None

    async def _follow_while_it_works(self) -> None:
        seen: dict[str, int] = {}
        async with self._table.watch() as self._watcher:
            while self._readers:
                await within(PRESENCE_INTERVAL, self._watcher.changed())
                await self._tell_presence()
                news = await self._table.news(list(self._readers), seen)
                seen.update(news.seen)
                for run_id in news.rows.keys() | news.ended:
                    for reader in tuple(self._readers.get(run_id, ())):
                        reader.told(news.rows.get(run_id, ()), ended=run_id in news.ended)

    async def _tell_presence(self) -> None:
        now = time.monotonic()
        if now >= self._tell_presence_at:
            self._tell_presence_at = now + PRESENCE_INTERVAL
            until = datetime.now(UTC) + timedelta(seconds=PRESENCE)
            read = [run_id for run_id, readers in self._readers.items() if any(reader.counts for reader in readers)]
            if read:
                await self._table.signal(read, "reader", until)
