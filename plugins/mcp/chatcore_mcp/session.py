"""A connection to a server by the MCP SDK: the only module, with those it is made of, that knows the SDK.

Importing it takes most of a second: it is imported when the first server is connected, in a thread.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from importlib.metadata import version
from typing import Any

import anyio
import attrs
import httpx2
import mcp_types as types
from mcp.client import Client, IncomingMessage
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from chatcore.addresses import Reach
from chatcore.errors import ChatcoreError, ToolFailed
from chatcore.http import SILENT, cause_of
from chatcore.tools import Invocation, JsonObject, ToolResult
from chatcore_mcp import results
from chatcore_mcp.definitions import Endpoint, shown
from chatcore_mcp.oauth import Bearer
from chatcore_mcp.offers import CLOSED, LOST, ConnectionLost, Offer, SessionExpired, SignInWanted, ToolInfo
from chatcore_mcp.outbound import Outbound, make_client
from chatcore_mcp.process import Notes, process_streams
from chatcore_mcp.questions import Questions
from chatcore_mcp.sign_in import SignIn
from chatcore_mcp.sizes import LARGEST
from chatcore_mcp.streams import MOST_LISTED, watched

_PAGES = 100  # of a list; a server whose list has no end must not be asked for ever
_AT_ONCE = 100  # tools that are looked at in one turn of the event loop: some milliseconds
_CHANGES = (
    types.ToolListChangedNotification,
    types.ResourceListChangedNotification,
    types.PromptListChangedNotification,
)
_LONGEST_REASON = 2_000  # characters of why there is no connection: those of the last words of a process
_ENDED = "Connection closed"  # what the SDK raises then; its code may be a server's own as well
_OLD_TRANSPORT = frozenset({400, 404, 405})
"""What a server that speaks only the older transport, SSE, answers to a message of the newer one."""

_ANSWER: TypeAdapter[types.CallToolResult | types.InputRequiredResult] = TypeAdapter(
    types.CallToolResult | types.InputRequiredResult
)

# The SDK logs what it raises as well, with tracebacks; here it is told once, with the server's name.
for _name in ("mcp.client", "mcp.shared", "client"):
    logging.getLogger(_name).setLevel(logging.CRITICAL)


@attrs.frozen(kw_only=True)
class Opening:
    """How to open a connection, and who is told of it: `changed` when the server offers something else, `ended` when
    nothing more can come."""

    name: str
    endpoint: Endpoint
    reach: Reach
    log: logging.Logger
    changed: Callable[[], None]
    ended: Callable[[], None]
    sign_in: SignIn | None = None


@asynccontextmanager
async def opened(opening: Opening) -> AsyncIterator["SdkSession"]:
    """A session with a server. It is left in the task that entered it: the SDK's cancel scopes belong to that task.

    Raises:
        ConnectionLost: the connection could not be made, or has broken, with the reason.
    """
    notes = Notes(opening.name, opening.log)
    ways: list[Outbound] = []
    try:
        async with AsyncExitStack() as stack:
            questions = Questions(opening.name)
            client = await _client(stack, opening, notes, ways, questions)
            yield SdkSession(client, opening, ways[-1] if ways else None, questions)
    except Exception as error:  # noqa: BLE001  whatever breaks below, the connection is what is broken
        own = next((cause for cause in _leaves(error) if isinstance(cause, ChatcoreError)), error)
        kind = SignInWanted if ways and ways[-1].refusal == 401 else ConnectionLost
        raise kind(_in_one_line(_reason(error, opening, notes, ways))) from own


async def _client(
    stack: AsyncExitStack, opening: Opening, notes: Notes, ways: list[Outbound], questions: Questions
) -> Client:
    endpoint = opening.endpoint
    if endpoint.transport == "stdio":
        return await _entered(stack, process_streams(endpoint, notes), opening, questions)
    if endpoint.transport != "sse":
        http = await _http(stack, opening, ways)
        try:
            transport = streamable_http_client(endpoint.url, http_client=http, max_sse_event_size=LARGEST)
            return await _entered(stack, transport, opening, questions)
        except Exception:
            if endpoint.transport == "http" or ways[-1].refusal not in _OLD_TRANSPORT:
                raise
    older = await _http(stack, opening, ways)
    try:
        transport = sse_client(endpoint.url, httpx_client_factory=lambda *_, **__: older)
        return await _entered(stack, transport, opening, questions)
    except Exception:
        del ways[1:]  # what it answered first says more
        raise


async def _http(stack: AsyncExitStack, opening: Opening, ways: list[Outbound]) -> httpx2.AsyncClient:
    auth = None if opening.sign_in is None else Bearer(opening.sign_in)
    http, way = await make_client(opening.endpoint, opening.reach, auth)
    stack.push_async_callback(http.aclose)
    ways.append(way)
    return http


async def _entered(
    stack: AsyncExitStack, transport: AbstractAsyncContextManager[Any], opening: Opening, questions: Questions
) -> Client:
    async def note(message: IncomingMessage) -> None:
        if isinstance(message, _CHANGES):
            opening.changed()

    client = Client(
        watched(transport, opening.ended),
        message_handler=note,
        elicitation_callback=questions.create,
        client_info=types.Implementation(name="chatcore", version=version("chatcore")),
        cache=None,
    )
    return await stack.enter_async_context(client)


# --- why it is not there ----------------------------------------------------------------------------------------------


def _reason(error: BaseException, opening: Opening, notes: Notes, ways: list[Outbound]) -> str:
    """What went wrong, in words for a person who can mend it."""
    endpoint = opening.endpoint
    causes = list(_leaves(error))
    for cause in causes:
        if isinstance(cause, ChatcoreError) and cause.message not in (CLOSED, LOST):
            return cause.message
    if endpoint.command:
        return notes.ending() if _is_end(causes[0]) or notes.broken else _broken(causes[0], endpoint)
    if ways and ways[-1].refusal is not None:
        return _refused(ways[-1].refusal, opening.sign_in)
    return _broken(causes[0], endpoint)


def _is_end(cause: BaseException) -> bool:
    """Whether an error is that no more can come."""
    if isinstance(cause, MCPError):
        return cause.error.message == _ENDED
    return isinstance(cause, ConnectionLost | anyio.BrokenResourceError | anyio.ClosedResourceError | anyio.EndOfStream)


def _in_one_line(text: str) -> str:
    """What may be in a server's own words as it can be shown, and logged: one line, and not a long one."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text[:_LONGEST_REASON])
    return " ".join(printable.split())


