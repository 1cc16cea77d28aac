"""Where a call may go whose URL came from a user: not to every server that this one can reach.

The check is made on the address that is then connected to. One that is made on the name alone is passed by a name
that resolves to something else a moment later.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterator
from typing import TypeAlias

import attrs

from chatcore.errors import Forbidden

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

NEVER: tuple[Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in (
        "169.254.0.0/16",  # link-local, and the metadata of most clouds
        "fe80::/10",
        "fd00:ec2::254/128",  # Amazon's metadata
        "100.100.100.200/32",  # Alibaba's
        "168.63.129.16/32",  # Azure's
        "192.0.0.192/32",  # Oracle's
    )
)
"""Refused whatever is configured: there the machine tells its own secrets."""

_EMBEDS_IPV4 = ipaddress.ip_network("64:ff9b::/96")
_PUBLIC_IPV6 = (ipaddress.ip_network("2000::/3"), _EMBEDS_IPV4)
"""What there is in the internet (RFC 4291). Python calls more of them global: translated and site-local ones, too."""


def network(text: str) -> Network:
    """A network such as `10.0.0.0/8`, or a single address.

    Raises:
        ValueError: it is neither.
    """
    return ipaddress.ip_network(text)


@attrs.frozen
class Reach:
    """Where calls may go: to public addresses, and to those within `networks`."""

    networks: tuple[Network, ...] = ()

    def allows(self, address: str) -> bool:
        """Whether a call may go to an address. One that carries another (IPv4 in IPv6) goes there."""
        return all(self._allows(one) for one in _meant(ipaddress.ip_address(address.partition("%")[0])))

    def _allows(self, address: Address) -> bool:
        if any(address in network for network in NEVER):
            return False
        return _is_public(address) or any(address in own for own in self.networks)

    async def resolve(self, host: str, port: int) -> str:
        """The address of a host to connect to.

        Raises:
            Forbidden: a call may not go there: one of the host's addresses is out of reach.
            OSError: the host has no address.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except ValueError as error:  # a text that cannot be looked up at all
            raise OSError(f"{host[:100]!r} is no name of a host") from error
        addresses = [str(entry[4][0]) for entry in found]
        if refused := [address for address in addresses if not self.allows(address)]:
            raise Forbidden(f"{host} ({refused[0]}) is not a public address, nor in a network that is allowed")
        return addresses[0]


def _is_public(address: Address) -> bool:
    if address.version == 6 and not any(address in network for network in _PUBLIC_IPV6):
        return False
    return address.is_global and not address.is_multicast


def _meant(address: Address) -> Iterator[Address]:
    """The address that packets to an address end at, as far as the address tells."""
    if isinstance(address, ipaddress.IPv4Address):
        yield address
        return
    carried = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if address in _EMBEDS_IPV4:
        carried.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    inner = [one for one in carried if one is not None]
    yield from inner
    if address.ipv4_mapped is None:  # Python calls every mapped address private
        yield address
