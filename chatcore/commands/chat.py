"""`chatcore chat`."""

from collections.abc import Iterator
from contextlib import contextmanager

import attrs
import click
from anyio.from_thread import BlockingPortal, start_blocking_portal

from chatcore.commands.loading import load_config
from chatcore.commands.options import config_options
from chatcore.config import Config, Loaded
from chatcore.terminal.client import connected, is_chatcore
from chatcore.terminal.talk import Talk, piped

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104  nothing is bound: where such a server is called


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
    loaded = load_config(ctx)
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
    ctx.exit(code)


@contextmanager
def _server(portal: BlockingPortal, loaded: Loaded, url: str | None) -> Iterator[str]:
    """The URL of the server: the one that was named, the configured one if it runs, or one that is started here."""
    configured = _url(loaded.config)
    if url or portal.call(is_chatcore, configured):
        yield url or configured
        return
    # A whole server, which is rarely needed and takes long to import.
    from chatcore.app import create_app  # noqa: PLC0415
    from chatcore.server import serving  # noqa: PLC0415

    config = attrs.evolve(loaded.config, host="127.0.0.1", port=0, certfile=None, keyfile=None)
    app = create_app(attrs.evolve(loaded, config=config))
    with portal.wrap_async_context_manager(serving(app, config)) as started:
        yield started


def _url(config: Config) -> str:
    host = EVERYWHERE.get(config.host) or (f"[{config.host}]" if ":" in config.host else config.host)
    return f"{'https' if config.certfile else 'http'}://{host}:{config.port}"
