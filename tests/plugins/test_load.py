"""Finding, checking, loading and taking out plugins. The broken ones are files in `plugins_bad`."""

import asyncio
import gc
import logging
import re
import shutil
import sys
import textwrap
import weakref
from pathlib import Path

import pytest

from chatcore.config import Config, Loaded
from chatcore.database import Database
from chatcore.errors import ConfigError, DatabaseError, DuplicateName, NotFound, PluginError, ProviderUnavailable
from chatcore.hooks import Host, NoSettings, Plugin, hookimpl
from chatcore.plugins import Plugins, find
from chatcore.plugins.lifespans import Lifespans
from chatcore.testing.scripted import ScriptedProvider
from chatcore.tools import Invocation, Tool, ToolCall

BAD = Path(__file__).parents[1] / "plugins_bad"
INSTALLED = tuple(one.name for one in find())
"""Plugins that happen to be installed where the tests run: they are disabled in them."""

TOOL = """
    from chatcore.hooks import NoSettings, Plugin, hookimpl
    from chatcore.tools import Tool

    class {cls}(Plugin[NoSettings]):
        '''Gives a tool.'''

        @hookimpl
        def register_tools(self):
            yield Tool.of(self.{tool})

        async def {tool}(self) -> str:
            '''Answers.'''
            return "{cls}"
"""


@pytest.fixture
def load(tmp_path):
    """Loads single-file plugins, by the names of files in plugins_bad or from given texts."""

    def loader(*bad, texts=None, builtins=(), given=(), halt=True, sections=None, environ=None, **config):
        directory = tmp_path / "plugins"
        directory.mkdir(exist_ok=True)
        for name in bad:
            shutil.copy(BAD / f"{name}.py", directory)
        for name, text in (texts or {}).items():
            (directory / f"{name}.py").write_text(textwrap.dedent(text))
        values = {"data": tmp_path, "plugins_dir": directory, **config}
        values["disable"] = (*INSTALLED, *values.get("disable", ()))
        loaded = Loaded(config=Config(**values), plugins=sections or {}, environ=environ or {})
        return Plugins.load(loaded, database(tmp_path), builtins=builtins, given=given, halt=halt)

    return loader


def database(tmp_path):
    return Database(str(tmp_path / "chatcore.db"))


def row_of(plugins, name):
    return next(row for row in plugins.rows if row.name == name)


