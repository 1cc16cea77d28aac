"""Gives the same name twice."""

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.tools import Tool


class Twice(Plugin[NoSettings]):
    """Contradicts itself."""

    @hookimpl
    def register_tools(self):
        yield Tool.of(self.answer)
        yield Tool.of(self.answer)

    async def answer(self) -> str:
        """Answers."""
        return "yes"
