"""Opens and closes what plugins need open, each in a task of its own.

Entering and leaving happen in the same task, since cancel scopes (anyio's, and so MCP's) belong to the task that opened
them; and what a scope cancels is then that task, not the server.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager

from chatcore.errors import PluginError
from chatcore.plugins.registry import Contribution
from chatcore.protocols import Health
from chatcore.waiting import within

logger = logging.getLogger(__name__)

START = 10.0
"""Seconds after which the server goes on without waiting for a lifespan that is still opening."""
STOP = 4.2
"""Seconds after which a lifespan that is still closing is named and cancelled: before a supervisor kills the worker."""


class Lifespans:
    """The lifespans of the plugins of one app."""

    def __init__(self, *, strict: bool = False) -> None:
        """`strict`: any lifespan that fails to open stops the start, not only those of built-in plugins."""
        self._strict = strict
        self._open: dict[str, _Lifespan] = {}

    @property
    def states(self) -> Mapping[str, Health]:
        """How each lifespan is: ready, starting, or failed with the reason."""
        return {name: lifespan.health for name, lifespan in self._open.items()}

    async def start(self, contributions: Sequence[Contribution]) -> None:
        """Opens lifespans: those of one plugin one after the other, the plugins side by side.

        One that fails is logged, and its plugin keeps what else it contributes.

        Raises:
            PluginError: one of a built-in plugin has failed.
        """
        await asyncio.gather(*(self._start(own) for own in _by_plugin(contributions).values()))
        for contribution in contributions:
            health = self.states[contribution.name]
            if health.state == "failed" and (self._strict or contribution.provenance.builtin):
                raise PluginError(f"{contribution.provenance}: {contribution.name} did not open: {health.detail}")

    async def _start(self, contributions: Sequence[Contribution]) -> None:
        for contribution in contributions:
            lifespan = self._open[contribution.name] = _Lifespan(contribution)
            await lifespan.entered()

    async def stop(self, plugin: str | None = None) -> None:
        """Closes the lifespans of a plugin, or all: of one plugin the last one first. A failure does not stop it."""
        chosen = [one.contribution for one in self._open.values()]
        own = _by_plugin([c for c in chosen if plugin in (None, c.provenance.plugin)])
        await asyncio.gather(*(self._stop(contributions) for contributions in own.values()))

    async def _stop(self, contributions: Sequence[Contribution]) -> None:
        for contribution in reversed(contributions):
            await self._open.pop(contribution.name).leave()


class _Lifespan:
    """One lifespan and its task."""

    def __init__(self, contribution: Contribution) -> None:
        self.contribution = contribution
        self.health = Health("starting")
        self._name = f"{contribution.provenance}: the lifespan {contribution.name}"
        self._settled = asyncio.Event()
        self._leave = asyncio.Event()
        self._task = asyncio.create_task(self._live(), name=f"lifespan {contribution.name}")

    async def _live(self) -> None:
        try:
            context: AbstractAsyncContextManager[object] = self.contribution.value.run()
            async with context:
                self.health = Health("ready")
                self._settled.set()
                await self._leave.wait()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's code; a cancellation that it let out ends it, too
            self.health = Health("failed", f"{type(error).__name__}: {error}")
            if not self._leave.is_set() or isinstance(error, Exception):
                logger.exception("%s has failed: %s", self._name, self.health.detail)
        finally:
            self._settled.set()

    async def entered(self) -> None:
        """Waits until it is open or has failed, but not for ever."""
        if not await within(START, self._settled.wait()):
            logger.warning("%s is still opening after %d s; the server goes on without it", self._name, START)

    async def leave(self) -> None:
        """Closes it, and cancels its task if that takes too long. One that is still opening is cancelled at once."""
        opening = not self._settled.is_set()
        self._leave.set()
        if not opening:
            done, _ = await asyncio.wait([self._task], timeout=STOP)
            if done:
                return
            logger.warning("%s did not close in %.1f s and is cancelled", self._name, STOP)
        self._task.cancel()
        await asyncio.wait([self._task], timeout=STOP)


def _by_plugin(contributions: Sequence[Contribution]) -> dict[str, list[Contribution]]:
    own: dict[str, list[Contribution]] = {}
    for contribution in contributions:
        own.setdefault(contribution.provenance.plugin, []).append(contribution)
    return own