def install(site, distribution, version, module, text, entry=None):
    """Writes a distribution with one module and one entry point, as pip would."""
    (site / f"{module}.py").write_text(textwrap.dedent(text))
    info = site / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[chatcore]\n{entry or module} = {module}:Given\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A directory of installed distributions."""
    directory = tmp_path / "site"
    directory.mkdir()
    monkeypatch.syspath_prepend(directory)
    yield directory
    for name in {path.stem for path in directory.glob("*.py")}:
        sys.modules.pop(name, None)


# --- broken plugins ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("raises_on_import", r"importing it raised RuntimeError: no such luck \(.*raises_on_import.py:3\)"),
        ("exits_on_import", r"importing it raised SystemExit: 3 \(.*exits_on_import.py:5\)"),
        ("raises_in_init", r"__init__ raised LookupError: nothing to find \(.*raises_in_init.py:11\)"),
        ("raises_in_hook", r"register_tools raised ZeroDivisionError: after the first tool \(.*raises_in_hook.py:13\)"),
        ("misspelt_hook", r"MisspeltHook.register_tool, .*:9: there is no such hook; did you mean 'register_tools'"),
        ("wrong_arguments", r"its arguments are \(self, chat, result\), wanted \(self, turn, result\)"),
        ("sync_turn_hook", r"SyncTurnHook.prepare_turn, .*: the hook is async: write 'async def prepare_turn'"),
        ("async_contribution", r"the hook is not async: write 'def register_tools'"),
        ("undecorated", r"Undecorated.register_tools, .*: it is a hook: write @hookimpl above it"),
        ("wants_to_be_first", r"@hookimpl takes no options: the order of plugins is that of 'order'"),
        ("wrong_type", r"register_tools gave \{'name': 'dict'\}, wanted Tool or ToolSource"),
        ("gives_a_class", r"register_tools gave <class '.*Source'>, wanted Tool or ToolSource"),
        ("gives_nothing", r"register_providers gave None, wanted an iterable: write 'yield' before each Provider"),
        ("twice", r"gives the tool 'answer' twice"),
        ("open_route", r"the view open_route.unprotected, .*open_route.py:18, .*@public or @authenticated"),
        ("reaches_out", r"the blueprint reaches_out adds @before_app_request to the whole app"),
        ("future", r"version 99 of the hooks; this chatcore knows them up to version 1: install a newer chatcore"),
        ("wrong_settings", r"(?s)plugins.wrong_settings.place: required.*WRONG_SETTINGS_PLACE.*days: required"),
        ("panics", r"register_tools raised Panic: index out of bounds \(.*panics.py:15\)"),
        (
            "gives_a_coroutine",
            r"register_tools gave <coroutine object .*, wanted an iterable: write 'yield'",
        ),
        (
            "sync_authenticator",
            r"register_auth: Door.authenticate, .*sync_authenticator.py:12: it is awaited",
        ),
        ("two_classes", r"exactly one subclass of Plugin; here: One, Two"),
        ("no_class", r"exactly one subclass of Plugin; here: none"),
    ],
)
def test_a_broken_plugin_is_a_row_and_the_others_go_on(load, caplog, name, reason):
    """It is listed with what is wrong, logged once, and leaves nothing; what is beside it works."""
    modules = set(sys.modules)
    plugins = load(name, texts={"zz_good": TOOL.format(cls="Good", tool="good")})
    row = row_of(plugins, name)
    assert row.state == "failed"
    assert row.plugin is None
    assert not row.contributes
    assert re.search(reason, row.reason), row.reason
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1
    assert list(plugins.registry.tools()) == ["good"]
    assert not plugins.registry.by(name)
    assert not [charge for charge in plugins.registry.calls.charges() if charge.plugin == name]
    assert not [module for module in set(sys.modules) - modules if name in module]
    assert all(name not in hook.implementers for hook in plugins.hooks())


@pytest.mark.parametrize(
    ("place", "name", "reason"),
    [
        ("no_such.module:Plugin", "plugin", "there is no module 'no_such' where Python looks for modules"),
        ("chatcore.no_such:Plugin", "plugin", "there is no module 'chatcore.no_such' where Python looks for modules"),
        ("chatcore.hooks:NoSuch", "nosuch", "the module chatcore.hooks has no 'NoSuch'"),
        ("two words", "words", "'two words' is not the class of a plugin, written MODULE:CLASS"),
    ],
)
def test_a_class_that_is_not_there_is_a_row(load, caplog, place, name, reason):
    """What was written wrong is said, without a traceback through Python's own modules."""
    assert row_of(load(load=(place,)), name).reason == reason
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("name", ["raises_on_import", "wrong_type", "future", "wrong_settings", "off"])
def test_strict_makes_a_broken_plugin_an_error(load, name):
    """With strict, what is failed or off stops the start; the message names plugin, file and reason."""
    with pytest.raises(PluginError, match=rf"plugin {name} \(.*{name}.py\) is (failed|off): ") as caught:
        load(name, strict=True)
    assert "chatcore plugins" in caught.value.hint


def test_all_that_stops_the_start_is_said_at_once(load):
    """One start tells of every plugin that must be mended."""
    with pytest.raises(PluginError, match=r"(?s)future.*wrong_type"):
        load("future", "wrong_type", strict=True)


def test_the_traceback_is_that_of_the_plugin(load, caplog):
    """It is logged once, and shows the plugin's line."""
    load("raises_in_hook")
    assert caplog.text.count("Traceback") == 1
    assert 'raise ZeroDivisionError("after the first tool")' in caplog.text


def test_a_file_that_is_not_python_is_a_row(load):
    """A syntax error fails that plugin only, and is found."""
    row = row_of(load(texts={"typo": "def broken(:\n"}), "typo")
    assert (row.state, row.reason) == ("failed", "importing it raised SyntaxError: invalid syntax (typo.py, line 1)")


