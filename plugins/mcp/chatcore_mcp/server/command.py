"""`chatcore mcp`: chatcore as an MCP server on standard input and output."""

import asyncio
import signal

import click

from chatcore.commands.reach import reached


@click.command("mcp")
@click.option("--server", metavar="URL", help="A running server; without it that of the configuration, or one in here.")
@click.option("--token", envvar="CHATCORE_TOKEN", help="The server's token. Better in the environment: CHATCORE_TOKEN.")
@click.pass_context
def command(ctx: click.Context, server: str | None, token: str | None) -> None:
    """Speak the Model Context Protocol on standard input and output.

    For programs that start their MCP servers themselves. What is asked is done by a running server, or, if there is
    none, by one that runs for as long as this command.
    """
    from chatcore_mcp.server.relay import Unreachable  # noqa: PLC0415  half a second that no other command waits for

    try:
        asyncio.run(_relay(ctx, server, token))
    except Unreachable as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        ctx.exit(128 + signal.SIGINT)
    except asyncio.CancelledError:
        ctx.exit(128 + signal.SIGTERM)


async def _relay(ctx: click.Context, server: str | None, token: str | None) -> None:
    from chatcore_mcp.server.relay import Relay  # noqa: PLC0415  as above

    relaying = asyncio.current_task()
    assert relaying is not None  # noqa: S101  coroutines run in tasks
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, relaying.cancel)
    async with reached(ctx, server) as url:
        await Relay(url, token).serve()
