"""Not written yet."""

from chatcore.hooks import NoSettings, Plugin


class OpenRouter(Plugin[NoSettings]):
    """Placeholder."""
