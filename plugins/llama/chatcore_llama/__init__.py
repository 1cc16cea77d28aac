"""Not written yet."""

from chatcore.hooks import NoSettings, Plugin


class Llama(Plugin[NoSettings]):
    """Placeholder."""
