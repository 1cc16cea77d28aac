"""`chatcore config`."""

import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options
from chatcore.config import describe
from chatcore.console import table


@click.command()
@config_options
@click.pass_context
def config(ctx: click.Context) -> None:
    """Print every setting with where it came from."""
    loaded = load_config(ctx)
    classes = {row.name: row.settings_class for row in load_plugins(loaded).rows if row.settings_class}
    rows = [(row.key, row.value, row.origin) for row in describe(loaded, classes)]
    click.echo(table(("SETTING", "VALUE", "FROM"), rows))
