"""The routes of accounts, the page at the end of a sign-in, and the command."""

import asyncio
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import pytest_asyncio
from click.testing import CliRunner

from chatcore.accounts import Accounts
from chatcore.builtin.accounts.command import accounts_command
from chatcore.builtin.accounts.page import page
from chatcore.database import Database, Tokens
from chatcore.errors import AccountUnavailable
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Account, Form, FormField, OAuth, SignedIn
from chatcore.testing.upstream import FakeUpstream, Reply
from chatcore.types import Principal

GIVEN = {"access_token": "planted-access", "refresh_token": "planted-refresh", "expires_in": 3600}
CALL_BACK = "/api/accounts/callback"


async def sign_in_to_bank(typed: Any) -> SignedIn:
    if typed["pin"].reveal() == "0":
        raise AccountUnavailable("the bank is closed")
    return SignedIn(document={"session": typed["pin"].reveal()}, subject="ann")


@pytest_asyncio.fixture
async def service() -> AsyncIterator[FakeUpstream]:
    """What gives tokens to everybody."""
    async with FakeUpstream(base="") as upstream:
        upstream.route("/token", Reply.json(GIVEN))
        upstream.route("/revoke", Reply.json({}))
        yield upstream


@pytest_asyncio.fixture
async def chat(make_chat: Any, service: FakeUpstream) -> Any:
    """A server with an account of each kind."""
    oauth = OAuth(
        authorize_url=f"{service.url}/authorize",
        token_url=f"{service.url}/token",
        revoke_url=f"{service.url}/revoke",
        client_id="chatcore",
    )
    pin = FormField(name="pin", title="PIN", secret=True)

    class Services(Plugin[NoSettings]):
        """Has two accounts."""

        @hookimpl
        def register_accounts(self) -> Any:
            yield Account(name="mail", title="Mail", sign_in=oauth)
            yield Account(name="bank", title="Bank", sign_in=Form(fields=(pin,), sign_in=sign_in_to_bank))

    return await make_chat(Services, config={"public_url": "https://chat.example.org/base/"})


async def begun(chat: Any, **options: Any) -> dict[str, str]:
    """Begins a sign-in, and gives the parameters with which the browser is sent away."""
    answer = await chat.client.post("/api/accounts/mail/sign-in", **options)
    assert answer.status_code == 200, answer.text
    return {name: value for name, [value] in parse_qs(urlsplit(answer.json()["url"]).query).items()}


async def token_of(chat: Any, principal: str) -> dict[str, str]:
    """The header of a new token."""
    _, token = await Tokens(chat.app.extensions["chatcore"].database).create(principal, ["*"], "")
    return {"Authorization": f"Bearer {token}"}


async def test_signing_in_and_out_with_oauth(chat: Any):
    """The list follows; nothing secret is in an answer."""
    sent = await begun(chat)
    assert sent["redirect_uri"] == "https://chat.example.org/base/api/accounts/callback"
    shown = await chat.client.get(CALL_BACK, params={"code": "c", "state": sent["state"]})
    assert (shown.status_code, "Mail is connected." in shown.text) == (200, True)
    listed = await chat.client.get("/api/accounts")
    assert "planted" not in listed.text
    mail, bank = listed.json()["accounts"]
    assert (mail["name"], mail["kind"], mail["state"]) == ("mail", "oauth", "connected")
    assert mail["expires_at"]
    assert bank == {
        "name": "bank",
        "title": "Bank",
        "kind": "form",
        "state": "not_connected",
        "fields": [{"name": "pin", "title": "PIN", "secret": True, "required": True}],
        "subject": "",
        "scopes": [],
        "expires_at": None,
    }
    assert (await chat.client.delete("/api/accounts/mail")).json() == {"revoked": True}
    assert (await chat.client.delete("/api/accounts/mail")).status_code == 404


