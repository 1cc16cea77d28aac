"""`chatcore check`."""

import click


@click.command()
@click.argument("name")
@click.pass_context
def check(ctx: click.Context, name: str) -> None:
    """Check an installed plugin against the contracts."""
    try:
        from chatcore.testing.contracts import check_plugin  # noqa: PLC0415  pytest need not be installed
    except ModuleNotFoundError as error:
        raise click.ClickException(f"this needs {error.name}: pip install pytest pytest-asyncio") from error

    rules = check_plugin(name)
    for rule in rules:
        click.echo(f"{'met' if rule.met else 'NOT MET':<8} {rule.name}")
        if not rule.met:
            click.echo(f"{'':<8} {rule.detail}")
    ctx.exit(0 if all(rule.met for rule in rules) else 1)
