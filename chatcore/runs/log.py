"""The log of a worker's runs, on its way to the database."""

import asyncio
import logging
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence

from chatcore.database import LogRow
from chatcore.database import Runs as RunTable
from chatcore.errors import ChatcoreError, RunLost
from chatcore.runs import eventlog
from chatcore.runs.run import Run

logger = logging.getLogger(__name__)

FLUSH_INTERVAL = 0.025
"""Seconds between two group commits of the log, at the least: how much of an answer a crash may cost."""
LONGEST_ROW = 256
"""Events that one row of a run's log holds, at the most: it is read as a whole."""
LARGEST_ROW = 2**18
"""Bytes of a row, at the most, unless one event has more."""
SETTLE_INTERVAL = 5.0
"""Seconds after which events move from the worker's journal to the logs of their runs."""


class LogWriter:
    """Brings the logs of this worker's runs to the database, at most 25 ms after they were told.

    The events of all runs go into the worker's journal, in one row and one commit. Every few seconds, and for each run
    when it ends, they move from there to the run's own log: rows of single runs lie so far apart on the disk that
    writing them for every group would cost more than all the rest.
    """

    def __init__(self, table: RunTable) -> None:
        self.worker = ""
        self.signalled = asyncio.Event()  # there are signals of other workers
        self.looked_at = 0.0  # when it was last seen whether there are any
        self._table = table
        self._dirty: set[Run] = set()
        self._journaled: set[Run] = set()
        self._ending: list[asyncio.Event] = []
        self._closing: set[asyncio.Event] = set()
        self._settle_at = 0.0
        self._trouble = ""
        self._task: asyncio.Task[None] | None = None

    def touch(self, run: Run) -> None:
        """Notes that a run has events that are not on disk."""
        self._dirty.add(run)
        self._wake_up()

    def _wake_up(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._write_until_clean())

    def drop(self, run: Run) -> None:
        """Notes that the log of a run is another worker's."""
        self._dirty.discard(run)
        self._journaled.discard(run)

    async def finish(self, run: Run) -> None:
        """Writes the end of a run, with what of its log is not in its place. One without an end is left to another
        worker, which goes on with it.

        It waits for the next group: the ends of runs, like their events, are cheap together and dear one by one. Until
        then the run counts as journaled, so that a move of the journal takes it along.
        """
        self._dirty.discard(run)
        group_written = asyncio.Event()
        self._ending.append(group_written)
        self._wake_up()
        await group_written.wait()
        closed = asyncio.Event()
        self._closing.add(closed)
        try:
            await self._close(run)
        finally:
            self._closing.discard(closed)
            closed.set()

    async def _close(self, run: Run) -> None:
        count, ended = len(run.events), run.ending
        rows = _rows([(run, run.settled, count)])
        if ended is None:
            await self._table.hand_over(run.turn.id, rows)
        else:
            await self._table.finish(run.turn.id, ended.state, ended.reason, count, rows)
        self._journaled.discard(run)  # not before: what the journal has of it must not be dropped with the journal
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
                    for group_written in ending:
                        group_written.set()
        finally:
            self._task = None

    async def _write(self) -> None:
        dirty, self._dirty = self._dirty, set()
        ends = {run: len(run.events) for run in dirty}
        latest = _rows([(run, run.durable, end) for run, end in ends.items()])
        try:
            if ends and time.monotonic() >= self._settle_at:
                await self._settle(ends, latest)
            elif ends:
                if await self._table.journal(self.worker, latest):
                    self.signalled.set()
                self.looked_at = time.monotonic()
                self._journaled |= dirty
        except RunLost:
            self._dirty |= {run for run in dirty if not run.lost}
            self.signalled.set()  # they tell which; all others are written in the next group
            return
        except ChatcoreError as error:
            self._say(f"the run log cannot be written: {error}")
            for run in dirty:
                run.give_up_durability()
            return
        self._say("")
        for run, end in ends.items():
            run.written(end)

    def _say(self, trouble: str) -> None:
        """Logs what is in the way when it begins and when it ends, not for every group."""
        if trouble and trouble != self._trouble:
            logger.error(trouble)
        elif self._trouble and not trouble:
            logger.info("the run log is written again")
        self._trouble = trouble

    async def _settle(self, ends: Mapping[Run, int], latest: Sequence[LogRow]) -> None:
        while self._closing:  # what the journal has of these runs is in its place only after that
            await next(iter(self._closing)).wait()
        self._settle_at = time.monotonic() + SETTLE_INTERVAL
        known = {**{run: run.durable for run in self._journaled}, **ends}
        rows = _rows([(run, run.settled, end) for run, end in known.items()])
        await self._table.settle(self.worker, rows, latest)
        for run, end in known.items():
            run.settled = max(run.settled, end)
        self._journaled.clear()


def _rows(parts: Iterable[tuple[Run, int, int]]) -> list[LogRow]:
    """The rows of parts of logs: of each the run, the number of its last event before the part, and the part's last."""
    return [
        row
        for run, after, end in parts
        for before in range(after, end, LONGEST_ROW)
        for row in _packed(run, before, min(before + LONGEST_ROW, end))
    ]


def _packed(run: Run, before: int, last: int) -> Iterator[LogRow]:
    data = eventlog.pack(run.events[before:last])
    if len(data) <= LARGEST_ROW or last - before == 1:
        yield LogRow(run.turn.id, before + 1, last, data)
    else:
        del data
        middle = (before + last) // 2
        yield from _packed(run, before, middle)
        yield from _packed(run, middle, last)
