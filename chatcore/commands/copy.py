"""`chatcore copy`."""

import time

import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options


@click.command()
@config_options
@click.argument("source")
@click.argument("target")
@click.pass_context
def copy(ctx: click.Context, source: str, target: str) -> None:
    """Copy a database to another one, from a file to PostgreSQL or back.

    SOURCE and TARGET, which is empty, are written like the setting 'database'. Stop the server first. All of it is one
    transaction in TARGET, read back and compared before it is committed; SOURCE stays as it is.
    """
    from chatcore.database.copy import copy as copy_database  # noqa: PLC0415  peewee takes a while to import

    migrations = load_plugins(load_config(ctx)).migrations()
    started = time.monotonic()
    counts = copy_database(source, target, migrations)
    for table, count in sorted(counts.items()):
        click.echo(f"{count:>10} {table}")
    click.echo(f"copied {sum(counts.values())} rows of {len(counts)} tables in {time.monotonic() - started:.1f} s")