async def test_signing_in_with_a_form(chat: Any):
    """What is wrong with it is told, and nothing is stored then."""
    for fields, status, code in (
        ({}, 400, "sign_in_failed"),
        ({"pin": "0"}, 502, "account_unavailable"),
        ({"pin": 1}, 422, "invalid"),
    ):
        answer = await chat.client.post("/api/accounts/bank/sign-in", json={"fields": fields})
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    answer = await chat.client.post("/api/accounts/bank/sign-in", json={"fields": {"pin": "1"}})
    assert (answer.status_code, answer.json()) == (200, {"url": None})
    bank = (await chat.client.get("/api/accounts")).json()["accounts"][1]
    assert (bank["state"], bank["subject"]) == ("connected", "ann")
    charges = chat.app.extensions["chatcore"].registry.calls.charges()
    assert [(one.plugin, one.calls) for one in charges if one.what == "account bank"] == [("services", 2)]


async def test_everybody_has_accounts_of_their_own(chat: Any):
    """Nobody sees, ends or begins another's; somebody known cannot bring the answer to another's sign-in."""
    ann, bob = await token_of(chat, "ann"), await token_of(chat, "bob")
    await chat.client.post("/api/accounts/bank/sign-in", json={"fields": {"pin": "1"}}, headers=ann)
    assert [one["state"] for one in (await chat.client.get("/api/accounts", headers=bob)).json()["accounts"]] == [
        "not_connected",
        "not_connected",
    ]
    assert (await chat.client.delete("/api/accounts/bank", headers=bob)).status_code == 404
    sent = await begun(chat, headers=ann)
    brought = {"code": "c", "state": sent["state"]}
    assert (await chat.client.get(CALL_BACK, params=brought, headers=bob)).status_code == 400
    assert (await chat.client.get(CALL_BACK, params=brought)).status_code == 200  # a redirect carries no token
    assert (await chat.client.get("/api/accounts", headers=ann)).json()["accounts"][0]["state"] == "connected"


async def test_without_a_token_nobody_has_accounts_where_one_is_needed(chat: Any):
    """Only the call-back page is for everybody, and it wants a state."""
    headers = await token_of(chat, "ann")
    for method, path in (("GET", ""), ("POST", "/mail/sign-in"), ("DELETE", "/mail")):
        assert (await chat.client.request(method, f"/api/accounts{path}")).status_code == 401
    assert (await chat.client.get("/api/accounts", headers=headers)).status_code == 200
    assert (await chat.client.get(CALL_BACK)).status_code == 400


async def test_a_page_elsewhere_cannot_begin_or_end_anything(chat: Any):
    """Its `Origin` says where it is from."""
    for method, path in (("POST", "/mail/sign-in"), ("DELETE", "/mail")):
        headers = {"Origin": "https://evil.example"}
        assert (await chat.client.request(method, f"/api/accounts{path}", headers=headers)).status_code == 403


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"code": "c"},
        {"code": "c", "state": "forged"},
        {"error": "access_denied", "state": "forged"},
        {"code": "c", "state": "", "next": "https://evil.example"},
    ],
)
async def test_what_was_not_begun_here_gets_a_page_that_says_so(chat: Any, query: dict[str, str]):
    """It neither fails nor leads anywhere, and nothing was sent to the service."""
    answer = await chat.client.get(CALL_BACK, params=query)
    assert (answer.status_code, answer.headers["content-type"]) == (400, "text/html; charset=utf-8")
    assert "was not begun here" in answer.text
    assert 'data-ok="false"' in answer.text
    assert "evil" not in answer.text


async def test_a_denial_is_a_page_whose_text_cannot_run(chat: Any):
    """Whatever the service, or somebody in its name, has written into the address."""
    sent = await begun(chat)
    script = '"><script>alert(1)</script>'
    query = {"state": sent["state"], "error": "access_denied", "error_description": script}
    answer = await chat.client.get(CALL_BACK, params=query)
    assert answer.status_code == 400
    assert "access_denied" in answer.text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in answer.text
    assert answer.text.count("<script") == 1
    again = await chat.client.get(CALL_BACK, params={"state": sent["state"], "code": "c"})
    assert (again.status_code, "used already" in again.text) == (400, True)