@pytest.mark.parametrize("line", ["Tool.of(len)", "Blueprint('a.b', __name__)", "json.loads('{')"])
def test_the_place_is_that_of_the_plugin(load, line):
    """Not that of what it calls, of chatcore or of a library: there is nothing to be mended there."""
    text = f"""
        import json
        from quart import Blueprint
        from chatcore.hooks import NoSettings, Plugin, hookimpl
        from chatcore.tools import Tool

        class Far(Plugin[NoSettings]):
            @hookimpl
            def register_tools(self):
                yield self.make()

            def make(self):
                return {line}
    """
    plugins = load(texts={"far": text})
    assert re.fullmatch(r"(?s)register_tools raised .*far.py:13\)", row_of(plugins, "far").reason)


def test_the_place_of_an_installed_plugin_is_its_own(load, site):
    """Python's own import comes before it."""
    install(site, "chatcore-joke", "1.2", "joke_module", "\n1 / 0\n", entry="joke")
    assert row_of(load(), "joke").reason.endswith("joke_module.py:2)")


def test_a_name_that_cannot_be_one_is_refused(load):
    """The name is also that of a section and a directory."""
    row = row_of(load(texts={"my plugin": TOOL.format(cls="A", tool="a")}), "my plugin")
    assert row.state == "failed"
    assert "is not a name for a plugin" in row.reason


def test_a_plugin_that_lacks_something_is_off(load, caplog):
    """It is not an error; the reason is the remedy."""
    row = row_of(load("off"), "off")
    assert (row.state, row.reason) == ("off", "set OFF_API_KEY")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        ("PluginOff('set OFF_KEY')", "off", "set OFF_TOOLS"),
        ("LookupError('no command')", "failed", "register_commands raised LookupError: no command"),
    ],
)
def test_the_commands_of_a_plugin_that_is_off_may_lack_something_too(load, error, state, reason):
    """It stays a row, and the others go on."""
    text = f"""
        from chatcore.errors import PluginOff
        from chatcore.hooks import NoSettings, Plugin, hookimpl

        class Off(Plugin[NoSettings]):
            @hookimpl
            def register_tools(self):
                raise PluginOff("set OFF_TOOLS")

            @hookimpl
            def register_commands(self):
                raise {error}
    """
    plugins = load(texts={"off": text, "zz_good": TOOL.format(cls="Good", tool="good")})
    row = row_of(plugins, "off")
    assert row.state == state
    assert row.reason.startswith(reason)
    assert list(plugins.registry.tools()) == ["good"]
    assert not plugins.registry.by("off")


def test_a_disabled_plugin_is_not_imported(load):
    """It cannot do any harm: its name is known from its file alone."""
    plugins = load("exits_on_import", "raises_on_import", disable=("exits_on_import", "raises_on_import"), strict=True)
    assert {row.name: row.state for row in plugins.rows if row.name.endswith("on_import")} == {
        "exits_on_import": "disabled",
        "raises_on_import": "disabled",
    }


def test_names_that_are_not_installed_are_warned_of(load, caplog):
    """A misspelt name in the configuration is told, with the one that was meant."""
    load("off", disable=("of",), order=("offf",), sections={"unheard": {}})
    assert "disable in the configuration names 'of', which is not installed; did you mean 'off'?" in caplog.text
    assert "order in the configuration names 'offf'" in caplog.text
    assert "[plugins] in the configuration names 'unheard', which is not installed" in caplog.text


def test_a_directory_of_plugins_that_is_not_there_is_a_configuration_error(load, tmp_path):
    """Plugins that were asked for are not forgotten in silence."""
    with pytest.raises(ConfigError, match="nowhere is not a directory"):
        load(plugins_dir=tmp_path / "nowhere")


# --- built-in plugins -------------------------------------------------------------------------------------------------


class Good(Plugin[NoSettings]):
    """Gives a tool.

    And more text, that a list does not show.
    """

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.good)

    async def good(self) -> str:
        """Answers."""
        return "good"


class Failing(Plugin[NoSettings]):
    """Raises."""

    @hookimpl
    def register_tools(self):
        raise OSError("broken")


def test_built_in_plugins_come_in_through_the_same_door(load):
    """They have a row, of the distribution chatcore, with the first line of their docstring."""
    row = row_of(load(builtins=[("good", Good)]), "good")
    assert (row.state, row.builtin, row.provenance.distribution) == ("on", True, "chatcore")
    assert (row.summary, row.contributes) == ("Gives a tool.", ("tool good",))
    assert row.seconds > 0


