"""The contract of a whole plugin."""

# ruff: noqa: S101
# The contracts speak in assertions.

import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import attrs
import pluggy
import pytest
import pytest_asyncio

from chatcore.builtin import BUILTINS
from chatcore.errors import ChatcoreError
from chatcore.hooks import API_VERSION, Plugin
from chatcore.plugins import Row
from chatcore.plugins.check import check_hooks
from chatcore.state import State
from chatcore.testing.chat import Chat, running_chat
from chatcore.testing.contracts import quiet, readme
from chatcore.testing.contracts.watch import leaving_nothing
from chatcore.testing.settings import options

SLOW = 200.0
"""Milliseconds of loading, imports not counted, from which on the report says that it is slow."""
_LONGEST_SUMMARY = 120
_FIRST_LINE = "Lets the model look up the weather."


@attrs.frozen
class Installation:
    """A plugin as a contract's server gets it: its settings as in the configuration file, its environment, and the name
    that the server knows it by."""

    plugin: type[Plugin[Any]]
    settings: Mapping[str, Any] = attrs.field(factory=dict, repr=False)
    environ: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    name: str = attrs.field()

    @name.default
    def _usual_name(self) -> str:
        builtin = next((name for name, cls in BUILTINS if cls is self.plugin), None)
        return builtin or self.plugin.__name__.lower()

    def running(self, directory: Path) -> AbstractAsyncContextManager[Chat]:
        """A strict server with the plugin."""
        given = [] if self.plugin in dict(BUILTINS).values() else [(self.name, self.plugin)]
        return running_chat(directory, *given, settings=self.settings, environ=self.environ)

    def row(self, chat: Chat) -> Row:
        """What the server lists of it."""
        return next(row for row in state_of(chat).plugins.rows if row.name == self.name)


def state_of(chat: Chat) -> State:
    """The parts of a server."""
    state: State = chat.app.extensions["chatcore"]
    return state


