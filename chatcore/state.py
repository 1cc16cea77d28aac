"""What a running server consists of, for the views of the built-in plugins."""

from typing import TYPE_CHECKING

import attrs
from quart import current_app

from chatcore.errors import Overloaded
from chatcore.protocols import Provider

if TYPE_CHECKING:
    from chatcore.access import Access
    from chatcore.config import Config
    from chatcore.database import Conversations, Database, RecentDocuments
    from chatcore.lifespans import Lifespans
    from chatcore.plugins import Plugins
    from chatcore.registry import Registry
    from chatcore.runs import Runs
    from chatcore.streams import Streams


@attrs.frozen(kw_only=True)
class State:
    """The parts of a running server. `create_app` puts it into `app.extensions["chatcore"]`."""

    config: "Config"
    registry: "Registry"
    plugins: "Plugins"
    database: "Database"
    conversations: "Conversations"
    documents: "RecentDocuments"
    runs: "Runs"
    streams: "Streams"
    access: "Access"
    lifespans: "Lifespans"

    def admit(self) -> None:
        """Lets a new run in.

        Raises:
            Overloaded: the server is full, or it is about to stop.
        """
        if self.streams.draining:
            raise Overloaded("the server is stopping", retry_after=2)
        if self.runs.count >= self.config.max_streams:
            raise Overloaded(
                f"{self.config.max_streams} answers are under way, which is the limit", hint="raise max_streams"
            )

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
