"""The hooks that are called for every turn."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

import attrs

from chatcore.errors import PluginError, RequestError
from chatcore.plugins.fit import place, unlike
from chatcore.plugins.registry import Contribution, Registry
from chatcore.types import Turn, TurnResult

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FIXED = ("id", "principal", "conversation_id", "created_at")


async def prepare(registry: Registry, turn: Turn) -> Turn:
    """The turn as the plugins want it, asked one after the other. What they raise is logged, but for a refusal, and so
    is one that takes longer than it may.

    Raises:
        RequestError: a plugin refuses the turn.
    """
    limit = turn.limits.hook_timeout
    for hook in registry.of("prepare_turn"):
        try:
            changed = await registry.calls.run(hook.name, "prepare_turn", _in_time(hook.value(turn), limit))
            _check(turn, changed)
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001  a plugin's code: it must not fail the turn
            _complain(hook, error)
        else:
            turn = changed or turn
    return turn


def _check(turn: Turn, changed: object) -> None:
    """Looks at what a hook gave: what is wrong in it would fail the turn where nobody knows whose fault it is."""
    if changed is None or changed is turn:
        return
    if not isinstance(changed, Turn):
        raise PluginError(f"it gave {type(changed).__name__}, wanted Turn or None")
    if fixed := [name for name in _FIXED if getattr(changed, name) != getattr(turn, name)]:
        raise PluginError(f"it changed the turn's {fixed[0]}, which stays what it is")
    named = changed if changed.model is not None else attrs.evolve(changed, model="")  # for no model is the default one
    if wrong := unlike(named, turn):
        raise PluginError(f"it gave a turn with {wrong}")


async def finish(registry: Registry, turn: Turn, result: TurnResult) -> None:
    """Tells the plugins, all at once, of a turn that has ended. What they raise is logged."""
    await asyncio.gather(*(_finish(registry, hook, turn, result) for hook in registry.of("finish_turn")))


async def _finish(registry: Registry, hook: Contribution, turn: Turn, result: TurnResult) -> None:
    try:
        told = _in_time(hook.value(turn, result), turn.limits.hook_timeout)
        await registry.calls.run(hook.name, "finish_turn", told)
    except Exception as error:  # noqa: BLE001  a plugin's code: the turn is over, whatever happens here
        _complain(hook, error)


async def _in_time(coroutine: Coroutine[Any, Any, T], limit: float) -> T:
    """Awaits a hook. One that takes too long has failed, and so has one that was cancelled by something of its own."""
    try:
        async with asyncio.timeout(limit) as time:
            return await coroutine
    except TimeoutError:
        if not time.expired():
            raise
        raise PluginError(f"it did not end within {limit:g} seconds (hook_timeout)") from None
    except asyncio.CancelledError as error:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise PluginError("it was cancelled by something of its own") from error


def _complain(hook: Contribution, error: Exception) -> None:
    logger.error(
        '%s: %s, %s, failed and the turn goes on without it: %s: %s; mend it, or write disable = ["%s"] in '
        "chatcore.toml",
        hook.provenance,
        hook.kind,
        place(hook.value),
        type(error).__name__,
        error,
        hook.name,
        exc_info=error,
    )
