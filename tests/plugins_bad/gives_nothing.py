"""Forgets to yield."""

from chatcore.hooks import NoSettings, Plugin, hookimpl


class GivesNothing(Plugin[NoSettings]):
    """Makes something and keeps it."""

    @hookimpl
    def register_providers(self):
        object()
