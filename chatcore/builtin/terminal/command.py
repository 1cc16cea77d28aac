"""`chatcore chat`."""

import click


@click.command
def chat() -> None:
    """Chat in the terminal."""
