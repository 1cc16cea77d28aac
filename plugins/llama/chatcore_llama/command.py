"""`chatcore llama`: fetching models."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from chatcore.http import Timeouts, make_client
from chatcore_llama.hub import AGAIN, FetchFailed, Hub, Progress, Source
from chatcore_llama.settings import Settings

TIMEOUTS = Timeouts(connect=10.0, first_byte=30.0, idle=30.0)


def make_group(settings: Settings, directory: Path) -> click.Group:
    """The command. `directory` is where models are kept."""

    @click.group("llama")
    def group() -> None:
        """Local models in GGUF files."""

    @group.command("fetch")
    @click.argument("source", metavar="OWNER/NAME/FILE")
    def fetch_command(source: str) -> None:
        """Download a GGUF file; the server uses the newest one from its next start on.

        OWNER/NAME is a repository of the hub, FILE one of its files. A download that was interrupted goes on where it
        stopped.
        """
        try:
            path = asyncio.run(_fetch(settings, Source.parse(source), directory))
        except FetchFailed as error:
            raise click.ClickException(f"{error.message}\n{error.hint}") from error
        except KeyboardInterrupt as error:
            click.echo(f"\nStopped; {AGAIN}.", err=True)
            raise click.exceptions.Exit(130) from error
        click.echo(f"{path}\nIt is used from the next start of the server on.")

    return group


async def _fetch(settings: Settings, source: Source, directory: Path) -> Path:
    async with make_client(timeouts=TIMEOUTS) as client:
        with _progress_bar(source.file) as progress:
            return await Hub(client, settings.hub, settings.token).fetch(source, directory, progress)


@contextmanager
def _progress_bar(name: str) -> Iterator[Progress]:
    from rich import progress as rich  # noqa: PLC0415  70 ms that no other command needs to wait for
    from rich.console import Console  # noqa: PLC0415  as above

    columns = (
        rich.TextColumn("{task.description}"),
        rich.BarColumn(),
        rich.DownloadColumn(),
        rich.TransferSpeedColumn(),
        rich.TimeRemainingColumn(),
    )
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
