"""Notices when code holds up the event loop, while it does, and says in the log whose code it is.

A timer on the loop beats every 100 ms; it costs nothing for an event, and how late it comes is the loop's lag. A thread
looks whether the beat has come. If not, it looks at the loop's stack again and again: when the loop has been in one and
the same step for 100 ms, that step blocks. So a step of 230 ms and more is always found, one of less than 100 ms never.

A loop that is late is not always blocked:

* It has many short things to do: then it is in another step at the next look.
* The machine or the process was stopped (suspend, SIGSTOP): then the thread itself slept for too long, and the CPU
  clock of the loop's thread stood still. Where that clock went on, a call into C kept the interpreter to itself, and
  the thread could not look earlier: that blocks.
* The garbage collector looks at everything: that takes long where there is much, whoever makes it begin. Its time
  counts for nobody.
* Other processes have the CPU: while the loop's thread is ready to run, only the time in which it does run counts.
  (Where the system does not tell which it is, as macOS does not, this is not seen.)
"""

import asyncio
import gc
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from io import FileIO
from pathlib import Path
from types import FrameType
from typing import Self, TypeAlias

import attrs

from chatcore.plugins import Row
from chatcore.tally import Histogram, Tally

logger = logging.getLogger(__name__)

BEAT = 0.1
"""Seconds between two beats of the loop."""
BLOCKING = 0.1
"""Seconds in one step after which it is named in the log: meanwhile nobody else is served."""
PATIENCE = 1.0
"""Seconds after which a step is named that has not ended until then."""
LAG = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
CORE = "core"
"""Who is counted for a step that is no plugin's."""

_SLACK = 0.005  # seconds by which a beat may be late before the thread looks at the stack
_PAUSE = 0.025  # seconds between two looks

Rows: TypeAlias = Callable[[], Sequence[Row]]


@attrs.frozen(eq=False)
class _Beat:
    """One beat: when the next one is due, by the two clocks; and how long the loop's thread had had the CPU."""

    due: float
    due_on_loop: float
    cpu: float


@attrs.frozen
class _Glance:
    """What the loop's thread does at one moment: the frames of its step, the innermost first; the time; for how long
    the thread has had the CPU; whether it has it now, or would take it."""

    frames: tuple[FrameType, ...]
    time: float
    cpu: float
    runs: bool

    def is_same_step(self, other: Self) -> bool:
        """Whether both are in one step: what the loop has called is still the same call."""
        return bool(self.frames and other.frames) and self.frames[-1] is other.frames[-1]


class Watchdog:
    """Watches one loop. `lag` has how late its beats were, `blocks` how often code of which plugin was named."""

    def __init__(self, rows: Rows) -> None:
        """`rows` gives the plugins that there are."""
        self.lag = Histogram(LAG)
        self.blocks = Tally()
        self._rows = rows
        self._stop = threading.Event()
        self._cpu_clock: int = time.CLOCK_PROCESS_CPUTIME_ID
        self._collected = 0.0
        self._collecting_since: float | None = None

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._thread_id = threading.get_ident()
        self._stat = Path(f"/proc/self/task/{threading.get_native_id()}/stat")
        if hasattr(time, "pthread_getcpuclockid"):  # not on macOS: there, the clock of the process must do
            self._cpu_clock = time.pthread_getcpuclockid(self._thread_id)
        gc.callbacks.append(self._collects)
        self._beat()
        self._thread = threading.Thread(target=self._watch, name="chatcore watchdog", daemon=True)
        self._thread.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._timer.cancel()
        gc.callbacks.remove(self._collects)
        self._stop.set()
        self._thread.join()  # at once: all that it waits for is this

    # --- on the loop --------------------------------------------------------------------------------------------------

    def _beat(self) -> None:
        self._last = _Beat(self._now() + BEAT, time.monotonic() + BEAT, self._cpu())
        self._timer = self._loop.call_later(BEAT, self._beat_again)

    def _beat_again(self) -> None:
        self.lag.observe(max(0.0, time.monotonic() - self._last.due_on_loop))
        self._beat()

    # --- clocks, which stand still while garbage is collected ---------------------------------------------------------

    def _now(self) -> float:
        return time.monotonic() - self._collected_so_far()

    def _cpu(self) -> float:
        return time.clock_gettime(self._cpu_clock) - self._collected_so_far()

    def _collected_so_far(self) -> float:
        since = self._collecting_since
        return self._collected + (0.0 if since is None else time.monotonic() - since)

    def _collects(self, phase: str, _: Mapping[str, int]) -> None:
        """Called by the collector, in any thread, before and after its work."""
        if phase == "start":
            self._collecting_since = time.monotonic()
        else:
            self._collected = self._collected_so_far()
            self._collecting_since = None

    # --- in the thread ------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        with _statistics() as statistics:
            starved = _starved(statistics)
            while not self._stop.wait(max(_SLACK, self._last.due + _SLACK - self._now())):
                beat = self._last
                if self._now() >= beat.due + _SLACK:
                    first = self._glance()  # before anything that lets the loop go on
                    self._look(beat, first, _starved(statistics) - starved)
                starved = _starved(statistics)

    def _look(self, beat: _Beat, before: _Glance, starved: float) -> None:
        """Looks at a loop that is late, until it beats again. `starved` is for how long this thread was kept from it by
        other processes."""
        if before.time - beat.due - starved > BLOCKING and before.cpu - beat.cpu > BLOCKING and before.frames:
            self._name(before.frames, beat)  # this thread could not look earlier: see above
            return
        held = 0.0
        while not self._stop.wait(_PAUSE) and self._last is beat:
            after = self._glance()
            held = held + _seconds_in_code(before, after) if before.is_same_step(after) else 0.0
            if held >= BLOCKING:
                self._name(after.frames, beat)
                return
            before = after

    def _name(self, frames: Sequence[FrameType], beat: _Beat) -> None:
        """Says who blocks, once: when it is over, or when it takes too long to wait for that."""
        who, where = _blame(frames, self._rows())
        while self._now() < beat.due + PATIENCE and self._is_missing(beat):
            pass
        over = self._last is not beat
        if self._stop.is_set() and not over:
            return
        logger.warning(
            "%s %s the event loop for %d ms%s; use asyncio.to_thread for what waits",
            where,
            "blocked" if over else "has blocked",
            1000 * (self._last.due - BEAT - beat.due if over else self._now() - beat.due),
            "" if over else " and still does",
        )
        self.blocks.add(who)
        while self._is_missing(beat):
            pass

    def _is_missing(self, beat: _Beat) -> bool:
        """Waits for a moment; whether there is still no beat after this one."""
        return not self._stop.wait(_SLACK) and self._last is beat

    def _glance(self) -> _Glance:
        with _no_collection():
            innermost = sys._current_frames().get(self._thread_id)  # noqa: SLF001  documented, in spite of its name
            frames = tuple(_step(innermost))
        return _Glance(frames, self._now(), self._cpu(), self._runs())

    def _runs(self) -> bool:
        """Whether the loop's thread is ready to run, rather than waiting for something."""
        try:
            return self._stat.read_bytes().rpartition(b") ")[2].startswith(b"R")
        except OSError:
            return False


