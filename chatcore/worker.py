"""Which workers of this host are alive.

Each worker holds a lock on a file of its own. The system lets go of it when the process ends, however it ends, so that
a restarted server sees at once which runs were left behind. Workers on other hosts are known by their leases only.
"""

import fcntl
import os
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path

from chatcore.errors import ConfigError


class Presence:
    """This worker's lock."""

    def __init__(self, directory: Path) -> None:
        """`directory` is shared by the workers of one host, under the runtime data.

        Raises:
            ConfigError: it cannot be written.
        """
        self.worker = uuid.uuid4().hex
        self.directory = directory
        self._path = directory / f"{self.worker}.lock"
        unlocked = self._path.with_suffix(".new")  # not named as others look for it, or they would take it for dead
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = os.open(unlocked, os.O_CREAT | os.O_RDWR, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX)
            unlocked.rename(self._path)
        except OSError as error:
            raise ConfigError(
                f"{error.filename or unlocked}: {error.strerror}",
                hint="choose a data directory that the server's user may write, on a file system that has locks",
            ) from error

    def dead(self) -> Sequence[str]:
        """The workers of this host that have died and were not forgotten."""
        try:
            return [path.stem for path in self.directory.glob("*.lock") if path != self._path and _is_free(path)]
        except OSError:  # as when too many files are open: it can be seen later
            return ()

    def forget(self, workers: Iterable[str]) -> None:
        """Removes the files of dead workers."""
        for worker in workers:
            (self.directory / f"{worker}.lock").unlink(missing_ok=True)

    def leave(self) -> None:
        """Lets go of the lock."""
        self._path.unlink(missing_ok=True)
        os.close(self._file)


def alive(directory: Path) -> int:
    """How many workers of this host are alive."""
    return sum(is_alive(directory, path.stem) for path in directory.glob("*.lock"))


def is_alive(directory: Path, worker: str) -> bool:
    """Whether a worker of this host is alive."""
    path = directory / f"{worker}.lock"
    return path.exists() and not _is_free(path)


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
