"""Contracts: what every provider, tool source, blob store, authenticator and plugin keeps, as tests to inherit.

    from chatcore.testing.contracts import PluginContract

    class TestWeather(PluginContract):
        plugin = Weather

`check_plugin` runs those that fit a plugin that is installed. All of this needs pytest and pytest-asyncio.
"""

from chatcore.testing.contracts.auth import AuthenticatorContract
from chatcore.testing.contracts.check import Rule, check_plugin
from chatcore.testing.contracts.plugin import Installation, PluginContract
from chatcore.testing.contracts.provider import ProviderContract
from chatcore.testing.contracts.storage import BlobStoreContract
from chatcore.testing.contracts.tools import ToolSourceContract

__all__ = [
    "AuthenticatorContract",
    "BlobStoreContract",
    "Installation",
    "PluginContract",
    "ProviderContract",
    "Rule",
    "ToolSourceContract",
    "check_plugin",
]
