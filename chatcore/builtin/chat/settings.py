"""What each client has set for its model, and what of it a request gets."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias, get_args

import attrs
from attrs.validators import ge, le

from chatcore import wire
from chatcore.errors import NotFound, Problem, TooLarge, ValidationFailed
from chatcore.state import State
from chatcore.tools import JsonObject
from chatcore.types import Principal

ClientId: TypeAlias = Literal["svelte", "kiosk", "voice", "cli"]

CLIENTS: tuple[ClientId, ...] = get_args(ClientId)
"""The clients whose settings are kept. A request that names no other is served as the first."""


@attrs.frozen(kw_only=True)
class LlmSettings:
    """How a client wants its model. Null in `model`, `system_prompt` and `supports_tools`: as the server has it.

    `supports_tools` says whether the model can call tools where the catalogue does not. `parameters` and `provider`
    go upstream with every request that does not say otherwise.
    """

    model: str | None = None
    system_prompt: str | None = None
    temperature: float = attrs.field(default=0.7, validator=[ge(0), le(2)])
    max_tokens: int = attrs.field(default=500, validator=[ge(1), le(128_000)])
    supports_tools: bool | None = None
    parameters: JsonObject | None = None
    provider: JsonObject | None = None
    conversation_mode: bool = False
    conversation_timeout_seconds: int = attrs.field(default=10, validator=[ge(1), le(60)])
    updated_at: datetime | None = None


LARGEST_SETTINGS = 2**18
"""Bytes that what is set for a client, or for a conversation, may have as JSON."""

_DEFAULTS: Mapping[ClientId, JsonObject] = {
    "svelte": {"max_tokens": 4096},
    "kiosk": {"max_tokens": 300, "conversation_mode": True},
    "voice": {"temperature": 1.0, "conversation_timeout_seconds": 30},
    "cli": {"max_tokens": 1000},
}
"""No client has a model of its own: a fresh server answers with its own default model, which needs no key."""

_PAIR = ("temperature", "max_tokens")
"""Settings that clients may also send among the `parameters`."""

_NOT_STORED = frozenset({"model", "messages", "tools", "stream"})
"""What is decided for each request, and is not taken from stored parameters."""


def client_named(name: str) -> ClientId:
    """The client with this id.

    Raises:
        NotFound: there is no such client.
    """
    for client in CLIENTS:
        if client == name:
            return client
    raise NotFound(f"unknown client {name!r}; there are: {', '.join(CLIENTS)}")


def client_of(said: str | None, conversation_id: str | None) -> ClientId:
    """The client that a chat request comes from: the one that it names, else the prefix of the conversation's id."""
    name = (conversation_id or "").partition("_")[0] if said is None else said
    return next((client for client in CLIENTS if client == name), CLIENTS[0])


async def stored_settings(state: State, principal: Principal, client: ClientId) -> LlmSettings:
    """The settings of a client: what was set, and defaults for the rest."""
    return settings_of(client, await state.documents.get(principal, *_place(client)) or {})


async def change_settings(state: State, principal: Principal, client: ClientId, changes: JsonObject) -> LlmSettings:
    """Changes the settings of a client as `changed` says, in one step, and gives the new ones.

    Raises:
        ValidationFailed: a value is of the wrong type or out of range; nothing was changed.
    """
    now = datetime.now(UTC)

    def change(stored: JsonObject | None) -> JsonObject:
        return changed(client, stored or {}, changes, now)

    return settings_of(client, await state.documents.update(principal, *_place(client), change))


async def reset_settings(state: State, principal: Principal, client: ClientId) -> LlmSettings:
    """Forgets what was set for a client, and gives the defaults."""
    await state.documents.delete(principal, *_place(client))
    return settings_of(client, {})


def _place(client: ClientId) -> tuple[str, str]:
    """Namespace and key of the document that holds what was set, and nothing else."""
    return "library", f"{client}/llm"


def settings_of(client: ClientId, stored: JsonObject) -> LlmSettings:
    """The settings that a stored document stands for.

    Raises:
        ValidationFailed: a value is of the wrong type or out of range.
    """
    return wire.structure({**_DEFAULTS[client], **stored}, LlmSettings)


def changed(client: ClientId, stored: JsonObject, changes: JsonObject, now: datetime) -> JsonObject:
    """The document after a change. What is absent stays, null goes back to the default, unknown fields are dropped.

    Of temperature and max_tokens there is one value each, whether it comes among the parameters or beside them; what
    was set among the parameters goes when they go.

    Raises:
        ValidationFailed: a value is of the wrong type or out of range.
        TooLarge: they would take too much, in every turn.
    """
    document = {**stored, **{key: value for key, value in changes.items() if key in attrs.fields_dict(LlmSettings)}}
    before, given = _object(stored.get("parameters")), _object(changes.get("parameters"))
    if "parameters" in changes:
        document |= {key: given.get(key, changes.get(key)) for key in _PAIR if key in before or key in given}
    if parameters := _object(document.get("parameters")):
        document["parameters"] = {**parameters, **{key: document.get(key) for key in _PAIR if key in parameters}}
    document = {key: value for key, value in document.items() if value is not None} | {"updated_at": now.isoformat()}
    if len(wire.dumps(document)) > LARGEST_SETTINGS:
        raise TooLarge(f"the settings of a client may have no more than {LARGEST_SETTINGS} bytes")
    try:
        settings_of(client, document)
    except ValidationFailed as error:
        raise ValidationFailed([_as_sent(problem, given) for problem in error.problems], hint=error.hint) from None
    return document


def _as_sent(problem: Problem, given: JsonObject) -> Problem:
    """The problem, at the path where the client wrote the value."""
    key = problem.path.removeprefix("$.")
    return Problem(f"$.parameters.{key}", problem.message) if key in _PAIR and key in given else problem


def _object(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def effective(model: str | None, request: JsonObject, stored: LlmSettings) -> tuple[str | None, dict[str, Any]]:
    """The model of a request, if anybody named one, and the parameters that go upstream.

    A parameter of the request counts before the stored one, `provider` key by key; null is as good as absent.
    """
    asked = {key: value for key, value in request.items() if value is not None}
    parameters = {
        key: value for key, value in (stored.parameters or {}).items() if value is not None and key not in _NOT_STORED
    }
    parameters |= {"temperature": stored.temperature, "max_tokens": stored.max_tokens, **asked}
    if "max_completion_tokens" in asked and "max_tokens" not in asked:
        del parameters["max_tokens"]  # the same limit under its newer name: upstreams refuse both at once
    if provider := {**(stored.provider or {}), **asked.get("provider", {})}:
        parameters["provider"] = provider
    return model or stored.model, parameters
