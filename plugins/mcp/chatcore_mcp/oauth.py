"""The requests of OAuth 2.1 to the authorization server of an MCP server: signing in, staying so, and leaving.

Signing in is the SDK's flow, driven by hand: it is given the answer by which the server asked, and what it wants to
send goes through our transport with its checks. Refreshing is our own, since the SDK forgets with each process where
the tokens came from and when they end; as is revoking, which it does not do. Importing this imports the SDK.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from typing import Any, cast
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import attrs
import httpx2
from mcp.client.auth import OAuthClientProvider, TokenStorage
from mcp.client.auth.oauth2 import OAuthContext
from mcp.client.auth.utils import extract_field_from_www_auth, is_valid_client_metadata_url
from mcp.shared.auth import AuthorizationCodeResult, OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types.version import LATEST_HANDSHAKE_VERSION, LATEST_PROTOCOL_VERSION
from pydantic import ValidationError

from chatcore.addresses import Reach
from chatcore.errors import AccountError, AccountUnavailable, ChatcoreError, SignInFailed, SignInNeeded
from chatcore.http import cause_of
from chatcore.tools import JsonObject
from chatcore_mcp.definitions import Endpoint, shown
from chatcore_mcp.outbound import make_client
from chatcore_mcp.sign_in import Challenge, Grant, SignIn, Visit

ANSWER = 10.0
"""Seconds that an authorization server may take for an answer."""
LONGEST_REASON = 300
"""Characters that are told of what an authorization server says."""
LONGEST_LIFETIME = 10 * 365 * 86400

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PASSING = frozenset({None, "temporarily_unavailable", "server_error", "slow_down"})
"""What an authorization server says that may say otherwise later."""


class Bearer(httpx2.Auth):
    """Sends the token of a sign-in with each request of a connection, and notes when the server wants another."""

    def __init__(self, sign_in: SignIn) -> None:
        self._sign_in = sign_in

    async def async_auth_flow(self, request: httpx2.Request) -> Any:
        token = await self._token(request)
        response = yield request
        if response.status_code == 401 and token is not None:
            renewed = await self._token(request, refused=token)
            if renewed is not None:
                token = renewed
                response = yield request
        self._note(request, response, token)

    async def _token(self, request: httpx2.Request, refused: str | None = None) -> str | None:
        token = await self._sign_in.token(refused=refused)
        if token is not None:
            request.headers["authorization"] = f"Bearer {token}"
        return token

    def _note(self, request: httpx2.Request, response: httpx2.Response, token: str | None) -> None:
        lacking = response.status_code == 403 and extract_field_from_www_auth(response, "error") == "insufficient_scope"
        if response.status_code == 401 or lacking:
            challenge = Challenge(
                status=response.status_code,
                header=response.headers.get("www-authenticate", ""),
                protocol_version=request.headers.get(MCP_PROTOCOL_VERSION_HEADER, ""),
            )
            self._sign_in.challenged(challenge, token)
        elif response.is_success:
            self._sign_in.accepted()


# --- signing in -------------------------------------------------------------------------------------------------------


async def authorize(
    endpoint: Endpoint, reach: Reach, challenge: Challenge | None, known: JsonObject, visit: Visit
) -> Grant:
    """Signs somebody in. `known` is the document of an earlier sign-in: who is registered need not be so again. Where
    the server has not asked who is there, it is given an occasion to.

    Raises:
        SignInFailed: it came to no end, with the reason.
        AccountUnavailable: somebody did not answer.
        Forbidden: something is at an address that may not be reached.
    """
    async with _client(endpoint, reach) as client:
        try:
            journey = _Journey(endpoint, challenge or await _challenge(endpoint, client), known, visit)
            await journey.drive(client)
        except (ChatcoreError, httpx2.HTTPError):
            raise
        except Exception as error:  # noqa: BLE001  the SDK is foreign code, and so is what it reads
            # Of what pydantic says only the first line: the others repeat what was read, tokens included.
            raise SignInFailed(_short(str(error).partition("\n")[0]), hint="begin it again") from None
        return journey.grant()


async def _challenge(endpoint: Endpoint, client: httpx2.AsyncClient) -> Challenge:
    """How a server asks who is there. One that does not may still have said where that is to be found out."""
    about = {"name": "chatcore", "version": version("chatcore")}
    hello = {"protocolVersion": LATEST_HANDSHAKE_VERSION, "capabilities": {}, "clientInfo": about}
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
    headers = {"accept": "application/json, text/event-stream"}
    response = await client.post(endpoint.url, json=message, headers=headers)
    return Challenge(header=response.headers.get("www-authenticate", "") if response.status_code == 401 else "")


class _Journey:
    """One sign-in, as the storage and the handlers of the SDK's provider."""

    def __init__(self, endpoint: Endpoint, challenge: Challenge, known: JsonObject, visit: Visit) -> None:
        own = endpoint.oauth.client_id
        self._endpoint = endpoint
        self._challenge = challenge
        self._visit = visit
        self._states = ("", "")
        self._tokens = _tokens(known) if known.get("url") == endpoint.url else None
        self._registered = _registered(endpoint, known, visit.redirect_uri)
        self.provider = OAuthClientProvider(
            endpoint.url,
            _metadata(visit.redirect_uri),
            self,
            redirect_handler=self.show,
            callback_handler=self.come_back,
            client_metadata_url=own if is_valid_client_metadata_url(own) else None,
        )

    async def drive(self, client: httpx2.AsyncClient) -> None:
        """Has the flow answer the challenge: it sends requests of its own until it would repeat the first."""
        revision = self._challenge.protocol_version or LATEST_PROTOCOL_VERSION
        first = httpx2.Request("POST", self._endpoint.url, headers={MCP_PROTOCOL_VERSION_HEADER: revision})
        headers = {"www-authenticate": self._challenge.header} if self._challenge.header else {}
        response = httpx2.Response(self._challenge.status, headers=headers, request=first)
        flow = self.provider.async_auth_flow(first)
        try:
            await anext(flow)
            while (request := await flow.asend(response)) is not first:
                if first.url.scheme == "https" != request.url.scheme:
                    raise SignInFailed(f"{shown(str(request.url))} is not https, as the server itself is")
                response = await client.send(request)
        finally:
            await flow.aclose()

    def grant(self) -> Grant:
        """What has come of it."""
        context, tokens = self.provider.context, self._tokens
        if tokens is None or context.client_info is None:
            raise SignInFailed("the authorization server has given no token", hint="begin it again")
        metadata = context.oauth_metadata
        token_url = metadata.token_endpoint if metadata else urljoin(self._endpoint.url, "/token")
        revocation_url = metadata.revocation_endpoint if metadata else None
        has_resource = context.should_include_resource_param(context.protocol_version)
        return _grant(
            tokens,
            {
                "url": self._endpoint.url,
                "client": context.client_info.model_dump(mode="json", exclude_none=True),
                "token_url": str(token_url),
                "revocation_url": str(revocation_url) if revocation_url else None,
                "resource": context.get_resource_url() if has_resource else None,
            },
        )

    # --- what the provider asks for

    async def show(self, url: str) -> None:
        """Publishes the URL to open, with a state that the call-back page knows, and the scope that the file says."""
        _choose_method(self.provider.context)
        parts = urlsplit(url)
        query = dict(parse_qsl(parts.query))
        self._states = (query["state"], await self._visit.begin())
        query["state"] = self._states[1]
        if self._endpoint.oauth.scope and self._challenge.status != 403:
            query["scope"] = self.provider.context.client_metadata.scope = self._endpoint.oauth.scope
        self._visit.publish(urlunsplit(parts._replace(query=urlencode(query))))

    async def come_back(self) -> AuthorizationCodeResult:
        theirs, ours = self._states
        answer = await self._visit.wait(ours)
        return AuthorizationCodeResult(code=answer.code.reveal(), state=theirs, iss=answer.issuer)

    async def get_tokens(self) -> OAuthToken | None:
        return self._tokens

    async def set_tokens(self, tokens: OAuthToken) -> None:
        self._tokens = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        return self._registered

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        self._registered = client_info


