"""The readings of the other workers of a server.

Each writes its own into a file beside its lock, again and again, so that whichever is asked can tell of all.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from chatcore import wire
from chatcore.errors import ChatcoreError
from chatcore.operation import metrics
from chatcore.worker import is_alive

if TYPE_CHECKING:
    from chatcore.state import State

INTERVAL = 2.0
"""Seconds between two writings: by so much the numbers of another worker may be behind."""

_SUFFIX = ".metrics"


@attrs.frozen
class Published:
    """The readings of one worker, by the number that it has in its server, and when it was started."""

    slot: int
    started: float
    readings: metrics.Readings


def own(state: "State") -> Published:
    """This worker's readings as they are now."""
    return Published(state.slot, metrics.STARTED, metrics.read(state))


async def keep_publishing(state: "State", directory: Path, worker: str) -> None:
    """Writes this worker's readings where the others find them, until cancelled; then there are none any more."""
    path = directory / f"{worker}{_SUFFIX}"
    try:
        while True:
            with suppress(OSError):  # the disk is full, which the database tells: others know the earlier numbers
                await asyncio.to_thread(_write, path, own(state))
            await asyncio.sleep(INTERVAL)
    finally:
        path.unlink(missing_ok=True)


def by_others(directory: Path, worker: str) -> Sequence[Published]:
    """What the other workers that are alive have published, as far as this one can open files. What the dead have left
    is removed."""
    found = []
    with suppress(OSError):
        for path in directory.glob(f"*{_SUFFIX}"):
            if path.stem == worker:
                continue
            if not is_alive(directory, path.stem):
                path.unlink(missing_ok=True)
                _new(path).unlink(missing_ok=True)
                continue
            with suppress(FileNotFoundError, ChatcoreError):  # it has ended meanwhile, or is of another version
                found.append(wire.structure(wire.loads(path.read_bytes()), Published))
    return found


def _write(path: Path, published: Published) -> None:
    """Whole or not at all."""
    new = _new(path)
    new.write_bytes(wire.dumps(wire.unstructure(published)))
    new.rename(path)


def _new(path: Path) -> Path:
    return path.with_suffix(f"{_SUFFIX}-new")
