"""How a bundled server is run: what they share of a command line."""

import signal
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click
from mcp.server import MCPServer
from mcp_types import ToolAnnotations

READ_ONLY = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
"""What is true of every tool here: it changes nothing, and reaches nothing but this machine."""


def http_option(usual: int) -> Callable[[Any], Any]:
    """The option to serve on HTTP; `usual` is the port where none is named."""
    return click.option(
        "--http",
        "port",
        is_flag=False,
        flag_value=usual,
        type=click.IntRange(1, 65535),
        help="Serve streamable HTTP at http://127.0.0.1:PORT/mcp; without it standard input and output. "
        f"If no port is given it is {usual}.",
    )


def make_server(name: str, instructions: str) -> MCPServer:
    """A server without tools yet."""
    return MCPServer(name, instructions=instructions, version="1.0", log_level="WARNING", subscriptions=False)


def serve(server: MCPServer, port: int | None) -> None:
    """Serves on HTTP, or on standard input and output if there is no port, until the client goes or a signal comes."""
    if port is None:
        # It has nothing to finish, and a read of standard input could not be broken off.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        server.run("stdio")
        return
    click.echo(f"{server.name} at http://127.0.0.1:{port}/mcp", err=True)
    with suppress(KeyboardInterrupt):
        server.run("streamable-http", host="127.0.0.1", port=port)