def _broken(cause: BaseException, endpoint: Endpoint) -> str:
    match cause:
        case httpx2.TransportError():
            return _unconnected(cause, endpoint.url)
        case _ if _is_end(cause):
            return CLOSED
        case MCPError():
            return _message(cause)
        case ValidationError():
            return _misshapen(cause)
    return str(cause).partition("\n")[0] or type(cause).__name__


def _unconnected(cause: httpx2.TransportError, url: str) -> str:
    if known := cause_of(cause):
        return f"{shown(url)} cannot be reached: {known.reason}; {known.remedy}"
    match cause:
        case httpx2.ConnectError():
            return f"nobody answers at {shown(url)}: {cause}"
        case httpx2.TimeoutException():
            return f"nobody answers at {shown(url)}"
    perhaps = f"; {SILENT}" if isinstance(cause, httpx2.RemoteProtocolError) and url.lower().startswith("http:") else ""
    return f"the connection to {shown(url)} broke: {cause or type(cause).__name__}{perhaps}"


def _message(error: MCPError) -> str:
    """What the server, or the SDK in its place, says is wrong."""
    said = error.error.message
    # The SDK appends all that pydantic says, which is about classes of the SDK.
    return "its answer cannot be read" if error.error.code == types.PARSE_ERROR and "\n" in said else said


