"""The decorator is missing."""

from chatcore.hooks import NoSettings, Plugin


class Undecorated(Plugin[NoSettings]):
    """Overrides a hook, and nobody would call it."""

    def register_tools(self):
        return ()
