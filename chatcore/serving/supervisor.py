"""The supervisor: starts the workers of a server, puts new ones in the place of those that die or hang, and ends them.

It is small and hardly ever busy. Only the workers load the framework, the plugins and the database, so that nothing of
theirs can bring it down. The first worker is the test: it brings the database up to date before there is another, and
what keeps it from starting stops the start with one message. From then on, nothing that a worker does ends the server.
"""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence

import attrs

from chatcore import logs
from chatcore.config import Config, Loaded
from chatcore.errors import ChatcoreError, ConfigError
from chatcore.serving import sockets
from chatcore.serving.process import Died, WorkerProcess

logger = logging.getLogger(__name__)

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds until a worker that has died is followed by another. It doubles while they die soon."""
SETTLED = 60.0
"""Seconds after which a worker that dies has not died soon."""
SUSPICIOUS = 3
"""After how many workers that died soon the log says what to do."""
TRIES = 5
"""How many workers may die before the first is ready."""
STOP_TIME = 4.5
"""Seconds that workers have to end, before they are killed."""
RETIREMENT = 40.0
"""The same for a worker that was replaced, whose answers go on for a while."""

_FIXED = ("host", "port", "workers", "data", "database")


def supervise(loaded: Loaded, reread: Callable[[], Loaded]) -> None:
    """Serves with several workers until SIGTERM or SIGINT; a second SIGINT ends them at once.

    At SIGHUP the configuration is read anew with `reread`, and one worker after the other is replaced.

    Raises:
        ConfigError: the address cannot be listened on, or a setting allows for one worker only.
        ChatcoreError: the first worker could not start.
    """
    logs.configure(loaded.config.log_level, loaded.config.log_format)
    _check(loaded.config)
    asyncio.run(_Supervisor(loaded, reread).run())


def _check(config: Config) -> None:
    if config.reload:
        raise ConfigError("with reload there can be one worker only", hint="set workers to 1 while you develop")


@attrs.define(eq=False)
class _Slot:
    """A worker's place. `worker` is the one that serves there, if there is one."""

    number: int
    worker: WorkerProcess | None = None
    deaths: int = 0
    changing: asyncio.Lock = attrs.field(factory=asyncio.Lock)

    def pause(self, age: float) -> float:
        """How many seconds after the death of a worker of this age there shall be another."""
        self.deaths = 1 if age >= SETTLED else self.deaths + 1
        return float(min(SHORTEST_PAUSE * 2 ** (self.deaths - 1), LONGEST_PAUSE))


