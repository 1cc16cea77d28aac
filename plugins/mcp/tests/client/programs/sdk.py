"""A server by the SDK, with one of everything: python sdk.py NAME [http].

On standard input and output, or with `http` at a port that it prints, by both transports: /mcp and /sse. A request
with the header `x-older` meets a server that knows nothing of revision 2026-07-28.
"""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.mcpserver.resolve import Elicit, Resolve
from mcp.shared.exceptions import MCPError, UrlElicitationRequiredError
from mcp_types import METHOD_NOT_FOUND, ElicitRequestURLParams, ToolAnnotations
from pydantic import BaseModel

name = sys.argv[1]


async def older(context: Any, call_next: Any) -> Any:
    if context.method == "server/discover" and context.request is not None and "x-older" in context.request.headers:
        raise MCPError(METHOD_NOT_FOUND, "no such method")
    return await call_next(context)


server = MCPServer(name, middleware=[older])


class Greeting(BaseModel):
    greeting: str
    times: int = 2


def wanted() -> Elicit[Greeting]:
    return Elicit("How shall I greet?", Greeting)


@server.tool(annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True))
def who() -> str:
    """Says who it is."""
    return name


@server.tool(annotations=ToolAnnotations(destructive_hint=True, open_world_hint=True))
def refuse(reason: str) -> str:
    """Refuses."""
    raise ToolError(reason)


@server.tool()
def crash() -> str:
    """Crashes."""
    raise KeyError("a secret")


@server.tool()
def big(size: int) -> str:
    """Says much."""
    return "x" * size


@server.tool()
def count(to: int) -> list[int]:
    """Counts."""
    return list(range(to))


@server.tool()
async def wait(ctx: Context, file: str) -> str:
    """Waits until it is cancelled, and notes that in a file."""
    await ctx.report_progress(1, 3, "waiting")
    note = Path(file)
    note.write_text("begun")  # noqa: ASYNC240  nobody else is served here
    try:
        await asyncio.sleep(1000)
    except asyncio.CancelledError:
        note.write_text("begun cancelled")  # noqa: ASYNC240  as above
        raise
    return "never"


@server.tool()
async def ask(ctx: Context) -> str:
    """Asks a person."""

    class Answer(BaseModel):
        name: str

    answer = await ctx.elicit("Who are you?", Answer)
    return str(answer)


@server.tool()
async def greet(answer: Annotated[Greeting, Resolve(wanted)]) -> str:
    """Asks how to greet, in whatever revision."""
    return f"{answer.greeting} {answer.times}"


@server.tool()
async def pay(ctx: Context) -> str:
    """Has a page opened, and takes no answer but that."""
    return (await ctx.elicit_url("Pay there.", "https://pay.example/1", "1")).action


paid = []


@server.tool()
async def receipt() -> str:
    """Is to be had when a page was opened."""
    if paid:
        return "thank you"
    paid.append(True)
    page = ElicitRequestURLParams(message="Pay first.", url="https://pay.example/2", elicitation_id="2")
    raise UrlElicitationRequiredError([page])


@server.tool()
async def grow(ctx: Context, tool: str) -> str:
    """Gets another tool."""
    server.add_tool(who, name=tool)
    await ctx.notify_tools_changed()
    return "grown"


@server.resource("text://greeting", description="A greeting.")
def greeting() -> str:
    return "hello"


@server.resource("text://greeting/{who}")
def greeting_to(who: str) -> str:
    """A greeting to somebody."""
    return f"hello {who}"


@server.prompt()
def summarise(topic: str, length: str = "short") -> str:
    """Asks for a summary."""
    return f"Summarise {topic}, {length}."


if len(sys.argv) == 2:
    server.run("stdio")
else:
    import socket

    import uvicorn
    from starlette.applications import Starlette

    newer, older = server.streamable_http_app(), server.sse_app()
    app = Starlette(routes=[*newer.routes, *older.routes], lifespan=newer.router.lifespan_context)
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])
