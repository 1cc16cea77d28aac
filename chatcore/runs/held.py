"""The runs that a worker holds, and for how long."""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
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
        self._by_conversation: defaultdict[tuple[str, str], set[Run]] = defaultdict(set)

    def __bool__(self) -> bool:
        return bool(self.live or self.preparing or self.unclosed)

    @property
    def ids(self) -> Sequence[str]:
        """Of all of them."""
        return [*self.live, *self.preparing, *self.unclosed]

    def of(self, principal_id: str, conversation_id: str) -> Collection[Run]:
        """Those of a conversation that are under way."""
        return tuple(self._by_conversation.get((principal_id, conversation_id), ()))

    def begin(self, run: Run) -> None:
        """A run is under way from now on."""
        self.live[run.turn.id] = run
        self._by_conversation[place(run)].add(run)

    def end(self, run: Run) -> None:
        """It is over."""
        del self.live[run.turn.id]
        others = self._by_conversation[place(run)]
        others.discard(run)
        if not others:
            del self._by_conversation[place(run)]
        run.over.set()

    @contextmanager
    def prepared(self, run_id: str) -> Iterator[None]:
        """Around what the current task does for a run that is stored and not under way yet."""
        self.preparing[run_id] = asyncio.current_task()
        try:
            yield
        finally:
            del self.preparing[run_id]


def place(run: Run) -> tuple[str, str]:
    """Whose run it is, and in which conversation."""
    return run.turn.principal.id, run.turn.conversation_id


def lease(seconds: float = LEASE) -> datetime:
    """Until when a run belongs to a worker that says so now."""
    return datetime.now(UTC) + timedelta(seconds=seconds)
