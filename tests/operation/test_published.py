"""The readings of the other workers (chatcore/operation/published.py)."""

import asyncio
import resource
import sys

import pytest

from chatcore.operation import published
from chatcore.operation.metrics import Buckets, Sample
from chatcore.operation.published import Published
from chatcore.worker import Presence

HOLDS = """
import sys, pathlib
from chatcore.worker import Presence
print(Presence(pathlib.Path(sys.argv[1])).worker, flush=True)
sys.stdin.read()
"""

READINGS = {
    "chatcore_runs": (Sample((), 3.0),),
    "chatcore_loop_lag_seconds": (Sample((), Buckets((0.1, 1.0), (5, 1, 0), 0.75)),),
    "chatcore_requests_total": (Sample(("200",), 7.0), Sample(("503",), 1.0)),
}


@pytest.fixture
def presence(tmp_path):
    presence = Presence(tmp_path)
    yield presence
    presence.leave()


async def test_what_others_have_published_is_read_as_long_as_they_live(tmp_path, presence):
    """Not what this worker has published itself. Of a worker that has died nothing is told, and its file goes."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLDS, str(tmp_path), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    other = (await process.stdout.readline()).decode().strip()
    theirs = Published(2, 1000.0, READINGS)
    published._write(tmp_path / f"{other}.metrics", theirs)
    published._write(tmp_path / f"{presence.worker}.metrics", Published(1, 900.0, READINGS))
    assert published.by_others(tmp_path, presence.worker) == [theirs]
    process.kill()
    await process.communicate()
    assert published.by_others(tmp_path, presence.worker) == []
    assert [path.stem for path in tmp_path.glob("*metrics*")] == [presence.worker]


async def test_what_cannot_be_read_is_left_out(tmp_path, presence):
    """A worker of another version may have written it."""
    other = Presence(tmp_path)
    (tmp_path / f"{other.worker}.metrics").write_bytes(b'{"slot": "two"}')
    assert published.by_others(tmp_path, presence.worker) == []
    other.leave()


async def test_a_worker_that_can_open_nothing_tells_of_itself(tmp_path, presence):
    """As when as many files are open as may be: that is when its numbers are wanted."""
    other = Presence(tmp_path)
    published._write(tmp_path / f"{other.worker}.metrics", Published(2, 1000.0, READINGS))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        assert published.by_others(tmp_path, presence.worker) == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    other.leave()


async def test_a_worker_publishes_until_it_ends(make_chat, tmp_path, presence):
    """Again and again; then its file is gone."""
    chat = await make_chat()
    state = chat.app.extensions["chatcore"]
    path = tmp_path / f"{presence.worker}.metrics"
    task = asyncio.create_task(published.keep_publishing(state, tmp_path, presence.worker))
    async with asyncio.timeout(5):
        while not path.exists():
            await asyncio.sleep(0.01)
    other = Presence(tmp_path)
    [found] = published.by_others(tmp_path, other.worker)
    assert (found.slot, found.readings.keys()) == (1, published.own(state).readings.keys())
    other.leave()
    task.cancel()
    await asyncio.wait([task])
    assert not path.exists()
