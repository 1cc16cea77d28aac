"""What a running server consists of, for the views of the built-in plugins."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import attrs
from quart import current_app

from chatcore.errors import Overloaded
from chatcore.protocols import Provider
from chatcore.tally import Tally

if TYPE_CHECKING:
    from chatcore.access import Access
    from chatcore.attachments import Attachments
    from chatcore.config import Config
    from chatcore.database import Conversations, Database, RecentDocuments
    from chatcore.lifespans import Lifespans
    from chatcore.plugins import Plugins
    from chatcore.registry import Registry
    from chatcore.runs import Runs
    from chatcore.streams import Streams
    from chatcore.watchdog import Watchdog


@attrs.frozen(kw_only=True)
class State:
    """The parts of a running server. `create_app` puts it into `app.extensions["chatcore"]`.

    `slot` is the number of this worker among those of the server, from 1; a worker that replaces another takes over its
    number. `answered` are the requests that were answered, by status.
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
    _starting: set[object] = attrs.field(factory=set, init=False)

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Around the start of a run: lets it in, and keeps its place until it counts itself.

        Raises:
            Overloaded: the server is full, or it is about to stop.
        """
        if self.streams.draining:
            raise Overloaded("the server is stopping", retry_after=2)
        if self.runs.count + len(self._starting) >= self.config.max_streams:
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

    def default_model(self) -> tuple[Provider, str]:
        """The provider and the model that are used where nobody names one. Raises as `Registry.provider_for`."""
        return self.registry.provider_for(
            None, default_model=self.config.default_model, default_provider=self.config.default_provider
        )

    def title_model(self) -> tuple[Provider, str]:
        """The provider and the model that name conversations. Raises as `Registry.provider_for`."""
        if self.config.title_model is None:
            return self.default_model()
        return self.registry.provider_for(self.config.title_model)


def current() -> State:
    """The parts of the server that runs this view. For use inside a request only."""
    state: State = current_app.extensions["chatcore"]
    return state