def test_a_failing_built_in_plugin_stops_the_start(load):
    """The server would not be itself without it."""
    with pytest.raises(PluginError, match=r"plugin failing \(chatcore .*raised OSError: broken") as caught:
        load(builtins=[("failing", Failing)])
    assert isinstance(caught.value.__cause__.__cause__, OSError)


def test_a_listing_shows_what_would_stop_the_start(load):
    """With halt=False nothing raises."""
    assert row_of(load(builtins=[("failing", Failing)], halt=False, strict=True), "failing").state == "failed"


def test_a_built_in_plugin_can_be_disabled(load):
    """As any other."""
    assert row_of(load(builtins=[("failing", Failing)], disable=("failing",)), "failing").state == "disabled"


# --- finding, order, names --------------------------------------------------------------------------------------------


def test_installed_plugins_are_found_by_their_entry_points(load, site):
    """Name, distribution and version are those of the metadata."""
    install(site, "chatcore-joke", "1.2", "joke_module", TOOL.format(cls="Given", tool="joke"), entry="joke")
    row = row_of(load(), "joke")
    assert (row.state, row.provenance.distribution, row.provenance.version) == ("on", "chatcore-joke", "1.2")


def test_an_entry_point_that_is_not_a_plugin_class_fails(load, site):
    """A module, a function or another class is not one."""
    install(site, "chatcore-joke", "1.2", "joke_module", "Given = dict\n", entry="joke")
    assert "<class 'dict'> is not a subclass of chatcore.Plugin" in row_of(load(), "joke").reason


def test_disabled_plugins_that_are_installed_are_not_imported(load, site):
    """Only their metadata is read."""
    install(site, "chatcore-joke", "1.2", "joke_module", "raise SystemExit", entry="joke")
    assert row_of(load(disable=("joke",)), "joke").state == "disabled"
    assert "joke_module" not in sys.modules


def test_a_single_file_is_named_like_the_file(load):
    """Files that begin with an underscore are somebody's parts."""
    plugins = load(texts={"joke": TOOL.format(cls="Joke", tool="joke"), "_part": "raise SystemExit"})
    assert [row.name for row in plugins.rows if row.state != "disabled"] == ["joke"]
    assert row_of(plugins, "joke").provenance.distribution.endswith("joke.py")


def test_a_file_may_be_loaded_by_two_apps(load):
    """Each has a module of its own, with its own state."""
    text = {"joke": TOOL.format(cls="Joke", tool="joke")}
    one, two = row_of(load(texts=text), "joke"), row_of(load(texts=text), "joke")
    assert type(one.plugin) is not type(two.plugin)


def test_the_order_is_that_of_the_configuration_then_built_in_then_by_name(load):
    """So it is the same on every machine."""
    texts = {name: TOOL.format(cls=name.upper(), tool=name) for name in ("c", "a", "b")}
    builtins = [("z", Good), ("y", Plugin)]
    plugins = load(texts=texts, builtins=builtins, order=("c", "y"))
    assert [row.name for row in plugins.rows if row.state == "on"] == ["c", "y", "z", "a", "b"]


def test_a_class_in_hand_can_be_given(load):
    """As the test kit does."""
    row = row_of(load(given=[("mine", Good)]), "mine")
    assert (row.state, row.builtin) == ("on", False)


def test_settings_come_from_the_plugins_section_and_its_environment_names(load):
    """A plugin gets them made, and a directory of its own."""
    plugins = load("wrong_settings", sections={"wrong_settings": {"days": 3}}, environ={"WRONG_SETTINGS_PLACE": "Wien"})
    plugin = row_of(plugins, "wrong_settings").plugin
    assert (plugin.settings.place, plugin.settings.days) == ("Wien", 3)
    assert plugin.context.name == "wrong_settings"
    assert plugin.context.data.is_dir()


async def test_a_plugin_may_ask_its_server(load):
    """For the provider of a model, as the configuration has it; for the tools; for the limits."""

    class Providing(Plugin[NoSettings]):
        """Has a provider."""

        @hookimpl
        def register_providers(self):
            return [ScriptedProvider()]

    given = [("asking", Good), ("providing", Providing)]
    plugins = load(given=given, default_model="scripted/other", hops=3, tool_policy={"good": "deny"})
    host = row_of(plugins, "asking").plugin.context.host
    provider, model = host.provider_for(None)
    assert (provider.name, model, host.provider_for("scripted")[1]) == ("scripted", "scripted/other", "scripted/model")
    assert host.limits.hops == 3
    assert await host.tools() == {}
    with pytest.raises(ProviderUnavailable):
        Host().provider_for(None)
    assert await Host().tools() == {}


