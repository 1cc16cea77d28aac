"""The tools of a server, as chatcore's."""

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

import attrs

from chatcore.errors import ToolFailed
from chatcore.tools import Invocation, JsonObject, Tool, ToolResult
from chatcore_mcp.offers import Offer, Session, ToolInfo

LONGEST_DESCRIPTION = 10_000

Work: TypeAlias = Callable[[Session], Awaitable[ToolResult]]
Caller: TypeAlias = Callable[[Work, str], Awaitable[ToolResult]]
"""Has something done by the server's session, for a principal of this id."""

_KNOWS_ITS_CONVERSATION = frozenset(
    {
        "chat_history",
        "download_gmail_attachment",
        "read_gmail_attachment_text",
        "extract_gmail_attachment_by_id",
        "gdrive_display_image",
    }
)
"""Tools that are about the conversation they are called in: they get its id as `session_id`."""


def source(server: str) -> str:
    """What the tools of a server have as their `source`."""
    return f"mcp/{server}"


def own(offer: Offer) -> tuple[ToolInfo, ...]:
    """The tools of a server, and those by which its resources and prompts can be read, if it has any."""
    names = {tool.name for tool in offer.tools}
    generic = (*(RESOURCES if offer.resources else ()), *(PROMPTS if offer.prompts else ()))
    return (*offer.tools, *(tool for tool in generic if tool.name not in names))


def make(info: ToolInfo, *, server: str, name: str, call: Caller, contexts: tuple[str, ...] = ()) -> Tool:
    """The tool under the name that models know it by."""

    async def run(invocation: Invocation) -> ToolResult:
        return await call(_work(info, invocation), invocation.principal_id)

    return Tool(
        name=name,
        description=f"[{server}] {info.description}".strip()[:LONGEST_DESCRIPTION],
        parameters=info.parameters,
        run=run,
        read_only=info.read_only,
        destructive=info.destructive,
        idempotent=info.idempotent,
        open_world=info.open_world,
        source=source(server),
        contexts=contexts,
    )


def _work(info: ToolInfo, invocation: Invocation) -> Work:
    generic = _generic_work(info, invocation.arguments)
    if generic is not None:
        return generic
    given = attrs.evolve(invocation, arguments=_arguments(info, invocation))
    return lambda session: session.call(info.name, given)


def _arguments(info: ToolInfo, invocation: Invocation) -> JsonObject:
    """The arguments, with the conversation's id where the tool wants it and the model did not give it."""
    arguments = invocation.arguments
    wants_it = info.name in _KNOWS_ITS_CONVERSATION or info.name.endswith("__chat_history")
    if not wants_it or arguments.get("session_id"):
        return arguments
    return {**arguments, "session_id": invocation.conversation_id}


# --- resources and prompts --------------------------------------------------------------------------------------------


def _generic(name: str, description: str, /, **properties: JsonObject) -> ToolInfo:
    schema = {"type": "object", "properties": properties, "required": [key for key in properties if key != "arguments"]}
    return ToolInfo(name=name, description=description, schema=schema, read_only=True)


_LIST_RESOURCES = _generic("list_resources", "Lists what this server has to read, with the address of each.")
_READ_RESOURCE = _generic(
    "read_resource",
    "Reads what this server has at an address.",
    uri={"type": "string", "description": "An address that list_resources gives; its {…} filled in."},
)
_LIST_PROMPTS = _generic("list_prompts", "Lists the prompts that this server has ready, with their arguments.")
_GET_PROMPT = _generic(
    "get_prompt",
    "Gives a prompt of this server: a text that says how to do something.",
    name={"type": "string", "description": "A name that list_prompts gives."},
    arguments={"type": "object", "additionalProperties": {"type": "string"}},
)
RESOURCES = (_LIST_RESOURCES, _READ_RESOURCE)
PROMPTS = (_LIST_PROMPTS, _GET_PROMPT)


def _read_resource(arguments: JsonObject) -> Work:
    uri = _text(arguments, "uri")
    return lambda session: session.read_resource(uri)


def _get_prompt(arguments: JsonObject) -> Work:
    name, given = _text(arguments, "name"), arguments.get("arguments") or {}
    if not isinstance(given, Mapping):
        raise ToolFailed("'arguments' must be an object")
    return lambda session: session.get_prompt(name, given)


def _text(arguments: JsonObject, key: str) -> str:
    value = arguments.get(key)
    if not isinstance(value, str) or not value:
        raise ToolFailed(f"{key!r} must be a text")
    return value


def _generic_work(info: ToolInfo, arguments: JsonObject) -> Work | None:
    """What one of the tools above does; None for a tool of the server's."""
    if info is _LIST_RESOURCES:
        return lambda session: session.list_resources()
    if info is _LIST_PROMPTS:
        return lambda session: session.list_prompts()
    if info is _READ_RESOURCE:
        return _read_resource(arguments)
    if info is _GET_PROMPT:
        return _get_prompt(arguments)
    return None
