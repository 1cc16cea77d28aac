"""The contracts of an installed plugin, for `chatcore check`: collected by `check_plugin`, which gives the fixtures
`installed` (the plugin) and `contribution` (a name of the kind that the class has)."""

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
import pytest
import pytest_asyncio

from chatcore.plugins.registry import Kind
from chatcore.protocols import Authenticator, BlobStore, Provider, ToolSource
from chatcore.testing.contracts.auth import AuthenticatorContract
from chatcore.testing.contracts.plugin import Installation, PluginContract, state_of
from chatcore.testing.contracts.provider import ProviderContract
from chatcore.testing.contracts.storage import BlobStoreContract
from chatcore.testing.contracts.tools import ToolSourceContract
from chatcore.tools import Tool


@attrs.frozen
class _Own:
    """The tools that a plugin gives by themselves, as a source."""

    name: str
    own: Sequence[Tool]

    def tools(self) -> Sequence[Tool]:
        return self.own


class Contributed:
    """What the classes for one kind of contribution share."""

    kind: ClassVar[Kind]

    @pytest_asyncio.fixture
    async def value(self, installed: Installation, contribution: str, tmp_path: Path) -> AsyncIterator[Any]:
        """The contribution, in a server that is open."""
        async with installed.running(tmp_path) as chat:
            found = state_of(chat).registry.find(self.kind, contribution)
            assert found is not None, f"there is no {self.kind} {contribution}"  # noqa: S101  a fixture of tests
            yield found.value


class TestPlugin(PluginContract):
    """The plugin as a whole."""

    @pytest.fixture
    def installation(self, installed: Installation) -> Installation:
        return installed


class TestProvider(Contributed, ProviderContract):
    """A provider of the plugin's."""

    kind = "provider"

    @pytest.fixture
    def provider(self, value: Provider) -> Provider:
        return value


class TestTools(Contributed, ToolSourceContract):
    """The tools that the plugin gives by themselves, together. The name of the contribution is the plugin's."""

    kind = "tool"

    @pytest_asyncio.fixture
    async def value(self, installed: Installation, contribution: str, tmp_path: Path) -> AsyncIterator[ToolSource]:
        async with installed.running(tmp_path) as chat:
            own = state_of(chat).registry.by(installed.name)
            yield _Own(contribution, [c.value for c in own if c.kind == self.kind])

    @pytest.fixture
    def source(self, value: ToolSource) -> ToolSource:
        return value


class TestToolSource(Contributed, ToolSourceContract):
    """A tool source of the plugin's."""

    kind = "tool source"

    @pytest.fixture
    def source(self, value: ToolSource) -> ToolSource:
        return value


class TestBlobStore(Contributed, BlobStoreContract):
    """A blob store of the plugin's."""

    kind = "blob store"

    @pytest.fixture
    def store(self, value: BlobStore) -> BlobStore:
        return value


class TestAuthenticator(Contributed, AuthenticatorContract):
    """An authenticator of the plugin's."""

    kind = "authenticator"

    @pytest.fixture
    def authenticator(self, value: Authenticator) -> Authenticator:
        return value
