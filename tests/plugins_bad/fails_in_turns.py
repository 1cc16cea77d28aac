"""Loads well, and fails in every turn."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class FailsInTurns(Plugin[NoSettings]):
    """Raises in both hooks of a turn."""

    @hookimpl
    async def prepare_turn(self, turn):
        raise KeyError("prepared")

    @hookimpl
    async def finish_turn(self, turn, result):
        raise KeyError("finished")