def _metadata(redirect_uri: str) -> OAuthClientMetadata:
    local = urlsplit(redirect_uri).hostname in _LOOPBACK
    return OAuthClientMetadata.model_validate(
        {
            "client_name": "chatcore",
            "redirect_uris": [redirect_uri],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "application_type": "native" if local else "web",
        }
    )


def published_client(client_id: str, redirect_uri: str) -> JsonObject:
    """What authorization servers are told that know clients by the URL of such a document."""
    told = _metadata(redirect_uri).model_dump(mode="json", exclude_none=True)
    return {"client_id": client_id, **told, "token_endpoint_auth_method": "none"}


def _registered(endpoint: Endpoint, known: JsonObject, redirect_uri: str) -> OAuthClientInformationFull | None:
    """The client as the authorization server knows it: as the file says, or from an earlier sign-in."""
    own = endpoint.oauth
    if own.client_id and not is_valid_client_metadata_url(own.client_id):
        return OAuthClientInformationFull.model_validate(
            {"client_id": own.client_id, "client_secret": own.client_secret, "redirect_uris": [redirect_uri]}
        )
    client = known.get("client")
    if client is None or known.get("url") != endpoint.url or redirect_uri not in client.get("redirect_uris", ()):
        return None
    return OAuthClientInformationFull.model_validate(client)


