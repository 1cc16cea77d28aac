"""The contracts: what is built in keeps them, what breaks one rule is caught by it, and `chatcore check` tells."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from chatcore.builtin.disk import DiskFiles
from chatcore.builtin.echo import EchoProvider
from chatcore.builtin.tokens import BearerTokens
from chatcore.config import Config, Loaded
from chatcore.database import Database
from chatcore.database import Tokens as TokenTable
from chatcore.errors import PluginError
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Credentials
from chatcore.testing.contracts import (
    AuthenticatorContract,
    BlobStoreContract,
    Installation,
    PluginContract,
    ProviderContract,
    check_plugin,
    quiet,
    readme,
)
from chatcore.testing.contracts.installed import Contributed
from chatcore.testing.scripted import ScriptedProvider

BROKEN = Path(__file__).with_name("broken.py")


# --- what is built in -------------------------------------------------------------------------------------------------


class TestEcho(ProviderContract):
    """The provider `echo`."""

    @pytest.fixture
    def provider(self):
        return EchoProvider()


class TestScripted(ProviderContract):
    """The provider of the kit."""

    @pytest.fixture
    def provider(self):
        return ScriptedProvider()


class Guard(Plugin[NoSettings]):
    """Lets nobody in."""

    name = "guard"

    @hookimpl
    def register_auth(self):
        yield self

    async def authenticate(self, credentials):
        return None


async def test_a_plugin_that_lets_nobody_in_loads(tmp_path):
    """What the rule wants to know it does not ask as somebody who has to sign in."""
    told = {}
    await PluginContract().test_it_loads(Installation(Guard), tmp_path, told.__setitem__)
    assert told["detail"].startswith("in ")


class TestDisk(BlobStoreContract):
    """The blob store `disk`."""

    @pytest.fixture
    def store(self, tmp_path):
        return DiskFiles(tmp_path / "disk")


class TestTokens(AuthenticatorContract):
    """The authenticator `tokens`."""

    @pytest.fixture
    async def table(self, tmp_path):
        database = Database(str(tmp_path / "chatcore.db"))
        await database.open()
        yield TokenTable(database)
        await database.close()

    @pytest.fixture
    def authenticator(self, table):
        return BearerTokens(table)

    @pytest.fixture
    async def right(self, table):
        _, token = await table.create("local", ["*"], "contract", None)
        return Credentials({"authorization": f"Bearer {token}"})

    @pytest.fixture
    def wrong(self):
        return Credentials({"authorization": f"Bearer cc_{'0' * 43}"})


# --- what breaks a rule -----------------------------------------------------------------------------------------------


@attrs.define
class Recorder:
    """A plugin of pytest that notes, by class, what was wanted to fail and what has failed."""

    wanted: dict = attrs.field(factory=dict)
    failed: dict = attrs.field(factory=dict)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item):
        report = yield
        name = item.cls.__name__
        self.wanted[name] = item.cls.breaks
        failed = self.failed.setdefault(name, set())
        if report.failed:
            plain = item.name.partition("[")[0]
            failed.add(item.name if item.name in item.cls.breaks else plain)
        return report


def run(names, *tests, directory):
    """Runs tests of these classes of `broken.py` in a project that has not configured pytest-asyncio."""
    recorder = Recorder()
    ini = directory / "pytest.ini"
    settings = (
        "filterwarnings = error",
        f"python_classes = {' '.join(names)}",
        "asyncio_default_fixture_loop_scope = function",
    )
    ini.write_text("\n".join(["[pytest]", *settings]))
    options = f"-c {ini} --rootdir {directory} --import-mode=importlib -p no:terminal -p no:cacheprovider"
    plugins = "--disable-plugin-autoload -p pytest_asyncio.plugin"
    pytest.main([*options.split(), *plugins.split(), *(f"{BROKEN}::{test}" for test in tests)], plugins=[recorder])
    return recorder


def broken(*bases):
    """The names of the classes of `broken.py` that have one of these bases."""
    classes = [node for node in ast.parse(BROKEN.read_text()).body if isinstance(node, ast.ClassDef) and node.bases]
    return [node.name for node in classes if ast.unparse(node.bases[0]) in bases]


def test_what_breaks_a_rule_is_caught_by_it(tmp_path):
    """Each of the broken things fails the tests that it names, and no others; what keeps the rules fails none."""
    names = broken("_Provider", "_Tools", "_Store", "_Auth")
    assert len(names) > 45
    recorder = run(names, *names, directory=tmp_path)
    assert recorder.failed == {name: set(breaks) for name, breaks in recorder.wanted.items()}
    assert recorder.wanted.keys() == set(names)


def test_a_plugin_that_breaks_a_rule_is_caught_by_it(tmp_path):
    """As above; of what a whole plugin must keep only the broken rules are tried, since each needs a server."""
    names = broken("_Plugin")
    assert len(names) > 12
    tests = [f"{name}::{rule}" for name in names for rule in breaks_of(name)]
    recorder = run(names, *tests, "KeepsThePluginRules", directory=tmp_path)
    assert recorder.failed == {name: set(breaks) for name, breaks in recorder.wanted.items()}
    assert recorder.wanted.keys() == set(names)


def breaks_of(name):
    """The tests that a class of `broken.py` is to fail, as it is written there."""
    [cls] = [node for node in ast.parse(BROKEN.read_text()).body if getattr(node, "name", None) == name]
    values = [node.value for node in cls.body if isinstance(node, ast.Assign) and node.targets[0].id == "breaks"]
    return [rule for value in values for rule in ast.literal_eval(value)]


# --- the settings and the README --------------------------------------------------------------------------------------

PROJECT = """
[project]
name = "chatcore-weather"
[project.entry-points.chatcore]
weather = "chatcore_weather:Weather"
"""

WEATHER = """
import attrs
from chatcore.hooks import Plugin
from chatcore.settings import option

