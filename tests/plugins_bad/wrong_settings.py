"""Has settings that nobody has set."""

import attrs

from chatcore.hooks import Plugin
from chatcore.settings import option


@attrs.frozen
class Settings:
    """Two that must be given."""

    place: str = option(env="WRONG_SETTINGS_PLACE")
    days: int = option()


class WrongSettings(Plugin[Settings]):
    """Cannot be configured by doing nothing."""

    settings_class = Settings
