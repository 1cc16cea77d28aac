"""A worker's process, as its supervisor sees it.

Workers are spawned, not forked: each is a fresh interpreter that is handed its socket and the configuration as it was
read. A fork would have to come before the first thread, but libraries of plugins start threads when they are imported;
and with everything loaded before the fork, a new worker would run the code and the settings of the old.

A process is told to end by SIGTERM, or by the end of the pipe that connects it to the supervisor: none is left behind
by a supervisor that was killed. SIGINT and SIGHUP, which a terminal sends to all processes, are the supervisor's alone.

Through that pipe a worker is asked for signs of life, which its event loop gives. There is never more than one
question in it, so that it cannot fill, and the time is counted in looks: one that comes late, because the supervisor or
the whole machine slept, counts no more than another.
"""

import asyncio
import faulthandler
import gc
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from time import monotonic

from chatcore.config import Loaded
from chatcore.errors import ChatcoreError

logger = logging.getLogger(__name__)

START_TIME = 300.0
"""Seconds that a worker has to get ready. The first may have to bring a large database up to date."""
LOOK = 1.0
"""Seconds between two looks at whether a worker has given a sign of life."""
TRACE_TIME = 2.0
"""Seconds that a worker has to write where it hangs, before it is killed."""

_ALIVE = "alive"
_SPAWN = multiprocessing.get_context("spawn")
_FROM_TERMINAL = (signal.SIGINT, signal.SIGHUP)


class Died(ChatcoreError):
    """A worker has ended that was not told to."""


class WorkerProcess:
    """A worker, from its start to its end. `ended` is set when it is gone, or could not be started."""

    def __init__(self, loaded: Loaded, slot: int, listening: socket.socket, *, quiet: bool) -> None:
        """Starts it. The arguments are those of `supervised.work`."""
        self.ended = asyncio.Event()
        self._slot = slot
        self._began = monotonic()
        self._silent = 0.0
        self._hung = False
        self._is_replaced = False
        self._said: asyncio.Future[Sequence[str] | ChatcoreError | None] = asyncio.get_running_loop().create_future()
        try:
            self._start(loaded, listening, quiet=quiet)
        except OSError as error:
            hint = "the system may be out of memory, processes or open files"
            self._said.set_result(Died(f"worker {slot} could not be started: {error.strerror}", hint=hint))
            self.ended.set()

    def _start(self, loaded: Loaded, listening: socket.socket, *, quiet: bool) -> None:
        loop = asyncio.get_running_loop()
        self._line, theirs = _SPAWN.Pipe()
        with theirs, _terminal_held_back():
            self._process = _SPAWN.Process(target=_work, args=(loaded, self._slot, listening, theirs, quiet))
            self._process.start()
        loop.add_reader(self._line.fileno(), self._hear)
        loop.add_reader(self._process.sentinel, self._bury)

    def _hear(self) -> None:
        try:
            said = self._line.recv()
        except (EOFError, ConnectionError):  # it has ended: `_bury` is called in a moment
            asyncio.get_running_loop().remove_reader(self._line.fileno())
            return
        if not self._said.done():
            self._said.set_result(said)
        elif said == _ALIVE:
            self._silent = 0.0
        else:
            logger.error("worker %d: %s", self._slot, said)

    def _bury(self) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._process.sentinel)
        self._process.join()
        if not self._said.done() and self._line.poll():
            self._hear()
        if not self._said.done():
            self._said.set_result(None)
        loop.remove_reader(self._line.fileno())
        self._line.close()
        self.ended.set()

    async def ready(self) -> Sequence[str]:
        """Waits until it serves. Gives the plugins that are on.

        Raises:
            Died: it has ended.
            ChatcoreError: it cannot start.
        """
        await asyncio.wait([self._said], timeout=START_TIME)
        if not self._said.done():
            self.kill()
            await self.ended.wait()
            raise Died(f"worker {self._slot} was not ready in {START_TIME:.0f} s")
        said = self._said.result()
        if isinstance(said, ChatcoreError):
            raise said
        if said is None:
            raise self.death()
        return said

    async def watch(self, patience: float) -> None:
        """Waits until it has ended, or another has taken its place. If it gives no sign of life for so many seconds, it
        is made to end."""
        while not (self.ended.is_set() or self._is_replaced) and self._silent < patience:
            if not self._silent:
                self._send(_ALIVE)
            self._silent += LOOK
            await self._end_within(LOOK)
        if not (self.ended.is_set() or self._is_replaced):
            self._hung = True
            logger.error("worker %d has given no sign of life for %.0f s, and is ended", self._slot, self._silent)
            if self._process.pid:
                os.kill(self._process.pid, signal.SIGABRT)  # `faulthandler` writes what each thread does
            await self._end_within(TRACE_TIME)
            self.kill()
            await self.ended.wait()

    async def _end_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended.wait()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return monotonic() - self._began

    def death(self) -> Died:
        """How it has ended, and what to do about that."""
        if self._hung:
            hint = "the log says which code held up the event loop; if there is no trace, somebody stopped the process"
            return Died(f"worker {self._slot} hung", hint=hint)
        code = self._process.exitcode or 0
        fate = f"was ended by {_name(-code)}" if code < 0 else f"ended with exit code {code}"
        match -code:
            case signal.SIGKILL:
                hint = "the system may be out of memory, of which every worker needs its own; or somebody killed it"
            case signal.SIGSEGV | signal.SIGABRT | signal.SIGBUS | signal.SIGILL | signal.SIGFPE:
                hint = "native code has crashed, most likely a plugin's: find it with --disable"
            case _:
                hint = "its last lines in the log say why"
        return Died(f"worker {self._slot} {fate}", hint=hint)

    def replaced(self) -> None:
        """Tells it that another has taken its place."""
        self._is_replaced = True
        self._send("replaced")

    def _send(self, what: str) -> None:
        with suppress(OSError):  # it is gone
            self._line.send(what)

    def terminate(self) -> None:
        """Tells it to end now."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends it at once."""
        self._process.kill()


def _name(number: int) -> str:
    """That of a signal; those for real-time programs have none."""
    return signal.Signals(number).name if number in {*signal.Signals} else f"signal {number}"


@contextmanager
def _terminal_held_back() -> Iterator[None]:
    """Holds back the terminal's signals, also from a process that is started meanwhile, until that knows what to do."""
    resource_tracker.ensure_running()  # or starting the process would do it, and let SIGINT through on the way
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FROM_TERMINAL)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _work(loaded: Loaded, slot: int, listening: socket.socket, line: Connection, quiet: bool) -> None:
    """What the process runs."""
    for number in _FROM_TERMINAL:
        signal.signal(number, lambda *_: None)  # not SIG_IGN, which the processes that plugins start would inherit
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _FROM_TERMINAL)
    _keep_to_itself()
    faulthandler.enable()
    gc.disable()  # as in `commands.serve`
    from chatcore.serving.supervised import work  # noqa: PLC0415  everything that the supervisor does without

    work(loaded, slot, listening, line, quiet=quiet)


def _keep_to_itself() -> None:
    """Sees that what this process was handed ends with it, even if a process that a plugin starts outlives it.

    With uvloop such a process inherits whatever can be inherited, and so could keep the port open, and keep the
    supervisor from noticing that the worker is gone.
    """
    for descriptor in [int(entry.name) for entry in Path("/dev/fd").iterdir()]:
        if descriptor > 2:
            with suppress(OSError):  # that of the listing itself, which is closed
                os.set_inheritable(descriptor, False)
