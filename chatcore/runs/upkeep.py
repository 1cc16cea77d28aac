"""The upkeep of runs: leases, the runs of dead workers, and what can be dropped."""

import asyncio
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import partial

import attrs

from chatcore import logs
from chatcore.attachments import Attachments
from chatcore.database import Database, Jobs, RunRecord
from chatcore.database import Runs as RunTable
from chatcore.errors import DatabaseError, NotFound, RunLost
from chatcore.plugins import Plugins
from chatcore.runs.approvals import Approvals
from chatcore.runs.closing import Closing
from chatcore.runs.generation import Generation
from chatcore.runs.held import LEASE, Held, lease
from chatcore.runs.recovery import close_abandoned
from chatcore.runs.run import Run
from chatcore.runs.stop import SERVER_STOPPED
from chatcore.runs.takeover import go_on, take_over
from chatcore.worker import Presence

logger = logging.getLogger(__name__)

TIDY_INTERVAL = 3600.0
"""Seconds between two looks for what can be dropped: logs that are old enough, files of deleted conversations."""


@attrs.frozen
class Upkeep:
    """Keeps this worker's runs its own and, in one worker at a time, sees to what others have left.

    `strict`: an event is sent only when it is on disk.
    """

    _held: Held
    _database: Database
    _plugins: Plugins
    _attachments: Attachments
    _closing: Closing
    _generation: Generation
    _strict: bool

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
                with _faults_logged():
                    await RunTable(self._database).renew(self._held.worker, self._held.ids, lease())
                    if not was_set and await self.clean_up(presence) and time.monotonic() >= tidy_at:
                        tidy_at = time.monotonic() + TIDY_INTERVAL
                        await RunTable(self._database).prune(lease(-retention))
                        aside.create_task(self._sweep())  # which may wait long for the blob store
                    await self._closing.late(self._held.unclosed.values())

    async def _sweep(self) -> None:
        with _faults_logged():
            await self._attachments.sweep()

    async def clean_up(self, presence: Presence) -> bool:
        """Closes the runs whose lease has run out, unless that is another worker's job now, and in any case those of
        workers that are seen to be dead. Gives whether the job is this worker's."""
        dead = presence.dead()
        mine = await Jobs(self._database).claim("clean_up", self._held.worker, lease(), dead)
        if mine or dead:
            await self.recover(dead)
            presence.forget(dead)
        return mine

    async def recover(self, dead_workers: Sequence[str] = ()) -> int:
        """Closes the runs whose lease has run out, or whose worker is known to be dead. Gives their number."""
        table, worker = RunTable(self._database), self._held.worker
        records = await table.claim_expired(worker, datetime.now(UTC), lease(), dead_workers)
        for record in (record for record in records if record.id not in self._held.live | self._held.preparing):
            with suppress(NotFound, RunLost):  # it was deleted meanwhile, or another worker has taken it
                await self._take_care(record)
        if records:
            await table.forget(worker)
        return len(records)

    async def _take_care(self, record: RunRecord) -> None:
        """Goes on with a run that its worker has left, or ends it."""
        try:
            if record.state != "waiting" or not await self._go_on(record):
                await close_abandoned(self._database, record)
        except (DatabaseError, NotFound, RunLost):
            raise
        except Exception:  # it is damaged, or of another version: that must not keep the others from being closed
            logger.exception("what run %s has said cannot be read: it ends without that", record.id)
            await RunTable(self._database).finish(record.id, "incomplete", SERVER_STOPPED, record.last_seq)

    async def _go_on(self, record: RunRecord) -> bool:
        """Goes on with a run that waits for somebody's consent, if that is possible."""
        waiting = await take_over(self._database, record)
        if waiting is None:
            return False
        run = Run(waiting.paused.turn, Approvals(self._database), strict=self._strict, grace=None)
        run.begun = asyncio.get_running_loop().create_future()
        run.begun.set_result(waiting.begun)
        run.take_up(waiting.events)
        self._generation.launch(run, partial(go_on, waiting, run, self._database, self._attachments, self._plugins))
        return True

    async def close(self) -> None:
        """Leaves the jobs to others."""
        await Jobs(self._database).release(self._held.worker)


@contextmanager
def _faults_logged() -> Iterator[None]:
    """Around what is done again and again. A fault is logged, and ends no more than this: without its upkeep this
    worker would lose its runs to another."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  whatever it is, the next look may succeed
        logs.fault(logger, "the upkeep of runs failed", error)


def _clock_ahead() -> float:
    """By how many seconds the clock by which leases end is ahead of the one that nobody sets."""
    return time.time() - time.monotonic()
