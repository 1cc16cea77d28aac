"""Two plugins in one file."""

from chatcore.hooks import NoSettings, Plugin


class One(Plugin[NoSettings]):
    """The first."""


class Two(Plugin[NoSettings]):
    """The second."""
