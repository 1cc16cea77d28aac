"""Which servers' tools a turn is given: what each principal has chosen for its clients, and its named profiles.

They are documents of the namespace `tools`, so that whatever else restores a choice (a preset) can write them:

    preferences/CLIENT   {"enabled_servers": [ID…], "disabled_tools": {ID: [TOOL…]}}; both may be absent or null
    profiles/ID          {"enabled_servers": [ID…], "description": TEXT}
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from chatcore.database import Documents
from chatcore.errors import Conflict, NotFound
from chatcore.tools import JsonObject
from chatcore.types import Principal, Turn

NAMESPACE = "tools"
MOST_SERVERS = 500
"""Servers that a choice may name. There are never so many; a choice is read for every turn."""

_PREFERENCES, _PROFILES = "preferences/", "profiles/"


@attrs.frozen
class Profile:
    """A named choice of servers."""

    profile_id: str = attrs.field(validator=attrs.validators.matches_re(r"[a-z0-9_-]{1,64}"))
    enabled_servers: tuple[str, ...] = attrs.field(default=(), validator=attrs.validators.max_len(MOST_SERVERS))
    description: str = ""


@attrs.frozen
class Scope:
    """What a turn is given: the tools of these servers (None: of all), without those that are switched off."""

    servers: frozenset[str] | None = None
    off: Mapping[str, frozenset[str]] = attrs.field(factory=dict)

    def allows(self, server: str, tool: str) -> bool:
        """Whether a tool of a server is given."""
        return (self.servers is None or server in self.servers) and tool not in self.off.get(server, ())


@attrs.frozen
class Choices:
    """The choices of each principal."""

    documents: Documents

    async def scope(self, turn: Turn) -> Scope:
        """What a turn is given: the servers that its profile says, if it names one that there is, else those that its
        client prefers; without the tools that its client has switched off."""
        preferred = await self._get(turn.principal, f"{_PREFERENCES}{turn.client_id}") or {}
        off = {server: frozenset(tools) for server, tools in (preferred.get("disabled_tools") or {}).items()}
        profile = turn.metadata.get("profile_id")
        named = await self._get(turn.principal, _PROFILES + profile) if isinstance(profile, str) else None
        servers = (preferred if named is None else named).get("enabled_servers")
        return Scope(None if servers is None else frozenset(servers), off)

    async def preference(self, principal: Principal, client: str) -> Sequence[str] | None:
        """The servers that a client is to have; None: all."""
        document: JsonObject = await self._get(principal, _PREFERENCES + client) or {}
        servers: Sequence[str] | None = document.get("enabled_servers")
        return servers

    async def prefer(self, principal: Principal, client: str, servers: Sequence[str]) -> None:
        """Sets the servers that a client is to have."""

        def change(document: JsonObject | None) -> JsonObject:
            return {**(document or {}), "enabled_servers": list(dict.fromkeys(servers))}

        await self.documents.update(principal, NAMESPACE, _PREFERENCES + client, change)

    # --- profiles -----------------------------------------------------------------------------------------------------

    async def profiles(self, principal: Principal) -> Sequence[Profile]:
        """All profiles, in the order of their ids."""
        documents = await self.documents.list(principal, NAMESPACE)
        return [
            _profile(key.removeprefix(_PROFILES), document)
            for key, document in documents.items()
            if key.startswith(_PROFILES)
        ]

    async def profile(self, principal: Principal, key: str) -> Profile:
        """A profile. Raises NotFound."""
        document = await self._get(principal, _PROFILES + key)
        if document is None:
            raise _unknown(key)
        return _profile(key, document)

    async def add(self, principal: Principal, profile: Profile) -> Profile:
        """Makes a profile. Raises Conflict: there is one of that id."""

        def change(document: JsonObject | None) -> JsonObject:
            if document is not None:
                raise Conflict(f"there is a profile {profile.profile_id!r} already")
            return _document(profile)

        return await self._update(principal, profile.profile_id, change)

    async def change(self, principal: Principal, key: str, change: Callable[[Profile], Profile]) -> Profile:
        """Replaces a profile by what `change` makes of it. Raises NotFound."""

        def apply(document: JsonObject | None) -> JsonObject:
            if document is None:
                raise _unknown(key)
            return _document(change(_profile(key, document)))

        return await self._update(principal, key, apply)

    async def remove(self, principal: Principal, key: str) -> None:
        """Deletes a profile. Raises NotFound."""
        if not await self.documents.delete(principal, NAMESPACE, _PROFILES + key):
            raise _unknown(key)

    async def _get(self, principal: Principal, key: str) -> Any:
        return await self.documents.get(principal, NAMESPACE, key)

    async def _update(self, principal: Principal, key: str, change: Callable[[Any], JsonObject]) -> Profile:
        return _profile(key, await self.documents.update(principal, NAMESPACE, _PROFILES + key, change))


def _profile(key: str, document: JsonObject) -> Profile:
    return Profile(key, tuple(document.get("enabled_servers", ())), document.get("description", ""))


def _document(profile: Profile) -> JsonObject:
    servers = list(dict.fromkeys(profile.enabled_servers))
    return {"enabled_servers": servers, "description": profile.description}


def _unknown(key: str) -> NotFound:
    return NotFound(f"there is no profile {key!r}")
