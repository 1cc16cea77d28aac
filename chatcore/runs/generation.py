"""A run from the first call of the model to the hooks that are told of its end."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import attrs

from chatcore import logs
from chatcore.database import Begun
from chatcore.errors import ChatcoreError, RunLost
from chatcore.plugins import Plugins
from chatcore.runs.closing import Closing
from chatcore.runs.counts import RunCounts
from chatcore.runs.held import Held
from chatcore.runs.log import LogWriter
from chatcore.runs.run import Run
from chatcore.runs.signals import Signals
from chatcore.runs.stop import NOT_STORED
from chatcore.runs.turn import failed
from chatcore.types import Event, Failed, ModelEvent, RunEnded, RunStarted, Tell, TurnResult

logger = logging.getLogger(__name__)


@attrs.frozen
class Generation:
    """The tasks of the runs of a worker."""

    _held: Held
    _log: LogWriter
    _counts: RunCounts
    _plugins: Plugins
    _closing: Closing
    _signals: Signals
    _tasks: set[asyncio.Task[None]] = attrs.field(factory=set, init=False)

    def launch(self, run: Run, answer: Callable[[Tell], Awaitable[None]]) -> None:
        """Begins the task of a run. `answer` answers its turn."""
        self._held.live[run.turn.id] = run
        run.watch_for_desertion()
        task = asyncio.create_task(self._generate(run, answer), name=f"run {run.turn.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._signals.listen()

    async def close(self) -> None:
        """Waits for the tasks, and with them for the hooks."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def began(self, run: Run, begun: asyncio.Future[Begun]) -> None:
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

    def _append(self, run: Run, events: Sequence[Event]) -> None:
        self._counts.events += len(events)
        if run.silent_since is not None and events and isinstance(events[0], ModelEvent):
            self._counts.spoke(run.turn, time.monotonic() - run.silent_since)
            run.silent_since = None
        run.append(events)
        if run.begun.done():
            self._log.touch(run)

    async def _generate(self, run: Run, answer: Callable[[Tell], Awaitable[None]]) -> None:
        """The task of a run. The `finish_turn` hooks are not called where another worker goes on with it."""
        logs.place.set(logs.Place(run=run.turn.id))
        try:
            await answer(partial(self._tell, run))
        except RunLost:
            run.lose()
        except Exception as error:  # noqa: BLE001  the run's boundary: readers and the database must learn of its end
            await self._fail(run, error)
        await self._closing.end(run)
        if (ended := run.ending) is not None and not run.lost:
            result = TurnResult(state=ended.state, reason=ended.reason, messages=run.messages, usage=run.usage)
            self._counts.end(ended, result.messages)
            await self._plugins.finish(run.turn, result)

    async def _fail(self, run: Run, error: Exception) -> None:
        reason = error.code if isinstance(error, ChatcoreError) else "internal"
        told = _told(run, error)
        self._append(run, [*await self._closing.keep_unfinished(run), told, RunEnded("failed", reason)])


def _told(run: Run, error: Exception) -> Failed:
    if isinstance(error, ChatcoreError):
        told = failed(error)
        if told.message != error.message:
            logger.error("run %s failed: %s", run.turn.id, error.in_full)
        return told
    logger.exception("run %s failed", run.turn.id)
    return Failed("The answer failed for a reason that is in the server's log.")
