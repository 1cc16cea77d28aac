"""The hook is not async, its implementation is."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class AsyncContribution(Plugin[NoSettings]):
    """Is async where it must not be."""

    @hookimpl
    async def register_tools(self):
        yield None
