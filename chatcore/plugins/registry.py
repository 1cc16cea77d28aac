"""What the plugins contribute, by kind and name. Consulted live: what is removed is gone at the next look.

Each call into a tool, a provider or an account that is taken from here is charged to its plugin.
"""

import hashlib
import logging
import re
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

import attrs

from chatcore import wire
from chatcore.errors import ChatcoreError, DuplicateName, PluginError, ProviderUnavailable, RequestError, ToolFailed
from chatcore.plugins.calls import Calls
from chatcore.plugins.fit import unlike
from chatcore.protocols import Account, Authenticator, Blob, BlobStore, Credentials, Form, Health, Provider
from chatcore.reserved import COMMANDS
from chatcore.tools import Invocation, JsonObject, Tool, ToolResult
from chatcore.types import Model, ModelEvent, ModelRequest, Principal

if TYPE_CHECKING:
    import click

logger = logging.getLogger(__name__)

T = TypeVar("T")

Kind: TypeAlias = Literal[
    "provider",
    "tool",
    "tool source",
    "blob store",
    "authenticator",
    "account",
    "blueprint",
    "route",
    "lifespan",
    "command",
    "prepare_turn",
    "finish_turn",
]

_Charged: TypeAlias = dict[tuple[str, str, str], tuple[Tool, Tool]]
"""Tools as they were given, and as turns get them, by plugin, source and name."""

_LONGEST_TOOL_NAME = 64
_OFF = "'chatcore plugins' says which plugins are off, and why"


@attrs.frozen
class Provenance:
    """Whose a contribution is. `distribution` is the file of a plugin that has none, `version` empty then."""

    plugin: str
    distribution: str
    version: str
    builtin: bool = False

    def __str__(self) -> str:
        return f"plugin {self.plugin} ({' '.join(filter(None, (self.distribution, self.version)))})"


@attrs.frozen
class Contribution:
    """Something that a plugin has given. `value` is of the kind's type; a route's is its view."""

    kind: Kind
    name: str
    value: Any = attrs.field(repr=False)
    provenance: Provenance