@pytest.mark.parametrize("wrong", ["int", "'text'", "None", "type('Settings', (), {'days': 3})"])
def test_settings_that_are_not_a_settings_class_fail(load, wrong):
    """Said as what it is, with what to write; it has no settings that could be shown."""
    text = f"{TOOL.format(cls='Joke', tool='joke')}    Joke.settings_class = {wrong}\n"
    row = row_of(load(texts={"joke": text}), "joke")
    assert (row.state, row.settings_class) == ("failed", None)
    assert re.match("settings_class is .*, wanted a class with @attrs.frozen above it", row.reason)


def test_a_plugin_with_tables_has_its_migrations_beside_them(load, site):
    """Only plugins that are on."""
    text = TOOL.format(cls="Given", tool="joke") + "    Given.tables = (Given,)\n"
    install(site, "chatcore-joke", "1.2", "joke_module", text, entry="joke")
    (site / "migrations").mkdir()
    assert load().migrations() == {"joke": site / "migrations"}
    assert load(disable=("joke",)).migrations() == {}


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ("(Given,)", "it has tables, but nothing makes them: .*migrations is no directory of migrations"),
        ("('note',)", "tables has 'note', wanted classes"),
        ("5", "checking it raised TypeError"),
    ],
)
def test_tables_that_nothing_makes_fail_their_plugin(load, site, tables, reason):
    """At the start, not when they are used first."""
    text = TOOL.format(cls="Given", tool="joke") + f"    Given.tables = {tables}\n"
    install(site, "chatcore-joke", "1.2", "joke_module", text, entry="joke")
    plugins = load()
    assert row_of(plugins, "joke").state == "failed"
    assert re.match(reason, row_of(plugins, "joke").reason)
    assert plugins.migrations() == {}


# --- conflicts --------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_of_a_name(site):
    """Two distributions whose plugins give a tool of the same name."""
    install(site, "chatcore-alpha", "1.0", "alpha_module", TOOL.format(cls="Given", tool="search"), entry="alpha")
    install(site, "other-beta", "2.5", "beta_module", TOOL.format(cls="Given", tool="search"), entry="beta")


def test_two_plugins_with_a_tool_of_one_name_stop_the_start(load, two_of_a_name):
    """The message names both distributions with their versions, and what to write."""
    with pytest.raises(DuplicateName) as caught:
        load()
    for part in ("the tool 'search'", "alpha (chatcore-alpha 1.0)", "beta (other-beta 2.5)", 'disable = ["beta"]'):
        assert part in str(caught.value)


def test_a_listing_works_in_spite_of_duplicates(load, two_of_a_name):
    """`chatcore plugins` shows the conflict, and which one was refused."""
    plugins = load(halt=False)
    assert row_of(plugins, "alpha").state == "on"
    assert row_of(plugins, "beta").state == "failed"
    assert "chatcore-alpha 1.0" in row_of(plugins, "beta").reason


COMMAND = """
    import click
    from chatcore.errors import PluginOff
    from chatcore.hooks import NoSettings, Plugin, hookimpl

    class Rival(Plugin[NoSettings]):
        '''Has a command.'''

        @hookimpl
        def register_providers(self):
            {first}
            return ()

        @hookimpl
        def register_commands(self):
            yield click.Command("{name}")
"""


@pytest.mark.parametrize("first", ["pass", "raise PluginOff('set RIVAL_KEY')"], ids=["on", "off"])
def test_a_command_of_the_core_is_the_cores(load, first):
    """A plugin's of that name would never be reached: it stops the start, also where the plugin is off."""
    texts = {"rival": COMMAND.format(name="serve", first=first)}
    reason = (
        r"the command 'serve' is given by chatcore itself and by plugin rival \(.*rival.py\): give it another name; "
        r'to go on without the plugin, write disable = \["rival"\] in chatcore.toml'
    )
    with pytest.raises(DuplicateName, match=reason):
        load(texts=texts)
    row = row_of(load(texts=texts, halt=False), "rival")
    assert row.state == "failed"
    assert re.fullmatch(reason, row.reason)
    assert row_of(load(texts=texts, disable=("rival",)), "rival").state == "disabled"


