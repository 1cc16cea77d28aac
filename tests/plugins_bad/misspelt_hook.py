"""One letter is missing."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class MisspeltHook(Plugin[NoSettings]):
    """Implements a hook that there is not."""

    @hookimpl
    def register_tool(self):
        return ()