def _misshapen(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    return f"the answer has the wrong shape: {'.'.join(map(str, first['loc']))}: {first['msg']}"


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _refused(status: int, sign_in: SignIn | None) -> str:
    if status in (401, 403) and sign_in is not None and sign_in.explains:
        return sign_in.remedy
    if status in (401, 403):
        return f"it wants to know who is asking (HTTP {status}): give it a token in 'headers'"
    return f"it answers HTTP {status}"


# --- what it can be asked ---------------------------------------------------------------------------------------------

ROUNDS = 10
"""How often a call may be answered with a question before it must have ended."""
NOT_YET = 0.25
"""Seconds after which a call is made again whose server wants nothing but that."""
RELISTEN = 5.0
"""Seconds between two requests to be told of changes, where the server ends them."""


class SdkSession:
    """A `Session` by the SDK's client."""

    def __init__(self, client: Client, opening: Opening, way: Outbound | None, questions: Questions) -> None:
        self.protocol_version = client.protocol_version
        self.server_name = client.server_info.name if client.server_info else None
        self.remote = way is not None
        self._client = client
        self._opening = opening
        self._way = way
        self._questions = questions

    async def learn(self) -> Offer:
        capabilities = self._client.server_capabilities
        with self._told():
            tools = await _every(self._client.list_tools, "tools") if capabilities.tools else []
            if len(tools) >= MOST_LISTED:
                self._opening.log.warning("%s: of its tools the first %d are taken", self._opening.name, MOST_LISTED)
            return Offer(
                tools=await _infos(tools),
                resources=bool(capabilities.resources) and await self._has_resources(),
                prompts=bool(capabilities.prompts) and bool(await _listed(self._client.list_prompts, "prompts")),
            )

    async def _has_resources(self) -> bool:
        if await _listed(self._client.list_resources, "resources"):
            return True
        return bool(await _listed(self._client.list_resource_templates, "resource_templates"))

    async def watch(self) -> None:
        tools = self._client.server_capabilities.tools
        if self.protocol_version not in MODERN_PROTOCOL_VERSIONS or not (tools and tools.list_changed):
            return
        while True:
            try:
                async with self._client.listen(
                    tools_list_changed=True, resources_list_changed=True, prompts_list_changed=True
                ) as subscription:
                    self._opening.changed()  # for what has changed before anybody listened
                    async for _ in subscription:
                        self._opening.changed()
            except MCPError:
                return  # it does not want to be listened to
            except SubscriptionLost:
                self._opening.changed()  # who asks anew learns whether it is still there
            await asyncio.sleep(RELISTEN)

    async def call(self, tool: str, invocation: Invocation) -> ToolResult:
        parameters = types.CallToolRequestParams(name=tool, arguments=dict(invocation.arguments))
        with self._told(), self._questions.during(invocation):
            for _ in range(ROUNDS):
                try:
                    answer = await self._call(parameters, invocation)
                except MCPError as error:
                    if not await self._questions.opened(error, invocation):
                        raise
                    continue
                if isinstance(answer, types.CallToolResult):
                    return results.tool_result(answer)
                responses = await self._questions.responses(answer, invocation)
                if responses is None:
                    return results.needs_input(answer)
                if not responses:
                    await asyncio.sleep(NOT_YET)
                more = {"input_responses": responses or None, "request_state": answer.request_state}
                parameters = parameters.model_copy(update=more)
        raise ToolFailed(f"it has asked for more {ROUNDS} times, and not ended")

    async def _call(
        self, parameters: types.CallToolRequestParams, invocation: Invocation
    ) -> types.CallToolResult | types.InputRequiredResult:
        async def progress(progress: float, total: float | None, message: str | None) -> None:
            invocation.progress(message or "", progress, total)

        # Not Client.call_tool: that checks structured content against the tool's schema, in Python, for as long as it
        # takes, and a model reads what does not conform as well.
        return await self._client.session.send_request(
            types.CallToolRequest(params=parameters), _ANSWER, progress_callback=progress
        )

    async def list_resources(self) -> ToolResult:
        with self._told():
            resources = await _listed(self._client.list_resources, "resources")
            templates = await _listed(self._client.list_resource_templates, "resource_templates")
        found = [(one.uri, one.title or one.name, one.description) for one in resources]
        found += [(one.uri_template, one.title or one.name, one.description) for one in templates]
        return results.lines(found)

    async def read_resource(self, uri: str) -> ToolResult:
        with self._told():
            answer = await self._client.read_resource(uri)
        return results.joined(map(results.resource, answer.contents))

    async def list_prompts(self) -> ToolResult:
        with self._told():
            prompts = await _listed(self._client.list_prompts, "prompts")
        return results.lines((_signature(one), one.title, one.description) for one in prompts)

    async def get_prompt(self, name: str, arguments: JsonObject) -> ToolResult:
        given = {key: value if isinstance(value, str) else str(value) for key, value in arguments.items()}
        with self._told():
            answer = await self._client.get_prompt(name, given)
        return results.conversation(answer.messages)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Makes what the SDK raises an error that a model can read."""
        try:
            yield
        except MCPError as error:
            raise self._failure(error) from error
        except ValidationError as error:
            raise ToolFailed(_misshapen(error)) from error
        except (RuntimeError, httpx2.HTTPError) as error:
            raise ToolFailed(f"the server failed: {error}") from error

    def _failure(self, error: MCPError) -> ToolFailed:
        if _is_end(error):
            return ConnectionLost(LOST)
        if error.error.message == "Session terminated":
            return SessionExpired("the server has forgotten this session")
        if error.error.message == "Server returned an error response" and self._way and self._way.refusal:
            return ToolFailed(f"the server refused the call: {_refused(self._way.refusal, self._opening.sign_in)}")
        return ToolFailed(f"the server refused the call: {_message(error)}")


async def _every(fetch: Callable[..., Awaitable[Any]], what: str) -> list[Any]:
    """What is on all the pages of a list."""
    found: list[Any] = []
    cursor = None
    for _ in range(_PAGES):
        page = await fetch(cursor=cursor)
        found += getattr(page, what)
        if not page.next_cursor or page.next_cursor == cursor or len(found) >= MOST_LISTED:
            break  # some end with an empty cursor, and some give the same one for ever
        cursor = page.next_cursor
    return found[:MOST_LISTED]


async def _listed(fetch: Callable[..., Awaitable[Any]], what: str) -> list[Any]:
    """As `_every`; nothing from a server that does not have that list, although it says that it has something alike."""
    try:
        return await _every(fetch, what)
    except MCPError as error:
        if error.error.code != types.METHOD_NOT_FOUND:
            raise
        return []


async def _infos(tools: Sequence[types.Tool]) -> tuple[ToolInfo, ...]:
    """The tools of a server, however many, while others are served. Of several with the same name the last."""
    found: dict[str, ToolInfo] = {}
    for first in range(0, len(tools), _AT_ONCE):
        await asyncio.sleep(0)
        found.update((tool.name, _info(tool)) for tool in tools[first : first + _AT_ONCE])
    return tuple(found.values())


def _info(tool: types.Tool) -> ToolInfo:
    hints = tool.annotations or types.ToolAnnotations()
    return ToolInfo(
        name=tool.name,
        description=tool.description or tool.title or hints.title or "",
        schema=tool.input_schema,
        read_only=bool(hints.read_only_hint),
        destructive=bool(hints.destructive_hint),
        idempotent=bool(hints.idempotent_hint),
        open_world=bool(hints.open_world_hint),
    )


def _signature(prompt: types.Prompt) -> str:
    arguments = ", ".join(f"{one.name}{'' if one.required else '?'}" for one in prompt.arguments or ())
    return f"{prompt.name}({arguments})"