class Registry:
    """The contributions of the plugins of one app, in the order of the plugins."""

    def __init__(self, *, default_model: str | None = None, default_provider: str | None = None) -> None:
        """The defaults are those of the configuration."""
        self.calls = Calls()
        self._default_model = default_model
        self._default_provider = default_provider
        self._kinds: dict[str, dict[str, Contribution]] = {}
        self._warned: set[tuple[str, str]] = set()
        self._charged: _Charged = {}

    # --- giving and taking back ---------------------------------------------------------------------------------------

    def add(self, contributions: Sequence[Contribution]) -> None:
        """Takes all contributions of a plugin, or none.

        Raises:
            DuplicateName: a name of one kind is another plugin's, or that of a command the core's. The text says whose,
                and what to write to go on.
            PluginError: the plugin gives a name of one kind twice.
        """
        fresh: dict[tuple[str, str], Contribution] = {}
        for new in contributions:
            if (new.kind, new.name) in fresh:
                raise PluginError(f"{new.provenance} gives the {new.kind} {new.name!r} twice")
            fresh[new.kind, new.name] = new
        if clashes := [clash for new in fresh.values() if (clash := self._clash(new))]:
            raise DuplicateName("\n".join(clashes))
        for new in fresh.values():
            self._kinds.setdefault(new.kind, {})[new.name] = new

    def _clash(self, new: Contribution) -> str:
        """What to tell of a name that is taken, if it is."""
        if new.kind == "command" and new.name in COMMANDS:
            return _clash_with_the_core(new)
        old = self.find(new.kind, new.name)
        return _clash(old, new) if old else ""

    def remove(self, plugin: str) -> None:
        """Takes back everything that a plugin has contributed. What is under way with it goes on."""
        for kind, named in self._kinds.items():
            self._kinds[kind] = {name: c for name, c in named.items() if c.provenance.plugin != plugin}
        self._warned = {warning for warning in self._warned if warning[0] != plugin}
        self._charged = {key: pair for key, pair in self._charged.items() if key[0] != plugin}

    # --- looking ------------------------------------------------------------------------------------------------------

    def of(self, kind: Kind) -> Sequence[Contribution]:
        """All contributions of a kind, in the order of their plugins."""
        return tuple(self._kinds.get(kind, {}).values())

    def by(self, plugin: str) -> Sequence[Contribution]:
        """All contributions of a plugin."""
        return [c for named in self._kinds.values() for c in named.values() if c.provenance.plugin == plugin]

    def find(self, kind: Kind, name: str) -> Contribution | None:
        """One contribution, or None. Cheap: the app asks for every request whether its blueprint is still there."""
        return self._kinds.get(kind, {}).get(name)

    @property
    def providers(self) -> Mapping[str, Provider]:
        """The providers by name."""
        return {c.name: self._charged_provider(c) for c in self.of("provider")}

    @property
    def blob_stores(self) -> Mapping[str, BlobStore]:
        """The places for files by name."""
        return {c.name: _ChargedStore(c.value, self.calls, c.provenance.plugin) for c in self.of("blob store")}

    @property
    def authenticators(self) -> Sequence[Authenticator]:
        """What turns a request into a principal, in the order of asking."""
        return [_ChargedAuthenticator(c.value, self.calls, c.provenance.plugin) for c in self.of("authenticator")]

    @property
    def accounts(self) -> Mapping[str, Account]:
        """What users may have with other services, by name."""
        return {c.name: self._charged_account(c) for c in self.of("account")}

    def _charged_account(self, contribution: Contribution) -> Account:
        account: Account = contribution.value
        way: Any = account.sign_in
        own = "sign_in" if isinstance(way, Form) else "subject"
        function = getattr(way, own)
        if function is None:
            return account

        async def run(given: Any) -> Any:
            return await self.calls.run(contribution.provenance.plugin, f"account {account.name}", function(given))

        return attrs.evolve(account, sign_in=attrs.evolve(way, **{own: run}))

    @property
    def commands(self) -> "Mapping[str, click.Command]":
        """The commands of the command line by name."""
        return self._named("command")

    def _named(self, kind: Kind) -> dict[str, Any]:
        return {name: c.value for name, c in self._kinds.get(kind, {}).items()}

    # --- tools --------------------------------------------------------------------------------------------------------

    def tools(self) -> dict[str, Tool]:
        """The tools there are now, by name: those of the plugins and those of their sources.

        A source's tool whose name somebody else's has too is called `SOURCE__TOOL`. A source that fails is left out.
        Neither breaks a turn; both are logged, once.
        """
        earlier, self._charged = self._charged, {}
        tools = {c.name: self._charged_tool(earlier, c, c.value, c.name) for c in self.of("tool")}
        offered = [(source, tool) for source in self.of("tool source") for tool in self._tools_of(source)]
        owners = Counter(name for _, name in {(source.name, tool.name) for source, tool in offered})
        owners.update(list(tools))
        for source, tool in offered:
            name = tool.name
            if owners[name] > 1:
                name = _qualified(source.name, tool.name)
                self._warn_once(source, f"its tool {tool.name} is called {name}: somebody else has one of that name")
            if name in tools:
                self._warn_once(source, f"its tool {name} is left out: there is one of that name")
            else:
                tools[name] = self._charged_tool(earlier, source, tool, name)
        return tools

    def _tools_of(self, source: Contribution) -> Sequence[Tool]:
        plugin = source.provenance.plugin
        try:
            with self.calls.charge(plugin, f"tool source {source.name}"):
                tools = tuple(source.value.tools())
                if wrong := [tool for tool in tools if not isinstance(tool, Tool)]:
                    raise TypeError(f"{type(wrong[0]).__name__} where a Tool was wanted")
                return tools
        except Exception as error:  # noqa: BLE001  a plugin's code: a source that fails must not fail the turn
            self._warn_once(source, "it gives no tools", error)
            return ()

    def _charged_tool(self, earlier: _Charged, contribution: Contribution, tool: Tool, name: str) -> Tool:
        """The tool as turns get it: the same one for as long as its plugin gives the same."""
        plugin, source = contribution.provenance.plugin, contribution.name
        key = plugin, source, name
        known, charged = earlier.get(key, (None, tool))
        if known is tool:
            self._charged[key] = tool, charged
            return charged

        async def run(invocation: Invocation) -> ToolResult:
            try:
                return await self.calls.run(plugin, f"tool {name}", _answer(tool, invocation))
            except Exception as error:
                if not _is_meant(error):
                    logger.exception("%s: the tool %s failed", contribution.provenance, name)
                raise

        origin = (tool.source or source) if contribution.kind == "tool source" else None
        charged = attrs.evolve(tool, name=name, run=run, source=origin)
        self._charged[key] = tool, charged
        return charged

    def _warn_once(self, contribution: Contribution, message: str, error: Exception | None = None) -> None:
        warning = (contribution.provenance.plugin, f"{contribution.kind} {contribution.name}: {message}")
        if warning not in self._warned:
            self._warned.add(warning)
            why = f": {type(error).__name__}: {error}" if error else ""
            logger.warning("%s: %s%s", contribution.provenance, warning[1], why, exc_info=error)

    # --- providers ----------------------------------------------------------------------------------------------------

    def provider_for(self, model: str | None) -> tuple[Provider, str]:
        """The provider that runs a model, and the model's id as that provider is to be given it.

        An id `NAME/…` or `NAME`, with NAME a provider's name, is that provider's; `NAME` alone stands for its default
        model. Any other id is the open provider's, of several `default_provider`'s. Where no model is named it is
        `default_model`, or the default model of `default_provider`, or that of the best provider: an open one before
        others, an installed one before a built-in one, and one whose health is `failed` only where nothing else is
        left. One that is starting is as good as one that is ready.

        Raises:
            RequestError: nobody serves the model. Status 400, not 404: the address of the request was right.
            ProviderUnavailable: there is no provider at all.
        """
        wanted = model or self._default_model
        chosen = self._serving(wanted) if wanted else self._default()
        provider = self._charged_provider(chosen)
        if wanted and wanted != chosen.name:
            return provider, wanted
        if provider.default_model is None:
            raise RequestError(
                f"no model is named, and the provider {chosen.name} has no default",
                hint="name a model in the request, or set default_model",
            )
        return provider, provider.default_model

    def _charged_provider(self, contribution: Contribution) -> Provider:
        looks_up = getattr(contribution.value, "generation", None) is not None
        kind = _ChargedLookup if looks_up else _ChargedProvider
        return kind(contribution.value, self.calls, contribution.provenance.plugin)

    def _serving(self, model: str) -> Contribution:
        named = self.find("provider", model.partition("/")[0])
        if named:
            return named
        gateways = [c for c in self.of("provider") if c.value.open]
        if not gateways:
            raise self._nobody(f"no provider serves {model!r}")
        return min(gateways, key=lambda c: (c.name != self._default_provider, *self._rank(c)))

    def _default(self) -> Contribution:
        if self._default_provider:
            named = self.find("provider", self._default_provider)
            if named is None:
                raise self._nobody(f"there is no provider {self._default_provider!r}")
            return named
        providers = self.of("provider")
        if not providers:
            raise ProviderUnavailable("there is no provider", hint=_OFF)
        return min(providers, key=self._rank)

    def _nobody(self, message: str) -> RequestError:
        served = ", ".join(f"{name}/…" for name in self.providers) or "none"
        return RequestError(f"{message}; there are: {served}", hint=_OFF)

    def _rank(self, contribution: Contribution) -> tuple[bool, bool, bool]:
        failed = self.health(contribution).state == "failed"
        return failed, not contribution.value.open, contribution.provenance.builtin

    def health(self, provider: Contribution) -> Health:
        """How a provider is: `failed`, too, if it cannot tell."""
        try:
            with self.calls.charge(provider.provenance.plugin, f"health of {provider.name}"):
                health = provider.value.health()
            if isinstance(health, Health):
                return health
            raise TypeError(f"it is {health!r}, wanted a Health")
        except Exception as error:  # noqa: BLE001  a plugin's code: the other providers can still be chosen
            self._warn_once(provider, "it cannot tell its health", error)
            return Health("failed", str(error))


