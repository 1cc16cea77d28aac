"""Sees what code leaves behind, and what it touches."""

# ruff: noqa: S101
# The contracts speak in assertions.

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, TypeVar

PROMPT = 2.0
"""Seconds within which something has to end that was closed or cancelled."""
QUICK = 0.1
"""Seconds within which something answers that is asked for every request."""

_IO: Mapping[str, frozenset[str]] = {
    "io": frozenset({"open", "open_code"}),
    "posix": frozenset({"fork", "kill", "listdir", "mkdir", "open", "posix_spawn", "posix_spawnp", "readlink"})
    | {"chmod", "chown", "link", "remove", "rename", "replace", "rmdir", "scandir", "symlink", "system", "truncate"}
    | {"unlink"},
    "posixsubprocess": frozenset({"fork_exec"}),
    "socket": frozenset({"getaddrinfo", "gethostbyaddr", "gethostbyname", "gethostbyname_ex", "getnameinfo"}),
    "sqlite3": frozenset({"connect"}),
    "": frozenset({"socket.bind", "socket.connect", "socket.connect_ex", "socket.sendto"}),  # methods
}
"""What opens files, sockets and processes, by the module in C that has it, without a `_` before its name."""
_POOL = "asyncio_"  # how the threads of a loop's own pool are called; they belong to the loop

T = TypeVar("T")


@contextmanager
def touching_nothing(what: str) -> Iterator[None]:
    """Fails if what this thread runs inside opens a file, a socket or a process. Nothing may be awaited inside."""
    touched: set[str] = set()

    # Not an audit hook, which nobody can take back: while one of Python's listens, Python 3.11 cannot start two threads
    # at once that are traced, as they are when coverage is measured.
    def note(_frame: object, event: str, function: Any) -> None:
        if event == "c_call":
            module = (getattr(function, "__module__", None) or "").lstrip("_")
            if function.__qualname__ in _IO.get(module, ()):
                touched.add(f"{module}.{function.__qualname__}".lstrip("."))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)
    assert not touched, f"{what} does I/O ({', '.join(sorted(touched))}): give what is known already"


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
