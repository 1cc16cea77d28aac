"""`chatcore serve`."""

import gc
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import click

from chatcore.commands.loading import load_config
from chatcore.commands.options import config_options, remember
from chatcore.config import Config


def _setting(name: str, **attributes: Any) -> Callable[[Any], Any]:
    """An option for a setting of the core, with the setting's own words."""
    text = attrs.fields_dict(Config)[name].metadata["help"]
    flag = "--" + name.replace("_", "-")
    return click.option(flag, name, expose_value=False, callback=remember, help=text, **attributes)


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FLAG = {"is_flag": True, "default": None}


@click.command()
@_setting("host")
@_setting("port", type=int)
@_setting("workers", type=int)
@config_options
@_setting("strict", **_FLAG)
@_setting("insecure", **_FLAG)
@_setting("reload", **_FLAG)
@_setting("certfile", type=_FILE)
@_setting("keyfile", type=_FILE)
@click.pass_context
def serve(ctx: click.Context) -> None:
    """Serve the chat API."""
    loaded = load_config(ctx)
    if loaded.config.workers == 1:
        gc.disable()  # while everything is loaded: that stays, and to look through it takes a tenth of the start
        from chatcore.serving.server import run  # noqa: PLC0415  it loads everything, which a supervisor leaves to its workers

        run(loaded)
    else:
        from chatcore.serving.supervisor import supervise  # noqa: PLC0415  as above

        supervise(loaded, reread=partial(load_config, ctx))
