"""Which workers of this host are alive.

Each worker holds a lock on a file of its own. The system lets go of it when the process ends, however it ends, so that
a restarted server sees at once which runs were left behind. Workers on other hosts are known by their leases only.
"""

import fcntl
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path


class Presence:
    """This worker's lock."""

    def __init__(self, directory: Path) -> None:
        """`directory` is shared by the workers of one host, under the runtime data."""
        directory.mkdir(parents=True, exist_ok=True)
        self.worker = uuid.uuid4().hex
        self._directory = directory
        self._path = directory / f"{self.worker}.lock"
        unlocked = self._path.with_suffix(
            ".new"
        )  # under its name only when it is locked, or others would take it for dead
        self._file = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        unlocked.rename(self._path)

    def dead(self) -> Sequence[str]:
        """The workers of this host that have died and were not forgotten."""
        return [path.stem for path in self._directory.glob("*.lock") if path != self._path and _is_free(path)]

    def forget(self, workers: Iterable[str]) -> None:
        """Removes the files of dead workers."""
        for worker in workers:
            (self._directory / f"{worker}.lock").unlink(missing_ok=True)

    def leave(self) -> None:
        """Lets go of the lock."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def _is_free(path: Path) -> bool:
    try:
        file = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(file)
