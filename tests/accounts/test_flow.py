"""Signing in, staying signed in, leaving: against a server with PKCE, rotation and reuse detection."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest

from chatcore.accounts import Accounts
from chatcore.database import Database, tables
from chatcore.errors import AccountError, AccountUnavailable, Conflict, NotFound, SignInFailed, SignInNeeded
from chatcore.protocols import Account, Form, FormField, OAuth, SignedIn
from chatcore.secrets import Secret
from chatcore.types import Principal

Make = Callable[..., Accounts]


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """SQLite, but for tests that ask for both: what the databases do is for the vault's tests and the sign-ins'."""
    if getattr(request, "param", "sqlite") == "sqlite":
        return str(tmp_path / "chatcore.db")
    url: str = request.getfixturevalue("emptied")()
    return url


def mail(server: Any, **fields: Any) -> Account:
    return Account(name="mail", title="Mail", sign_in=server.oauth(**fields))


async def signed_in(accounts: Accounts, server: Any, principal: Principal) -> str:
    return await accounts.called_back(server.consent(await accounts.begin(principal, "mail")))


async def test_signing_in_gives_a_token_to_its_owner_only(
    make_accounts: Make, server: Any, ann: Principal, bob: Principal
):
    """The sign-in ends on another worker than it began."""

    async def who(token: Secret) -> str:
        assert token.reveal() == server.given[0]
        return "ann@example.org"

    account = mail(server, subject=who)
    url = await make_accounts(account).begin(ann, "mail")
    assert await make_accounts(account).called_back(server.consent(url)) == "Mail is connected as ann@example.org."
    token = await make_accounts(account).token(ann, "mail")
    assert (token.reveal(), repr(token)) == (server.given[0], "***")
    with pytest.raises(SignInNeeded, match="sign in to Mail"):
        await make_accounts(account).token(bob, "mail")
    assert server.refreshes == 0


async def test_statuses_tell_each_user_how_they_stand(make_accounts: Make, server: Any, ann: Principal, bob: Principal):
    """Also of an account whose plugin is gone."""
    form = Account(name="bank", title="Bank", sign_in=Form(fields=(FormField(name="pin", title="PIN"),), sign_in=no))
    accounts = make_accounts(mail(server), form)
    await signed_in(accounts, server, ann)
    await accounts.vault.put(ann, "old", {}, subject="me")
    told = [(one.name, one.title, one.kind, one.state, one.subject) for one in await accounts.statuses(ann)]
    assert told == [
        ("mail", "Mail", "oauth", "connected", ""),
        ("bank", "Bank", "form", "not_connected", ""),
        ("old", "old", None, "connected", "me"),
    ]
    assert [one.state for one in await accounts.statuses(bob)] == ["not_connected", "not_connected"]
    [first, second, _] = await accounts.statuses(ann)
    assert first.scopes == ("read", "write")
    assert first.expires_at is not None
    assert [field.name for field in second.fields] == ["pin"]


# --- what is refused --------------------------------------------------------------------------------------------------


async def test_a_code_of_another_sign_in_is_not_taken(make_accounts: Make, server: Any, ann: Principal, bob: Principal):
    """Who brings a stolen code with a state of their own lacks its verifier."""
    accounts = make_accounts(mail(server))
    theirs = server.consent(await accounts.begin(ann, "mail"))
    mine = server.consent(await accounts.begin(bob, "mail"))
    with pytest.raises(SignInFailed, match="wrong code"):
        await accounts.called_back(attrs.evolve(mine, code=theirs.code))
    assert await accounts.vault.get(bob, "mail") is None


async def test_a_downgrade_of_pkce_is_not_taken(make_accounts: Make, server: Any, ann: Principal):
    """A server that was made to forget the challenge, or to take it for a plain one, refuses what we send."""
    accounts = make_accounts(mail(server))
    for changed in (
        {"code_challenge": ""},
        {"code_challenge_method": "plain"},
        {"redirect_uri": "https://evil.example"},
    ):
        answer = server.consent(await accounts.begin(ann, "mail"), **changed)
        with pytest.raises(SignInFailed):
            await accounts.called_back(answer)
    assert await accounts.vault.get(ann, "mail") is None


@pytest.mark.parametrize("issuer", [None, "https://evil.example", "https://issuer.example/"])
async def test_a_mixed_up_issuer_is_refused(make_accounts: Make, server: Any, ann: Principal, issuer: str | None):
    """Where a server says who it is, an answer of another or of nobody is not redeemed."""
    accounts = make_accounts(mail(server, issuer="https://issuer.example"))
    server.issuer = issuer
    with pytest.raises(SignInFailed, match="not from https://issuer"):
        await signed_in(accounts, server, ann)
    assert server.upstream.requests == []
    server.issuer = "https://issuer.example"
    assert await signed_in(accounts, server, ann)


async def test_a_refused_sign_in_is_logged_without_what_it_brought(
    make_accounts: Make, server: Any, ann: Principal, bob: Principal, caplog: pytest.LogCaptureFixture
):
    """Forged, denied, reused, somebody else's: each is a line in the log, and the state and the code are not in it."""
    accounts = make_accounts(mail(server))
    answer = server.consent(await accounts.begin(ann, "mail"))
    denied = attrs.evolve(server.consent(await accounts.begin(ann, "mail")), code=Secret(""), error="access_denied")
    forged = attrs.evolve(answer, state="forged")
    for brought, caller in ((forged, None), (answer, bob), (denied, ann), (denied, ann)):
        with pytest.raises(SignInFailed):
            await accounts.called_back(brought, caller)
    await accounts.called_back(answer, ann)
    with pytest.raises(SignInFailed):
        await accounts.called_back(answer, ann)
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.rpartition(": ")[2] for line in lines] == [
        "this sign-in was not begun here, or too long ago",
        "this sign-in was begun by somebody else",
        "access_denied",
        "this sign-in has been used already",
        "this sign-in has been used already",
    ]
    assert not [text for text in (answer.state, answer.code.reveal(), *server.given) if text in caplog.text]