def test_disabling_one_of_the_two_settles_it(load, two_of_a_name):
    """What the message says is what helps."""
    assert list(load(disable=("beta",)).registry.tools()) == ["search"]


def test_two_plugins_of_one_name_stop_the_start(load, site):
    """Their sections in the configuration would be the same."""
    install(site, "chatcore-joke", "1.2", "joke_module", TOOL.format(cls="Given", tool="one"), entry="joke")
    with pytest.raises(
        DuplicateName, match=r"plugin joke \(chatcore-joke 1.2\) has the same name: uninstall or rename"
    ):
        load(texts={"joke": TOOL.format(cls="Joke", tool="two")})


ROUTE = """
    from quart import Blueprint
    from chatcore.access import public
    from chatcore.hooks import NoSettings, Plugin, hookimpl

    blueprint = Blueprint("{name}", __name__, url_prefix="/api")

    @blueprint.get("{path}")
    @public
    async def view(**parts):
        return ""

    class Routes(Plugin[NoSettings]):
        '''Gives a route.'''

        @hookimpl
        def register_routes(self):
            yield blueprint
"""


def test_two_plugins_with_the_same_route_stop_the_start(load):
    """One would hide the other, whatever the names of the parts of the path."""
    with pytest.raises(
        DuplicateName, match=r"the route 'GET /api/items/<>' is given by plugin one .* and by plugin two"
    ):
        load(
            texts={
                "one": ROUTE.format(name="one", path="/items/<id>"),
                "two": ROUTE.format(name="two", path="/items/<int:number>"),
            }
        )


ASYNC_COMMAND = """
    import asyncio
    import click
    from chatcore.hooks import NoSettings, Plugin, hookimpl

    class Awaiting(click.Command):
        def invoke(self, ctx):
            return asyncio.run(super().invoke(ctx))

    async def tell():
        print("told")

    class Teller(Plugin[NoSettings]):
        @hookimpl
        def register_commands(self):
            yield {given}
"""


@pytest.mark.parametrize(
    ("given", "state"),
    [
        ("click.Command('tell', callback=tell)", "failed"),
        ("click.Group('teller', commands={'now': click.Command('now', callback=tell)})", "failed"),
        ("Awaiting('tell', callback=tell)", "on"),
        ("click.Command('tell', callback=lambda: asyncio.run(tell()))", "on"),
        ("click.Group('teller')", "on"),
    ],
)
def test_a_command_that_nobody_would_await_fails_its_plugin(load, given, state):
    """It would seem to work, and do nothing. One of a class that awaits it is as good as any."""
    row = row_of(load(texts={"teller": ASYNC_COMMAND.format(given=given)}), "teller")
    assert row.state == state
    if state == "failed":
        assert re.search(r"tell, .*teller.py:10: click does not await it: write 'def', and asyncio.run", row.reason)


def test_a_blueprint_that_quart_does_not_take_fails_its_plugin(load):
    """With its reason."""
    row = row_of(load(texts={"page": ROUTE.format(name="page", path="/<colour:page>")}), "page")
    assert row.reason == "the blueprint page cannot be used: the converter 'colour' does not exist"


def test_two_views_with_one_endpoint_fail_their_plugin(load):
    """It is told what is wrong, and no line of a library's."""
    text = (
        ROUTE.format(name="page", path="/page")
        + """
    @public
    async def other():
        return ""

    blueprint.add_url_rule("/other", endpoint="view", view_func=other)
    """
    )
    reason = row_of(load(texts={"page": text}), "page").reason
    assert re.fullmatch("the blueprint page cannot be used: View function mapping .*endpoint.*: page.view", reason)


NAMES = """
    import click
    from chatcore.hooks import NoSettings, Plugin, hookimpl

    class Source:
        def __init__(self, name):
            self.name = name

        def tools(self):
            return []

    class Named(Plugin[NoSettings]):
        @hookimpl
        def register_tools(self):
            yield Source({source!r})

        @hookimpl
        def register_commands(self):
            yield click.Command({command!r})
"""


