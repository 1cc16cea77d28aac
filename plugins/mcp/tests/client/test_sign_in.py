"""Signing in to servers: by whom, what is kept of it, and who may use it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import attrs
import pytest
import pytest_asyncio
from chatcore_mcp.servers import Options, Server, Servers

from chatcore.accounts import Accounts, Answer
from chatcore.addresses import Reach
from chatcore.database import Database
from chatcore.errors import AccountUnavailable, Conflict, Forbidden, SignInFailed
from chatcore.secrets import Secret
from chatcore.testing.upstream import Reply
from chatcore.types import Principal

from .conftest import LOOPBACK, Bench
from .guarded import Guarded, guarded

ANN, BOB = Principal("ann"), Principal("bob")

Make = Callable[..., Awaitable["Signing"]]


@attrs.define
class Signing:
    """A bench with one server, `a`, that wants somebody to sign in."""

    bench: Bench
    accounts: Accounts
    fake: Guarded
    close: Callable[[], Awaitable[None]]

    @property
    def server(self) -> Server:
        return self.bench.server("a")

    async def needed(self) -> None:
        await self.bench.until(lambda: self.server.sign_in.state == "needed" and self.server.problem)

    async def come_back(self, url: str, **changed: str) -> None:
        given = {name: value for name, [value] in parse_qs(self.fake.consent(url, **changed)).items()}
        await self.accounts.called_back(
            Answer(state=given["state"], code=Secret(given["code"]), issuer=given.get("iss"))
        )

    async def sign_in(self, principal: Principal = ANN) -> None:
        """As a user does; then the server is connected."""
        await self.come_back(await self.server.sign_in.begin(principal, 10))
        await self.bench.connected("a")

    async def ended(self) -> str:
        """Waits for the end of the sign-in under way, and gives why it has failed."""
        await self.bench.until(lambda: self.server.sign_in.url(ANN) is None)
        return self.server.sign_in.problem

    async def call(self, principal: Principal = ANN) -> str:
        return (await self.bench.call_as(principal.id, "whoami")).text


@pytest_asyncio.fixture
async def fake() -> AsyncIterator[Guarded]:
    async with guarded() as fake:
        yield fake


@pytest_asyncio.fixture
async def make(tmp_path: Path, fake: Guarded) -> AsyncIterator[Make]:
    """Makes the servers of a worker: all have the same file and the same database."""
    file, log = tmp_path / "mcp_servers.json", logging.getLogger("chatcore.plugin.mcp")
    async with AsyncExitStack() as stack:
        database = Database(str(tmp_path / "chatcore.db"))
        await database.open()
        stack.push_async_callback(database.close)

        async def make(entry: dict[str, Any] | None = None, **options: Any) -> Signing:
            accounts = Accounts(database, tmp_path / "accounts.key", public_url="http://127.0.0.1:8000")
            values = {"reach": LOOPBACK, "timeout": 20, "prefix": False, "environ": {}, "log": log, **options}
            bench = Bench(file, Servers(file, Options(accounts=accounts, **values)))
            bench.write({"a": {"url": fake.url, **(entry or {})}})
            running = await stack.enter_async_context(AsyncExitStack())
            await running.enter_async_context(bench.servers.session())
            return Signing(bench, accounts, fake, running.aclose)

        yield make


async def test_a_server_that_asks_is_signed_in_to(make: Make, fake: Guarded, caplog: pytest.LogCaptureFixture):
    """It says so; who opens the URL and comes back has its tools. The log has no secrets."""
    caplog.set_level(logging.DEBUG)
    made = await make()
    await made.needed()
    assert made.server.problem == (
        "it wants somebody to sign in: POST /api/mcp/servers/a/sign-in gives the URL to open"
    )
    url = await made.server.sign_in.begin(ANN, 10)
    assert await made.server.sign_in.begin(ANN, 10) == url == made.server.sign_in.url(ANN)
    assert made.server.sign_in.url(BOB) is None
    await made.come_back(url)
    await made.bench.connected("a")
    assert await made.call() == "called as somebody"
    assert fake.registered[0]["redirect_uris"] == ["http://127.0.0.1:8000/api/accounts/callback"]
    assert fake.asked[0]["scope"] == "read"
    assert not [secret for secret in ("access-", "refresh-", fake.asked[0]["state"]) if secret in caplog.text]


async def test_what_is_somebodys_is_nobody_elses(make: Make):
    """Unless the file says that it is shared."""
    made = await make()
    await made.needed()
    await made.sign_in()
    assert [made.server.allows(principal.id) for principal in (ANN, BOB)] == [True, False]
    assert await made.call(BOB) == "somebody else is signed in to the server a: it does nothing for others"
    with pytest.raises(Conflict, match="somebody else is signed in to a"):
        await made.server.sign_in.begin(BOB, 10)
    await made.bench.change({"a": {"url": made.fake.url, "shared": True}})
    assert await made.call(BOB) == "called as somebody"


async def test_who_was_quicker_stays_signed_in(make: Make):
    """On whatever worker; a sign-in that was begun before takes nothing away."""
    made, other = await make(), await make()
    await made.needed()
    await other.needed()
    slow = await other.server.sign_in.begin(BOB, 10)
    await made.sign_in(ANN)
    await other.come_back(slow)
    await other.bench.until(lambda: "somebody else is signed in" in other.server.sign_in.problem)
    assert await made.call(ANN) == "called as somebody"
    assert other.server.allows("ann")
    assert not other.server.allows("bob")


async def test_twenty_calls_refresh_once(make: Make, fake: Guarded):
    """On two workers, at the moment when the token ends; no refresh token is used twice."""
    one = await make()
    await one.needed()
    await one.sign_in()
    other = await make()
    await other.bench.connected("a")
    fake.expire()
    calls = [made.call() for made in (one, other) for _ in range(10)]
    assert set(await asyncio.gather(*calls)) == {"called as somebody"}
    assert fake.refreshes == 1


async def test_a_token_is_refreshed_before_it_ends(make: Make, fake: Guarded):
    """Nobody has to be refused first."""
    fake.lifetime = 10
    made = await make()
    await made.needed()
    await made.sign_in()
    before = len(fake.upstream.requests)
    fake.lifetime = 3600
    assert await made.call() == "called as somebody"
    statuses = [request.path for request in fake.upstream.requests[before:]]
    assert statuses.count("/token") <= 1 <= fake.refreshes


async def test_a_caller_who_goes_does_not_cut_a_refresh(make: Make, fake: Guarded):
    """What comes back is kept: the old refresh token is good no more."""
    made = await make()
    await made.needed()
    await made.sign_in()
    [refused] = fake.tokens
    fake.expire()
    gate = asyncio.Event()
    token = fake._token
    seen = len(fake.upstream.requests)
    fake.upstream.route("/token", lambda request: attrs.evolve(token(request), before=gate))
    asking = asyncio.create_task(made.server.sign_in.token(refused=refused))
    await made.bench.until(lambda: any(one.path == "/token" for one in fake.upstream.requests[seen:]))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    gate.set()
    assert await made.call() == "called as somebody"
    assert fake.refreshes == 1


async def test_a_refused_refresh_needs_a_sign_in(make: Make, fake: Guarded):
    """Which is then a second one; who is registered is so already."""
    made = await make()
    await made.needed()
    await made.sign_in()
    fake.end()
    assert "it wants somebody to sign in again" in await made.call()
    await made.needed()
    await made.sign_in()
    assert await made.call() == "called as somebody"
    assert len(fake.registered) == 1


async def test_an_authorization_server_that_is_away_ends_nothing(make: Make, fake: Guarded):
    """The call fails; when it is back, all goes on."""
    made = await make()
    await made.needed()
    await made.sign_in()
    fake.expire()
    fake.upstream.route("/token", Reply(status=503))
    assert "/token answers 503" in await made.call()
    fake.upstream.route("/token", fake._token)
    made.server.retry()
    await made.bench.connected("a")
    assert await made.call() == "called as somebody"


async def test_more_rights_are_asked_for(make: Make, fake: Guarded):
    """The call says what to do; the next sign-in asks for them beside those that there were, on whatever worker."""
    made, other = await make(), await make()
    await made.needed()
    await made.sign_in()
    fake.wanted = "write"
    assert "it wants more rights than it was given: sign in again" in await made.call()
    assert made.server.state == "connected"
    await other.bench.until(lambda: "more rights" in other.server.sign_in.remedy)
    with pytest.raises(Conflict):
        await other.server.sign_in.begin(BOB, 10)
    await other.sign_in()
    await made.bench.until(lambda: made.server.sign_in.state == "signed_in")
    assert fake.asked[-1]["scope"] == "read write"
    assert await made.call() == "called as somebody"


async def test_a_restart_keeps_it(make: Make):
    """It is connected at once, without being refused first."""
    made = await make()
    await made.needed()
    await made.sign_in()
    await made.close()
    before = len(made.fake.upstream.requests)
    again = await make()
    await again.bench.connected("a")
    assert await again.call() == "called as somebody"
    assert all("authorization" in request.headers for request in made.fake.upstream.requests[before:])


async def test_other_workers_follow(make: Make, fake: Guarded):
    """A sign-in on one connects the server on all, and signing out ends it there."""
    one, other = await make(), await make()
    await one.needed()
    await other.needed()
    await one.sign_in()
    await other.bench.connected("a")
    assert not other.server.allows("bob")
    assert await other.server.sign_in.end()
    assert sorted(fake.revoked) == ["access", "refresh"]
    await one.bench.until(lambda: one.server.sign_in.owner is None and not one.bench.names())


async def test_what_was_given_for_one_url_is_not_sent_to_another(make: Make, fake: Guarded):
    """Not even if the server has the same id."""
    made = await make()
    await made.needed()
    await made.sign_in()
    async with guarded() as thief:
        await made.bench.change({"a": {"url": thief.url}})
        await made.needed()
        assert made.server.allows("bob")
        assert not [request for request in thief.upstream.requests if "authorization" in request.headers]


async def test_a_token_in_the_headers_goes_before(make: Make, fake: Guarded):
    """Nobody signs in then."""
    made = await make({"headers": {"authorization": "Bearer wrong"}})
    await made.bench.until(lambda: made.server.problem)
    assert made.server.sign_in is None
    assert "give it a token in 'headers'" in made.server.problem


async def test_a_server_is_not_asked_before_somebody_has_signed_in(make: Make, fake: Guarded):
    """If its entry says so. The client that the entry names need not register, and asks for the scope that it says."""
    oauth = {"client_id": "ours", "client_secret": "${SECRET}", "scope": "read all"}
    made = await make({"auth": "oauth", "oauth": oauth}, environ={"SECRET": "hush"})
    await made.needed()
    assert fake.upstream.requests == []
    await made.sign_in()
    assert fake.registered == []
    assert (fake.asked[0]["client_id"], fake.asked[0]["scope"]) == ("ours", "read all")
    [redeemed] = [request for request in fake.upstream.requests if request.path == "/token"]
    assert redeemed.headers["authorization"] == "Basic b3VyczpodXNo"


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"iss": "https://evil.example"}, "Authorization response iss mismatch"),
        ({"iss": ""}, "Authorization response missing iss"),
        ({"code": "guessed"}, "Token exchange failed (400)"),
    ],
)
async def test_an_answer_from_somebody_else_is_refused(make: Make, changed: dict[str, str], problem: str):
    """No token is asked for, or none is given; the server stays as it was."""
    made = await make()
    await made.needed()
    await made.come_back(await made.server.sign_in.begin(ANN, 10), **changed)
    assert problem in await made.ended()
    assert made.server.sign_in.state == "needed"


async def test_a_sign_in_can_be_made_anew(make: Make, fake: Guarded):
    """By who is signed in, as somebody else there: the server is asked where."""
    made = await make()
    await made.needed()
    await made.sign_in()
    fake.subject = "another"
    await made.sign_in()
    assert await made.ended() == ""
    assert await made.call() == "called as another"


@pytest.mark.parametrize("what", ["resource", "authorization server", "issuer", "private", "metadata"])
async def test_a_server_cannot_lead_elsewhere(make: Make, fake: Guarded, what: str):
    """Neither to a token for another resource, nor to an authorization server that is not what it says, nor to requests
    at addresses that may not be reached."""
    made = await make()
    await made.needed()
    match what:
        case "resource":
            fake.resource["resource"] = "https://bank.example/mcp"
        case "authorization server":
            fake.resource["authorization_servers"] = ["http://169.254.169.254/latest"]
        case "issuer":
            fake.metadata["issuer"] = "https://bank.example"
        case "private":
            fake.resource["authorization_servers"] = ["http://10.0.0.1/"]
        case "metadata":
            fake.metadata["registration_endpoint"] = "http://[::ffff:a9fe:a9fe]/register"
    with pytest.raises((SignInFailed, Forbidden, AccountUnavailable)):
        await made.server.sign_in.begin(ANN, 10)
    assert not [request for request in fake.upstream.requests if request.path.startswith(("/token", "/authorize"))]


async def test_a_server_added_over_http_leads_nowhere_private(make: Make, fake: Guarded):
    """Not even to where it is itself, if that is not allowed."""
    made = await make({"added_over_http": True, "auth": "oauth"}, reach=Reach())
    with pytest.raises(Forbidden, match="is not a public address"):
        await made.server.sign_in.begin(ANN, 10)
    assert fake.upstream.requests == []


async def test_a_server_that_says_nothing_is_not_waited_for(make: Make, fake: Guarded):
    """Whoever wants to sign in is told."""
    made = await make()
    await made.needed()
    fake.upstream.route("/resource", Reply.silence())
    with pytest.raises(AccountUnavailable, match="does not say in time"):
        await made.server.sign_in.begin(ANN, 0.2)
