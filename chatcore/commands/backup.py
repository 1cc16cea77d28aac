"""`chatcore backup`."""

import time
from pathlib import Path

import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options
from chatcore.config import Loaded
from chatcore.database import sqlite_file
from chatcore.database.copy import copy
from chatcore.operation.backup import CopyTo, back_up
from chatcore.operation.checks import in_bytes


@click.command()
@config_options
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def backup(ctx: click.Context, file: Path, force: bool) -> None:
    """Write everything that is kept to one file, while the server runs.

    FILE is a zip archive of the database and the files of plugins. Of the configuration and of keys nothing is in it. A
    database in PostgreSQL is copied to a SQLite file first.
    """
    loaded = load_config(ctx)
    config = loaded.config
    url = config.database_url
    started = time.monotonic()
    written = back_up(sqlite_file(url) or _copying(url, loaded), config.data, file, replace=force)
    for path in written.left_out:
        click.echo(f"left out: {path}", err=True)
    count = len(written.manifest.entries) - 1
    click.echo(
        f"wrote {file}: the database and {count} files, {in_bytes(written.manifest.size)}, "
        f"in {time.monotonic() - started:.1f} s"
    )


def _copying(url: str, loaded: Loaded) -> CopyTo:
    """What copies a database of a server to a file."""
    migrations = load_plugins(loaded).migrations()
    return lambda file, at_that_moment: copy(url, str(file), migrations, at_that_moment=at_that_moment)
