"""Not written yet."""

from chatcore.hooks import NoSettings, Plugin


class Template(Plugin[NoSettings]):
    """Placeholder."""
