"""Written for hooks that there are not yet."""

from chatcore.hooks import NoSettings, Plugin


class Future(Plugin[NoSettings]):
    """Comes from the future."""

    api_version = 99
