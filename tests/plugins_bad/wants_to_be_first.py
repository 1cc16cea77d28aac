"""Pluggy's options are not for plugins."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class WantsToBeFirst(Plugin[NoSettings]):
    """Asks for a place in the order."""

    @hookimpl(tryfirst=True)
    def register_tools(self):
        return ()
