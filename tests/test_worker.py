"""Which workers of this host are alive (chatcore/worker.py)."""

import asyncio
import errno
import os
import resource
import sys
from pathlib import Path

import pytest

from chatcore.errors import ConfigError
from chatcore.worker import Presence, alive, is_alive

HOLDS = """
import sys, pathlib
from chatcore.worker import Presence
print(Presence(pathlib.Path(sys.argv[1])).worker, flush=True)
sys.stdin.read()
"""


async def test_a_killed_worker_is_dead_until_it_is_forgotten(tmp_path: Path) -> None:
    """As long as its process lives it is not; after kill -9 it is, to all who ask."""
    mine = Presence(tmp_path)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS, str(tmp_path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    other = (await process.stdout.readline()).decode().strip()
    assert mine.dead() == []
    assert (is_alive(tmp_path, other), alive(tmp_path)) == (True, 2)
    process.kill()
    await process.communicate()
    assert (is_alive(tmp_path, other), alive(tmp_path)) == (False, 1)
    assert mine.dead() == mine.dead() == [other]
    mine.forget([other])
    assert mine.dead() == []
    mine.leave()


def test_a_worker_that_leaves_is_not_dead(tmp_path: Path) -> None:
    """One that ended in order has closed its runs itself, and leaves no file."""
    mine, other = Presence(tmp_path), Presence(tmp_path)
    other.leave()
    assert mine.dead() == []
    mine.leave()
    assert not list(tmp_path.iterdir())


def test_a_file_system_without_locks_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As some networks have it: it is told before anything is served."""

    def refuses(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refuses)
    with pytest.raises(ConfigError, match="No locks available") as caught:
        Presence(tmp_path)
    assert "on a file system that has locks" in (caught.value.hint or "")


def test_nobody_is_taken_for_dead_who_cannot_be_looked_at(tmp_path: Path) -> None:
    """As when the process has as many files open as it may: the upkeep of runs must not end because of it."""
    mine, other = Presence(tmp_path), Presence(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert not mine.dead()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    other.leave()
    mine.leave()
