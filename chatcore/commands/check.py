"""`chatcore check`."""

import click

from chatcore.commands.loading import load_config
from chatcore.commands.options import config_options


@click.command()
@config_options
@click.argument("name")
@click.pass_context
def check(ctx: click.Context, name: str) -> None:
    """Check an installed plugin against the contracts.

    A provider is asked questions in earnest. Of the tools only those are run that change nothing. It is done with a
    data directory of its own: files in yours are neither used nor changed.
    """
    try:
        from chatcore.testing.contracts import check_plugin  # noqa: PLC0415  pytest need not be installed
    except ModuleNotFoundError as error:
        raise click.ClickException(f"this needs {error.name}: pip install pytest pytest-asyncio") from error

    rules = check_plugin(name, load_config(ctx))
    for rule in rules:
        state = {True: "met", False: "NOT MET", None: "-"}[rule.met]
        click.echo(f"{state:<8} {rule.name}")
        if rule.detail:
            click.echo(f"{'':<8} {' '.join(rule.detail.split())}")
    broken, open_ = (sum(rule.met is state for rule in rules) for state in (False, None))
    click.echo(f"{len(rules)} rules, {broken} not met, {open_} not checked")
    ctx.exit(1 if broken else 0)
