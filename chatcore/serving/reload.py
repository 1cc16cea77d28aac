"""Restarting when the code changes, for development."""

import asyncio
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

logger = logging.getLogger(__name__)

LOOK_INTERVAL = 0.5
"""Seconds between two looks at the files."""


async def source_changed(plugins_dir: Path | None) -> None:
    """Waits until a file of an imported module, or of the directory of plugins, is new or different."""
    before = dict(_files(plugins_dir))
    while True:
        await asyncio.sleep(LOOK_INTERVAL)
        now = dict(_files(plugins_dir))
        changed = [path for path, time in now.items() if before.get(path, time) != time]
        changed += [path for path in now.keys() - before.keys() if path.parent == plugins_dir]
        if changed:
            logger.info("%s has changed: restarting", changed[0])
            return
        before = {**now, **before}


def restart() -> NoReturn:
    """Puts a new process, started with the same words, in the place of this one."""
    os.execv(sys.executable, [sys.executable, "-m", "chatcore", *sys.argv[1:]])  # noqa: S606  our own command line


def _files(plugins_dir: Path | None) -> Iterator[tuple[Path, int]]:
    names = {getattr(module, "__file__", None) for module in tuple(sys.modules.values())}
    paths = {Path(name) for name in names if name} | set(plugins_dir.glob("*.py") if plugins_dir else ())
    for path in paths:
        try:
            yield path, path.stat().st_mtime_ns
        except FileNotFoundError:
            continue  # an editor is between removing the old file and putting the new one in its place
