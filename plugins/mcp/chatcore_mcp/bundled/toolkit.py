"""`test-toolkit`: two tools to try a connection with."""

from datetime import UTC, datetime
from typing import Literal, TypedDict

import click

from chatcore_mcp.bundled.serving import READ_ONLY, http_option, make_server, serve

server = make_server("test-toolkit", "Tools to try a connection with.")


class Echo(TypedDict):
    """What was said, as it was understood."""

    message: str
    uppercase: bool


class Time(TypedDict):
    """A time, in the format that was asked for."""

    format: Literal["iso", "unix"]
    value: str


@server.tool("test_echo", annotations=READ_ONLY)
def echo(message: str, uppercase: bool = False) -> Echo:
    """Give the message back, in capitals if asked to."""
    return {"message": message.upper() if uppercase else message, "uppercase": uppercase}


@server.tool(annotations=READ_ONLY)
def current_time(format: Literal["iso", "unix"] = "iso") -> Time:  # noqa: A002  the argument's name on the wire
    """Tell the current time in UTC: in ISO 8601, or as seconds since 1970."""
    now = datetime.now(UTC)
    return {"format": format, "value": now.isoformat() if format == "iso" else f"{now.timestamp():.6f}"}


@click.command()
@http_option(9014)
def main(port: int | None) -> None:
    """An MCP server to try a connection with."""
    serve(server, port)


if __name__ == "__main__":
    main()
