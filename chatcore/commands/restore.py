"""`chatcore restore`."""

from collections.abc import Sequence
from pathlib import Path

import click

from chatcore.commands.loading import load_config
from chatcore.commands.options import config_options
from chatcore.commands.tables import checks_table
from chatcore.database import sqlite_file
from chatcore.errors import ConfigError
from chatcore.operation.backup import disk_told
from chatcore.operation.checks import Check
from chatcore.operation.restore import Place, put_back, verify


@click.command()
@config_options
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--verify", "only_verify", is_flag=True, help="Only look whether FILE can be restored.")
@click.option("--force", is_flag=True, help="Replace the data that is there; it is kept under a new name.")
@click.pass_context
def restore(ctx: click.Context, file: Path, only_verify: bool, force: bool) -> None:
    """Put a backup into the data directory, or only verify it.

    The server must not run. FILE is verified first.
    """
    if only_verify:
        ctx.exit(0 if _show(verify(file)) else 1)
    config = load_config(ctx).config
    database = sqlite_file(config.database_url)
    if database is None:
        raise ConfigError(
            "a backup is restored into a file, and the database is in PostgreSQL",
            hint=f"CHATCORE_DATABASE={config.data}/chatcore.db chatcore restore {file}; then see chatcore copy --help",
        )
    with disk_told(config.data):
        place = Place(database.resolve() if database.is_symlink() else database, config.data)
        place.refuse(replace=force)
    if not _show(verify(file)):
        ctx.exit(1)
    for path in put_back(file, place, replace=force):
        click.echo(f"what was there is now {path}")
    click.echo(f"restored {file} into {config.data}")


def _show(checks: Sequence[Check]) -> bool:
    """Prints the checks; whether all went well."""
    click.echo(checks_table(checks))
    return all(check.state != "fail" for check in checks)
