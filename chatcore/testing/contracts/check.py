"""Runs the contracts that fit an installed plugin, and says which rules it keeps."""

import logging
import tempfile
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from chatcore.builtin import BUILTINS
from chatcore.config import Loaded
from chatcore.database import Database
from chatcore.errors import PluginError
from chatcore.plugins import Found, Plugins, Row, find
from chatcore.plugins.check import check_class
from chatcore.testing.contracts.installed import Contributed
from chatcore.testing.contracts.plugin import Installation

_SUITES = Path(__file__).with_name("installed.py")
_INI = """[pytest]
addopts =
asyncio_default_fixture_loop_scope = function
"""
_CLASSES = {
    "provider": "TestProvider",
    "tool source": "TestToolSource",
    "tool": "TestTools",
    "blob store": "TestBlobStore",
    "authenticator": "TestAuthenticator",
}
"""The classes of `installed` by kind. A kind that another begins like comes after it."""


@attrs.frozen
class Rule:
    """A rule of a contract. `met` is None where it could not be checked; `detail` says why, or why it is not met."""

    name: str
    met: bool | None
    detail: str = ""


def check_plugin(name: str, loaded: Loaded) -> Sequence[Rule]:
    """Checks an installed plugin, configured as it is, in servers of its own with other data.

    Every rule of the contracts that fit is listed, for each contribution. What a provider is asked is asked in earnest:
    one that costs money costs some. Of the tools only those are run that are `read_only` and need no arguments.

    Raises:
        PluginError: there is no such plugin: the text names those that there are. Or pytest cannot be used.
    """
    found = _find(name, loaded)
    settings = attrs.evolve(loaded, config=attrs.evolve(loaded.config, disable=(), strict=False))
    try:
        cls = check_class(found.load())
    except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin's code: why is what was asked for
        row = _row(found, settings)
        return [Rule("It can be imported.", False, row.reason or str(error))]
    installation = Installation(cls, loaded.plugins.get(name, {}), loaded.environ, name)
    return [*_run(installation, _row(found, settings)), *_left_out(name, loaded.config.data / "plugins" / name)]


def _find(name: str, loaded: Loaded) -> Found:
    every = find(builtins=BUILTINS, plugins_dir=loaded.config.plugins_dir, classes=loaded.config.load)
    chosen = [one for one in every if one.name == name]
    if not chosen:
        raise PluginError(f"there is no plugin {name!r}; there are: {', '.join(one.name for one in every)}")
    return chosen[0]


def _row(found: Found, loaded: Loaded) -> Row:
    """The plugin loaded alone."""
    logging.getLogger("chatcore").addHandler(logging.NullHandler())
    with tempfile.TemporaryDirectory() as directory:
        alone = attrs.evolve(loaded, config=attrs.evolve(loaded.config, data=Path(directory)))
        return Plugins(alone, Database(str(Path(directory) / "chatcore.db"))).add(found)


def _run(installation: Installation, row: Row) -> Sequence[Rule]:
    by_class = _contributions(row)
    recorder = _Recorder(installation, by_class)
    chosen = [f"{_SUITES}::{name}" for name in ("TestPlugin", *by_class)]
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        # Nothing of the tests of whoever calls us: neither its options, nor its plugins, nor its conftest.py.
        patch.delenv("PYTEST_ADDOPTS", raising=False)
        patch.delenv("PYTEST_PLUGINS", raising=False)
        ini = Path(directory) / "pytest.ini"
        ini.write_text(_INI)
        options = ["-c", str(ini), "--rootdir", directory, "--basetemp", str(Path(directory) / "tests"), "--noconftest"]
        plugins = [
            "--disable-plugin-autoload",
            "-p",
            "pytest_asyncio.plugin",
            "-p",
            "no:terminal",
            "-p",
            "no:cacheprovider",
        ]
        code = pytest.main([*options, *plugins, "--import-mode=importlib", *chosen], plugins=[recorder])
    if code == pytest.ExitCode.INTERRUPTED:
        raise KeyboardInterrupt
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        raise PluginError(f"the contracts could not be run: pytest ended with {code!r}")
    return [*recorder.rules.values(), *_unchecked(row)]


def _contributions(row: Row) -> Mapping[str, Sequence[str]]:
    """The names of what a plugin contributes, by the class of their rules."""
    by_class: dict[str, list[str]] = {}
    for label in row.contributes:
        kind = next((kind for kind in _CLASSES if label.startswith(f"{kind} ")), None)
        if kind is not None:
            by_class.setdefault(_CLASSES[kind], []).append(label.removeprefix(f"{kind} "))
    if "TestTools" in by_class:
        by_class["TestTools"] = [row.name]  # they are looked at together
    return by_class


def _unchecked(row: Row) -> Iterator[Rule]:
    if row.state != "on":
        yield Rule("What it contributes keeps its contracts.", None, f"it is {row.state}: {row.reason}")


def _left_out(name: str, directory: Path) -> Iterator[Rule]:
    """Tells that the contracts do not see a plugin's files, which they could change."""
    if directory.is_dir() and any(directory.iterdir()):
        told = f"no: it was checked without {directory}. If it needs a file of it, name that under [plugins.{name}]"
        yield Rule("It is checked with the files that it has.", None, told)


@attrs.define
class _Recorder:
    """A plugin of pytest that gives the fixtures of `installed` and notes what becomes of each rule."""

    installation: Installation
    by_class: Mapping[str, Sequence[str]]
    rules: dict[str, Rule] = attrs.field(factory=dict)

    @pytest.fixture
    def installed(self) -> Installation:
        return self.installation

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        if "contribution" in metafunc.fixturenames and metafunc.cls is not None:
            metafunc.parametrize("contribution", self.by_class[metafunc.cls.__name__])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Function) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        if report.when == "call" or report.outcome != "passed":
            self._note(_rule(item, report))
        return report

    def _note(self, rule: Rule) -> None:
        """Adds a rule, which may have been tried before with other values: what was not met stays so."""
        earlier = self.rules.get(rule.name)
        if earlier is None or earlier.met is not False:
            self.rules[rule.name] = rule


def _rule(item: pytest.Function, report: pytest.TestReport) -> Rule:
    name = " ".join((item.function.__doc__ or item.name).split())
    if issubclass(item.cls, Contributed):
        name = f"{item.cls.kind} {item.callspec.params['contribution']}: {name}"
    match report.outcome:
        case "passed":
            return Rule(name, True, str(dict(report.user_properties).get("detail", "")))
        case "skipped":
            return Rule(name, None, report.longreprtext.partition("Skipped: ")[2].rstrip("\"')"))
    return Rule(name, False, _why(report))


def _why(report: pytest.TestReport) -> str:
    """What a failed test says, without the lines of Python."""
    crash = getattr(report.longrepr, "reprcrash", None)
    message = crash.message if crash else report.longreprtext
    return message.removeprefix("AssertionError: ").removeprefix("Failed: ").partition("\nassert ")[0].strip()