class _Supervisor:
    def __init__(self, loaded: Loaded, reread: Callable[[], Loaded]) -> None:
        self._loaded = loaded
        self._reread = reread
        self._sockets = sockets.listen_for_workers(loaded.config)
        self._slots = [_Slot(number) for number in range(1, loaded.config.workers + 1)]
        self._workers: set[WorkerProcess] = set()
        self._stop, self._hangup = asyncio.Event(), asyncio.Event()
        self._killed = False
        self._has_terminal = sys.stderr.isatty()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop.set)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        keeping, stopped = asyncio.create_task(self._keep_all()), asyncio.create_task(self._stop.wait())
        await asyncio.wait([keeping, stopped], return_when=asyncio.FIRST_COMPLETED)
        keeping.cancel()
        await asyncio.wait([keeping])
        await self._end_all()
        if self._killed:
            sys.exit(128 + signal.SIGINT)
        if not keeping.cancelled():
            keeping.result()  # raises why it did not go on

    def _interrupt(self) -> None:
        self._killed = self._stop.is_set()
        self._stop.set()
        if self._killed:
            for worker in self._alive():
                worker.kill()

    def _hang_up(self) -> None:
        terminal_gone = self._has_terminal and not sys.stderr.isatty()
        (self._stop if terminal_gone else self._hangup).set()

    def _alive(self) -> Sequence[WorkerProcess]:
        return [worker for worker in self._workers if not worker.ended.is_set()]

    async def _end_all(self) -> None:
        for listening in self._sockets:
            listening.close()
        workers = self._alive()
        for worker in workers:
            worker.terminate()
        late = await _still_there(workers, STOP_TIME)
        for worker in late:
            logger.warning("the worker in process %s did not end in %.1f s and is killed", worker.pid, STOP_TIME)
            worker.kill()
        await _still_there(late)

    # --- one worker for each slot -------------------------------------------------------------------------------------

    async def _keep_all(self) -> None:
        plugins = await self._start_first(self._slots[0])
        url = sockets.url(self._loaded.config, self._sockets[0])
        logger.info("listening on %s with %d workers", url, len(self._slots))
        logger.info("plugins: %s", ", ".join(plugins) or "none but the built-in ones")
        async with asyncio.TaskGroup() as group:
            for slot in self._slots:
                group.create_task(self._keep(slot))
            group.create_task(self._replace_at_hangup())

    async def _start_first(self, slot: _Slot) -> Sequence[str]:
        """Starts the worker that shows whether the server can start.

        Raises:
            ChatcoreError: it cannot.
        """
        while True:
            worker = self._spawn(slot, self._loaded, quiet=False)
            try:
                return await self._seat(slot, worker)
            except Died as died:
                if slot.deaths + 1 == TRIES:
                    text = f"no worker got ready in {TRIES} tries: {died.message}"
                    raise ChatcoreError(text, hint=died.hint) from died
                await self._pause(slot, worker, died)

    async def _keep(self, slot: _Slot) -> None:
        """Puts a new worker in the place of each that dies."""
        while True:
            async with slot.changing:
                if slot.worker is None or slot.worker.ended.is_set():
                    await self._refill(slot)
            if slot.worker is not None:
                await slot.worker.watch(self._loaded.config.hang_timeout)

    async def _refill(self, slot: _Slot) -> None:
        dead, slot.worker = slot.worker, None
        if dead is not None:
            self._steer()
            await self._pause(slot, dead, dead.death())
        worker = self._spawn(slot, self._loaded)
        try:
            await self._seat(slot, worker)
        except ChatcoreError as error:
            await self._pause(slot, worker, error)

    async def _pause(self, slot: _Slot, worker: WorkerProcess, error: ChatcoreError) -> None:
        """Tells that a worker has died or could not start, and waits until there shall be another."""
        pause = slot.pause(worker.age)
        fate = error.message if isinstance(error, Died) else f"worker {slot.number} cannot start: {error.message}"
        logger.warning("%s; another starts in %.1f s", fate, pause)
        if slot.deaths >= SUSPICIOUS:
            logger.error(
                "worker %d has died %d times in a row: %s", slot.number, slot.deaths, error.hint or "see above"
            )
        await asyncio.sleep(pause)

    def _spawn(self, slot: _Slot, loaded: Loaded, *, quiet: bool = True) -> WorkerProcess:
        worker = WorkerProcess(loaded, slot.number, self._sockets[slot.number - 1], quiet=quiet)
        self._workers = {*self._alive(), worker}
        return worker

    async def _seat(self, slot: _Slot, worker: WorkerProcess) -> Sequence[str]:
        """Puts a worker into its place as soon as it is ready. Gives the plugins that are on; raises as `ready`."""
        plugins = await worker.ready()
        slot.worker = worker
        self._steer()
        logger.info("worker %d is ready in process %s", slot.number, worker.pid)
        return plugins

    def _steer(self) -> None:
        """Leads new connections to the workers that are there, if there are any."""
        if ready := [index for index, slot in enumerate(self._slots) if slot.worker is not None]:
            sockets.steer(self._sockets, ready)

    # --- replacing them -----------------------------------------------------------------------------------------------

    async def _replace_at_hangup(self) -> None:
        while True:
            await self._hangup.wait()
            self._hangup.clear()
            try:
                await self._replace(self._changed())
            except ChatcoreError as error:
                hint = f" ({error.hint})" if error.hint else ""
                logger.error("the workers are not replaced: %s%s", error.message, hint)  # noqa: TRY400  it says it all
            except Exception:  # the boundary: a server that works goes on, whatever is wrong with what was read anew
                logger.exception("the workers are not replaced")

    def _changed(self) -> Loaded:
        """The configuration as it is now.

        Raises:
            ConfigError: it is wrong, or needs more than new workers.
        """
        loaded = self._reread()
        _check(loaded.config)
        changed = [name for name in _FIXED if getattr(loaded.config, name) != getattr(self._loaded.config, name)]
        if changed:
            raise ConfigError(f"{', '.join(changed)} cannot change while the server runs", hint="restart it")
        return loaded

    async def _replace(self, loaded: Loaded) -> None:
        """Replaces one worker after the other. The first shows whether the configuration works.

        Raises:
            ChatcoreError: a worker could not start; the one that it was to replace goes on, as do those after it.
        """
        for slot in self._slots:
            async with slot.changing:
                before = slot.worker
                await self._seat(slot, self._spawn(slot, loaded, quiet=slot.number > 1))
            self._loaded = loaded
            logs.configure(loaded.config.log_level, loaded.config.log_format)
            if before is not None:
                before.replaced()
                for late in await _still_there([before], RETIREMENT):
                    late.kill()
        logger.info("all workers were replaced")


async def _still_there(workers: Sequence[WorkerProcess], patience: float | None = None) -> Sequence[WorkerProcess]:
    """Waits until workers have ended, or until so many seconds have passed. Gives those that have not."""
    endings = [asyncio.create_task(worker.ended.wait()) for worker in workers]
    if endings:
        await asyncio.wait(endings, timeout=patience)
    return [worker for worker in workers if not worker.ended.is_set()]
