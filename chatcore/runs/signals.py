"""What other workers ask of this one's runs."""

import asyncio
import logging
import time
from datetime import datetime

import attrs

from chatcore import logs
from chatcore.database import Runs as RunTable
from chatcore.database.runs import Signal
from chatcore.runs.closing import Closing
from chatcore.runs.held import Held
from chatcore.runs.log import LogWriter
from chatcore.runs.run import Run
from chatcore.waiting import within

logger = logging.getLogger(__name__)

SIGNAL_INTERVAL = 0.1
"""Seconds between two looks at what other workers ask of this one's runs."""
RETRY = 1.0
"""Seconds until the next look after one that failed."""


@attrs.define
class Signals:
    """Does what other workers ask, while there are runs of this one. Whoever writes the log sees signals in passing."""

    _held: Held
    _log: LogWriter
    _table: RunTable
    _closing: Closing
    _task: asyncio.Task[None] | None = None

    def listen(self) -> None:
        """There is a run: from now on until there is none any more."""
        if self._task is None:
            self._task = asyncio.create_task(self._heed_all(), name="signals of other workers")

    def close(self) -> None:
        """Listens no longer."""
        if self._task is not None:
            self._task.cancel()

    async def _heed_all(self) -> None:
        seen = self._log.signalled
        try:
            while self._held:
                await within(SIGNAL_INTERVAL, seen.wait())
                if not seen.is_set() and time.monotonic() - self._log.looked_at < SIGNAL_INTERVAL:
                    continue
                seen.clear()
                try:
                    for run_id, signal, until in await self._table.signals(self._held.worker):
                        await self._heed(run_id, signal, until)
                except Exception as error:  # noqa: BLE001  no signal may keep those to other runs from being heeded
                    logs.fault(logger, "the signals of other workers cannot be heeded", error)
                    await asyncio.sleep(RETRY)
        finally:
            self._task = None

    async def _heed(self, run_id: str, signal: Signal, until: datetime) -> None:
        if run := self._held.live.get(run_id):
            _obey(run, signal, until)
        elif signal == "stop" and (task := self._held.preparing.get(run_id)):
            task.cancel()
        elif run := self._held.unclosed.get(run_id):
            await self._closing.late([run])


def gives_way(run: Run) -> bool:
    """Whether the next turn of its conversation may end a run."""
    return run.ended or run.deserted


def _obey(run: Run, signal: Signal, until: datetime) -> None:
    match signal:
        case "stop":
            run.stop.request("user")
        case "make_room" if gives_way(run):
            run.stop.request("disconnected")
        case "reader":
            run.read_elsewhere(until)
        case "decided":
            run.approvals.wake()
        case "lost":
            run.lose()
