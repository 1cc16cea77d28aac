"""Options that override the configuration. They may stand before or behind the name of a command."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

OVERRIDES = "chatcore.overrides"
"""Where the given options are in a context's `meta`, which it shares with its parents. By the name of the setting."""

F = TypeVar("F", bound=Callable[..., Any])


def remember(ctx: click.Context, option: click.Parameter, value: object) -> None:
    """The callback of such an option: notes its value, if it was given."""
    if value not in (None, ()):
        ctx.meta.setdefault(OVERRIDES, {})[option.name] = value


def config_options(function: F) -> F:
    """Adds the options that every command has that reads the configuration."""
    file = click.Path(dir_okay=False, path_type=Path)
    directory = click.Path(file_okay=False, path_type=Path)
    for flag, type_, multiple, text in (
        ("--disable", None, True, "A plugin not to load, beside those of the configuration; may be repeated."),
        ("--load", None, True, "A plugin to load that is not installed as one, as MODULE:CLASS; may be repeated."),
        ("--plugins-dir", directory, False, "A directory of plugins that are one file each."),
        ("--data", directory, False, "The directory of everything that is kept."),
        ("--config", file, False, "The configuration file; chatcore.toml where there is one."),
    ):
        option = click.option(flag, type=type_, multiple=multiple, expose_value=False, callback=remember, help=text)
        function = option(function)
    return function
