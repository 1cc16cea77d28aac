"""Lacks something of its user's."""

from chatcore.errors import PluginOff
from chatcore.hooks import NoSettings, Plugin, hookimpl


class Off(Plugin[NoSettings]):
    """Needs a key."""

    @hookimpl
    def register_providers(self):
        raise PluginOff("set OFF_API_KEY")
