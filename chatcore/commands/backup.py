"""`chatcore backup`."""

import time
from pathlib import Path

import click

from chatcore.app import database_url
from chatcore.commands.loading import load_config
from chatcore.commands.options import config_options
from chatcore.database import sqlite_file
from chatcore.errors import ConfigError
from chatcore.operation.backup import back_up
from chatcore.operation.checks import in_bytes


@click.command()
@config_options
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.pass_context
def backup(ctx: click.Context, file: Path, force: bool) -> None:
    """Write everything that is kept to one file, while the server runs.

    FILE is a zip archive of the database and the files of plugins. Of the configuration and of keys nothing is in it.
    """
    config = load_config(ctx).config
    database = sqlite_file(database_url(config))
    if database is None:
        tools = f"pg_dump --format=custom --file={file}.dump URL, then tar -cf {file}.tar -C {config.data} plugins"
        raise ConfigError("the database is in PostgreSQL, whose own tools back it up", hint=tools)
    started = time.monotonic()
    written = back_up(database, config.data, file, replace=force)
    for path in written.left_out:
        click.echo(f"left out: {path}", err=True)
    count = len(written.manifest.entries) - 1
    click.echo(
        f"wrote {file}: the database and {count} files, {in_bytes(written.manifest.size)}, "
        f"in {time.monotonic() - started:.1f} s"
    )
