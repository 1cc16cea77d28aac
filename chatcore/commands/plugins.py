"""`chatcore plugins`."""

import json

import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options
from chatcore.console import table
from chatcore.plugins import Row


@click.command()
@config_options
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.pass_context
def plugins(ctx: click.Context, as_json: bool) -> None:
    """List the plugins: what is on, what is not and why."""
    loaded = load_plugins(load_config(ctx))
    if as_json:
        click.echo(json.dumps(loaded.table(), indent=2))
        return
    head = ("NAME", "DISTRIBUTION", "VERSION", "LOAD", "STATE", "CONTRIBUTES, OR WHY NOT")
    click.echo(table(head, [_cells(row) for row in loaded.rows]))


def _cells(row: Row) -> tuple[str, ...]:
    told = row.reason or ", ".join(label for label in row.contributes if not label.startswith("route "))
    return (
        row.name,
        row.provenance.distribution,
        row.provenance.version or "-",
        f"{row.seconds * 1000:.0f} ms",
        row.state,
        " ".join(told.split()),
    )
