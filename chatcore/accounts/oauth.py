"""The requests of OAuth 2 (RFC 6749, 7009, 7636), as `oauthlib` makes and reads them, sent with our own client."""

import asyncio
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from urllib.parse import quote_plus, urlencode

import attrs

from chatcore.errors import AccountError, AccountUnavailable, SignInNeeded
from chatcore.http import Timeouts, cause_of, failures, make_client, reason_of
from chatcore.protocols import OAuth
from chatcore.tools import JsonObject

if TYPE_CHECKING:
    import httpx

PATIENCE = 30.0
"""Seconds that a request may take in all."""

_TIMEOUTS = Timeouts(connect=10.0, first_byte=20.0, idle=10.0)
_LONGEST_REASON = 200
_LONGEST_LIFETIME = 10 * 365 * 86_400  # seconds


@attrs.frozen(kw_only=True)
class Tokens:
    """What a server has given. `document` is what is to be kept of it."""

    document: JsonObject = attrs.field(repr=False)
    scopes: Sequence[str]
    expires_at: datetime | None


def new_verifier() -> str:
    """A secret of PKCE: who redeems the code shows that it asked for it."""
    return token_urlsafe(48)  # 64 characters, of 43 to 128


def authorize_url(oauth: OAuth, *, state: str, verifier: str, redirect_uri: str) -> str:
    """Where to send the browser."""
    parameters = {
        **oauth.parameters,
        "response_type": "code",
        "client_id": oauth.client_id,
        "redirect_uri": redirect_uri,
        "scope": " ".join(oauth.scopes),
        "state": state,
        "code_challenge": _client(oauth).create_code_challenge(verifier, "S256"),
        "code_challenge_method": "S256",
    }
    url: str = library().common.add_params_to_uri(
        oauth.authorize_url, [(name, value) for name, value in parameters.items() if value]
    )
    return url


async def redeem(oauth: OAuth, *, code: str, verifier: str, redirect_uri: str) -> Tokens:
    """The tokens for a code.

    Raises:
        AccountUnavailable: the server does not answer.
        SignInNeeded: the code or the verifier is wrong.
        AccountError: the server says no for another reason.
    """
    await asyncio.to_thread(library)
    body = _client(oauth).prepare_request_body(
        code=code, redirect_uri=redirect_uri, code_verifier=verifier, include_client_id=_shows_itself(oauth)
    )
    return _tokens(oauth, await _post(oauth, oauth.token_url, body), {}, oauth.scopes)


async def renew(oauth: OAuth, document: JsonObject, scopes: Sequence[str]) -> Tokens:
    """The tokens for an old document's refresh token.

    Raises:
        AccountUnavailable: the server does not answer.
        SignInNeeded: there is no refresh token, or none that the server takes.
        AccountError: it says no for another reason.
    """
    if "refresh_token" not in document:
        raise SignInNeeded("the token is good no more, and there is none to refresh it with")
    await asyncio.to_thread(library)
    shown = {"client_id": oauth.client_id} if _shows_itself(oauth) else {}
    body = _client(oauth).prepare_refresh_body(refresh_token=document["refresh_token"], **shown)
    return _tokens(oauth, await _post(oauth, oauth.token_url, body), document, scopes)


async def revoke(oauth: OAuth, document: JsonObject) -> bool:
    """Has the server forget what it has given. False: it cannot, or would not."""
    token = document.get("refresh_token") or document.get("access_token")
    if oauth.revoke_url is None or token is None:
        return False
    shown = {"client_id": oauth.client_id} if _shows_itself(oauth) else {}
    return (await _post(oauth, oauth.revoke_url, urlencode({"token": token, **shown}))).is_success


# --- the two ends -----------------------------------------------------------------------------------------------------


def library() -> Any:
    """`oauthlib`, imported when it is first needed: that takes 0.1 s, and most servers have no accounts."""
    import oauthlib.common  # type: ignore[import-untyped]  # noqa: PLC0415  it has no type hints; see above
    import oauthlib.oauth2  # type: ignore[import-untyped]  # noqa: PLC0415  as above

    return oauthlib


def _client(oauth: OAuth) -> Any:
    return library().oauth2.WebApplicationClient(oauth.client_id)


def _shows_itself(oauth: OAuth) -> bool:
    """Whether the client's id is in the form, not in the header."""
    return oauth.client_secret is None or oauth.secret_in_body


async def _post(oauth: OAuth, url: str, body: str) -> "httpx.Response":
    headers = {"content-type": "application/x-www-form-urlencoded", "accept": "application/json"}
    if oauth.client_secret is not None and oauth.secret_in_body:
        body += f"&client_secret={quote_plus(oauth.client_secret.reveal())}"
    elif oauth.client_secret is not None:
        pair = f"{quote_plus(oauth.client_id)}:{quote_plus(oauth.client_secret.reveal())}"
        headers["authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    try:
        async with asyncio.timeout(PATIENCE), await asyncio.to_thread(make_client, timeouts=_TIMEOUTS) as client:
            response = await client.post(url, content=body.encode(), headers=headers)
    except failures() as error:  # a time-out is one
        hint = known.remedy if (known := cause_of(error)) else "try again later"
        raise AccountUnavailable(f"{url} does not answer: {reason_of(error)}", hint=hint) from error
    if response.status_code == 429 or response.status_code >= 500:
        raise AccountUnavailable(f"{url} answers {response.status_code}", hint="try again later")
    return response


def _tokens(oauth: OAuth, response: "httpx.Response", old: JsonObject, scopes: Sequence[str]) -> Tokens:
    """What the server has given; what it does not say again stays."""
    try:
        given = _client(oauth).parse_request_body_response(response.text)
    except library().oauth2.OAuth2Error as error:
        raise _refusal(oauth, response, error.error, error.description) from None
    except (AttributeError, TypeError, ValueError):  # what oauthlib makes of JSON that is no object
        raise _refusal(oauth, response, "no answer of OAuth 2", "") from None
    if not response.is_success:
        raise _refusal(oauth, response, "an error with a token", "")
    document = {"access_token": given["access_token"]}
    if refresh_token := given.get("refresh_token") or old.get("refresh_token"):
        document["refresh_token"] = refresh_token
    lifetime = given.get("expires_in")
    return Tokens(
        document=document,
        scopes=tuple(given["scope"] if given.get("scope") else scopes),
        expires_at=datetime.now(UTC) + timedelta(seconds=min(lifetime, _LONGEST_LIFETIME)) if lifetime else None,
    )


def _refusal(oauth: OAuth, response: "httpx.Response", error: object, description: object) -> AccountError:
    """The error for a no."""
    message = f"{oauth.token_url} answers {response.status_code}, {in_one_line(f'{error}: {description}')}"
    if error == "invalid_grant":
        return SignInNeeded(message)
    return AccountError(message, hint="see whether the client's id and secret are right, and what it may ask for")


def in_one_line(text: str) -> str:
    """What somebody else has written, as it may be logged and shown: one line, not a long one."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_REASON])
