"""The runs that a worker holds, and for how long."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from chatcore.runs.run import Run

LEASE = 15.0
"""Seconds for which a worker may be silent before its runs are taken for dead."""


class Held:
    """The runs that this worker holds, by their ids.

    `live` are under way. Of those in `preparing` the turn is stored, and a task makes what else it needs. `unclosed`
    have ended, and that could not be stored yet. `worker` is the name under which they are leased.
    """

    def __init__(self) -> None:
        self.worker = ""
        self.live: dict[str, Run] = {}
        self.preparing: dict[str, asyncio.Task[Any] | None] = {}
        self.unclosed: dict[str, Run] = {}

    def __bool__(self) -> bool:
        return bool(self.live or self.preparing or self.unclosed)

    @property
    def ids(self) -> Sequence[str]:
        """Of all of them."""
        return [*self.live, *self.preparing, *self.unclosed]

    def end(self, run: Run) -> None:
        """A run is under way no longer."""
        del self.live[run.turn.id]
        run.over.set()

    @contextmanager
    def prepared(self, run_id: str) -> Iterator[None]:
        """Around what the current task does for a run that is stored and not under way yet."""
        self.preparing[run_id] = asyncio.current_task()
        try:
            yield
        finally:
            del self.preparing[run_id]


def lease(seconds: float = LEASE) -> datetime:
    """Until when a run belongs to a worker that says so now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