def _choose_method(context: OAuthContext) -> None:
    """Where nobody has said how the client shows its secret, it is done as the authorization server likes it."""
    client, metadata = context.client_info, context.oauth_metadata
    if client is None or client.client_secret is None or client.token_endpoint_auth_method is not None:
        return
    liked = (metadata.token_endpoint_auth_methods_supported if metadata else None) or ["client_secret_basic"]
    client.token_endpoint_auth_method = (
        "client_secret_basic" if "client_secret_basic" in liked else "client_secret_post"
    )


def _tokens(known: JsonObject) -> OAuthToken:
    return OAuthToken(
        access_token=known["access_token"], refresh_token=known.get("refresh_token"), scope=known.get("scope")
    )


# --- staying signed in, and leaving -----------------------------------------------------------------------------------


async def renew(endpoint: Endpoint, reach: Reach, document: JsonObject) -> Grant:
    """Other tokens for those of a document.

    Raises:
        SignInNeeded: the authorization server says no.
        AccountUnavailable: it does not answer.
        AccountError: it answers something else.
    """
    fields = {"grant_type": "refresh_token", "refresh_token": document["refresh_token"]}
    if document["resource"] is not None:
        fields["resource"] = document["resource"]
    response = await _post(endpoint, reach, document, document["token_url"], fields)
    try:
        tokens = OAuthToken.model_validate_json(response.content)
    except ValidationError:
        raise _refusal(response) from None
    tokens.scope = tokens.scope or document.get("scope")
    tokens.refresh_token = tokens.refresh_token or document["refresh_token"]
    return _grant(tokens, {key: value for key, value in document.items() if key != "challenge"})


async def revoke(endpoint: Endpoint, reach: Reach, document: JsonObject) -> None:
    """Has the authorization server revoke the tokens of a document, if it can.

    Raises:
        AccountError: it does not.
    """
    if document["revocation_url"] is None:
        return
    kinds = [kind for kind in ("refresh_token", "access_token") if document.get(kind)]
    for kind in kinds:
        fields = {"token": document[kind], "token_type_hint": kind}
        response = await _post(endpoint, reach, document, document["revocation_url"], fields)
        if not response.is_success:
            raise _refusal(response)


async def _post(
    endpoint: Endpoint, reach: Reach, document: JsonObject, url: str, fields: dict[str, str]
) -> httpx2.Response:
    client_info = OAuthClientInformationFull.model_validate(document["client"])
    unused = cast(TokenStorage, None)  # only for the way in which the client shows its secret
    context = OAuthContext(endpoint.url, _metadata(endpoint.url), unused, None, None, client_info=client_info)
    data, headers = context.prepare_token_auth({**fields, "client_id": client_info.client_id}, {})
    async with _client(endpoint, reach) as client:
        return await client.post(url, data=data, headers={"accept": "application/json", **headers})


def _refusal(response: httpx2.Response) -> AccountError:
    try:
        said = response.json()
        code, description = said.get("error"), said.get("error_description") or ""
    except (ValueError, AttributeError):
        code, description = None, ""
    message = _short(f"{shown(str(response.request.url))} answers {response.status_code} {code or ''} {description}")
    if code in _PASSING or response.status_code >= 500 or response.status_code == 429:
        return AccountUnavailable(message, hint="try again later")
    return SignInNeeded(message, hint="sign in again")


def _grant(tokens: OAuthToken, document: JsonObject) -> Grant:
    given = tokens.model_dump(mode="json", include={"access_token", "refresh_token", "scope"}, exclude_none=True)
    lifetime = tokens.expires_in
    return Grant(
        document={**document, **given},
        scopes=(tokens.scope or "").split(),
        expires_at=None if lifetime is None else datetime.now(UTC) + timedelta(seconds=min(lifetime, LONGEST_LIFETIME)),
    )


@asynccontextmanager
async def _client(endpoint: Endpoint, reach: Reach) -> AsyncIterator[httpx2.AsyncClient]:
    """A client for these requests: without the headers that are for the MCP server."""
    client, _ = await make_client(attrs.evolve(endpoint, headers={}), reach)
    client.timeout = httpx2.Timeout(ANSWER)
    async with client:
        try:
            yield client
        except httpx2.HTTPError as error:
            known = cause_of(error)
            why = f"{known.reason}; {known.remedy}" if known else str(error)
            raise AccountUnavailable(_short(f"the authorization server does not answer: {why}")) from error


def _short(text: str) -> str:
    return " ".join(text.split())[:LONGEST_REASON]
