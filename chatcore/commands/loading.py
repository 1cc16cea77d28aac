"""The configuration and the plugins, for commands that need them."""

import logging
import os
from typing import TYPE_CHECKING, Any

import attrs
import click

from chatcore import config
from chatcore.commands.options import OVERRIDES

if TYPE_CHECKING:
    from chatcore.plugins import Plugins


def load_config(ctx: click.Context) -> config.Loaded:
    """The configuration, with what the command line says.

    Raises:
        ConfigError: with everything that is wrong in it.
    """
    overrides = dict(ctx.meta.get(OVERRIDES, {}))
    added = {name: overrides.pop(name) for name in ("disable", "load") if name in overrides}
    loaded = config.load(file=overrides.pop("config", None), environ=os.environ, overrides=overrides)
    longer: dict[str, Any] = {name: (*getattr(loaded.config, name), *values) for name, values in added.items()}
    origins = {name: f"--{name}" for name in added}
    return attrs.evolve(loaded, config=attrs.evolve(loaded.config, **longer), origins={**loaded.origins, **origins})


def load_plugins(loaded: config.Loaded) -> "Plugins":
    """All plugins, whatever is wrong with them. What would be logged is in their rows."""
    # They take long to import, and whoever needs the configuration only does not wait for them.
    from chatcore.builtin import BUILTINS  # noqa: PLC0415
    from chatcore.database import Database  # noqa: PLC0415
    from chatcore.plugins import Plugins  # noqa: PLC0415

    logging.getLogger("chatcore").addHandler(logging.NullHandler())
    return Plugins.load(loaded, Database(loaded.config.database_url), builtins=BUILTINS, halt=False)
