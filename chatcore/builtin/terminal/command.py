"""`chatcore chat`. What it needs is imported when it is called: the server loads this file, too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from chatcore.config import Config, Loaded

if TYPE_CHECKING:
    from anyio.from_thread import BlockingPortal

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  nothing is bound: where such a server is called


@click.command("chat")
@click.argument("message", nargs=-1)
@click.option("--server", metavar="URL", help="A running server; without it that of the configuration, or one in here.")
@click.option("--token", envvar="CHATCORE_TOKEN", help="The server's token. Better in the environment: CHATCORE_TOKEN.")
@click.option("--model", metavar="ID", help="The model to ask.")
@click.make_pass_decorator(Loaded, ensure=True)
def chat(loaded: Loaded, message: tuple[str, ...], server: str | None, token: str | None, model: str | None) -> None:
    """Chat in the terminal.

    Asks MESSAGE, or what comes through a pipe, and prints the answer; without either it is a conversation.
    """
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415  see the module

    from chatcore.builtin.terminal.client import connected  # noqa: PLC0415
    from chatcore.builtin.terminal.talk import Talk, piped  # noqa: PLC0415

    question = " ".join(message) if message else piped()
    if question is not None and not question.strip():
        raise click.UsageError("there is nothing to ask")
    with (
        start_blocking_portal() as portal,
        _server(portal, loaded, server) as url,
        portal.wrap_async_context_manager(connected(url, token, model)) as client,
    ):
        talk = Talk(portal, client)
        if question is not None:
            code = talk.ask(question)
        else:
            click.echo(f"chatcore at {url}. /help lists the commands.")
            talk.converse()
            code = 0
    click.get_current_context().exit(code)


@contextmanager
def _server(portal: "BlockingPortal", loaded: Loaded, url: str | None) -> Iterator[str]:
    """The URL of the server: the one that was named, the configured one if it runs, or one that is started here."""
    from chatcore.builtin.terminal.client import is_chatcore  # noqa: PLC0415  see the module

    configured = _url(loaded.config)
    if url or portal.call(is_chatcore, configured):
        yield url or configured
        return
    from chatcore.builtin.terminal.inprocess import serving  # noqa: PLC0415  a whole server, which is rarely needed

    with portal.wrap_async_context_manager(serving(loaded)) as started:
        yield started


def _url(config: Config) -> str:
    host = EVERYWHERE.get(config.host) or (f"[{config.host}]" if ":" in config.host else config.host)
    return f"{'https' if config.certfile else 'http'}://{host}:{config.port}"
