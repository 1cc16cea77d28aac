"""What a plugin's contributions look like. Members are read-only, so that frozen attrs classes match."""

import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

import attrs
from attrs import validators

from chatcore.secrets import Secret
from chatcore.tools import JsonObject, Tool
from chatcore.types import Model, ModelEvent, ModelRequest, Principal


@attrs.frozen
class Health:
    """Whether something can be used now. `detail` says why not, or what it is waiting for."""

    state: Literal["ready", "starting", "failed"] = "ready"
    detail: str = ""


@runtime_checkable
class Provider(Protocol):
    """Something that runs models.

    A model id `NAME/…` or `NAME`, with NAME a provider's name, is that provider's. Any other id goes to the provider
    that is `open`: one that serves ids which it need not list, as a gateway does.
    """

    @property
    def name(self) -> str: ...

    @property
    def open(self) -> bool: ...

    @property
    def default_model(self) -> str | None:
        """The model to use where nobody named one."""

    def health(self) -> Health:
        """Whether it can be used now. Called for every /health: no I/O."""

    async def models(self) -> Sequence[Model]:
        """The catalogue; cached by the provider.

        Raises:
            ProviderError: it cannot be had and no earlier one is known.
        """

    def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        """One call of a model: an async generator of lists of events, one list for each read from upstream.

        A complete answer has exactly one `Finish`, after the last of its text; without one it counts as incomplete.
        Closing the generator ends the upstream's work.

        Raises:
            ProviderError: see there for which kind to raise. Retrying before the first token is the provider's task.
        """


@runtime_checkable
class GenerationLookup(Protocol):
    """A provider that can tell afterwards what a generation cost."""

    async def generation(self, generation_id: str) -> JsonObject:
        """The upstream's record of a generation, as it gives it.

        Raises:
            ProviderError: with `upstream_status` where the upstream answered.
        """


@runtime_checkable
class ToolSource(Protocol):
    """Tools that come and go, such as those of a remote server.

    Each is pinned when it is first used: one that changes what it says of itself is suspended until the operator has
    accepted that (`chatcore tools review`).
    """

    @property
    def name(self) -> str: ...

    def tools(self) -> Sequence[Tool]:
        """The tools there are now. Called for every turn: never waits, never touches the network."""


@attrs.frozen(kw_only=True)
class Blob:
    """The description of a stored file. `key` is generated, never taken from a client."""

    key: str
    media_type: str
    filename: str


@runtime_checkable
class BlobStore(Protocol):
    """A place for files. Keys are made of letters, digits, `_`, `-`, `.` and `/`."""

    @property
    def name(self) -> str: ...

    async def put(self, blob: Blob, data: bytes) -> None:
        """Stores a new file. Raises Conflict if the key is taken."""

    async def get(self, key: str) -> bytes:
        """The file's bytes. Raises NotFound."""

    async def url(self, key: str, expires: timedelta) -> str:
        """A URL under which a browser gets the file until it expires. Raises NotFound."""

    async def delete(self, key: str) -> None:
        """Removes the file; no error if there is none."""


@attrs.frozen
class Credentials:
    """What a request says about who is asking: the headers, lower-cased, and the peer's address."""

    headers: JsonObject
    remote: str | None = None


@runtime_checkable
class Authenticator(Protocol):
    """Turns a request into a principal."""

    @property
    def name(self) -> str: ...

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        """The principal, or None if these credentials are not of this authenticator's kind.

        Raises:
            Unauthenticated: they are of this kind, and wrong.
        """


@runtime_checkable
class Activatable(Protocol):
    """An authenticator that may have nothing to ask for yet, as while there are no tokens. Any other always has."""

    async def active(self) -> bool:
        """Whether people must sign in because of this authenticator. Asked for many requests: quick."""


@attrs.frozen
class Lifespan:
    """Something to open at the start and close at the end, in a task of its own.

    `run` is called once and gives the async context manager. A failing one is retried by nobody: it is logged with
    the plugin's name and the server goes on.
    """

    name: str
    run: Callable[[], AbstractAsyncContextManager[object]]


# --- accounts ---------------------------------------------------------------------------------------------------------

_OWN_PARAMETERS = frozenset(
    {"response_type", "client_id", "redirect_uri", "scope", "state", "code_challenge", "code_challenge_method"}
)


def is_private(url: str) -> bool:
    """Whether nobody on the way can read what is sent to a URL: https, or http within this machine."""
    parts = urlsplit(url)
    if parts.scheme == "http":
        with suppress(ValueError):
            return parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    return parts.scheme == "https" and bool(parts.hostname)


def _private(instance: object, field: "attrs.Attribute[str]", value: str) -> None:
    if not is_private(value):
        raise ValueError(f"{field.name} is {value!r}: wanted https://…, or http:// to this machine")


def _not_ours(instance: object, field: "attrs.Attribute[Any]", value: Mapping[str, str]) -> None:
    if ours := _OWN_PARAMETERS & set(value):
        raise ValueError(f"parameters has {', '.join(sorted(ours))}, which chatcore sets itself")


@attrs.frozen(kw_only=True)
class OAuth:
    """A sign-in with OAuth 2: an authorization code, always with PKCE (S256).

    `parameters` are added to the authorization request. `issuer` is the server's, if its metadata say that it names
    itself in its answers (RFC 9207): an answer of another, or of nobody, is then refused. `redirect_uri` is where the
    server sends the browser back to, as registered there to the letter; without it chatcore's own call-back page. A
    route of the plugin's that stands there gives what comes to `accounts.called_back`.
    The secret goes into the header `Authorization`, or with `secret_in_body` into the form. `subject` tells, with a
    fresh access token, as whom somebody has signed in, for people to read.
    """

    authorize_url: str = attrs.field(validator=_private)
    token_url: str = attrs.field(validator=_private)
    client_id: str
    client_secret: Secret | None = None
    secret_in_body: bool = False
    scopes: tuple[str, ...] = ()
    parameters: Mapping[str, str] = attrs.field(factory=dict, validator=_not_ours)
    revoke_url: str | None = attrs.field(default=None, validator=validators.optional(_private))
    issuer: str | None = None
    redirect_uri: str | None = None
    subject: Callable[[Secret], Awaitable[str]] | None = None


@attrs.frozen(kw_only=True)
class FormField:
    """Something to be typed in. A `secret` one is not shown while it is."""

    name: str
    title: str
    secret: bool = False
    required: bool = True


@attrs.frozen(kw_only=True)
class SignedIn:
    """What a form has led to: the document to keep, encrypted, and as whom somebody is signed in."""

    document: JsonObject = attrs.field(repr=False)
    subject: str = ""
    expires_at: datetime | None = None


@attrs.frozen(kw_only=True)
class Form:
    """A sign-in with what is typed in, such as a password.

    `sign_in` tries what was typed at the service and gives what to keep; it raises `SignInFailed` where the service
    says no, and `AccountUnavailable` where it does not answer.
    """

    fields: tuple[FormField, ...]
    sign_in: Callable[[Mapping[str, Secret]], Awaitable[SignedIn]]


@attrs.frozen(kw_only=True)
class Account:
    """Something that each user may have with another service, and how to sign in there.

    `name` is made of small letters, digits, `_` and `-`. The plugin gets what it needs from `context.host.accounts`:
    `token(principal, name)` for OAuth, `entry(principal, name)` for a form.
    """

    name: str = attrs.field(validator=validators.matches_re(r"[a-z][a-z0-9_-]{0,63}"))
    title: str
    sign_in: OAuth | Form
