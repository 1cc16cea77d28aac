"""chatcore in the words of the protocol: its tools are listed and called."""

from collections.abc import Awaitable, Callable
from importlib.metadata import version
from typing import Any, TypeAlias

import anyio
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ContentBlock,
    ImageContent,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from chatcore import wire
from chatcore.tools import JsonObject, ToolResult
from chatcore_mcp.server.exchange import EXCHANGE, Exchange
from chatcore_mcp.server.following import Following
from chatcore_mcp.server.toolset import ServedTool, Toolset
from chatcore_mcp.server.transport import PRINCIPAL

Context: TypeAlias = ServerRequestContext[Any, Any]

_LEFT = CallToolResult(content=[TextContent(text="The client has left.")], is_error=True)  # nobody reads it


ListTools: TypeAlias = Callable[[Context, PaginatedRequestParams | None], Awaitable[ListToolsResult]]
CallTool: TypeAlias = Callable[[Context, CallToolRequestParams], Awaitable[CallToolResult]]


def chatcore(list_tools: ListTools, call_tool: CallTool) -> Server[Any]:
    """chatcore as clients see it, however it comes to its tools."""
    return Server(
        "chatcore",
        version=version("chatcore"),
        instructions="The models of a chatcore server, and the tools that it shares.",
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )


def make_server(toolset: Toolset) -> Server[Any]:
    """The server for `/mcp`. Its requests come by `Transport`, which says who is asking."""

    async def list_tools(context: Context, params: PaginatedRequestParams | None) -> ListToolsResult:
        request: Any = context.request
        tools = await toolset.tools(request.scope[PRINCIPAL])
        return ListToolsResult(tools=[_described(name, served) for name, served in tools.items()])

    async def call_tool(context: Context, params: CallToolRequestParams) -> CallToolResult:
        request: Any = context.request
        scope = request.scope
        served = (await toolset.tools(scope[PRINCIPAL])).get(params.name)
        if served is None:
            raise MCPError(INVALID_PARAMS, f"Unknown tool: {params.name}")
        client = Following(context, toolset.patience)
        result: ToolResult | None = None
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_leave_with, scope[EXCHANGE], tasks.cancel_scope)
            tasks.start_soon(client.follow)
            result = await served.call(params.arguments or {}, scope[PRINCIPAL], client)
            await client.tell()
            tasks.cancel_scope.cancel()
        return _LEFT if result is None else _told(result, served)

    return chatcore(list_tools, call_tool)


async def _leave_with(exchange: Exchange, work: anyio.CancelScope) -> None:
    """Ends the work when its client leaves: the answer could not be fetched later."""
    await exchange.gone.wait()
    work.cancel()


def _described(name: str, served: ServedTool) -> Tool:
    tool = served.tool
    return Tool(
        name=name,
        description=tool.description or name,
        input_schema=dict(tool.parameters),
        annotations=ToolAnnotations(
            read_only_hint=tool.read_only,
            destructive_hint=tool.destructive,
            idempotent_hint=tool.idempotent,
            open_world_hint=tool.open_world,
        ),
    )


def _told(result: ToolResult, served: ServedTool) -> CallToolResult:
    text: list[ContentBlock] = [TextContent(text=result.text)] if result.text or not result.parts else []
    structured = wire.loads(result.text.encode()) if served.gives_object and not result.is_error else None
    return CallToolResult(
        content=[*text, *map(_block, result.parts)],
        structured_content=structured,
        is_error=result.is_error,
    )


def _block(part: JsonObject) -> ContentBlock:
    """A content part in the protocol's form; what that does not have is told as JSON."""
    url = part["image_url"].get("url", "") if part.get("type") == "image_url" else ""
    head, _, data = url.partition(";base64,")
    if head.startswith("data:image/"):
        return ImageContent(mime_type=head.removeprefix("data:"), data=data)
    return TextContent(text=wire.dumps(part).decode())
