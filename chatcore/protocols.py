"""What a plugin's contributions look like. Members are read-only, so that frozen attrs classes match."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import timedelta
from typing import Literal, Protocol, runtime_checkable

import attrs

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


@attrs.frozen
class Lifespan:
    """Something to open at the start and close at the end, in a task of its own.

    `run` is called once and gives the async context manager. A failing one is retried by nobody: it is logged with
    the plugin's name and the server goes on.
    """

    name: str
    run: Callable[[], AbstractAsyncContextManager[object]]
