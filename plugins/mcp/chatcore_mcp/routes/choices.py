"""The routes about which servers a client's turns are given: preferences and profiles (contract §1.6, §1.7)."""

import attrs
from attrs.validators import max_len, optional
from quart import Blueprint, Response

from chatcore import wire
from chatcore.access import authenticated, current_principal
from chatcore.errors import Conflict
from chatcore.openapi import describe
from chatcore.requests import read_body
from chatcore.tools import JsonObject
from chatcore_mcp.choices import MOST_SERVERS, Choices, Profile
from chatcore_mcp.routes import as_json


@attrs.frozen
class Preference:
    """The servers that a client is to have. Null: all; none at all: no tools of any server."""

    client_id: str
    enabled_servers: tuple[str, ...] | None


@attrs.frozen(kw_only=True)
class PreferenceRequest:
    """The servers that a client is to have."""

    enabled_servers: tuple[str, ...] = attrs.field(validator=max_len(MOST_SERVERS))
    extra: JsonObject = wire.rest()


@attrs.frozen(kw_only=True)
class ProfileChange:
    """What is to be changed of a profile. What is absent stays."""

    enabled_servers: tuple[str, ...] | None = attrs.field(default=None, validator=optional(max_len(MOST_SERVERS)))
    description: str | None = None


@attrs.frozen
class ProfileCollection:
    """All profiles, in the order of their ids."""

    profiles: tuple[Profile, ...]


def preferences(choices: Choices) -> Blueprint:
    """The routes under `/api/mcp/preferences`."""
    routes = Blueprint("mcp_preferences", __name__, url_prefix="/api/mcp/preferences")

    @routes.get("/<client_id>")
    @describe(summary="The servers of a client", answer=Preference)
    @authenticated
    async def read_preference(client_id: str) -> Response:
        """Null if nothing was set: then it has all."""
        servers = await choices.preference(current_principal(), client_id)
        return as_json(Preference(client_id, None if servers is None else tuple(servers)))

    @routes.put("/<client_id>")
    @describe(summary="Set the servers of a client", body=PreferenceRequest, answer=Preference)
    @authenticated
    async def set_preference(client_id: str) -> Response:
        """Its turns get the tools of no others. A profile that a request names counts before this."""
        asked = await read_body(PreferenceRequest)
        await choices.prefer(current_principal(), client_id, asked.enabled_servers)
        return as_json(Preference(client_id, tuple(dict.fromkeys(asked.enabled_servers))))

    return routes


def profiles(choices: Choices) -> Blueprint:
    """The routes under `/api/profiles`."""
    routes = Blueprint("mcp_profiles", __name__, url_prefix="/api/profiles")

    @routes.get("/")
    @describe(summary="All profiles", answer=ProfileCollection)
    @authenticated
    async def list_profiles() -> Response:
        """A profile is a named choice of servers: a chat request names one in `metadata.profile_id`."""
        return as_json(ProfileCollection(tuple(await choices.profiles(current_principal()))))

    @routes.post("/")
    @describe(summary="Make a profile", body=Profile, answer=Profile, status=201, errors=(409,))
    @authenticated
    async def make_profile() -> Response:
        """Its id is made of lower-case letters, digits, `_` and `-`."""
        return as_json(await choices.add(current_principal(), await read_body(Profile)), 201)

    @routes.get("/<profile_id>")
    @describe(summary="A profile", answer=Profile, errors=(404,))
    @authenticated
    async def read_profile(profile_id: str) -> Response:
        """By its id."""
        return as_json(await choices.profile(current_principal(), profile_id))

    @routes.patch("/<profile_id>")
    @describe(summary="Change a profile", body=ProfileChange, answer=Profile, errors=(404,))
    @authenticated
    async def change_profile(profile_id: str) -> Response:
        """What is absent, or null, stays."""
        asked = attrs.asdict(await read_body(ProfileChange), filter=lambda _, value: value is not None)
        changed = await choices.change(current_principal(), profile_id, lambda profile: attrs.evolve(profile, **asked))
        return as_json(changed)

    @routes.delete("/<profile_id>")
    @describe(summary="Delete a profile", status=204, errors=(404,))
    @authenticated
    async def delete_profile(profile_id: str) -> Response:
        """Requests that name it get what the client prefers."""
        await choices.remove(current_principal(), profile_id)
        return Response(status=204)

    _members(routes, choices)
    return routes


def _members(routes: Blueprint, choices: Choices) -> None:
    @routes.post("/<profile_id>/servers/<server_id>")
    @describe(summary="Add a server to a profile", answer=Profile, errors=(404, 409))
    @authenticated
    async def add_server(profile_id: str, server_id: str) -> Response:
        """One that is in it already stays so. The server need not be there."""
        return as_json(await choices.change(current_principal(), profile_id, lambda profile: _with(profile, server_id)))

    @routes.delete("/<profile_id>/servers/<server_id>")
    @describe(summary="Take a server out of a profile", answer=Profile, errors=(404,))
    @authenticated
    async def remove_server(profile_id: str, server_id: str) -> Response:
        """One that is not in it stays so."""
        return as_json(
            await choices.change(current_principal(), profile_id, lambda profile: _without(profile, server_id))
        )


def _with(profile: Profile, server: str) -> Profile:
    if server in profile.enabled_servers:
        return profile
    if len(profile.enabled_servers) >= MOST_SERVERS:
        raise Conflict(f"a profile has at most {MOST_SERVERS} servers")
    return attrs.evolve(profile, enabled_servers=(*profile.enabled_servers, server))


def _without(profile: Profile, server: str) -> Profile:
    return attrs.evolve(profile, enabled_servers=tuple(one for one in profile.enabled_servers if one != server))
