"""The requests of OAuth, as they go out and as odd servers answer them."""

import asyncio
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from chatcore.accounts import oauth as requests
from chatcore.errors import AccountError, AccountUnavailable, SignInNeeded
from chatcore.protocols import OAuth
from chatcore.testing.upstream import Reply

CALL_BACK = "http://127.0.0.1:8000/api/accounts/callback"
GIVEN = {"access_token": "a", "token_type": "Bearer"}


def test_the_authorization_request_has_all_that_protects_it():
    """State, S256, the exact redirect URI; and what the provider wants besides, also in a URL with a query."""
    oauth = OAuth(
        authorize_url="https://example.org/authorize?tenant=a%20b",
        token_url="https://example.org/token",
        client_id="chat core",
        scopes=("read", "write"),
        parameters={"prompt": "consent"},
    )
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"  # of RFC 7636, appendix B, as the challenge is
    url = requests.authorize_url(oauth, state="the state", verifier=verifier, redirect_uri=CALL_BACK)
    assert url.startswith("https://example.org/authorize?")
    assert parse_qs(urlsplit(url).query) == {
        "tenant": ["a b"],
        "prompt": ["consent"],
        "response_type": ["code"],
        "client_id": ["chat core"],
        "redirect_uri": [CALL_BACK],
        "scope": ["read write"],
        "state": ["the state"],
        "code_challenge": ["E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"],
        "code_challenge_method": ["S256"],
    }


def test_verifiers_are_long_and_new_each_time():
    """Within what the RFC allows."""
    verifiers = {requests.new_verifier() for _ in range(10)}
    assert len(verifiers) == 10
    assert all(len(verifier) == 64 for verifier in verifiers)


@pytest.mark.parametrize(
    "parameters", [{"state": "mine"}, {"code_challenge_method": "plain"}, {"redirect_uri": "https://evil.example"}]
)
def test_a_plugin_cannot_weaken_the_request(parameters: dict[str, str]):
    """What protects it is not among the extra parameters."""
    with pytest.raises(ValueError, match="chatcore sets itself"):
        OAuth(authorize_url="https://a.example", token_url="https://a.example", client_id="c", parameters=parameters)


@pytest.mark.parametrize("url", ["http://example.org/token", "ftp://example.org", "https://", "/token", ""])
def test_a_secret_goes_to_private_urls_only(url: str):
    """https, or this machine."""
    with pytest.raises(ValueError, match="https"):
        OAuth(authorize_url="https://a.example", token_url=url, client_id="c")


@pytest.mark.parametrize(
    ("fields", "in_form", "header"),
    [
        ({}, {}, "Basic Y2hhdCtjb3JlOnMlM0FlK2M="),
        ({"secret_in_body": True}, {"client_id": ["chat core"], "client_secret": ["s:e c"]}, None),
        ({"client_id": "public", "client_secret": None}, {"client_id": ["public"]}, None),
    ],
)
async def test_the_client_shows_itself_as_the_server_wants_it(server: Any, fields: Any, in_form: Any, header: Any):
    """In the header, in the form, or without a secret: for the exchange, the refresh and the revocation."""
    oauth = server.oauth(revoke_url=f"{server.url}/revoke", **fields)
    url = requests.authorize_url(oauth, state="s", verifier="v" * 43, redirect_uri=CALL_BACK)
    code = server.consent(url).code.reveal()
    tokens = await requests.redeem(oauth, code=code, verifier="v" * 43, redirect_uri=CALL_BACK)
    assert tokens.scopes == ("read", "write")
    newer = await requests.renew(oauth, tokens.document, tokens.scopes)
    assert newer.document["refresh_token"] != tokens.document["refresh_token"]
    assert await requests.revoke(oauth, newer.document)
    assert server.revoked == [newer.document["refresh_token"]]
    for request in server.upstream.requests:
        form = parse_qs(request.body.decode())
        assert {key: form.get(key) for key in ("client_id", "client_secret") if key in form} == in_form
        assert request.headers.get("authorization") == header


async def renewed(server: Any, reply: Reply, **old: str) -> requests.Tokens:
    server.upstream.route("/token", reply)
    return await requests.renew(server.oauth(), {"refresh_token": "old", **old}, ("read",))


async def test_what_the_server_does_not_say_again_stays(server: Any):
    """The refresh token and the scopes; a token without an end has none."""
    tokens = await renewed(server, Reply.json(GIVEN))
    assert (tokens.document, tokens.scopes, tokens.expires_at) == (
        {"access_token": "a", "refresh_token": "old"},
        ("read",),
        None,
    )
    assert (await renewed(server, Reply.json({**GIVEN, "scope": "less"}))).scopes == ("less",)
    form = Reply(body=b"access_token=a&expires_in=60", headers={"content-type": "application/x-www-form-urlencoded"})
    assert (await renewed(server, form)).expires_at is not None
    assert (await renewed(server, Reply.json({**GIVEN, "expires_in": 10**18}))).expires_at is not None


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Reply.json({"error": "invalid_grant"}, status=400), SignInNeeded),
        (Reply.json({"error": "invalid_grant"}), SignInNeeded),
        (Reply.json({"error": "invalid_client"}, status=401), AccountError),
        (Reply.json({"error": {"code": 400, "message": "no"}}, status=400), AccountError),
        (Reply.json({"error": ["x"]}, status=400), AccountError),
        (Reply.json({}), AccountError),
        (Reply.json([]), AccountError),
        (Reply.json("text"), AccountError),
        (Reply.json({**GIVEN, "expires_in": "soon"}), AccountError),
        (Reply.json(GIVEN, status=400), AccountError),
        (Reply(body=b"<html>", status=200), AccountError),
        (Reply(body=b"\xff\xfe", status=404), AccountError),
        (Reply(status=302, headers={"location": "https://elsewhere.example"}), AccountError),
        (Reply.json({"error": "slow_down"}, status=429), AccountUnavailable),
        (Reply(status=500), AccountUnavailable),
        (Reply(hang_up=True), AccountUnavailable),
        (Reply.json(GIVEN, drop_after=5), AccountUnavailable),
    ],
)
async def test_every_answer_has_its_error(server: Any, reply: Reply, error: type[AccountError]):
    """Only `invalid_grant` means that the owner has to sign in again; only silence is worth another try."""
    with pytest.raises(AccountError) as caught:
        await renewed(server, reply, access_token="planted")
    assert type(caught.value) is error
    assert "planted" not in str(caught.value)
    assert len(caught.value.message) < 400


async def test_a_server_that_says_nothing_is_not_waited_for(server: Any, monkeypatch: pytest.MonkeyPatch):
    """For longer than its time."""
    monkeypatch.setattr(requests, "PATIENCE", 0.2)
    with pytest.raises(AccountUnavailable):
        await renewed(server, Reply.silence())


async def test_without_a_url_or_a_token_nothing_is_revoked(server: Any):
    """And nothing is asked."""
    assert not await requests.revoke(server.oauth(), {"access_token": "a"})
    assert not await requests.revoke(server.oauth(revoke_url=f"{server.url}/revoke"), {"session": "of a form"})
    assert server.upstream.requests == []


async def test_a_server_that_cannot_be_reached_is_told_with_the_remedy():
    """Here that the address is wrong, not that the service is down."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        url = f"https://127.0.0.1:{listening.sockets[0].getsockname()[1]}/token"
        oauth = OAuth(authorize_url=url, token_url=url, client_id="c")
        with pytest.raises(AccountUnavailable, match="does not speak TLS") as caught:
            await requests.renew(oauth, {"refresh_token": "r"}, ())
    assert "write http://" in (caught.value.hint or "")
