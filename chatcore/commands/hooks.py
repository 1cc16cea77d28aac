"""`chatcore hooks`."""

import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options


@click.command()
@config_options
@click.pass_context
def hooks(ctx: click.Context) -> None:
    """List the hooks, and which plugins implement them."""
    for hook in load_plugins(load_config(ctx)).hooks():
        click.echo(f"{'async ' if hook.is_async else ''}def {hook.name}{hook.signature}")
        click.echo(f"    {hook.summary}")
        click.echo(f"    in this order: {', '.join(hook.implementers) or 'nobody'}\n")
