"""Loads plugins: imports, checks and makes them, and collects what they contribute.

The only file that uses pluggy's manager: one for each app.
"""

import difflib
import inspect
import logging
import re
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

import attrs
import pluggy

from chatcore.accounts import Accounts
from chatcore.config import Loaded, plugin_settings
from chatcore.errors import ChatcoreError, ConfigError, DuplicateName, NotFound, PluginError, PluginOff
from chatcore.hooks import Context, Host, Plugin, hookspec
from chatcore.plugins import turns
from chatcore.plugins.check import TURN_HOOKS, check_class, check_hooks, contributions, migrations_of
from chatcore.plugins.find import Found, Named, check_name, find, forget_module
from chatcore.plugins.registry import Contribution, Provenance, Registry
from chatcore.plugins.trust import Trust
from chatcore.tools import JsonObject
from chatcore.types import Turn, TurnResult

if TYPE_CHECKING:
    from chatcore.database import Database

logger = logging.getLogger(__name__)

State: TypeAlias = Literal["on", "off", "disabled", "failed"]
DRAIN = 30.0
"""Seconds that a plugin's calls under way are given to end when it is unloaded."""

# Whether a file is of what loads plugins, or of what they are made with, and not a plugin's own.
_LOADING = re.compile(rf"<|{re.escape(str(Path(__file__).parents[1]))}/(?!builtin/)|.*/importlib/").match


@attrs.frozen(kw_only=True)
class Row:
    """A plugin in the list: what `chatcore plugins` prints.

    `off` is one that lacks something of its user's, and `reason` the remedy. `contributes` are kinds and names
    (`tool roll_dice`), `seconds` what loading took. `settings_class` is None where the class could not be had.
    """

    provenance: Provenance
    state: State
    reason: str = ""
    summary: str = ""
    contributes: tuple[str, ...] = ()
    seconds: float = 0.0
    settings_class: type | None = None
    plugin: Plugin[Any] | None = attrs.field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.provenance.plugin

    @property
    def builtin(self) -> bool:
        return self.provenance.builtin


@attrs.frozen
class Hook:
    """A hook's specification, and the plugins that implement it in the order of asking."""

    name: str
    signature: str
    is_async: bool
    summary: str
    implementers: tuple[str, ...]


class _Hooks(pluggy.PluginManager):
    """Looks for hooks among the names that can be one: most that a class has are Python's own."""

    def parse_hookimpl_opts(self, plugin: object, name: str) -> pluggy.HookimplOpts | None:
        return None if name.startswith("__") else super().parse_hookimpl_opts(plugin, name)