@attrs.frozen
class Settings:
    place: str = option("Rome", env="WEATHER_PLACE", help="Where.")

class Weather(Plugin[Settings]):
    "Looks out of the window."
    settings_class = Settings
"""

README = """# chatcore-weather

## What it adds
## Install
## Settings

| setting | type | environment |
|---|---|---|
| `place` | text | `WEATHER_PLACE` |

## Try it
## Remove it
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project with a plugin, as an author has it: pyproject.toml, README.md and a package."""
    (tmp_path / "chatcore_weather").mkdir()
    (tmp_path / "pyproject.toml").write_text(PROJECT)
    (tmp_path / "README.md").write_text(README)
    (tmp_path / "chatcore_weather" / "__init__.py").write_text(WEATHER)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("chatcore_weather", None)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("", "", None),
        ("## Try it", "## Play", "Try it"),
        ("## Remove it", "", "Remove it"),
        ("## Install\n## Settings", "## Settings\n## Install", "Settings, Try it, Remove it"),
        ("| `place` |", "| place |", "there is no row for 'place'"),
        ("`WEATHER_PLACE`", "-", "the row of 'place' lacks WEATHER_PLACE"),
        (README, None, "What it adds, Install, Settings"),
    ],
)
def test_the_readme_has_sections_and_settings(project, old, new, told):
    """It is read from beside the code; the sections have an order, and each setting a row with its names."""
    if new is None:
        (project / "README.md").unlink()
    elif old:
        (project / "README.md").write_text(README.replace(old, new))
    cls = importlib.import_module("chatcore_weather").Weather
    text = readme.find(cls)
    said = [", ".join(readme.missing_headings(text)), *readme.missing_settings(text, cls.settings_class)]
    if told is None:
        assert said == [""]
    else:
        assert any(told in line for line in said)


def test_the_readme_of_an_installed_distribution(project):
    """Where there is no project beside the code it is in the distribution's metadata."""
    (project / "pyproject.toml").unlink()
    (project / "README.md").unlink()
    cls = importlib.import_module("chatcore_weather").Weather
    assert readme.find(cls) is None
    info = project / "chatcore_weather-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: chatcore-weather\nVersion: 1.0\n\n{README}")
    (info / "entry_points.txt").write_text("[chatcore]\nweather = chatcore_weather:Weather\n")
    assert readme.find(cls) == README


