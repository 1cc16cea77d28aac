"""An authenticator, in one file: a proxy in front of the server has people sign in, and says in a header who it is.

In chatcore.toml:

    host = "0.0.0.0"

    [plugins.authenticator_plugin]
    proxies = ["10.0.0.2"]

The header counts only on connections from the named proxies. From anywhere else it is refused: anybody can write a
header. Without `proxies` the plugin is off. The proxy must remove the header from what its clients send.
"""

import ipaddress
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network
from typing import TypeAlias

import attrs

from chatcore.errors import PluginOff, Unauthenticated
from chatcore.hooks import Plugin, hookimpl
from chatcore.protocols import Authenticator, Credentials
from chatcore.settings import option
from chatcore.types import Principal

Network: TypeAlias = IPv4Network | IPv6Network

_USER = re.compile(r"[A-Za-z0-9._@+-]{1,200}")
_PREFIX = "proxy:"


def _networks(instance: object, field: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]) -> None:
    for text in value:
        ipaddress.ip_network(text)  # its ValueError says what is wrong


@attrs.frozen
class Settings:
    """What can be set under `[plugins.authenticator_plugin]` in chatcore.toml."""

    proxies: tuple[str, ...] = option(
        (), help="The addresses, or networks such as 10.0.0.0/24, of the proxies.", validator=_networks
    )
    header: str = option("X-Forwarded-User", help="The header in which they say who it is.")


@attrs.frozen
class ProxyHeader:
    """Believes a header, if it comes from where it may."""

    networks: Sequence[Network]
    header: str
    name: str = "proxy_header"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        user = credentials.headers.get(self.header.lower())
        if user is None:
            return None
        if not self._is_proxy(credentials.remote):
            raise Unauthenticated(f"{self.header} is accepted from the proxy only")
        # A header that was sent twice arrives joined by commas, which is no user's name.
        if not _USER.fullmatch(user):
            raise Unauthenticated(f"{self.header} does not name a user")
        # The prefix keeps the proxy's people apart from "local" and from those of tokens.
        return Principal(f"{_PREFIX}{user}", frozenset({"*"}))

    def _is_proxy(self, remote: str | None) -> bool:
        try:
            address = ipaddress.ip_address(remote or "")
        except ValueError:
            return False
        # A server that listens on [::] sees IPv4 addresses in their IPv6 form.
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self.networks)


class TrustedProxy(Plugin[Settings]):
    """Lets in whom a trusted proxy has let in."""

    settings_class = Settings

    @hookimpl
    def register_auth(self) -> Iterable[Authenticator]:
        if not self.settings.proxies:
            raise PluginOff("set 'proxies' to the addresses of the proxies that may say who somebody is")
        yield ProxyHeader([ipaddress.ip_network(text) for text in self.settings.proxies], self.settings.header)