@pytest.mark.parametrize(
    ("source", "command", "reason"),
    [
        ("n" * 101, "c", "register_tools gave the tool source 'nnn.*n': a name is a line of 100 characters at most"),
        ("x" * 10_000, "c", "register_tools gave the tool source 'xxx.{0,300}: a name is a line of 100 characters"),
        ("two\nlines", "c", r"register_tools gave the tool source 'two\\nlines': a name is a line"),
        ("\x1b]52;c;aGk=\x07", "c", r"register_tools gave the tool source '\\x1b.*': a name is a line"),
        ("s", "two words", "register_commands gave the command 'two words': a name has no spaces and no '-' before it"),
        ("s", "--help", "register_commands gave the command '--help': a name has no spaces and no '-' before it"),
        ("s", "", "register_commands gave .*, whose name is '', wanted a text"),
    ],
)
def test_a_name_that_nobody_could_use_fails_its_plugin(load, source, command, reason):
    """Names stand in lists, logs, addresses and on the command line."""
    row = row_of(load(texts={"named": NAMES.format(source=source, command=command)}), "named")
    assert (row.state, bool(re.match(reason, row.reason))) == ("failed", True), row.reason
    good = NAMES.format(source="Größe 1 (new)", command="do-it")
    assert row_of(load(texts={"named": good}), "named").state == "on"


@pytest.mark.parametrize(
    "decorator",
    ["app_url_value_preprocessor", "app_url_defaults", "app_context_processor", "teardown_app_websocket"],
)
def test_a_blueprint_keeps_to_its_own_requests(load, decorator):
    """Whatever it would do for those of others: what it raises would be everybody's, and stay when it is taken out."""
    text = ROUTE.format(name="nosy", path="/nosy") + f"    blueprint.{decorator}(lambda *_: 1 / 0)\n"
    row = row_of(load(texts={"nosy": text}), "nosy")
    assert row.state == "failed"
    assert f"the blueprint nosy adds @{decorator} to the whole app" in row.reason


def test_files_of_a_static_folder_need_no_policy(load):
    """They have no view that could say one."""
    text = ROUTE.format(name="page", path="/page").replace('"/api"', '"/api", static_folder="static"')
    assert row_of(load(texts={"page": text}), "page").state == "on"


async def test_an_account_that_is_none_fails_its_plugin(load):
    """Something else, or one that would send its secret in the open; and a name is one plugin's only."""
    text = """
        from chatcore.hooks import NoSettings, Plugin, hookimpl
        from chatcore.protocols import Account, OAuth

        class Mail(Plugin[NoSettings]):
            @hookimpl
            def register_accounts(self):
                url = "{url}"
                yield {given}
    """
    account = 'Account(name="mail", title="Mail", sign_in=OAuth(authorize_url=url, token_url=url, client_id="c"))'
    for url, given, reason in (
        ("https://mail.example", "OAuth(authorize_url=url, token_url=url, client_id='c')", "wanted Account"),
        ("http://mail.example", account, "wanted https://…"),
    ):
        row = row_of(load(texts={"mail": text.format(url=url, given=given)}), "mail")
        assert (row.state, reason in row.reason) == ("failed", True)
    good = text.format(url="https://mail.example", given=account)
    with pytest.raises(DuplicateName, match=r"the account 'mail' is given by plugin mail .* and by plugin post"):
        load(texts={"mail": good, "post": good})


# --- taking out -------------------------------------------------------------------------------------------------------

