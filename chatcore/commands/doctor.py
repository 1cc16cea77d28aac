"""`chatcore doctor`."""

import json

import attrs
import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options
from chatcore.commands.tables import checks_table
from chatcore.config import Loaded
from chatcore.errors import ConfigError
from chatcore.operation.doctor import look


@click.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look for what is wrong, and say what to do about it.

    It changes nothing, and may be called while the server runs. The exit code is 1 if anything fails.
    """
    configuration: Loaded | ConfigError
    try:
        configuration = load_config(ctx)
    except ConfigError as error:
        configuration = error
    checks = look(configuration, load_plugins)
    if as_json:
        click.echo(json.dumps([attrs.asdict(check) for check in checks], indent=2))
    else:
        click.echo(checks_table(checks))
    ctx.exit(1 if any(check.state == "fail" for check in checks) else 0)
