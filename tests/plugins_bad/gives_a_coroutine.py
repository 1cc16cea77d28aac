"""Calls what is to be awaited."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class GivesACoroutine(Plugin[NoSettings]):
    """Finds its tools later."""

    @hookimpl
    def register_tools(self):
        return self.later()

    async def later(self):
        return []