class Plugins:
    """The plugins of one app, and what they contribute."""

    def __init__(self, loaded: Loaded, database: "Database") -> None:
        config = loaded.config
        self.registry = Registry(default_model=config.default_model, default_provider=config.default_provider)
        self.trust = Trust(config.tool_policy, database)
        self.accounts = Accounts(
            database,
            config.data / "accounts.key",
            public_url=config.browser_url,
            registered=lambda: self.registry.accounts,
        )
        self._loaded = loaded
        self._database = database
        self._manager = _Hooks(hookspec.project_name)
        self._manager.add_hookspecs(Plugin)
        self._specs = [name for name in vars(Plugin) if self._manager.parse_hookspec_opts(Plugin, name) is not None]
        self._rows: list[Row] = []
        self._errors: list[tuple[Row, ChatcoreError]] = []

    @classmethod
    def load(
        cls,
        loaded: Loaded,
        database: "Database",
        *,
        builtins: Iterable[Named] = (),
        given: Iterable[Named] = (),
        discover: bool = True,
        halt: bool = True,
    ) -> Self:
        """Finds the plugins as `find` does, and loads them in the configured order.

        A plugin that fails or is off is a row, and leaves nothing behind. `halt=False` is for listings: then nothing
        that is wrong with a plugin raises.

        Raises:
            ConfigError: the directory of plugins is not one.
            DuplicateName: two plugins give the same name. The text says which, and what to write.
            PluginError: a built-in plugin has failed; or, with `strict`, one has failed or is off.
        """
        config = loaded.config
        found = find(
            builtins=builtins,
            given=given,
            discover=discover,
            plugins_dir=config.plugins_dir,
            classes=config.load,
        )
        for problem in unknown_names(loaded, [one.name for one in found]):
            logger.warning(problem)
        plugins = cls(loaded, database)
        for one in sorted(
            found, key=lambda f: config.order.index(f.name) if f.name in config.order else len(config.order)
        ):
            plugins.add(one)
        if halt:
            plugins.raise_failures()
        return plugins

    @property
    def rows(self) -> Sequence[Row]:
        """Every plugin that was found, in the order of loading."""
        return tuple(self._rows)

    def table(self) -> Sequence[JsonObject]:
        """The rows as JSON objects."""
        return [
            {
                "name": row.name,
                "distribution": row.provenance.distribution,
                "version": row.provenance.version,
                "builtin": row.builtin,
                "state": row.state,
                "reason": row.reason,
                "summary": row.summary,
                "contributes": row.contributes,
                "load_ms": round(row.seconds * 1000, 1),
            }
            for row in self._rows
        ]

    def hooks(self) -> Sequence[Hook]:
        """Every hook with who implements it."""
        order = [row.name for row in self._rows]
        return [
            Hook(
                name=name,
                signature=re.sub(r"\b(\w+\.)+|'", "", str(inspect.signature(getattr(Plugin, name)))),
                is_async=inspect.iscoroutinefunction(getattr(Plugin, name)),
                summary=_first_line(getattr(Plugin, name)),
                implementers=tuple(sorted(self._implementers(name), key=order.index)),
            )
            for name in self._specs
        ]

    # --- loading ------------------------------------------------------------------------------------------------------

    def add(self, found: Found) -> Row:
        """Loads one plugin and gives its row. A failed one leaves nothing behind."""
        started = time.monotonic()
        if found.name in self._loaded.config.disable:
            row = Row(provenance=found.provenance, state="disabled", reason="disabled in the configuration")
        elif namesake := next((row for row in self._rows if row.name == found.name), None):
            message = f"{namesake.provenance} has the same name: uninstall or rename one of them"
            row = self._failed(Row(provenance=found.provenance, state="failed"), DuplicateName(message))
        else:
            row = self._try(found)
        self._rows.append(attrs.evolve(row, seconds=time.monotonic() - started))
        return self._rows[-1]

    def _try(self, found: Found) -> Row:
        row = Row(provenance=found.provenance, state="failed")
        given: object = None
        try:
            check_name(found.name)
            with _blamed("importing it"):
                given = found.load()
            with _blamed("checking it"):
                cls = check_class(given)
                row = attrs.evolve(row, summary=_first_line(cls), settings_class=cls.settings_class)
                check_hooks(cls, self._specs, partial(self._manager.parse_hookimpl_opts, cls))
                migrations_of(cls)
            plugin = self._make(cls, found.name)
            contributed = self._register(plugin, found.provenance)
        except ChatcoreError as error:
            broken = self._keep_commands(found.provenance) if isinstance(error, PluginOff) else None
            self._forget(found.name, given)
            return self._failed(row, broken or error)
        labels = tuple(f"{c.kind} {c.name}" for c in contributed)
        return attrs.evolve(row, state="on", plugin=plugin, contributes=labels)

    def _keep_commands(self, provenance: Provenance) -> ChatcoreError | None:
        """Adds the commands of a plugin that is off: they may be what brings the thing that it lacks. Gives what is
        wrong with them, if they do not lack something, too."""
        try:
            self.registry.add(self._contributed("register_commands", provenance))
        except PluginOff:
            return None
        except ChatcoreError as error:
            return error
        return None

    def _failed(self, row: Row, error: ChatcoreError) -> Row:
        row = attrs.evolve(row, state="off" if isinstance(error, PluginOff) else "failed", reason=error.in_full)
        if row.state == "off":
            logger.info("%s is off: %s", row.provenance, row.reason)
        else:
            logger.error("%s has failed: %s", row.provenance, row.reason, exc_info=error.__cause__)
        self._errors.append((row, error))
        return row

    def _make(self, cls: type[Plugin[Any]], name: str) -> Plugin[Any]:
        with _blamed("its settings_class"):
            settings = plugin_settings(self._loaded, name, cls.settings_class)
        context = Context(
            name=name,
            settings=settings,
            directory=self._loaded.config.data / "plugins" / name,
            database=self._database,
            log=logging.getLogger(f"chatcore.plugin.{name}"),
            environ=self._loaded.environ,
            host=self._host(),
        )
        with _blamed("__init__"):
            return cls(context)

    def _host(self) -> Host:
        config = self._loaded.config
        return Host(
            self.registry.provider_for,
            lambda: self.trust.free(self.registry.tools()),
            config.limits,
            self.accounts,
            config.workers,
        )

    def _register(self, plugin: Plugin[Any], provenance: Provenance) -> Sequence[Contribution]:
        """Asks the contributing hooks one implementation at a time. All is given to the registry, or nothing."""
        with _blamed("registering it"):
            self._manager.register(plugin, name=provenance.plugin)
        given = [c for hook in self._specs for c in self._contributed(hook, provenance)]
        self.registry.add(given)
        return given

    def _contributed(self, hook: str, provenance: Provenance) -> Sequence[Contribution]:
        function = self._implementers(hook).get(provenance.plugin)
        if function is None:
            return ()
        if hook in TURN_HOOKS:
            return [Contribution(TURN_HOOKS[hook], provenance.plugin, function, provenance)]
        with self.registry.calls.charge(provenance.plugin, hook), _blamed(hook):
            return contributions(hook, function(), provenance)

    def _implementers(self, hook: str) -> Mapping[str, Any]:
        return {impl.plugin_name: impl.function for impl in getattr(self._manager.hook, hook).get_hookimpls()}

    def raise_failures(self) -> None:
        """Raises what stops the start, as `load` says. What does not is forgotten: its row is enough."""
        fatal = [(row, error) for row, error in self._errors if self._stops(row, error)]
        self._errors.clear()
        if fatal:
            kind = DuplicateName if any(isinstance(error, DuplicateName) for _, error in fatal) else PluginError
            message = "\n".join(f"{row.provenance} is {row.state}: {row.reason}" for row, _ in fatal)
            raise kind(message, hint="'chatcore plugins' lists all plugins") from fatal[0][1]

    def _stops(self, row: Row, error: ChatcoreError) -> bool:
        if self._loaded.config.strict or isinstance(error, DuplicateName):
            return True
        return row.builtin and row.state == "failed"

    # --- turns --------------------------------------------------------------------------------------------------------

    async def prepare(self, turn: Turn) -> Turn:
        """See `turns.prepare`. What the operator does not let a turn have of its tools is taken away after that."""
        return await self.trust.vet(await turns.prepare(self.registry, turn))

    async def finish(self, turn: Turn, result: TurnResult) -> None:
        """See `turns.finish`."""
        await turns.finish(self.registry, turn, result)

    # --- lifetime -----------------------------------------------------------------------------------------------------

    def migrations(self) -> Mapping[str, Path]:
        """The `migrations` directories beside the plugins' tables, for `Database.open`."""
        found = {row.name: migrations_of(type(row.plugin)) for row in self._rows if row.plugin}
        return {name: directory for name, directory in found.items() if directory}

    async def unload(self, name: str, *, error: ChatcoreError | None = None, timeout: float = DRAIN) -> bool:
        """Takes a plugin out of the running app: what it contributed at once, itself when its calls have ended.

        Its lifespans are closed after that, by who runs them: `Lifespans.stop(name)`. `error` is why, where it is
        because of a failure. Gives False if calls were still under way after `timeout` seconds.

        Raises:
            NotFound: no plugin of that name is on.
        """
        row = next((row for row in self._rows if row.name == name and row.plugin is not None), None)
        if row is None:
            raise NotFound(f"no plugin {name!r} is on")
        self.registry.remove(name)
        drained = await self.registry.calls.drained(name, timeout)
        self._forget(name, type(row.plugin))
        out = Row(provenance=row.provenance, state="disabled", reason="unloaded", summary=row.summary)
        self._rows[self._rows.index(row)] = self._failed(out, error) if error else out
        return drained

    def _forget(self, name: str, cls: object) -> None:
        self._manager.unregister(name=name)
        self.registry.calls.forget(name)
        forget_module(cls)