async def test_a_service_that_does_not_answer_is_a_page_too(chat: Any, service: FakeUpstream):
    """With the status of such an error, and the remedy."""
    service.route("/token", Reply(hang_up=True))
    sent = await begun(chat)
    answer = await chat.client.get(CALL_BACK, params={"state": sent["state"], "code": "c"})
    assert (answer.status_code, "try again later" in answer.text) == (502, True)


async def test_a_fault_of_the_server_is_a_page_that_tells_nothing_of_it(chat: Any, tmp_path: Any, caplog: Any):
    """It is in the log: where the key is, and what to do."""
    sent = await begun(chat)
    await chat.client.post("/api/accounts/bank/sign-in", json={"fields": {"pin": "1"}})
    keys = chat.app.extensions["chatcore"].plugins.accounts.vault.keys
    keys._fernet = None  # as after a restart
    keys.file.unlink()
    answer = await chat.client.get(CALL_BACK, params={"state": sent["state"], "code": "c"})
    assert (answer.status_code, "accounts.key" in answer.text) == (500, False)
    assert "accounts.key is not there" in caplog.text


def test_the_page_lets_nothing_run_but_its_own_script():
    """By its policy; it tells its opener only if that is a page of this server, and is kept nowhere."""
    response = page("text", 200)
    body = asyncio.run(response.get_data(as_text=True))
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; ")
    for tag in ("script", "style"):
        [content] = re.findall(f"<{tag}>(.*?)</{tag}>", body, re.DOTALL)
        assert f"{tag}-src 'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert "window.location.origin" in body
    assert (response.headers["Cache-Control"], response.headers["Referrer-Policy"]) == ("no-store", "no-referrer")


async def test_an_unloaded_plugin_takes_its_accounts_along(chat: Any):
    """What was stored stays, is listed, and can be forgotten."""
    await chat.client.post("/api/accounts/bank/sign-in", json={"fields": {"pin": "1"}})
    await chat.app.extensions["chatcore"].plugins.unload("services")
    [bank] = (await chat.client.get("/api/accounts")).json()["accounts"]
    assert (bank["name"], bank["kind"], bank["state"]) == ("bank", None, "connected")
    assert (await chat.client.post("/api/accounts/bank/sign-in", json={})).status_code == 404
    assert (await chat.client.delete("/api/accounts/bank")).json() == {"revoked": False}


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Any) -> Any:
    """Runs `chatcore accounts …` on a database where ann and bob are signed in to something."""
    database = Database(str(tmp_path / "db"))
    accounts = Accounts(database, tmp_path / "key")

    async def fill() -> None:
        await database.open()
        await accounts.vault.put(Principal("ann"), "mail", {"access_token": "planted"}, subject="ann@example.org")
        await accounts.vault.put(Principal("bob"), "tools/x", {})
        await accounts.vault.refuse(Principal("bob"), "tools/x")
        await database.close()

    asyncio.run(fill())
    return lambda *arguments: CliRunner().invoke(accounts_command(database, accounts), arguments)


def test_the_operator_sees_who_is_signed_in_where(run: Any):
    """And nothing that is a secret."""
    result = run("list")
    head, *rows = [line.split() for line in result.output.splitlines()]
    assert head[:2] == ["PRINCIPAL", "ACCOUNT"]
    assert [(row[0], row[1], row[2], row[-1]) for row in rows] == [
        ("ann", "mail", "ann@example.org", "connected"),
        ("bob", "tools/x", "-", "again"),
    ]
    assert "planted" not in result.output


def test_the_operator_forgets_one_or_all(run: Any):
    """Also when the key is gone; a wrong name changes nothing."""
    assert run("forget", "mail", "--principal", "bob").exit_code == 1
    assert run("forget", "mail", "--principal", "ann").output == "forgot mail of ann, not revoked at the service\n"
    assert [len(run("list").output.splitlines())] == [2]
    assert run("forget").exit_code == 2
    assert run("forget", "mail", "--all").exit_code == 2
    assert run("forget", "--all").output == "forgot tools/x of bob, not revoked at the service\n"
    assert len(run("list").output.splitlines()) == 1
