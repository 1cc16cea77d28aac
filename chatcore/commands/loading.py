"""The configuration and the plugins, for commands that need them."""

import logging
import os

import attrs
import click

from chatcore import config
from chatcore.app import database_url
from chatcore.builtin import BUILTINS
from chatcore.commands.options import OVERRIDES
from chatcore.database import Database
from chatcore.plugins import Plugins


def load_config(ctx: click.Context) -> config.Loaded:
    """The configuration, with what the command line says.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    overrides = dict(ctx.meta.get(OVERRIDES, {}))
    disable = overrides.pop("disable", ())
    loaded = config.load(file=overrides.pop("config", None), environ=os.environ, overrides=overrides)
    if not disable:
        return loaded
    return attrs.evolve(
        loaded,
        config=attrs.evolve(loaded.config, disable=(*loaded.config.disable, *disable)),
        origins={**loaded.origins, "disable": "--disable"},
    )


def load_plugins(loaded: config.Loaded) -> Plugins:
    """All plugins, whatever is wrong with them. What would be logged is in their rows."""
    logging.getLogger("chatcore").addHandler(logging.NullHandler())
    return Plugins.load(loaded, Database(database_url(loaded.config)), builtins=BUILTINS, halt=False)