EVERYTHING = """
    import asyncio
    from contextlib import asynccontextmanager

    import click
    from quart import Blueprint

    from chatcore.access import public
    from chatcore.hooks import NoSettings, Plugin, hookimpl
    from chatcore.protocols import Account, Credentials, Form, Health, Lifespan, SignedIn
    from chatcore.tools import Tool

    blueprint = Blueprint("everything", __name__)

    @blueprint.get("/everything")
    @public
    async def view():
        return ""

    class Thing:
        '''A provider, a tool source, a blob store and an authenticator in one.'''

        name = "thing"
        open = False
        default_model = "thing"
        def health(self): return Health()
        async def models(self): return []
        async def stream(self, request): yield []
        def tools(self): return []
        async def put(self, blob, data): ...
        async def get(self, key): ...
        async def url(self, key, expires): ...
        async def delete(self, key): ...
        async def authenticate(self, credentials): ...

    class Everything(Plugin[NoSettings]):
        '''Contributes one of each.'''

        def __init__(self, context):
            super().__init__(context)
            self.closed = asyncio.Event()
            self.go = asyncio.Event()

        @asynccontextmanager
        async def opened(self):
            yield
            self.closed.set()

        @hookimpl
        def register_providers(self):
            yield Thing()

        @hookimpl
        def register_tools(self):
            yield Tool.of(self.wait)
            yield Thing()

        async def wait(self) -> str:
            '''Waits until it may go.'''
            await self.go.wait()
            return "gone"

        @hookimpl
        def register_storage(self):
            yield Thing()

        @hookimpl
        def register_auth(self):
            yield Thing()

        @hookimpl
        def register_accounts(self):
            yield Account(name="thing", title="Thing", sign_in=Form(fields=(), sign_in=self.sign_in))

        async def sign_in(self, typed):
            return SignedIn(document={})

        @hookimpl
        def register_routes(self):
            yield blueprint

        @hookimpl
        def register_lifespans(self):
            yield Lifespan("opened", self.opened)

        @hookimpl
        def register_commands(self):
            yield click.Command("everything")

        @hookimpl
        async def prepare_turn(self, turn):
            return None

        @hookimpl
        async def finish_turn(self, turn, result):
            return None
"""


async def test_a_plugin_that_is_taken_out_leaves_nothing_behind(load):
    """No contribution, no hook, no module, no account, and when its lifespan is closed not even itself."""
    modules = set(sys.modules)
    plugins = load(texts={"everything": EVERYTHING})
    row = row_of(plugins, "everything")
    assert sorted(row.contributes) == [
        "account thing",
        "authenticator thing",
        "blob store thing",
        "blueprint everything",
        "command everything",
        "finish_turn everything",
        "lifespan everything.opened",
        "prepare_turn everything",
        "provider thing",
        "route GET /everything",
        "tool source thing",
        "tool wait",
    ]
    closed, gone = row.plugin.closed, weakref.ref(row.plugin)
    del row
    lifespans = Lifespans()
    await lifespans.start(plugins.registry.of("lifespan"))
    assert await plugins.unload("everything")
    await lifespans.stop("everything")
    assert closed.is_set()
    gc.collect()
    assert gone() is None
    assert not plugins.registry.by("everything")
    assert not plugins.registry.calls.charges()
    assert not any("everything" in hook.implementers for hook in plugins.hooks())
    assert not [module for module in set(sys.modules) - modules if "everything" in module]
    assert (row_of(plugins, "everything").state, row_of(plugins, "everything").reason) == ("disabled", "unloaded")


async def test_calls_under_way_end_before_their_plugin_goes(load):
    """Nobody finds the tool any more, and who is in it gets the answer."""
    plugins = load(texts={"everything": EVERYTHING})
    plugin = row_of(plugins, "everything").plugin
    call = asyncio.create_task(plugins.registry.tools()["wait"].run(invocation()))
    await asyncio.sleep(0)
    out = asyncio.create_task(plugins.unload("everything"))
    await asyncio.sleep(0)
    assert not plugins.registry.tools()
    assert not out.done()
    plugin.go.set()
    assert (await call).text == "gone"
    assert await out


async def test_a_call_that_does_not_end_does_not_keep_its_plugin(load):
    """There is a bound, and the caller learns that it was reached."""
    plugins = load(texts={"everything": EVERYTHING})
    call = asyncio.create_task(plugins.registry.tools()["wait"].run(invocation()))
    await asyncio.sleep(0)
    assert await plugins.unload("everything", timeout=0.01) is False
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_a_plugin_may_be_taken_out_because_of_a_failure(load):
    """Then it is listed as failed, with the reason."""
    plugins = load(texts={"everything": EVERYTHING})
    await plugins.unload("everything", error=DatabaseError("its migration failed"))
    assert (row_of(plugins, "everything").state, row_of(plugins, "everything").reason) == (
        "failed",
        "its migration failed",
    )


async def test_what_is_not_on_cannot_be_taken_out(load):
    """Neither unknown ones, nor those that are off, nor the same one twice."""
    plugins = load("off", texts={"everything": EVERYTHING})
    await plugins.unload("everything")
    for name in ("unheard", "off", "everything"):
        with pytest.raises(NotFound, match=f"no plugin '{name}' is on"):
            await plugins.unload(name)


def invocation():
    return Invocation(ToolCall("1", "wait"), {}, "local", "c", "r")
