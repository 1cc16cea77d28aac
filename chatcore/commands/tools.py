"""`chatcore tools`."""

import difflib
import json
from collections.abc import Iterator, Sequence

import click

from chatcore.commands.loading import load_config, load_plugins
from chatcore.commands.options import config_options
from chatcore.console import printable, table, with_database
from chatcore.database import Pin
from chatcore.plugins import Plugins
from chatcore.tools import JsonObject


@click.group()
def tools() -> None:
    """List the tools, and review those that have changed."""


@tools.command("list")
@config_options
@click.pass_context
def list_tools(ctx: click.Context) -> None:
    """List the tools of the plugins, and those of sources that were used once, with what becomes of their calls."""
    plugins = load_plugins(load_config(ctx))
    pins = _pins(plugins)
    click.echo(table(("NAME", "OF", "CALLS", "STATE"), [*_own(plugins), *(_pinned(plugins, pin) for pin in pins)]))


@tools.command()
@config_options
@click.option("--yes", is_flag=True, help="Accept all changes without asking.")
@click.pass_context
def review(ctx: click.Context, yes: bool) -> None:
    """Show how tools have changed since they were first used, and accept that, one by one.

    A tool of a source whose definition changes is not offered to models before that. A running server follows within
    seconds.
    """
    plugins = load_plugins(load_config(ctx))
    changed = [pin for pin in _pins(plugins) if pin.changed is not None]
    for pin in changed:
        click.echo(f"{pin.name} of {pin.source} is suspended, for it has changed:")
        for line in _difference(pin):
            click.secho(f"  {line}", fg={"+": "green", "-": "red"}.get(line[0]))
        if yes or click.confirm("Accept it as it is now?"):
            _accept(plugins, pin)
    if not changed:
        click.echo("No tool has changed.")


def _accept(plugins: Plugins, pin: Pin) -> None:
    pins = plugins.trust.pins
    with_database(pins.database, lambda: pins.accept(pin.source, pin.name, str(pin.changed_fingerprint)))
    click.echo(f"{pin.name} of {pin.source} is accepted.")


def _pins(plugins: Plugins) -> Sequence[Pin]:
    pins = plugins.trust.pins
    return with_database(pins.database, pins.all)


def _own(plugins: Plugins) -> Iterator[tuple[str, ...]]:
    for one in plugins.registry.of("tool"):
        policy = plugins.trust.policy(one.name, None, one.value.destructive)
        yield one.name, f"plugin {one.provenance.plugin}", policy, ""


def _pinned(plugins: Plugins, pin: Pin) -> tuple[str, ...]:
    policy = plugins.trust.policy(pin.name, pin.source, bool(pin.definition.get("destructive")))
    return pin.name, f"source {pin.source}", policy, "" if pin.changed is None else "suspended: has changed"


def _difference(pin: Pin) -> Sequence[str]:
    """The lines of both definitions, with what is in one of them only marked."""
    before, after = list(_lines(pin.definition)), list(_lines(pin.changed or {}))
    return [line for line in difflib.ndiff(before, after) if not line.startswith("?")]


def _lines(definition: JsonObject) -> Iterator[str]:
    """A definition to read."""
    rest = {key: value for key, value in definition.items() if key not in ("name", "description")}
    for line in [*str(definition.get("description", "")).splitlines(), *_pretty(rest)]:
        yield printable(line)


def _pretty(value: JsonObject) -> list[str]:
    return json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True).splitlines()