async def test_an_answer_without_a_code_is_refused(make_accounts: Make, server: Any, ann: Principal):
    """It is neither a yes nor a no."""
    accounts = make_accounts(mail(server))
    answer = server.consent(await accounts.begin(ann, "mail"))
    with pytest.raises(SignInFailed, match="no code"):
        await accounts.called_back(attrs.evolve(answer, code=Secret("")))


async def test_a_server_that_does_not_answer_ends_a_sign_in(make_accounts: Make, server: Any, ann: Principal):
    """Nothing is stored; the user begins again."""
    accounts = make_accounts(mail(server))
    server.down()
    with pytest.raises(AccountUnavailable):
        await signed_in(accounts, server, ann)
    server.up()
    assert await signed_in(accounts, server, ann)


async def test_without_a_known_address_no_sign_in_begins(database: Database, server: Any, key_file, ann: Principal):
    """A `Host` header must not decide where codes are sent to. A redirect URI of the account's own is as good."""
    known = {"mail": mail(server)}
    accounts = Accounts(database, key_file, registered=lambda: known)
    with pytest.raises(Conflict, match="browsers reach this server"):
        await accounts.begin(ann, "mail")
    known["mail"] = mail(server, redirect_uri="https://chat.example.org/api/mail-auth/callback")
    assert "redirect_uri=https%3A%2F%2Fchat.example.org%2Fapi%2Fmail-auth%2Fcallback" in await accounts.begin(
        ann, "mail"
    )
    assert await signed_in(accounts, server, ann)


async def test_a_failing_look_for_the_subject_does_not_undo_a_sign_in(make_accounts: Make, server: Any, ann: Principal):
    """It is only for people to read."""

    async def who(token: Secret) -> str:
        raise ZeroDivisionError

    accounts = make_accounts(mail(server, subject=who))
    assert await signed_in(accounts, server, ann) == "Mail is connected."
    assert await accounts.token(ann, "mail")


# --- staying signed in ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("database_url", ["sqlite", "postgres"], indirect=True)
async def test_fifty_callers_of_two_workers_cause_one_refresh(make_accounts: Make, server: Any, ann: Principal):
    """The server ends everything if a refresh token comes twice."""
    server.lifetime = 30  # less than a token must have left
    workers = [make_accounts(mail(server)), make_accounts(mail(server))]
    await signed_in(workers[0], server, ann)
    server.lifetime = 3600
    tokens = await asyncio.gather(*(workers[number % 2].token(ann, "mail") for number in range(50)))
    assert {token.reveal() for token in tokens} == {server.given[2]}
    assert (server.refreshes, server.ended) == (1, False)


