"""What a server offers, as far as chatcore uses it, and what becomes of a connection. Free of the SDK."""

from typing import Protocol

import attrs

from chatcore.errors import ToolFailed
from chatcore.tools import Invocation, JsonObject, ToolResult
from chatcore_mcp.schemas import parameters


@attrs.frozen(kw_only=True)
class ToolInfo:
    """A tool as its server describes it. The hints are what the server says of itself, and false where it is silent.
    `parameters` is what models are given of `schema`."""

    name: str
    description: str = ""
    schema: JsonObject = attrs.field(factory=dict)
    parameters: JsonObject = attrs.field(
        default=attrs.Factory(lambda info: parameters(info.schema), takes_self=True), init=False, eq=False, repr=False
    )
    read_only: bool = False
    destructive: bool = False
    idempotent: bool = False
    open_world: bool = False


@attrs.frozen(kw_only=True)
class Offer:
    """What a server has at the moment. Of resources and prompts only whether there are any."""

    tools: tuple[ToolInfo, ...] = ()
    resources: bool = False
    prompts: bool = False


CLOSED = "the connection was closed"
LOST = "the connection was lost during the call; what the tool did until then is unknown"


class ConnectionLost(ToolFailed):
    """The connection ended during a call, or there is none. The model reads the text."""


class SignInWanted(ConnectionLost):
    """The server wants to know who is asking, and nobody is signed in to it."""


class SessionExpired(ConnectionLost):
    """The server knows nothing of this session any more, as after a restart. It has not done what it was asked."""


class Session(Protocol):
    """A connection to a server that is open. Any task may ask it; whatever it cannot do raises `ToolFailed`."""

    @property
    def server_name(self) -> str | None:
        """What the server calls itself."""

    @property
    def protocol_version(self) -> str:
        """The revision of the protocol that both speak."""

    @property
    def remote(self) -> bool:
        """Whether it may be gone without anybody telling, so that it should be asked from time to time."""

    async def learn(self) -> Offer:
        """What the server offers now."""

    async def watch(self) -> None:
        """Follows what the server says of changes, where that takes an open request. Ends when there is no more."""

    async def call(self, tool: str, invocation: Invocation) -> ToolResult:
        """Calls a tool, by its own name. Its progress is told, and its questions are asked, by the invocation."""

    async def list_resources(self) -> ToolResult:
        """The resources and the templates of resources, a line each."""

    async def read_resource(self, uri: str) -> ToolResult:
        """What a resource holds."""

    async def list_prompts(self) -> ToolResult:
        """The prompts, a line each."""

    async def get_prompt(self, name: str, arguments: JsonObject) -> ToolResult:
        """A prompt, filled in."""
