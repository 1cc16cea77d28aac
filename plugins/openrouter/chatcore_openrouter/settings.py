"""The settings of the plugin."""

import attrs
from attrs import validators

from chatcore.secrets import Secret
from chatcore.settings import option


@attrs.frozen(kw_only=True)
class Settings:
    """What can be set in `[plugins.openrouter]`."""

    api_key: Secret | None = option(
        None, env="OPENROUTER_API_KEY", help="The key, from https://openrouter.ai/keys. Without it the plugin is off."
    )
    base_url: str = option(
        "https://openrouter.ai/api/v1", env="OPENROUTER_BASE_URL", help="Where OpenRouter, or a stand-in for it, is."
    )
    default_model: str = option(
        "openrouter/auto",
        env=("OPENROUTER_DEFAULT_MODEL", "MODEL_NAME"),
        help="The model to use where nobody named one.",
    )
    app_url: str | None = option(
        None,
        env=("OPENROUTER_APP_URL", "HTTP_REFERER", "REFERER", "APP_URL"),
        help="The address of your application, for OpenRouter's rankings.",
    )
    app_title: str | None = option(
        None,
        env=("OPENROUTER_APP_TITLE", "X_TITLE", "APP_TITLE"),
        help="The name of your application there.",
    )
    timeout: float = option(
        120.0,
        env=("OPENROUTER_TIMEOUT", "API_TIMEOUT"),
        help="How many seconds OpenRouter may be silent before an answer counts as broken off.",
        validator=validators.ge(1),
    )
