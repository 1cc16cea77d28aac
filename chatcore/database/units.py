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
from typing import TYPE_CHECKING, Any, TypeAlias

import attrs

from chatcore.errors import RequestError

if TYPE_CHECKING:
    from chatcore.database.sqlite import Sqlite

_LARGEST_GROUP = 100  # units; the first of them waits for the last
# Seconds: a writer that always has something to write pauses now and then, or other processes would never come in.
_TURN, _PAUSE = 0.01, 0.001


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


def run_writer(engine: "Sqlite", queue: Queue) -> None:
    """The thread that writes. Units that wait at the same time share one commit, and are told of it together."""
    going, paused = True, time.monotonic()
    while going:
        taken = _take(queue)
        going = taken[-1] is not None
        units = [unit for unit in taken if unit is not None]
        _commit(engine, units)
        _tell(units)
        if not queue.empty() and time.monotonic() - paused > _TURN:
            time.sleep(_PAUSE)
            paused = time.monotonic()
    engine.leave()


def run_reader(engine: "Sqlite", queue: Queue) -> None:
    """A thread that reads. Each unit sees the database as it was at one moment."""
    while (unit := queue.get()) is not None:
        try:
            engine.join(writes=False)
            with engine.atomic():
                unit.result = unit.work()
        except BaseException as error:  # noqa: BLE001  the thread's boundary: whatever it is, the caller gets it
            unit.error = _told(engine, error)
        _tell([unit])
    engine.leave()


def _take(queue: Queue) -> list[Unit | None]:
    taken = [queue.get()]
    with suppress(Empty):
        while taken[-1] is not None and len(taken) < _LARGEST_GROUP:
            taken.append(queue.get_nowait())
    return taken


def _commit(engine: "Sqlite", units: Sequence[Unit]) -> None:
    """Runs units in one transaction. If one of them fails nothing is stored, and each gets a transaction of its own.

    A savepoint around each would spare that, but it doubles what a commit costs: the database copies every page that a
    unit changes. Most units fail never.
    """
    begun = False
    try:
        engine.join(writes=True)
        with engine.atomic("IMMEDIATE"):
            begun = True
            for unit in units:
                unit.result = unit.work()
    except BaseException as error:  # noqa: BLE001  the thread's boundary: whatever it is, the callers get it
        if begun and len(units) > 1:
            for unit in units:
                _commit(engine, [unit])
            return
        for unit in units:
            unit.error = _told(engine, error)


def _told(engine: "Sqlite", error: BaseException) -> BaseException:
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
