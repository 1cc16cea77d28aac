"""`chatcore version`."""

import platform
from importlib import metadata

import click


@click.command()
def version() -> None:
    """Print the version."""
    click.echo(f"chatcore {metadata.version('chatcore')} on Python {platform.python_version()}")
