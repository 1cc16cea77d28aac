"""`housekeeping`: the time where its user lives, and what was said in a conversation.

It is a client of a running chatcore, and sees of it what its token may see.
"""

from datetime import UTC, datetime
from typing import Any, Literal

import click
from mcp.server import MCPServer

from chatcore_mcp.bundled.clock import times
from chatcore_mcp.bundled.history import History
from chatcore_mcp.bundled.serving import READ_ONLY, http_option, make_server, serve
from chatcore_mcp.bundled.toolkit import echo


def housekeeping(history: History) -> MCPServer:
    """The server, with the history that it may read."""
    server = make_server("housekeeping", "The time, and the messages of the conversation.")
    server.tool("test_echo", annotations=READ_ONLY)(echo)

    @server.tool(annotations=READ_ONLY)
    def current_time(format: Literal["iso", "unix"] = "iso") -> dict[str, Any]:  # noqa: A002  its name on the wire
        """Tell the current time, in UTC and in the US Eastern zone, with the dates that people speak of."""
        now = datetime.now(UTC)
        value = now.isoformat() if format == "iso" else f"{now.timestamp():.6f}"
        return {"format": format, "value": value, **times(now)}

    @server.tool(annotations=READ_ONLY)
    async def chat_history(
        session_id: str | None = None, limit: int = 20, newest_first: bool = False
    ) -> dict[str, Any]:
        """Read the latest messages of a conversation; of the present one if no session_id is given."""
        return await history.latest(session_id, limit, newest_first=newest_first)

    return server


@click.command()
@http_option(9002)
@click.option(
    "--server",
    "url",
    metavar="URL",
    envvar="CHATCORE_URL",
    default="http://127.0.0.1:8000",
    show_default=True,
    help="The chatcore server whose conversations are read. In the environment: CHATCORE_URL.",
)
@click.option("--token", envvar="CHATCORE_TOKEN", help="Its token. Better in the environment: CHATCORE_TOKEN.")
def main(port: int | None, url: str, token: str | None) -> None:
    """An MCP server for the time and the messages of a conversation."""
    serve(housekeeping(History(url, token)), port)


if __name__ == "__main__":
    main()