@pytest.mark.asyncio
class PluginContract:
    """What every plugin keeps. A subclass names the plugin, and the settings without which it is off:

        class TestWeather(PluginContract):
            plugin = Weather
            settings = {"api_key": "none"}

    The rules about a running server are skipped where `test_it_loads` fails: it says why.
    """

    plugin: type[Plugin[Any]]
    settings: Mapping[str, Any] = {}

    @pytest.fixture
    def installation(self) -> Installation:
        """The plugin with its settings. A subclass may give another."""
        return Installation(self.plugin, self.settings)

    @pytest.fixture
    def cls(self, installation: Installation) -> type[Plugin[Any]]:
        """The plugin's class."""
        return installation.plugin

    @pytest_asyncio.fixture
    async def chat(self, installation: Installation, tmp_path: Path) -> AsyncIterator[Chat]:
        """A server with the plugin."""
        try:
            server = installation.running(tmp_path)
            chat = await server.__aenter__()
        except ChatcoreError:
            pytest.skip("it does not load")
        yield chat
        await server.__aexit__(None, None, None)

    # --- without a server ---------------------------------------------------------------------------------------------

    async def test_importing_it_does_nothing_else(self, cls: type[Plugin[Any]]) -> None:
        """Importing it opens no connection, starts no thread, process or task, and writes no file."""
        seen = quiet.of_import(cls.__module__, Path(inspect.getfile(cls)))
        assert not seen, f"importing it does more than that: {', '.join(seen)}; do it in a lifespan, or when first used"

    async def test_it_says_what_it_is(self, cls: type[Plugin[Any]]) -> None:
        """Its docstring begins with a line that says what it does: `chatcore plugins` shows it."""
        first = (cls.__doc__ or "").strip().partition("\n")[0]
        assert first, f"{cls.__name__} has no docstring: write what it does, such as '{_FIRST_LINE}'"
        assert len(first) <= _LONGEST_SUMMARY, f"the docstring's first line has {len(first)} characters: shorten it"

    async def test_it_is_for_hooks_that_are_known(self, cls: type[Plugin[Any]]) -> None:
        """It is written for a version of the hooks that this chatcore has."""
        assert cls.api_version in range(1, API_VERSION + 1), (
            f"api_version is {cls.api_version!r}, not up to {API_VERSION}"
        )

    async def test_its_hooks_are_chatcores(self, cls: type[Plugin[Any]]) -> None:
        """Each hook has a name, arguments and a colour (async or not) that chatcore knows."""
        manager = pluggy.PluginManager("chatcore")
        specs = [name for name in vars(Plugin) if manager.parse_hookspec_opts(Plugin, name) is not None]
        check_hooks(cls, specs, lambda name: manager.parse_hookimpl_opts(cls, name))

    async def test_its_settings_are_frozen_and_explained(self, cls: type[Plugin[Any]]) -> None:
        """Its settings are a frozen attrs class, and each says what it is."""
        settings = cls.settings_class
        assert attrs.has(settings), f"{settings.__name__} is not an attrs class: write @attrs.frozen above it"
        assert attrs.inspect(settings).is_frozen, f"{settings.__name__} can be changed: write @attrs.frozen above it"
        silent = [option.name for option in options(settings) if not option.help]
        assert not silent, f"there is no help for {', '.join(silent)}: write option(…, help=…)"

    async def test_its_readme_has_the_sections(self, cls: type[Plugin[Any]]) -> None:
        """Its README has the sections What it adds, Install, Settings, Try it and Remove it, in this order."""
        missing = readme.missing_headings(_readme(cls))
        assert not missing, f"its README lacks, or has elsewhere: {', '.join(missing)}"

    async def test_its_readme_has_every_setting(self, cls: type[Plugin[Any]]) -> None:
        """A table of its README has a row for each setting, with its names in the environment."""
        missing = list(readme.missing_settings(_readme(cls), cls.settings_class))
        assert not missing, f"in its README {'; '.join(missing)}"

    # --- in a server --------------------------------------------------------------------------------------------------

    async def test_it_loads(
        self, installation: Installation, tmp_path: Path, record_property: Callable[[str, object], None]
    ) -> None:
        """A strict server starts with it, with all that it opens; it gives no name twice, and none that is built in."""
        try:
            async with installation.running(tmp_path) as chat:
                row = installation.row(chat)
        except ChatcoreError as error:
            pytest.fail(error.message)
        assert row.state == "on", f"it is {row.state}: {row.reason}"
        time = row.seconds * 1000
        record_property("detail", f"in {time:.0f} ms" + (", which is slow" if time > SLOW else ""))

    async def test_its_names_stay(self, installation: Installation, chat: Chat, tmp_path: Path) -> None:
        """Loaded again, what it contributes has the same names: presets, links and histories hold them."""
        async with installation.running(tmp_path / "again") as other:
            again = installation.row(other).contributes
        assert installation.row(chat).contributes == again

    async def test_a_turn_goes_through_it(self, installation: Installation, chat: Chat) -> None:
        """Its hooks of a turn raise nothing but a RequestError, which refuses the turn."""
        body = {"model": "scripted/model", "session_id": "contract", "messages": [{"role": "user", "content": "Hello"}]}
        response = await chat.client.post("/api/chat/stream", json=body)
        assert response.status_code < 500, response.text
        await state_of(chat).runs.close()
        charges = [c for c in state_of(chat).registry.calls.charges() if c.plugin == installation.name]
        failed = [c.what for c in charges if c.failures and c.what == "finish_turn"]
        refused = response.status_code != 200
        failed += [c.what for c in charges if c.failures and c.what == "prepare_turn" and not refused]
        assert not failed, f"{' and '.join(failed)} raised an error; the log says which"

    async def test_it_goes_without_a_trace(self, installation: Installation, tmp_path: Path) -> None:
        """Taken out of a running server it leaves no contribution, no open lifespan, no task and no thread."""
        async with leaving_nothing(threads=True):
            try:
                async with installation.running(tmp_path) as chat:
                    await _take_out(installation, chat)
            except ChatcoreError:
                pytest.skip("it does not load")


async def _take_out(installation: Installation, chat: Chat) -> None:
    state, name = state_of(chat), installation.name
    contributed = state.registry.by(name)
    assert await state.plugins.unload(name, timeout=5), "its calls do not end"
    await state.lifespans.stop(name)
    assert not state.registry.by(name), "something that it contributed is still there"
    assert not [one for one in state.lifespans.states if one.startswith(f"{name}.")], "a lifespan is still open"
    for route in [c.name for c in contributed if c.kind == "route" and c.name.startswith("GET ")]:
        path = route.removeprefix("GET ").replace("<>", "1")
        assert (await chat.client.get(path)).status_code == 404, f"{path} still answers"


def _readme(cls: type[Plugin[Any]]) -> str:
    text = readme.find(cls)
    if text is None:
        pytest.skip("it is in no distribution of its own, which would have a README")
    return text