async def test_refresh_after_refresh_the_newest_token_is_used(make_accounts: Make, server: Any, ann: Principal):
    """With rotation, and with a server that says its refresh token only once."""
    server.lifetime = 30
    for rotates in (True, False):
        server.rotates = rotates
        server._refresh_tokens.clear()
        await signed_in(make_accounts(mail(server)), server, ann)
        for _ in range(3):
            token = await make_accounts(mail(server)).token(ann, "mail")
            assert token.reveal() == server.given[-2]
    assert (server.refreshes, server.ended) == (6, False)


async def test_a_caller_that_goes_away_does_not_cut_the_refresh(make_accounts: Make, server: Any, ann: Principal):
    """The new refresh token would be lost, and the old one is used up."""
    server.lifetime = 30
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    server.lifetime = 3600
    asking = asyncio.create_task(accounts.token(ann, "mail"))
    await server.upstream.request(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await accounts.close()
    assert (await make_accounts(mail(server)).token(ann, "mail")).reveal() == server.given[2]
    assert server.refreshes == 1


async def test_a_refused_refresh_token_means_to_sign_in_again(
    make_accounts: Make, server: Any, ann: Principal, caplog: pytest.LogCaptureFixture
):
    """The server is asked once; from then on the account says so by itself, until somebody signs in."""
    server.lifetime = 30
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    server.ended = True
    for _ in range(2):
        with pytest.raises(SignInNeeded, match="sign in to Mail again"):
            await accounts.token(ann, "mail")
    assert server.refreshes == 1
    assert "ann has to sign in to mail again: " in caplog.text
    assert "invalid_grant: revoked" in caplog.text
    assert [one.state for one in await accounts.statuses(ann)] == ["sign_in_again"]
    server.ended, server.lifetime = False, 3600
    await signed_in(accounts, server, ann)
    assert await accounts.token(ann, "mail")


async def test_a_failing_network_leaves_the_account_as_it_is(make_accounts: Make, server: Any, ann: Principal):
    """So does an error that is the operator's to mend."""
    server.lifetime = 30
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    server.down()
    with pytest.raises(AccountUnavailable):
        await accounts.token(ann, "mail")
    server.up()
    with pytest.raises(AccountError, match="invalid_client") as caught:
        await make_accounts(mail(server, client_secret=Secret("wrong"))).token(ann, "mail")
    assert type(caught.value) is AccountError
    assert [one.state for one in await accounts.statuses(ann)] == ["connected"]
    assert await accounts.token(ann, "mail")


async def test_an_expired_token_without_a_refresh_token_means_to_sign_in_again(
    make_accounts: Make, server: Any, ann: Principal
):
    """There is nothing to ask the server for."""
    server.lifetime, server.rotates = 30, False
    server._refresh_tokens["spent"] = False  # so that it gives none
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    with pytest.raises(SignInNeeded, match="sign in to Mail again"):
        await accounts.token(ann, "mail")
    assert server.refreshes == 0


async def test_a_token_that_the_service_refuses_is_replaced(make_accounts: Make, server: Any, ann: Principal):
    """Though it should still be good; once, however many have been refused."""
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    old = await accounts.token(ann, "mail")
    new = await asyncio.gather(*(accounts.token(ann, "mail", refused=old) for _ in range(5)))
    assert {token.reveal() for token in new} == {server.given[2]}
    assert await accounts.token(ann, "mail", refused=old) == new[0]
    assert server.refreshes == 1


async def test_no_token_is_readable_in_the_database_or_the_log(
    make_accounts: Make, database: Database, server: Any, ann: Principal, caplog: pytest.LogCaptureFixture
):
    """Of all that the server has given, also when it refuses in the end."""
    caplog.set_level(logging.DEBUG)
    server.lifetime = 30
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    await accounts.token(ann, "mail")
    server.ended = True
    with pytest.raises(SignInNeeded):
        await accounts.token(ann, "mail")
    rows = await database.read(
        lambda: [tables.execute(f"SELECT * FROM {name}") for name in ("account", "sign_in", "job")]
    )
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("chatcore", "oauthlib"))]
    assert len(server.given) == 4
    assert not [text for text in (*server.given, "s:e c") if text in repr((rows, ours, accounts.__dict__))]


# --- leaving ----------------------------------------------------------------------------------------------------------


async def test_forgetting_revokes_at_the_service(make_accounts: Make, server: Any, ann: Principal, bob: Principal):
    """And nobody forgets what is another's."""
    accounts = make_accounts(mail(server, revoke_url=f"{server.url}/revoke"))
    await signed_in(accounts, server, ann)
    with pytest.raises(NotFound):
        await accounts.forget(bob, "mail")
    assert await accounts.forget(ann, "mail")
    assert server.revoked == [server.given[1]]
    with pytest.raises(SignInNeeded):
        await accounts.token(ann, "mail")
    with pytest.raises(NotFound):
        await accounts.forget(ann, "mail")