# --- what is said -----------------------------------------------------------------------------------------------------


@contextmanager
def _blamed(what: str) -> Iterator[None]:
    """Around a plugin's code while it is loaded: whatever it raises becomes a PluginError that says where."""
    try:
        yield
    except (PluginError, ConfigError):
        raise
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a module that calls exit() must not end the server, nor a library that panics
        raise PluginError(f"{what} raised {type(error).__name__}: {error}{_where(error)}") from error


def _where(error: BaseException) -> str:
    """The line of the plugin that an exception came from, as far as it is known: the innermost in its own directory,
    since what it calls may raise far away from what is to be mended."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _LOADING(frame.filename)]
    own = [frame for frame in frames if Path(frame.filename).is_relative_to(Path(frames[0].filename).parent)]
    return f" ({own[-1].filename}:{own[-1].lineno})" if own else ""


def _first_line(documented: object) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def unknown_names(loaded: Loaded, names: Sequence[str]) -> Iterator[str]:
    """What the configuration says of plugins that are not there: each in a sentence. `names` are those that are."""
    places = {"disable": loaded.config.disable, "order": loaded.config.order, "[plugins]": loaded.plugins}
    for where, used in places.items():
        for name in used:
            if name not in names:
                close = difflib.get_close_matches(name, names, n=1)
                advice = f"; did you mean {close[0]!r}?" if close else ""
                yield f"{where} in the configuration names {name!r}, which is not installed{advice}"
