"""The settings of the plugin."""

from collections.abc import Mapping

import attrs
from attrs import validators

from chatcore.settings import option


@attrs.frozen(kw_only=True)
class Settings:
    """What can be set in `[plugins.planner]`."""

    search_above: int = option(
        40,
        env="CHATCORE_PLANNER_SEARCH_ABOVE",
        help="With more tools than this the model is told of those in 'always', and searches for others.",
        validator=validators.ge(0),
    )
    always: tuple[str, ...] = option(
        (), env="CHATCORE_PLANNER_ALWAYS", help="Tools of which the model is always told, as names or patterns."
    )
    plan: bool = option(
        False,
        env="CHATCORE_PLANNER_PLAN",
        help="Ask the model before each turn which tools it will need, and tell it of those only.",
    )
    plan_timeout: float = option(
        20.0,
        env="CHATCORE_PLANNER_PLAN_TIMEOUT",
        help="How many seconds a plan may take; then the turn goes on with all tools.",
        validator=validators.gt(0),
    )
    contexts: Mapping[str, tuple[str, ...]] = option(
        attrs.Factory(dict),
        help="What belongs together: a table of contexts, each with names or patterns of tools.",
    )
