"""Units of work: plain functions that run in a database's own threads, each all or nothing.

A caller waits for a future. When it stops waiting, the unit runs to its end all the same: nothing that happens in an
event loop can cut a transaction.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeAlias

import attrs

from chatcore.database.engine import Engine
from chatcore.errors import RequestError
from chatcore.tally import Histogram

_ATTEMPTS = 5


@attrs.define(eq=False)
class Unit:
    """A function to run, and where its outcome is waited for."""

    work: Callable[[], Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def settle(self) -> None:
        """Tells the outcome, in the loop of the one who waits, if somebody still does."""
        if self.future.done():
            return
        if self.error is None:
            self.future.set_result(self.result)
        else:
            self.future.set_exception(self.error)


Queue: TypeAlias = SimpleQueue[Unit | None]
"""Units to run. None ends the thread that takes it."""


def run_writer(engine: Engine, queue: Queue, commits: Histogram) -> None:
    """A thread that writes. Units that wait at the same time may share one commit, and are told of it together.

    `commits` takes how many seconds each group took.
    """
    going = True
    while going:
        taken = _take(queue, engine.largest_group)
        going = taken[-1] is not None
        units = [unit for unit in taken if unit is not None]
        if units:
            started = time.monotonic()
            _run(engine, units, writes=True)
            commits.observe(time.monotonic() - started)
        _tell(units)
        del taken, units  # what they gave may be large
        if not queue.empty():
            engine.rest()
    engine.leave()


def run_reader(engine: Engine, queue: Queue) -> None:
    """A thread that reads. Each unit sees the database as it was at one moment."""
    while (unit := queue.get()) is not None:
        _run(engine, [unit], writes=False)
        _tell([unit])
        del unit  # what it gave may be large
    engine.leave()


def _take(queue: Queue, most: int) -> list[Unit | None]:
    taken = [queue.get()]
    with suppress(Empty):
        while taken[-1] is not None and len(taken) < most:
            taken.append(queue.get_nowait())
    return taken


def _run(engine: Engine, units: Sequence[Unit], *, writes: bool) -> None:
    """Runs units in one transaction. If one of them fails nothing is stored, and each gets a transaction of its own.

    A savepoint around each would spare that, but it doubles what a commit costs: SQLite copies every page that a unit
    changes. Most units fail never.
    """
    for attempt in range(1, _ATTEMPTS + 1):
        begun = False
        try:
            engine.join(writes=writes)
            with engine.unit(writes=writes):
                begun = True
                for unit in units:
                    unit.result = unit.work()
        except BaseException as error:  # noqa: BLE001  the thread's boundary: whatever it is, the callers get it
            if begun and len(units) > 1:
                for unit in units:
                    _run(engine, [unit], writes=writes)
                return
            if attempt < _ATTEMPTS and engine.worth_repeating(error):
                continue
            for unit in units:
                unit.error = _told(engine, error)
        return


def _told(engine: Engine, error: BaseException) -> BaseException:
    """What the caller is told of an error in its unit."""
    told: BaseException
    if isinstance(error, StopIteration):
        told = RuntimeError("the unit of work raised StopIteration, which no future can carry")
    elif isinstance(error, UnicodeEncodeError):
        told = RequestError("the text has half of a surrogate pair", hint="send valid Unicode")
    elif isinstance(error, OverflowError):
        told = RequestError("a number is too large to be stored")
    else:
        told = engine.explain(error)
    if told is not error:
        told.__cause__ = error
    return told


def _tell(units: Sequence[Unit]) -> None:
    """Wakes each waiting loop once."""
    by_loop = defaultdict(list)
    for unit in units:
        by_loop[unit.future.get_loop()].append(unit)
    for loop, settled in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(_settle, settled)


def _settle(units: Sequence[Unit]) -> None:
    for unit in units:
        unit.settle()
