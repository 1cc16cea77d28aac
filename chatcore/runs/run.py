"""One turn under way, in the worker that generates it: its events, and who waits for them."""

import asyncio
import time
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from chatcore.database import Begun
from chatcore.runs.approvals import Approvals
from chatcore.runs.stop import LOG_FAILED, LOST, Stop
from chatcore.tools import JsonObject
from chatcore.types import Event, MessageStored, Principal, RunEnded, StoredMessage, Turn, Usage
from chatcore.waiting import within


class Run:
    """One turn under way, in the worker that generates it."""

    def __init__(
        self, turn: Turn, approvals: Approvals, *, strict: bool, grace: float | None, new_conversation: bool = False
    ) -> None:
        """`strict`: readers see an event only when it is on disk. `grace`: seconds without a reader after which the
        run is stopped; None lets it go on."""
        self.turn = turn
        self.approvals = approvals
        self.new_conversation = new_conversation
        self.stop = Stop()
        self.silent_since: float | None = time.monotonic()
        self.events: list[Event] = []
        self.durable = 0
        self.settled = 0
        self.lost = False
        self._strict = strict
        self._grace = grace
        self.over = asyncio.Event()
        self.begun: asyncio.Future[Begun]
        self._readers = 0
        self._read_elsewhere = 0.0
        self._waiting: dict[asyncio.Future[None], Callable[[], bool] | None] = {}

    def is_of(self, principal: Principal, conversation_id: str | None = None) -> bool:
        """Whether it is somebody's, and of a conversation, if one is named."""
        turn = self.turn
        return turn.principal.id == principal.id and conversation_id in (None, turn.conversation_id)

    def append(self, events: Sequence[Event]) -> None:
        """Adds to the log, unless it is another worker's, or has its end: after `RunEnded` comes nothing more."""
        log = self.events
        if self.lost or (log and type(log[-1]) is RunEnded):
            return
        log.extend(events)
        if not self._strict:
            self.wake()

    @property
    def messages(self) -> tuple[StoredMessage, ...]:
        """What it has stored so far."""
        return tuple(event.message for event in self.events if isinstance(event, MessageStored))

    @property
    def usage(self) -> JsonObject | None:
        """What its last call of the model has cost, as far as that was told."""
        return next((event.usage for event in reversed(self.events) if isinstance(event, Usage)), None)

    @property
    def ending(self) -> RunEnded | None:
        """Its last word, once it is said."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, RunEnded) else None

    @property
    def ended(self) -> bool:
        """Whether it has said its last word."""
        return bool(self.events) and type(self.events[-1]) is RunEnded

    def take_up(self, events: Sequence[Event]) -> None:
        """Begins with the log that another worker has written; all of it is in its place."""
        self.silent_since = None
        self.events = list(events)
        self.durable = self.settled = len(events)

    def written(self, count: int) -> None:
        """Notes that the first `count` events are on disk."""
        self.durable = max(self.durable, count)
        if self._strict:
            self.wake()

    def give_up_durability(self) -> None:
        """The log cannot be written: a run that promised to be on disk first ends; what it has to say is shown."""
        if self._strict:
            self._strict = False
            self.stop.request(LOG_FAILED)
            self.wake()

    def lose(self) -> None:
        """Ends it, for another worker has taken it: readers go on with what that has stored."""
        self.lost = True
        self.stop.request(LOST)
        self.wake()

    def wake(self) -> None:
        """Lets every waiting reader look again."""
        for future, pass_on in tuple(self._waiting.items()):
            if not (future.done() or (pass_on is not None and pass_on())):
                future.set_result(None)

    @property
    def visible(self) -> int:
        """How many events readers may see."""
        return self.durable if self._strict else len(self.events)

    @property
    def exhausted(self) -> bool:
        """Whether nothing will follow what readers see now."""
        return self.ended and self.visible == len(self.events)

    def change(self, pass_on: Callable[[], bool] | None = None) -> asyncio.Future[None]:
        """What is done at the next `wake`, or when whoever waits sets it. `wake` calls `pass_on`, and the waiting goes
        on as long as that gives True."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = pass_on
        future.add_done_callback(self._waiting.pop)
        return future

    async def wait_for_events(self, seconds: float) -> None:
        """Waits until there is something in the log, but no longer than that."""
        if not self.events:
            await within(seconds, self.change())

    def reader_came(self) -> None:
        self._readers += 1

    def reader_left(self) -> None:
        self._readers -= 1
        if self._readers == 0:
            self.watch_for_desertion()

    def read_elsewhere(self, until: datetime) -> None:
        """Notes that another worker has a reader of it, at least until then."""
        seconds = (until - datetime.now(UTC)).total_seconds()
        self._read_elsewhere = max(self._read_elsewhere, asyncio.get_running_loop().time() + seconds)

    @property
    def deserted(self) -> bool:
        """Whether nobody reads it any more, and it is to end for that."""
        return self._grace is not None and self._readers == 0 and self._read_for() <= 0

    def _read_for(self) -> float:
        """For how many seconds, at the least, another worker reads it."""
        return self._read_elsewhere - asyncio.get_running_loop().time()

    def watch_for_desertion(self) -> None:
        """Stops the run when its grace has passed without a reader."""
        if self._grace is not None and not self.ended:
            wait = max(self._grace, self._read_for())
            asyncio.get_running_loop().call_later(wait, _stop_if_deserted, weakref.ref(self))  # it may be over by then

    def stop_if_deserted(self) -> None:
        """Stops the run if nobody reads it any more; looks again later if another worker does."""
        if self.deserted:
            self.stop.request("disconnected")
        elif self._readers == 0:
            self.watch_for_desertion()


def _stop_if_deserted(found: weakref.ref[Run]) -> None:
    if (run := found()) is not None:
        run.stop_if_deserted()
