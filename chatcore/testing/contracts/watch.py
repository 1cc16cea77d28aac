"""Sees what code leaves behind, and what it touches."""

# ruff: noqa: S101
# The contracts speak in assertions.

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from functools import cache
from typing import TypeVar

PROMPT = 2.0
"""Seconds within which something has to end that was closed or cancelled."""
QUICK = 0.1
"""Seconds within which something answers that is asked for every request."""

_IO = ("open", "socket.", "subprocess.", "os.", "sqlite3.", "urllib.")
_touched: ContextVar[list[str] | None] = ContextVar("touched", default=None)
_POOL = "asyncio_"  # how the threads of a loop's own pool are called; they belong to the loop

T = TypeVar("T")


@contextmanager
def touching_nothing(what: str) -> Iterator[None]:
    """Fails if what runs inside opens a file, a socket or a process."""
    _listen()
    touched: list[str] = []
    token = _touched.set(touched)
    try:
        yield
    finally:
        _touched.reset(token)
    assert not touched, f"{what} does I/O ({', '.join(sorted(set(touched)))}): give what is known already"


@cache
def _listen() -> None:
    """Python's audit events, from now on: a hook cannot be taken back, so that there is only one."""
    sys.addaudithook(_note)


def _note(event: str, _arguments: object) -> None:
    touched = _touched.get()
    if touched is not None and event.startswith(_IO):
        touched.append(event)


@asynccontextmanager
async def leaving_nothing(*, threads: bool = False) -> AsyncIterator[None]:
    """Fails if a task, or with `threads` a thread, that began inside is still there some time after the end."""
    tasks, running = asyncio.all_tasks(), set(threading.enumerate())
    yield
    left: set[object] = set(await _pending(asyncio.all_tasks() - tasks))
    if threads:
        left |= set(await _alive(set(threading.enumerate()) - running))
    assert not left, f"left behind: {', '.join(map(repr, left))}: end it where it was begun"


async def _pending(tasks: set[asyncio.Task[object]]) -> set[asyncio.Task[object]]:
    return (await asyncio.wait(tasks, timeout=PROMPT))[1] if tasks else set()


async def _alive(threads: set[threading.Thread]) -> list[threading.Thread]:
    own = [thread for thread in threads if not thread.name.startswith(_POOL)]
    for thread in own:
        await asyncio.to_thread(thread.join, PROMPT)
    return [thread for thread in own if thread.is_alive()]


async def promptly(awaitable: Awaitable[T], what: str) -> T:
    """Awaits something that has to end soon.

    Raises:
        AssertionError: it did not.
    """
    try:
        async with asyncio.timeout(PROMPT):
            return await awaitable
    except TimeoutError:
        raise AssertionError(f"{what} did not end within {PROMPT:g} s") from None
