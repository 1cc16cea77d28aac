"""An MCP server that wants to know who is asking, and its authorization server, both on one real port.

It is as strict as the real ones are: PKCE, one use of a code, and one of a refresh token: who uses one twice has stolen
it, and everything ends.
"""

import base64
import hashlib
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit

import attrs

from chatcore.testing.upstream import FakeUpstream, Reply, Request

CALLED = "called as {}"


@attrs.define
class Guarded:
    """The fake. `wanted` is the scope that a call needs; `subject` is who signs in next."""

    upstream: FakeUpstream
    lifetime: int | None = 3600
    wanted: str = "read"
    subject: str = "somebody"
    tokens: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    refreshes: int = 0
    revoked: list[str] = attrs.field(factory=list)
    registered: list[dict[str, Any]] = attrs.field(factory=list)
    metadata: dict[str, Any] = attrs.field(factory=dict)
    resource: dict[str, Any] = attrs.field(factory=dict)
    asked: list[dict[str, str]] = attrs.field(factory=list)
    _codes: dict[str, dict[str, str]] = attrs.field(factory=dict)
    _refresh_tokens: dict[str, tuple[str, str]] = attrs.field(factory=dict)
    _used: set[str] = attrs.field(factory=set)

    @property
    def url(self) -> str:
        return f"{self.upstream.url}/mcp"

    def begin(self) -> None:
        here = self.upstream.url
        self.metadata = {
            "issuer": f"{here}/as",
            "authorization_endpoint": f"{here}/authorize",
            "token_endpoint": f"{here}/token",
            "registration_endpoint": f"{here}/register",
            "revocation_endpoint": f"{here}/revoke",
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        self.resource = {"resource": self.url, "authorization_servers": [f"{here}/as"], "scopes_supported": ["read"]}
        self.upstream.route("/mcp", self._mcp)
        self.upstream.route("/resource", lambda _: Reply.json(self.resource))
        self.upstream.route("/.well-known/oauth-authorization-server/as", lambda _: Reply.json(self.metadata))
        self.upstream.route("/register", self._register)
        self.upstream.route("/token", self._token)
        self.upstream.route("/revoke", self._revoke)

    def consent(self, url: str, **changed: str) -> str:
        """The query with which the browser comes back from a page where the user has said yes."""
        asked = dict(parse_qsl(urlsplit(url).query))
        assert asked["code_challenge_method"] == "S256"
        assert asked["resource"] == self.url
        self.asked.append(asked)
        code = secrets.token_hex(4)
        self._codes[code] = asked
        return urlencode({"code": code, "state": asked["state"], "iss": self.metadata["issuer"], **changed})

    def expire(self) -> None:
        """No token that was given is good any more; refreshing them is."""
        self.tokens.clear()

    def end(self) -> None:
        """Neither tokens nor refresh tokens are good any more."""
        self.tokens.clear()
        self._refresh_tokens.clear()

    # --- the MCP server -----------------------------------------------------------------------------------------------

    def _mcp(self, request: Request) -> Reply:
        subject, scope = self.tokens.get(request.headers.get("authorization", "").removeprefix("Bearer "), ("", ""))
        if not subject:
            return self._challenge(401, "")
        message = request.json if request.method == "POST" else {}
        if "id" not in message:
            return Reply(status=202 if message else 405)
        if message["method"] == "tools/call" and self.wanted not in scope.split():
            return self._challenge(403, f', error="insufficient_scope", scope="{self.wanted}"')
        return Reply.json({"jsonrpc": "2.0", "id": message["id"], **self._answer(message, subject)})

    def _challenge(self, status: int, more: str) -> Reply:
        header = f'Bearer resource_metadata="{self.upstream.url}/resource"{more}'
        return Reply(status=status, headers={"www-authenticate": header})

    def _answer(self, message: dict[str, Any], subject: str) -> dict[str, Any]:
        match message["method"]:
            case "initialize":
                about = {"name": "Guarded", "version": "1"}
                return {"result": {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": about}}
            case "tools/list":
                return {"result": {"tools": [{"name": "whoami", "inputSchema": {"type": "object"}}]}}
            case "tools/call":
                return {"result": {"content": [{"type": "text", "text": CALLED.format(subject)}]}}
        return {"error": {"code": -32601, "message": "unknown method"}}

    # --- the authorization server -------------------------------------------------------------------------------------

    def _register(self, request: Request) -> Reply:
        client = {**request.json, "client_id": f"client-{len(self.registered)}", "token_endpoint_auth_method": "none"}
        self.registered.append(client)
        return Reply.json(client, status=201)

    def _token(self, request: Request) -> Reply:
        form = {name: value for name, [value] in parse_qs(request.body.decode()).items()}
        assert form["resource"] == self.url
        if form["grant_type"] == "refresh_token":
            return self._refresh(form["refresh_token"])
        asked = self._codes.pop(form["code"], None)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).rstrip(b"=")
        if asked is None or asked["code_challenge"] != challenge.decode():
            return Reply.json({"error": "invalid_grant"}, status=400)
        return self._new(self.subject, asked.get("scope", ""))

    def _refresh(self, token: str) -> Reply:
        self.refreshes += 1
        if token in self._used:
            self.end()
        given = self._refresh_tokens.pop(token, None)
        if given is None:
            return Reply.json({"error": "invalid_grant", "error_description": "it was used before"}, status=400)
        self._used.add(token)
        return self._new(*given)

    def _new(self, subject: str, scope: str) -> Reply:
        access_token, refresh_token = f"access-{secrets.token_hex(8)}", f"refresh-{secrets.token_hex(8)}"
        self.tokens[access_token] = self._refresh_tokens[refresh_token] = (subject, scope)
        given = {"access_token": access_token, "token_type": "bearer", "refresh_token": refresh_token, "scope": scope}
        return Reply.json(given if self.lifetime is None else {**given, "expires_in": self.lifetime})

    def _revoke(self, request: Request) -> Reply:
        [token] = parse_qs(request.body.decode())["token"]
        self.revoked.append(token.partition("-")[0])
        self.tokens.pop(token, None)
        return Reply()


@asynccontextmanager
async def guarded() -> AsyncIterator[Guarded]:
    """A running one."""
    async with FakeUpstream(base="") as upstream:
        made = Guarded(upstream)
        made.begin()
        yield made
