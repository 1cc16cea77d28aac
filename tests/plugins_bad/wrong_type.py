"""Gives something that is not a tool."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class WrongType(Plugin[NoSettings]):
    """Takes a dictionary for a tool."""

    @hookimpl
    def register_tools(self):
        yield {"name": "dict"}
