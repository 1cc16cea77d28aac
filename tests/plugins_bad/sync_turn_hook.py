"""The hook is async, its implementation is not."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class SyncTurnHook(Plugin[NoSettings]):
    """Forgets to be async."""

    @hookimpl
    def prepare_turn(self, turn):
        return None
