"""How a run ends: what is stored of it, also if it breaks off in a way that nobody foresaw."""

import logging
from collections.abc import Iterable, Sequence
from contextlib import suppress

import attrs

from chatcore import logs
from chatcore.database import Conversations
from chatcore.errors import ChatcoreError, NotFound, RunLost
from chatcore.runs.held import Held
from chatcore.runs.log import LogWriter
from chatcore.runs.recovery import keep_unfinished
from chatcore.runs.run import Run
from chatcore.runs.stop import NOT_STORED
from chatcore.runs.turn import origin_of
from chatcore.types import Event

logger = logging.getLogger(__name__)


@attrs.frozen
class Closing:
    """Ends the runs that a worker holds."""

    _held: Held
    _log: LogWriter
    _conversations: Conversations

    async def end(self, run: Run) -> None:
        """Stores how a run has ended, and holds it no longer. What cannot be stored is tried again (see `late`)."""
        try:
            if not run.lost:
                await self._log.finish(run)
        except RunLost:
            run.lose()
        except ChatcoreError as error:
            logger.error("run %s has ended and could not be closed: %s", run.turn.id, error)  # noqa: TRY400
            run.give_up_durability()
            if run.stop.reason != NOT_STORED:
                self._held.unclosed[run.turn.id] = run
        finally:
            if run.lost:
                logger.warning("run %s was taken over by another worker while this one was silent", run.turn.id)
                self._log.drop(run)
            self._held.end(run)

    async def late(self, runs: Iterable[Run]) -> None:
        """Stores what could not be stored of runs when they ended. Raises DatabaseError: it still cannot be."""
        for run in list(runs):
            with suppress(RunLost, NotFound):  # it is another worker's now, or was deleted
                if run.ended:
                    await self._keep(run)
                await self._log.finish(run)
            self._held.unclosed.pop(run.turn.id, None)

    async def keep_unfinished(self, run: Run) -> Sequence[Event]:
        """Stores what readers were told of an answer that broke off. Gives what else they are to be told."""
        try:
            return await self._keep(run)
        except Exception as error:  # noqa: BLE001  the end of a run must come whatever goes wrong: its readers wait
            logs.fault(logger, f"what was said in run {run.turn.id} cannot be kept", error)
            return ()

    async def _keep(self, run: Run) -> Sequence[Event]:
        turn, origin = run.turn, origin_of(run.turn)
        question = (await run.begun).path[-1].id
        return await keep_unfinished(
            self._conversations, turn.principal, turn.conversation_id, question, origin, run.events
        )
