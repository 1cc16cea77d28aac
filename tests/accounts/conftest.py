"""An authorization server on a real port, strict as the real ones are, and accounts of both databases."""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import parse_qs, parse_qsl, urlsplit

import attrs
import pytest
import pytest_asyncio

from chatcore.accounts import Accounts, Answer
from chatcore.database import Database
from chatcore.protocols import Account, OAuth
from chatcore.secrets import Secret
from chatcore.testing.upstream import FakeUpstream, Reply, Request
from chatcore.types import Principal

HERE = "http://127.0.0.1:8000"


@attrs.define
class AuthorizationServer:
    """OAuth 2 with PKCE. A refresh token can be used once; who uses one again has stolen it, and all end."""

    upstream: FakeUpstream
    lifetime: int = 3600
    rotates: bool = True
    issuer: str | None = None
    refreshes: int = 0
    given: list[str] = attrs.field(factory=list)
    revoked: list[str] = attrs.field(factory=list)
    ended: bool = False
    _codes: dict[str, dict[str, str]] = attrs.field(factory=dict)
    _refresh_tokens: dict[str, bool] = attrs.field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self.up()

    @property
    def url(self) -> str:
        return self.upstream.url

    def up(self) -> None:
        self.upstream.route("/token", self._token)
        self.upstream.route("/revoke", self._revoke)

    def down(self) -> None:
        """It answers with errors until it is up again."""
        self.upstream.route("/token", Reply.json({"error": "server_error"}, status=503))

    def oauth(self, **fields: object) -> OAuth:
        return OAuth(
            **{
                "authorize_url": f"{self.url}/authorize",
                "token_url": f"{self.url}/token",
                "client_id": "chat core",
                "client_secret": Secret("s:e c"),
                "scopes": ("read", "write"),
                **fields,
            }
        )

    def consent(self, url: str, **changed: str) -> Answer:
        """What a browser brings back from a page where the user has said yes."""
        asked = {**dict(parse_qsl(urlsplit(url).query)), **changed}
        assert asked["response_type"] == "code"
        code = f"code-{secrets.token_hex(4)}"
        self._codes[code] = asked
        return Answer(state=asked["state"], code=Secret(code), issuer=self.issuer)

    def _token(self, request: Request) -> Reply:
        form = {name: value for name, [value] in parse_qs(request.body.decode()).items()}
        if not _is_client(request, form):
            return Reply.json({"error": "invalid_client"}, status=401)
        if form["grant_type"] == "refresh_token":
            return self._refresh(form["refresh_token"])
        asked = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if asked is None or (asked["code_challenge"], asked["code_challenge_method"], asked["redirect_uri"]) != (
            challenge.decode(),
            "S256",
            form["redirect_uri"],
        ):
            return Reply.json({"error": "invalid_grant", "error_description": "wrong code"}, status=400)
        return self._new({"scope": asked["scope"]} if "scope" in asked else {})

    def _refresh(self, token: str) -> Reply:
        self.refreshes += 1
        unused = self._refresh_tokens.get(token)
        if unused and not self.ended:
            self._refresh_tokens[token] = not self.rotates
            return self._new({})
        self.ended = True
        return Reply.json({"error": "invalid_grant", "error_description": "revoked"}, status=400)

    def _new(self, fields: dict[str, str]) -> Reply:
        access_token, refresh_token = f"access-{secrets.token_hex(8)}", f"refresh-{secrets.token_hex(8)}"
        self.given += [access_token, refresh_token]
        given = {"access_token": access_token, "token_type": "Bearer", "expires_in": self.lifetime, **fields}
        if self.rotates or not self._refresh_tokens:
            given["refresh_token"] = refresh_token
            self._refresh_tokens[refresh_token] = True
        return Reply.json(given)

    def _revoke(self, request: Request) -> Reply:
        form = dict(parse_qsl(request.body.decode()))
        if not _is_client(request, form):
            return Reply.json({"error": "invalid_client"}, status=401)
        self.revoked.append(form["token"])
        return Reply.json({})


def _is_client(request: Request, form: dict[str, str]) -> bool:
    kind, _, pair = request.headers.get("authorization", "").partition(" ")
    if kind == "Basic":
        return base64.b64decode(pair) == b"chat+core:s%3Ae+c"
    return (form.get("client_id"), form.get("client_secret")) in (("chat core", "s:e c"), ("public", None))


@pytest_asyncio.fixture
async def server() -> AsyncIterator[AuthorizationServer]:
    async with FakeUpstream(base="") as upstream:
        yield AuthorizationServer(upstream)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return tmp_path / "data" / "accounts.key"


@pytest.fixture
def make_accounts(database: Database, key_file: Path) -> Callable[..., Accounts]:
    """Makes the accounts of a worker; all have the same database and the same keys."""

    def make(*registered: Account, key_file: Path = key_file) -> Accounts:
        known = {account.name: account for account in registered}
        return Accounts(database, key_file, public_url=HERE, registered=lambda: known)

    return make


@pytest.fixture
def ann() -> Principal:
    return Principal("ann")


@pytest.fixture
def bob() -> Principal:
    return Principal("bob")
