"""The hook has another argument."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class WrongArguments(Plugin[NoSettings]):
    """Wants what the hook does not give."""

    @hookimpl
    async def finish_turn(self, chat, result):
        """Is never called."""
