"""Gives one tool and then fails."""

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool


class RaisesInHook(Plugin[NoSettings]):
    """Raises in the middle of a hook."""

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.first)
        raise ZeroDivisionError("after the first tool")

    async def first(self) -> str:
        """Is given, and must not stay."""
        return "first"