def _statistics() -> AbstractContextManager[FileIO | None]:
    """What the system tells of the calling thread, open: to be read ten times a second."""
    try:
        return FileIO("/proc/thread-self/schedstat")
    except OSError:
        return nullcontext()


def _starved(statistics: FileIO | None) -> float:
    """For how many seconds that thread was ready to run and others had the CPU."""
    return int(os.pread(statistics.fileno(), 100, 0).split()[1]) / 1e9 if statistics else 0.0


def _seconds_in_code(before: _Glance, after: _Glance) -> float:
    """For how much of the time between two looks it was its code that kept the loop from going on."""
    passed, cpu = after.time - before.time, after.cpu - before.cpu
    was_stopped = passed > 2 * _PAUSE  # longer than this thread wanted to sleep, too
    return cpu if after.runs or was_stopped else passed


_looking = threading.Lock()


@contextmanager
def _no_collection() -> Iterator[None]:
    """Keeps garbage from being collected while the frames of another thread are asked for.

    Before 3.12 Python collects in the middle of making the object of a frame. What the collector calls lets the other
    thread run, which leaves the frame: then there is written to memory that is something else's by now. Or both threads
    wait for each other for ever (https://github.com/python/cpython/issues/106883).
    """
    with _looking:  # of several watchdogs in a process, none may undo what another has done
        was_enabled = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if was_enabled:
                gc.enable()


# --- whose code it is -------------------------------------------------------------------------------------------------

_LOOP = frozenset({("asyncio.base_events", "_run_once"), ("asyncio.runners", "run"), ("selectors", "select")})


def _step(frame: FrameType | None) -> Iterator[FrameType]:
    """The frames of what the loop has called, from the innermost one; none if it has called nothing."""
    while frame is not None and (_module(frame), frame.f_code.co_name) not in _LOOP:
        yield frame
        frame = frame.f_back


def _blame(frames: Sequence[FrameType], rows: Sequence[Row]) -> tuple[str, str]:
    """Whose code a step is in (the name of a plugin, or `core`), and where: the innermost code of a plugin that was
    installed, or else the innermost that is not Python's own."""
    for frame in frames:
        for row in rows:
            if row.plugin is not None and not row.builtin and _belongs(_module(frame), type(row.plugin).__module__):
                return row.name, f"{row.provenance}: {_place(frame)}"
    own = [frame for frame in frames if _module(frame).partition(".")[0] not in sys.stdlib_module_names]
    return CORE, _place([*own, *frames][0])


def _belongs(module: str, plugin: str) -> bool:
    """Whether a module is in the package of a plugin's class, or in its file."""
    package = plugin if plugin.startswith("chatcore.") else plugin.partition(".")[0]
    return module == package or module.startswith(f"{package}.")


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _place(frame: FrameType) -> str:
    return f"{frame.f_code.co_qualname} ({frame.f_code.co_filename}:{frame.f_lineno})"