# --- importing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("import json, decimal, asyncio; open(__file__)", []),
        ("open('note.txt', 'w')", ["open note.txt"]),
        ("import os; os.open('note.txt', os.O_CREAT | os.O_RDWR); os.mkdir('made')", ["open note.txt", "os.mkdir"]),
        (
            "import socket; socket.getaddrinfo('localhost', 80); socket.socket().connect_ex(('127.0.0.1', 9))",
            ["socket.getaddrinfo", "socket.connect"],
        ),
        ("import subprocess, sys; subprocess.run([sys.executable, '-V'])", ["subprocess.Popen"]),
        ("import threading; threading.Timer(60, print).start()", ["thread Thread-1"]),
        ("import asyncio; asyncio.get_running_loop().create_task(None)", ["it raised RuntimeError"]),
        ("raise KeyError('x')", ["it raised KeyError: 'x'"]),
        ("raise SystemExit", ["it ended the process"]),
    ],
)
def test_an_import_that_does_more_is_seen(tmp_path, monkeypatch, code, seen):
    """Connections, processes, threads and files that are written; what is only read is not."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loud.py").write_text(code)
    found = quiet.of_import("loud", tmp_path / "loud.py")
    assert all(any(one.startswith(want) for one in found) for want in seen), found
    assert bool(found) == bool(seen)


# --- chatcore check ---------------------------------------------------------------------------------------------------


def loaded(directory):
    return Loaded(config=Config(data=directory / "data", plugins_dir=BROKEN.parents[1] / "plugins_bad"))


@pytest.mark.parametrize(
    ("plugin", "rule"),
    [
        ("echo", "provider echo: A complete answer has exactly one Finish"),
        pytest.param("tokens", "authenticator tokens: Any text in a header gives", marks=pytest.mark.slow),
        pytest.param("disk", "blob store disk: What is not a key is refused", marks=pytest.mark.slow),
    ],
)
def test_check_tells_each_rule_of_what_a_plugin_contributes(tmp_path, plugin, rule):
    """The rules of the plugin and of what it gives are listed with their names; all are met or say why not checked."""
    rules = check_plugin(plugin, loaded(tmp_path))
    assert {rule.met for rule in rules} == {True, None}
    assert all(rule.detail for rule in rules if rule.met is None)
    names = [rule.name for rule in rules]
    assert len(names) == len(set(names))
    assert any(name.startswith(rule) for name in names)
    assert any(name.startswith("A strict server starts with it") for name in names)


@pytest.mark.parametrize("contract", Contributed.__subclasses__())
def test_no_parameter_of_a_rule_hides_what_check_gives(contract):
    """A rule that is tried with several values names them otherwise than the fixtures through which it is run."""
    rules = [getattr(contract, name) for name in dir(contract) if name.startswith("test_")]
    marks = [mark for rule in rules for mark in getattr(rule, "pytestmark", ()) if mark.name == "parametrize"]
    assert {mark.args[0] for mark in marks}.isdisjoint({"installed", "contribution", "value"})


def test_check_of_a_plugin_that_is_off(tmp_path):
    """What can be checked is; the rest says that it is off, and the remedy."""
    rules = check_plugin("off", loaded(tmp_path))
    [unmet] = [rule for rule in rules if rule.met is False]
    assert "set OFF_API_KEY" in unmet.detail
    assert (rules[-1].met, rules[-1].detail) == (None, "it is off: set OFF_API_KEY")
    assert any(rule.met for rule in rules)


def test_check_says_that_it_does_not_use_the_files_there_are(tmp_path):
    """A model that was fetched into the data directory is not what is checked: it says so, and how it could be."""
    (tmp_path / "data" / "plugins" / "off").mkdir(parents=True)
    assert "files that it has" not in str(check_plugin("off", loaded(tmp_path)))
    file = tmp_path / "data" / "plugins" / "off" / "model.gguf"
    file.write_bytes(b"GGUF")
    *_, last = check_plugin("off", loaded(tmp_path))
    assert (last.name, last.met) == ("It is checked with the files that it has.", None)
    assert f"without {file.parent}. If it needs a file of it, name that under [plugins.off]" in last.detail


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("raises_on_import", r"RuntimeError: no such luck .*raises_on_import.py:3"),
        ("exits_on_import", r"SystemExit: 3 .*exits_on_import.py:5"),
    ],
)
def test_check_of_a_plugin_that_cannot_be_imported(tmp_path, name, told):
    """It says why, with the line."""
    [rule] = check_plugin(name, loaded(tmp_path))
    assert rule.met is False
    assert re.search(told, rule.detail)


def test_check_of_a_plugin_that_there_is_not(tmp_path):
    """The names are listed."""
    with pytest.raises(PluginError, match=r"no plugin 'nope'; there are: .*echo.*misspelt_hook"):
        check_plugin("nope", loaded(tmp_path))


TOOL = """
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool

class Echo(Plugin[NoSettings]):
    "Looks out of the window."

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.weather, read_only=True)

    async def weather(self) -> str:
        "The weather."
        return "sunny"
"""


def test_check_as_a_command(tmp_path):
    """It works whatever the tests of its directory are configured to be, and whatever the plugin's class is called; the
    exit code is 1 if a rule is broken."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --no-such-option\n")
    (tmp_path / "conftest.py").write_text("raise RuntimeError\n")
    (tmp_path / "plugins").mkdir()
    file = tmp_path / "plugins" / "well.py"
    file.write_text(TOOL)
    done = check("well", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "met      tool well: A tool that is run gives a ToolResult" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("rules, 0 not met, 2 not checked")
    assert not (tmp_path / "data").exists()
    file.write_text(TOOL.replace('"sunny"', '{}["sunny"]'))
    done = check("well", cwd=tmp_path)
    assert done.returncode == 1
    assert "NOT MET  tool well: A tool that is run gives" in done.stdout
    assert "         weather raised KeyError ('sunny'), wanted an answer or ToolFailed" in done.stdout
    assert done.stderr == ""


def check(name, cwd):
    return subprocess.run(
        [sys.executable, "-m", "chatcore", "check", name, "--plugins-dir", "plugins"],
        cwd=cwd,
        env={**os.environ, "PYTEST_ADDOPTS": "--no-such-option"},
        capture_output=True,
        text=True,
        check=False,
    )
