"""The plugin: prepares turns."""

import asyncio
from collections.abc import Iterable
from functools import cached_property

import attrs
from quart import Blueprint

from chatcore.database import Documents, RecentDocuments
from chatcore.hooks import Plugin, hookimpl
from chatcore.types import Turn
from chatcore_planner.ask import plan_for
from chatcore_planner.choose import with_plan, with_search
from chatcore_planner.consent import consent_in
from chatcore_planner.contexts import contexts_of, fits
from chatcore_planner.notices import consent_status, plan_status
from chatcore_planner.plan import SPECIFIED, Plan
from chatcore_planner.settings import Settings
from chatcore_planner.switch import Switch, blueprint

CONSENT = "privacy_consent"
"""Where in a request's metadata it says whether its user consents."""


class Planner(Plugin[Settings]):
    """Tells the model of the tools that it needs, where there are many."""

    settings_class = Settings

    @cached_property
    def switch(self) -> Switch:
        return Switch(RecentDocuments(Documents(self.context.database)), self.settings.plan)

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        yield blueprint(self.switch)

    @hookimpl
    async def prepare_turn(self, turn: Turn) -> Turn | None:
        if not turn.tools:
            return None
        plans = await self.switch.is_on(turn.principal)
        if turn.parameters.get("tool_choice") not in (None, "auto") or turn.parameters.get("tools"):
            return attrs.evolve(turn, notices=(*turn.notices, plan_status(SPECIFIED))) if plans else None
        return await self._planned(turn) if plans else self._searchable(turn)

    def _searchable(self, turn: Turn) -> Turn:
        if len(turn.tools) <= self.settings.search_above:
            return turn
        return with_search(turn, self._always(turn))

    def _always(self, turn: Turn) -> list[str]:
        return [name for name in turn.tools if fits(name, self.settings.always)]

    async def _planned(self, turn: Turn) -> Turn:
        given = turn.metadata.get(CONSENT)
        consent = consent_in(given)
        if consent == "denied":
            notice = consent_status(consent, Plan(), given)
            return attrs.evolve(turn, notices=(*turn.notices, notice), stopped_for="privacy_consent_denied")
        contexts = contexts_of(turn.tools.values(), self.settings.contexts)
        plan = await plan_for(turn, contexts, self.context.host, self.settings.plan_timeout)
        turn = attrs.evolve(turn, notices=(*turn.notices, plan_status(plan)))
        if plan.privacy_note or consent:
            turn = attrs.evolve(turn, notices=(*turn.notices, consent_status(consent, plan, given)))
            if consent is None:
                return attrs.evolve(turn, tools={})
        many, always = self.settings.search_above, self._always(turn)
        # With many tools it takes a while, for which others need not wait.
        planned = await asyncio.to_thread(with_plan, turn, plan, contexts, always, many=many)
        return self._searchable(turn) if planned is turn else planned
