"""`chatcore chat`."""

import click
from anyio.from_thread import start_blocking_portal

from chatcore.commands.loading import load_config
from chatcore.commands.options import config_options
from chatcore.commands.reach import reached
from chatcore.terminal.client import connected
from chatcore.terminal.talk import Talk, piped


@click.command("chat")
@click.argument("message", nargs=-1)
@click.option("--server", metavar="URL", help="A running server; without it that of the configuration, or one in here.")
@click.option("--token", envvar="CHATCORE_TOKEN", help="The server's token. Better in the environment: CHATCORE_TOKEN.")
@click.option("--model", metavar="ID", help="The model to ask.")
@config_options
@click.pass_context
def chat(
    ctx: click.Context, message: tuple[str, ...], server: str | None, token: str | None, model: str | None
) -> None:
    """Chat in the terminal.

    Asks MESSAGE, or what comes through a pipe, and prints the answer; without either it is a conversation.
    """
    ctx.obj = load_config(ctx)
    question = " ".join(message) if message else piped()
    if question is not None and not question.strip():
        raise click.UsageError("there is nothing to ask")
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(reached(ctx, server)) as url,
        portal.wrap_async_context_manager(connected(url, token, model)) as client,
    ):
        talk = Talk(portal, client)
        if question is not None:
            code = talk.ask(question)
        else:
            click.echo(f"chatcore at {url}. /help lists the commands.")
            talk.converse()
            code = 0
    ctx.exit(code)
