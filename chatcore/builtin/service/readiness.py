"""How the server is: for those who restart it (`/health`), and for those who send it clients (`/health/ready`)."""

import asyncio
import logging
import time
from collections.abc import Mapping

import attrs
from quart import g
from quart.typing import ResponseReturnValue

from chatcore import state
from chatcore.access import public
from chatcore.builtin.chat.settings import stored_settings
from chatcore.database import Tokens
from chatcore.errors import ChatcoreError, DatabaseError
from chatcore.openapi import describe
from chatcore.types import Principal
from chatcore.waiting import within

logger = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds that the database has to answer."""
FRESH = 1.0
"""Seconds for which the answers of the checks are kept, however often somebody asks."""


@describe(summary="Whether the server answers, and with which models")
@public
async def health() -> ResponseReturnValue:
    """`status` is `ok` when requests are served, also while the database does not answer. `providers`, which a stranger
    is not told where people must sign in, says of each whether it can be used now."""
    server = state.current()
    default = _default_model(server)
    answer: dict[str, object] = {
        "status": "ok",
        "default_model": default,
        "active_model": await _svelte_model(server) or default,
    }
    if "principal" in g:
        states = {c.name: server.registry.health(c) for c in server.registry.of("provider")}
        answer["providers"] = {name: attrs.asdict(known) for name, known in states.items()}
    return answer


async def _svelte_model(server: state.State) -> str | None:
    """The model that the caller has set for the web page, if the caller is known and the database answers."""
    principal: Principal | None = g.get("principal")
    if principal is None:
        return None
    try:
        async with asyncio.timeout(PATIENCE):
            return (await stored_settings(server, principal, "svelte")).model
    except (DatabaseError, TimeoutError):
        return None


def _default_model(server: state.State) -> str | None:
    try:
        return server.registry.provider_for(None)[1]
    except ChatcoreError:
        return None  # no provider is configured: `providers` says so


# --- readiness --------------------------------------------------------------------------------------------------------


@attrs.frozen
class Check:
    """One thing that the server needs. `detail` says what is wrong, or was worth telling."""

    ok: bool
    detail: str = ""


class Readiness:
    """Whether a server can answer, looked at no more than once a second."""

    def __init__(self) -> None:
        self._looking: asyncio.Task[Mapping[str, Check]] | None = None
        self._fresh_until = 0.0

    @describe(summary="Whether the server should be sent clients", errors=(503,))
    @public
    async def ready(self) -> ResponseReturnValue:
        """For load balancers: 200 with `status` `ready`, or 503 with `not_ready`. `checks`, which a stranger is not
        told where people must sign in, says of each check whether it is `ok`: `draining`, `database`, `providers`,
        `lifespans`."""
        server = state.current()
        checks = {"draining": Check(not server.streams.draining), **await self._checks(server)}
        ready = all(check.ok for check in checks.values())
        answer: dict[str, object] = {"status": "ready" if ready else "not_ready"}
        if "principal" in g:
            answer["checks"] = {name: attrs.asdict(check) for name, check in checks.items()}
        return answer, 200 if ready else 503

    async def _checks(self, server: state.State) -> Mapping[str, Check]:
        if self._looking is None or (self._looking.done() and time.monotonic() >= self._fresh_until):
            self._fresh_until = time.monotonic() + FRESH
            self._looking = asyncio.create_task(_look(server), name="readiness")
        return await asyncio.shield(self._looking)  # others wait for the same look


async def _look(server: state.State) -> Mapping[str, Check]:
    return {"database": await _database(server), "providers": _providers(server), "lifespans": _lifespans(server)}


async def _database(server: state.State) -> Check:
    try:
        if not await within(PATIENCE, Tokens(server.database).any()):  # as good a read as any
            return Check(False, f"it has not answered a read within {PATIENCE:g} s")
    except DatabaseError as error:
        logger.error("the database does not answer: %s", error.in_full)  # noqa: TRY400  it says it all
        return Check(False, error.told)
    return Check(True)


def _providers(server: state.State) -> Check:
    """Whether one of the installed providers can be used, or of the built-in ones where none is installed."""
    given = server.registry.of("provider")
    installed = [c for c in given if not c.provenance.builtin]
    states = {c.name: server.registry.health(c) for c in installed or given}
    failed = [f"{name}: {health.detail}" for name, health in states.items() if health.state == "failed"]
    return Check(len(failed) < len(states), "; ".join(failed) if states else "there is none")


def _lifespans(server: state.State) -> Check:
    """Whether all is open that the server cannot do without; the lifespans of other plugins are only told of."""
    closed = {name: health for name, health in server.lifespans.states.items() if health.state != "ready"}
    needed = [c.name for c in server.registry.of("lifespan") if c.provenance.builtin or server.config.strict]
    detail = "; ".join(f"{name} is {health.state} {health.detail}".rstrip() for name, health in closed.items())
    return Check(not closed.keys() & set(needed), detail)
