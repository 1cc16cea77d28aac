"""Forgets the parentheses."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class Source:
    """Would be a tool source."""

    name = "source"

    def tools(self):
        return ()


class GivesAClass(Plugin[NoSettings]):
    """Gives a class where a value is wanted."""

    @hookimpl
    def register_tools(self):
        yield Source
