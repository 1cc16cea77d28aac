"""The command line. A command's module is imported when the command is called, plugins only where they are needed."""

import os
import sys
from collections.abc import Mapping
from importlib import import_module

import click

from chatcore.commands.options import config_options
from chatcore.errors import ChatcoreError, ConfigError
from chatcore.reserved import COMMANDS


class LazyGroup(click.Group):
    """Looks among the plugins' commands only for a name that is not the core's."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in COMMANDS:
            command: click.Command = getattr(import_module(f"chatcore.commands.{cmd_name}"), cmd_name)
            return command
        return plugin_commands(ctx).get(cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


def plugin_commands(ctx: click.Context) -> Mapping[str, click.Command]:
    """The commands that plugins add. A plugin that fails is told of, and no more."""
    from chatcore.commands.loading import (  # noqa: PLC0415  it loads everything, and most commands need nothing
        load_config,
        load_plugins,
    )

    ctx.obj = load_config(ctx)
    plugins = load_plugins(ctx.obj)
    for row in plugins.rows:
        if row.state == "failed":
            click.echo(f"{row.provenance} has failed: {row.reason}", err=True)
    return plugins.registry.commands


def _help_all(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(ctx.get_help() + "\n")
        formatter = ctx.make_formatter()
        with formatter.section("Commands of plugins"):
            commands = sorted(plugin_commands(ctx).items())
            formatter.write_dl([(name, command.get_short_help_str(limit=100)) for name, command in commands])
        click.echo(formatter.getvalue(), nl=False)
        ctx.exit()


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Plugins add commands of their own, such as 'tokens': --help-all lists them too.",
)
@click.version_option(package_name="chatcore", prog_name="chatcore")
@click.option(
    "--help-all", is_flag=True, expose_value=False, callback=_help_all, help="Show this message with all commands."
)
@config_options
def command() -> None:
    """A self-hosted chat backend that runs on plugins."""


def _open_standard_streams() -> None:
    """Opens those that whoever started this has closed. A database or a connection would be given their numbers, and be
    written into by whatever is printed; and libuv ends a process that closes one of these."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)  # it is the lowest that is free
            os.set_inheritable(descriptor, True)
            setattr(sys, name, os.fdopen(descriptor, "w" if number else "r"))


def main() -> None:
    """Runs the command line. What the user can mend is told without a traceback."""
    _open_standard_streams()
    try:
        command(prog_name="chatcore")
    except ChatcoreError as error:
        from chatcore.console import harmless  # noqa: PLC0415  not what `--help` needs

        click.echo(harmless(f"chatcore: {error.message}"), err=True)
        if error.hint:
            click.echo(harmless(f"hint: {error.hint}"), err=True)
        sys.exit(2 if isinstance(error, ConfigError) else 1)
