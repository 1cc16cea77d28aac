"""The sign-in of `authenticator_plugin.py`."""

from logging import getLogger
from pathlib import Path
from typing import Any

import pytest

from chatcore.database import Database
from chatcore.errors import Unauthenticated
from chatcore.hooks import Context, Plugin
from chatcore.protocols import Authenticator, Credentials
from chatcore.testing.contracts import AuthenticatorContract


@pytest.fixture
def trusted_proxy(load_example):
    return load_example("authenticator_plugin")


USER = {"X-Forwarded-User": "ada@example.com"}


class TestProxyHeader(AuthenticatorContract):
    """What every authenticator keeps."""

    @pytest.fixture
    def authenticator(self, trusted_proxy):
        return authenticator_of(trusted_proxy, proxies=["127.0.0.1"])

    @pytest.fixture
    def right(self):
        return Credentials({"x-forwarded-user": "ada@example.com"}, "127.0.0.1")

    @pytest.fixture
    def wrong(self):
        return Credentials({"x-forwarded-user": "ada@example.com"}, "10.0.0.1")


async def test_the_proxy_says_who_it_is(make_chat, trusted_proxy):
    """A person whom the proxy names is let in, and has conversations of their own."""
    chat = await make_chat(trusted_proxy, proxies=["127.0.0.1"])
    await chat.client.post("/api/chat/session/mine/save", headers=USER)
    rows = {}
    for user in ("ada@example.com", "bob"):
        response = await chat.client.get("/api/chat/conversations", headers={"X-Forwarded-User": user})
        assert response.status_code == 200
        rows[user] = [row["session_id"] for row in response.json()["conversations"]]
    assert rows == {"ada@example.com": ["mine"], "bob": []}


async def test_without_the_header_nobody_is_let_in(make_chat, trusted_proxy):
    """On loopback, too: with this plugin everybody comes through the proxy."""
    chat = await make_chat(trusted_proxy, proxies=["127.0.0.1"])
    assert (await chat.client.get("/api/chat/conversations")).status_code == 401
    assert (await chat.client.get("/health")).status_code == 200


async def test_the_header_from_elsewhere_is_refused(make_chat, trusted_proxy):
    """Anybody can write a header; only the proxy's connection makes it true."""
    chat = await make_chat(trusted_proxy, proxies=["10.0.0.0/24"])
    response = await chat.client.get("/api/chat/conversations", headers=USER)
    assert response.status_code == 401
    assert "from the proxy only" in response.json()["detail"]


@pytest.mark.parametrize("user", ["", "ada, bob", "a b", "ada\u00e9", "x" * 201])
async def test_what_names_no_user_is_refused(trusted_proxy, user):
    """An empty name, a doubled header and odd characters name nobody."""
    authenticator = authenticator_of(trusted_proxy, proxies=["127.0.0.1"])
    with pytest.raises(Unauthenticated, match="does not name a user"):
        await authenticator.authenticate(Credentials({"x-forwarded-user": user}, "127.0.0.1"))


@pytest.mark.parametrize(
    ("remote", "known"),
    [
        ("10.0.0.7", True),
        ("::ffff:10.0.0.7", True),
        ("fd00::1", True),
        ("10.0.1.7", False),
        ("nonsense", False),
        (None, False),
    ],
)
async def test_addresses_are_compared_as_addresses(trusted_proxy, remote, known):
    """Networks, both address families, and IPv4 in IPv6 are understood; what is no address is no proxy."""
    authenticator = authenticator_of(trusted_proxy, proxies=["10.0.0.0/24", "fd00::/8"])
    credentials = Credentials({"x-forwarded-user": "ada"}, remote)
    if known:
        assert (await authenticator.authenticate(credentials)).id == "proxy:ada"
    else:
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(credentials)


async def test_another_header_can_be_set(trusted_proxy):
    """The default header means nothing then."""
    authenticator = authenticator_of(trusted_proxy, proxies=["127.0.0.1"], header="Remote-User")
    assert await authenticator.authenticate(Credentials({"x-forwarded-user": "ada"}, "127.0.0.1")) is None
    assert (await authenticator.authenticate(Credentials({"remote-user": "ada"}, "127.0.0.1"))).id == "proxy:ada"


@pytest.mark.parametrize(
    ("settings", "state", "told"),
    [({}, "off", "set 'proxies'"), ({"proxies": ["10.0.0.0/240"]}, "failed", "10.0.0.0/240")],
)
async def test_without_usable_proxies_it_is_not_on(make_chat, trusted_proxy, settings, state, told):
    """It never trusts everybody by mistake."""
    chat = await make_chat(trusted_proxy, config={"strict": False}, **settings)
    rows = (await chat.client.get("/api/plugins")).json()["plugins"]
    [row] = [row for row in rows if row["name"] == "trustedproxy"]
    assert row["state"] == state
    assert told in row["reason"]


def authenticator_of(plugin: type[Plugin[Any]], **settings: Any) -> Authenticator:
    """What the plugin gives with these settings, without a server."""
    context = Context("proxy", plugin.settings_class(**settings), Path("unused"), Database("unused.db"), getLogger())
    [authenticator] = plugin(context).register_auth()
    return authenticator
