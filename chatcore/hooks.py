"""The hooks: everything a plugin can do, as one class.

A plugin is a subclass of `Plugin` that marks the hooks it implements with `@hookimpl`. Hooks that contribute
something are plain functions, run once while the server starts, and yield values; what has to be awaited lives in the
methods of those values. Only `prepare_turn` and `finish_turn` are coroutine functions, and they always are.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import attrs
import pluggy

from chatcore.errors import ProviderUnavailable
from chatcore.protocols import Account, Authenticator, BlobStore, Lifespan, Provider, ToolSource
from chatcore.tools import Tool
from chatcore.types import Limits, Turn, TurnResult

if TYPE_CHECKING:
    import click
    import peewee
    from quart import Blueprint

    from chatcore.accounts import Accounts
    from chatcore.database import Database

API_VERSION = 1
"""The version of these hooks. It grows when a hook changes in a way that an older plugin would notice."""

_PROJECT = "chatcore"
hookspec = pluggy.HookspecMarker(_PROJECT)
hookimpl = pluggy.HookimplMarker(_PROJECT)


@attrs.frozen
class NoSettings:
    """The settings of a plugin that has none."""


def _no_provider(model: str | None) -> tuple[Provider, str]:
    raise ProviderUnavailable("there is no provider")


async def _no_tools() -> Mapping[str, Tool]:
    return {}


def _no_accounts() -> "Accounts":
    from chatcore.accounts import Accounts  # noqa: PLC0415  it needs the database's tables, which take a while
    from chatcore.database import Database  # noqa: PLC0415  as above

    return Accounts(Database("none.db"), Path("none.key"))  # not open: every use says so


@attrs.frozen
class Host:
    """The server that a plugin is part of, as far as the plugin may ask it; not before all plugins are loaded.

    `provider_for` gives the provider that runs a model (the default one for None) and the id by which it knows it; it
    raises `RequestError` where nobody serves the model, `ProviderUnavailable` where there is no provider. `tools` gives
    the tools of all plugins whose calls need nobody's consent, by name. `limits` are those of a turn. `accounts` has
    what users have with other services. `workers` is how many processes serve: what one of them keeps in its memory the
    others do not have.
    """

    provider_for: Callable[[str | None], tuple[Provider, str]] = _no_provider
    tools: Callable[[], Awaitable[Mapping[str, Tool]]] = _no_tools
    limits: Limits = attrs.Factory(Limits)
    accounts: "Accounts" = attrs.Factory(_no_accounts)
    workers: int = 1


S = TypeVar("S")


@attrs.frozen
class Context(Generic[S]):
    """What chatcore gives a plugin when it makes it.

    `name` is the plugin's registered name. `settings` is an instance of its `settings_class`, read from
    `[plugins.<name>]` of the configuration and the environment names that the settings declare. `data` is a directory
    of the plugin's own, made when first asked for. `database` holds the plugin's `tables`; it is open while the server
    runs, not yet when the plugin is made. `environ` is the environment and, for names that it lacks, `.env`: for names
    that a file of the user's mentions; those of its settings a plugin declares. `host` is the server.
    """

    name: str
    settings: S
    directory: Path
    database: "Database"
    log: logging.Logger
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    host: Host = attrs.field(factory=Host, repr=False)

    @property
    def data(self) -> Path:
        """The plugin's own directory under the runtime data, made if need be."""
        self.directory.mkdir(parents=True, exist_ok=True)
        return self.directory


class Plugin(Generic[S]):
    """Everything a plugin can do. Subclass it and mark what you implement with `@hookimpl`.

    The first line of the subclass's docstring is what `chatcore plugins` shows. A plugin that lacks something of its
    user's (a key, a file) raises `PluginOff` with the remedy, in `__init__` or in a hook: it is listed as off, and the
    server starts without it. `check` fails when the hooks are not those of a version that this core knows.
    """

    api_version: ClassVar[int] = 1
    settings_class: ClassVar[type[Any]] = NoSettings
    tables: ClassVar[Sequence["type[peewee.Model]"]] = ()

    def __init__(self, context: Context[S]) -> None:
        self.context = context
        self.settings = context.settings

    @hookspec
    def register_providers(self) -> Iterable[Provider]:
        """Yields the providers: what runs models."""
        return ()

    @hookspec
    def register_tools(self) -> Iterable[Tool | ToolSource]:
        """Yields tools, and sources of tools that come and go."""
        return ()

    @hookspec
    def register_storage(self) -> Iterable[BlobStore]:
        """Yields places for files. Which one is used is the configuration's `blob_store`."""
        return ()

    @hookspec
    def register_auth(self) -> Iterable[Authenticator]:
        """Yields what turns a request into a principal. They are asked in order; the first answer counts."""
        return ()

    @hookspec
    def register_accounts(self) -> Iterable[Account]:
        """Yields what each user may have with another service, and how to sign in there. chatcore does the rest."""
        return ()

    @hookspec
    def register_routes(self) -> "Iterable[Blueprint]":
        """Yields Quart blueprints. Every view says who may call it: `@public` or `@authenticated`."""
        return ()

    @hookspec
    def register_lifespans(self) -> Iterable[Lifespan]:
        """Yields what is to be opened when the server starts and closed when it stops, each in a task of its own."""
        return ()

    @hookspec
    def register_commands(self) -> "Iterable[click.Command]":
        """Yields commands of the command line: `chatcore NAME …`, with NAME the command's own."""
        return ()

    @hookspec
    async def prepare_turn(self, turn: Turn) -> Turn | None:
        """Changes a turn before the model is called: gives a changed copy (`attrs.evolve`), or None.

        The plugins are asked one after the other, in the configured order; each sees what the one before it made.
        Raise a `RequestError` to refuse the turn: the client reads its text, and nothing of the turn stays. Any other
        error, and taking longer than `hook_timeout`, is logged with the plugin's name, and the turn goes on unchanged.
        """
        return None

    @hookspec
    async def finish_turn(self, turn: Turn, result: TurnResult) -> None:
        """Is told of a turn that has ended, after its last event. It cannot change or fail the turn."""