@attrs.frozen
class _ChargedProvider:
    """A provider whose work is charged to its plugin."""

    _provider: Provider
    _calls: Calls
    _plugin: str

    @property
    def name(self) -> str:
        return self._provider.name

    @property
    def open(self) -> bool:
        return self._provider.open

    @property
    def default_model(self) -> str | None:
        return self._provider.default_model

    def health(self) -> Health:
        return self._provider.health()

    async def models(self) -> Sequence[Model]:
        return await self._calls.run(self._plugin, f"models of {self.name}", self._provider.models())

    async def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        with self._calls.charge(self._plugin, f"provider {self.name}"):
            stream = self._provider.stream(request)
            try:
                async for events in stream:
                    yield events
            finally:
                if close := getattr(stream, "aclose", None):  # any asynchronous iterator will do
                    await close()


class _ChargedLookup(_ChargedProvider):
    """One that can tell afterwards what a generation cost."""

    async def generation(self, generation_id: str) -> JsonObject:
        lookup: Any = self._provider
        found: JsonObject = await self._calls.run(
            self._plugin, f"generation of {self.name}", lookup.generation(generation_id)
        )
        return found


@attrs.frozen
class _ChargedStore:
    """A blob store whose work is charged to its plugin."""

    _store: BlobStore
    _calls: Calls
    _plugin: str

    @property
    def name(self) -> str:
        return self._store.name

    async def put(self, blob: Blob, data: bytes) -> None:
        await self._run(self._store.put(blob, data))

    async def get(self, key: str) -> bytes:
        return await self._run(self._store.get(key))

    async def url(self, key: str, expires: timedelta) -> str:
        return await self._run(self._store.url(key, expires))

    async def delete(self, key: str) -> None:
        await self._run(self._store.delete(key))

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._calls.run(self._plugin, f"blob store {self.name}", work)


