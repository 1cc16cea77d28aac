"""Where calls may go whose URL came from a user."""

import asyncio
import socket

import pytest

from chatcore.addresses import Reach, network
from chatcore.errors import Forbidden

HOME = Reach((network("127.0.0.0/8"), network("::1"), network("192.168.1.0/24")))


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_public_addresses_are_within_reach(address: str):
    """Also as IPv6 carries them."""
    assert Reach().allows(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "192.168.1.7",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fd12::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b:1::7f00:1",
        "::127.0.0.1",
        "::ffff:0:127.0.0.1",
        "fec0::1",
    ],
)
def test_others_are_not(address: str):
    """Neither this machine nor a private network, whatever the spelling."""
    assert not Reach().allows(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.8.8", "::1", "192.168.1.7", "::ffff:192.168.1.7"])
def test_a_configured_network_is_within_reach(address: str):
    """And its neighbours are not."""
    assert HOME.allows(address)
    assert not HOME.allows("192.168.2.7")


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "fe80::1",
        "fe80::1%eth0",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "::ffff:169.254.169.254",
        "64:ff9b::169.254.169.254",
    ],
)
def test_metadata_and_link_local_are_never_within_reach(address: str):
    """Not even where everything is configured."""
    assert not Reach((network("0.0.0.0/0"), network("::/0"))).allows(address)


async def test_a_name_is_resolved_to_an_address_that_was_checked(monkeypatch: pytest.MonkeyPatch):
    """What is connected to is what was looked at; a name with one forbidden address among others is refused."""
    answers = {"public.example": ["93.184.216.34"], "mixed.example": ["93.184.216.34", "127.0.0.1"]}

    async def getaddrinfo(host: str, port: int, **kwargs: object):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in answers[host]]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    assert await Reach().resolve("public.example", 443) == "93.184.216.34"
    with pytest.raises(Forbidden, match=r"127\.0\.0\.1"):
        await Reach().resolve("mixed.example", 443)


async def test_what_is_no_name_of_a_host_has_no_address(monkeypatch: pytest.MonkeyPatch):
    """A text that the look-up cannot even ask for; what it raises then is no `OSError` of its own."""

    async def getaddrinfo(host: str, port: int, **kwargs: object):
        return host.encode("idna")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    for host in ("a..b", "x" * 64):
        with pytest.raises(OSError, match="no name of a host"):
            await Reach().resolve(host, 80)


async def test_a_literal_address_is_checked_as_well():
    """As is a name of this machine."""
    for host in ("127.0.0.1", "::1", "localhost"):
        with pytest.raises(Forbidden):
            await Reach().resolve(host, 80)
    assert await HOME.resolve("127.0.0.1", 80) == "127.0.0.1"
