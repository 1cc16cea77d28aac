"""The hooks that are called for every turn."""

import asyncio
import logging

from chatcore.errors import PluginError, RequestError
from chatcore.plugins.check import place
from chatcore.plugins.registry import Contribution, Registry
from chatcore.types import Turn, TurnResult

logger = logging.getLogger(__name__)


async def prepare(registry: Registry, turn: Turn) -> Turn:
    """The turn as the plugins want it, asked one after the other. What they raise is logged, but for a refusal.

    Raises:
        RequestError: a plugin refuses the turn.
    """
    for hook in registry.of("prepare_turn"):
        try:
            changed = await registry.calls.run(hook.name, "prepare_turn", hook.value(turn))
            if changed is not None and not isinstance(changed, Turn):
                raise PluginError(f"it gave {type(changed).__name__}, wanted Turn or None")
        except RequestError:
            raise
        except Exception as error:  # noqa: BLE001  a plugin's code: it must not fail the turn
            _complain(hook, error)
        else:
            turn = changed or turn
    return turn


async def finish(registry: Registry, turn: Turn, result: TurnResult) -> None:
    """Tells the plugins, all at once, of a turn that has ended. What they raise is logged."""
    await asyncio.gather(*(_finish(registry, hook, turn, result) for hook in registry.of("finish_turn")))


async def _finish(registry: Registry, hook: Contribution, turn: Turn, result: TurnResult) -> None:
    try:
        await registry.calls.run(hook.name, "finish_turn", hook.value(turn, result))
    except Exception as error:  # noqa: BLE001  a plugin's code: the turn is over, whatever happens here
        _complain(hook, error)


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
