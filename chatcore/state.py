"""What a running server consists of, for the views of the built-in plugins."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import attrs
from quart import current_app

from chatcore.errors import Overloaded
from chatcore.room import Room
from chatcore.tally import Tally

if TYPE_CHECKING:
    from chatcore.access import Access
    from chatcore.attachments import Attachments
    from chatcore.config import Config
    from chatcore.database import Conversations, Database, RecentDocuments
    from chatcore.operation.watchdog import Watchdog
    from chatcore.plugins import Plugins
    from chatcore.plugins.lifespans import Lifespans
    from chatcore.plugins.registry import Registry
    from chatcore.runs.runs import Runs
    from chatcore.streams import Streams


MOST_HISTORIES = 2**28
"""Bytes of the histories of answers under way, of those that are not small."""
SMALL_HISTORY = 2**18
"""Bytes of a history that does not count, and of a conversation that is read at any time."""

_FULL = "the answers under way have so much to read that there is no room for another long conversation"


@attrs.frozen(kw_only=True)
class State:
    """The parts of a running server. `create_app` puts it into `app.extensions["chatcore"]`.

    `slot` is the number of this worker among those of the server, from 1; a worker that replaces another takes over its
    number. `answered` are the requests that were answered, by status. `histories` is the room for those of the answers
    under way.
    """

    config: "Config"
    registry: "Registry"
    plugins: "Plugins"
    database: "Database"
    conversations: "Conversations"
    attachments: "Attachments"
    documents: "RecentDocuments"
    runs: "Runs"
    streams: "Streams"
    access: "Access"
    lifespans: "Lifespans"
    watchdog: "Watchdog"
    answered: Tally = attrs.field(factory=Tally)
    slot: int = 1
    histories: Room = attrs.field(factory=lambda: Room(MOST_HISTORIES, small=SMALL_HISTORY, full=_FULL), init=False)
    _starting: set[object] = attrs.field(factory=set, init=False)
    _reading: asyncio.Lock = attrs.field(factory=asyncio.Lock, init=False)

    @property
    def busy(self) -> int:
        """How many answers and what counts like them, such as calls through MCP, are under way in this worker."""
        return self.runs.count + len(self._starting)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Around the start of a run: lets it in, and keeps its place until it counts itself.

        Raises:
            Overloaded: the server is full, or it is about to stop.
        """
        if self.streams.draining:
            raise Overloaded("the server is stopping", retry_after=2)
        if self.busy >= self.config.max_streams:
            raise Overloaded(
                f"{self.config.max_streams} answers are under way, which is the limit", hint="raise max_streams"
            )
        self.streams.admit()
        place = object()
        self._starting.add(place)
        try:
            yield
        finally:
            self._starting.remove(place)

    @asynccontextmanager
    async def reading(self, size: int) -> AsyncIterator[None]:
        """Around the reading of a conversation of this size, and what is made of it: of large ones, one at a time."""
        if size <= SMALL_HISTORY:
            yield
            return
        async with self._reading:
            yield


def current() -> State:
    """The parts of the server that runs this view. For use inside a request only."""
    state: State = current_app.extensions["chatcore"]
    return state