@pytest.mark.parametrize("trouble", ["no url", "no server", "no key", "no plugin"])
async def test_forgetting_works_whatever_is_wrong(
    make_accounts: Make, server: Any, ann: Principal, key_file, trouble: str
):
    """It says that the service was not told."""
    url = f"{server.url}/revoke"
    await signed_in(make_accounts(mail(server, revoke_url=url)), server, ann)
    if trouble == "no server":
        url = "http://127.0.0.1:1/revoke"
    if trouble == "no key":
        key_file.unlink()
    account = mail(server, revoke_url=None if trouble == "no url" else url)
    accounts = make_accounts(*([account] if trouble != "no plugin" else []))
    assert not await accounts.forget(ann, "mail")
    assert await accounts.vault.get(ann, "mail") is None


async def test_who_leaves_while_a_token_is_refreshed_is_gone(make_accounts: Make, server: Any, ann: Principal):
    """What the refresh brings is not stored behind their back."""
    server.lifetime = 30
    accounts = make_accounts(mail(server))
    await signed_in(accounts, server, ann)
    answered = asyncio.Event()
    server.upstream.route("/token", lambda request: attrs.evolve(server._token(request), before=answered))
    asking = asyncio.create_task(accounts.token(ann, "mail"))
    await server.upstream.request(1)
    leaving = asyncio.create_task(make_accounts(mail(server)).forget(ann, "mail"))
    await asyncio.wait([leaving], timeout=0.3)  # if it does not wait for the refresh it ends in this time
    answered.set()
    await asyncio.gather(asking, leaving)
    assert await accounts.vault.get(ann, "mail") is None


# --- forms ------------------------------------------------------------------------------------------------------------


async def no(typed: Mapping[str, Secret]) -> SignedIn:
    raise SignInFailed("wrong PIN")


async def test_a_form_is_tried_before_it_is_kept(make_accounts: Make, server: Any, ann: Principal):
    """The plugin gets secrets, of the fields that it asked for; what it gives is stored."""
    seen: list[Mapping[str, Secret]] = []

    async def sign_in(typed: Mapping[str, Secret]) -> SignedIn:
        seen.append(typed)
        if typed["pin"].reveal() != "1234":
            raise SignInFailed("wrong PIN")
        return SignedIn(document={"session": "s"}, subject="ann")

    fields = (FormField(name="pin", title="PIN", secret=True), FormField(name="code", title="Code", required=False))
    accounts = make_accounts(
        Account(name="bank", title="Bank", sign_in=Form(fields=fields, sign_in=sign_in)), mail(server)
    )
    with pytest.raises(SignInFailed, match="fill in pin"):
        await accounts.submit(ann, "bank", {"code": "1"})
    with pytest.raises(SignInFailed, match="wrong PIN"):
        await accounts.submit(ann, "bank", {"pin": "0"})
    with pytest.raises(SignInNeeded):
        await accounts.entry(ann, "bank")
    await accounts.submit(ann, "bank", {"pin": "1234", "else": "x"})
    assert seen[-1] == {"pin": Secret("1234")}
    entry = await accounts.entry(ann, "bank")
    assert (entry.document, entry.subject) == ({"session": "s"}, "ann")


async def test_each_account_is_signed_in_to_in_its_own_way(make_accounts: Make, server: Any, ann: Principal):
    """And one that nobody has registered in none."""
    accounts = make_accounts(Account(name="bank", title="Bank", sign_in=Form(fields=(), sign_in=no)), mail(server))
    for asked in (
        accounts.begin(ann, "bank"),
        accounts.token(ann, "bank"),
        accounts.submit(ann, "mail", {}),
        accounts.begin(ann, "none"),
        accounts.token(ann, "none"),
        accounts.submit(ann, "none", {}),
    ):
        with pytest.raises(NotFound):
            await asked


@pytest.mark.parametrize("name", ["", "Mail", "my mail", "tools/mail", "../mail", "9", "m" * 65])
def test_names_are_plain(name: str):
    """They are in paths, and those with a slash are for other uses."""
    with pytest.raises(ValueError, match="name"):
        Account(name=name, title="", sign_in=OAuth(authorize_url="https://a", token_url="https://a", client_id="c"))