@attrs.frozen
class _ChargedAuthenticator:
    """An authenticator whose work is charged to its plugin."""

    _authenticator: Authenticator
    _calls: Calls
    _plugin: str

    @property
    def name(self) -> str:
        return self._authenticator.name

    async def active(self) -> bool:
        own = getattr(self._authenticator, "active", None)
        return own is None or bool(await self._run(own()))

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        principal = await self._run(self._authenticator.authenticate(credentials))
        if principal is None or (isinstance(principal, Principal) and isinstance(principal.id, str)):
            return principal
        raise PluginError(f"plugin {self._plugin}: the authenticator {self.name} gave {principal!r:.100}")

    async def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return await self._calls.run(self._plugin, f"authenticator {self.name}", work)


async def _answer(tool: Tool, invocation: Invocation) -> ToolResult:
    """What a tool answers, as the turn can keep it."""
    result = await tool.run(invocation)
    if not isinstance(result, ToolResult):
        raise TypeError(f"it gave {result!r:.200}, wanted a ToolResult with text")
    if wrong := unlike(result):
        raise TypeError(f"it gave a ToolResult with {wrong}")
    wire.dumps(result.parts)  # raises what would otherwise fail the turn
    # Names of files may have bytes that are no UTF-8, which Python keeps as halves of surrogate pairs.
    text = result.text.encode(errors="replace").decode()
    return result if text == result.text else attrs.evolve(result, text=text)


def _is_meant(error: Exception) -> bool:
    """Whether what a tool raises is an answer for the model, rather than a fault of the tool or the server."""
    return isinstance(error, ToolFailed) or (isinstance(error, ChatcoreError) and error.told == error.message)


def _clash(old: Contribution, new: Contribution) -> str:
    return (
        f"the {new.kind} {new.name!r} is given by {old.provenance} and by {new.provenance}; to go on with one of them, "
        f'write disable = ["{new.provenance.plugin}"] or disable = ["{old.provenance.plugin}"] in chatcore.toml'
    )


def _clash_with_the_core(new: Contribution) -> str:
    return (
        f"the command {new.name!r} is given by chatcore itself and by {new.provenance}: give it another name; to go on "
        f'without the plugin, write disable = ["{new.provenance.plugin}"] in chatcore.toml'
    )


def _qualified(source: str, tool: str) -> str:
    """`SOURCE__TOOL` within what a tool's name may be; the same for the same two, and for no others."""
    plain = f"{source}__{tool}"
    name = re.sub(r"[^A-Za-z0-9_-]", "_", plain)
    if name == plain and len(name) <= _LONGEST_TOOL_NAME:
        return name
    digest = hashlib.sha256(plain.encode()).hexdigest()[:8]
    return f"{name[: _LONGEST_TOOL_NAME - 9]}_{digest}"
