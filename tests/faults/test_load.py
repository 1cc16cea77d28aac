"""A thousand answers at once for each worker: all of them come to their end, whole."""

import asyncio
import json
import resource
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

StartWorkers = Callable[..., Awaitable[Any]]

BENCH = Path(__file__).parents[1] / "bench"
MODEL = "bench/30-200"
"""Thirty pieces, five a second."""
RAMP = 3.0
"""Seconds over which the readers come."""


@pytest.fixture
def many_files() -> Iterator[None]:
    """Lets the processes that are started have as many connections as the system allows."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest_asyncio.fixture
async def upstream(many_files: None) -> AsyncIterator[str]:
    """The URL of a model's server."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, BENCH / "upstream.py", stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    yield f"http://127.0.0.1:{(await process.stdout.readline()).decode().strip()}/api/v1"
    process.terminate()
    await process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("database", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("workers", "streams"), [(1, 1000), (2, 2000)])
async def test_a_thousand_answers_at_once_for_each_worker(
    start_workers: StartWorkers, upstream: str, workers: int, streams: int, figure: Callable[[str], None]
) -> None:
    """Five events a second each: none fails, and each has all of its pieces."""
    settings = {"OPENROUTER_API_KEY": "key", "OPENROUTER_BASE_URL": upstream, "CHATCORE_MAX_STREAMS": str(streams)}
    server = await start_workers(workers=workers, env=settings)
    port = server.process.url.rpartition(":")[2]
    arguments = (port, str(streams), str(streams), MODEL, str(RAMP))
    process = await asyncio.create_subprocess_exec(
        sys.executable, BENCH / "load.py", *arguments, stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    seen = json.loads(said)
    figure(f"{streams} streams on {workers} workers: {seen}")
    assert (seen["completed"], seen["failed"], seen["events"]) == (streams, 0, 30 * streams)
