"""The contracts: what is built in keeps them, what breaks one rule is caught by it, and `chatcore check` tells."""

import ast
from pathlib import Path

import attrs
import pytest

from chatcore.builtin.disk import DiskFiles
from chatcore.builtin.echo import EchoProvider
from chatcore.builtin.tokens import BearerTokens
from chatcore.database import Database
from chatcore.database import Tokens as TokenTable
from chatcore.protocols import Credentials
from chatcore.testing.contracts import (
    AuthenticatorContract,
    BlobStoreContract,
    ProviderContract,
)
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
    names = broken("_Provider", "_Tools", "_Store", "_Auth", "_Plugin")
    assert len(names) > 60
    recorder = run(names, *names, directory=tmp_path)
    assert recorder.failed == {name: set(breaks) for name, breaks in recorder.wanted.items()}
    assert recorder.wanted.keys() == set(names)
