"""From a request to a run: what is asked, of whom, with what history and tools."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import attrs

from chatcore import wire
from chatcore.builtin.chat import prompt
from chatcore.builtin.chat.requests import ChatRequest, RequestMetadata
from chatcore.builtin.chat.settings import LlmSettings, client_of, effective, stored_settings
from chatcore.database import Begun, NewMessage, NewRun, json_size
from chatcore.errors import ChatcoreError, Conflict, NotFound, Problem, ProviderError, TooLarge, ValidationFailed
from chatcore.protocols import Provider
from chatcore.runs.held import lease
from chatcore.runs.run import Run
from chatcore.runs.turn import origin_of
from chatcore.state import SMALL_HISTORY, State
from chatcore.tools import Tool
from chatcore.types import Message, Principal, StoredMessage, Turn

logger = logging.getLogger(__name__)

CATALOGUE_PATIENCE = 2.0
"""Seconds that a turn waits to learn whether its model supports tools; after that it assumes so."""


async def start_turn(
    state: State,
    principal: Principal,
    request: ChatRequest,
    *,
    on_disconnect: Literal["stop", "continue"],
    can_approve: bool = False,
) -> Run:
    """Stores the new messages and starts the run that answers them.

    `can_approve`: the client can ask its user for consent to a tool call.

    Raises:
        ValidationFailed: there is nothing to answer.
        Overloaded: the server is full or stops, or has no room for the history; nothing was started.
        TooLarge: the conversation has grown too large to go on.
        NotFound: no such model, or no such message to hang the new ones on.
        Conflict: the conversation's last answer is still being written; or this one was stopped before it began.
    """
    _check(request)
    # A task of its own: a client that leaves does not cut it in the middle.
    starting = asyncio.create_task(_start(state, principal, request, on_disconnect, can_approve=can_approve))
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        if starting.cancelled():
            with state.admitted():  # or the server stops, and the client is told that
                raise Conflict("the answer was stopped before it began") from None
        starting.add_done_callback(_unheard)
        if on_disconnect == "stop":
            starting.cancel()
            await asyncio.wait([starting])
        raise


def _unheard(starting: asyncio.Task[Run]) -> None:
    """Takes note of how a start has ended whose client has left."""
    error = None if starting.cancelled() else starting.exception()
    if error is not None and not isinstance(error, ChatcoreError):
        logger.error("a turn could not be started", exc_info=error)


async def _start(
    state: State,
    principal: Principal,
    request: ChatRequest,
    on_disconnect: Literal["stop", "continue"],
    *,
    can_approve: bool,
) -> Run:
    with state.admitted():
        settings = await stored_settings(state, principal, client_of(request.about.client_id, request.session_id))
        turn = await _turn(state, principal, request, settings, can_approve=can_approve)
        if request.session_id is not None:
            await state.runs.make_room(principal, request.session_id)
        new = _new_messages(request)
        place = _Place()
        admit = partial(_admit, state, place, sum(m.size for m in new) + json_size([turn.parameters, turn.metadata]))
        admit(0)
        begin = partial(_begin, state, turn, new, request.about.parent_message_id, admit)
        async with _stored(state, turn, None if _at_once(state, request) else begin) as begun:
            path = begun.path if begun else _unstored(turn, new)
            turn = attrs.evolve(turn, history=_history(state, request, settings, path))
            turn = await state.plugins.prepare(turn)
            provider, model = state.registry.provider_for(turn.model)  # a plugin may have chosen another
            run = state.runs.start(
                attrs.evolve(turn, provider=provider.name, model=model),
                provider,
                partial(_known, begun) if begun else begin,
                new_conversation=begun is None or begun.created,
                grace=state.config.disconnect_grace if on_disconnect == "stop" else None,
            )
        state.histories.hand_over(place, run)
    await asyncio.sleep(0)  # the run's task asks the model before anything is done for the reader
    return run


def _at_once(state: State, request: ChatRequest) -> bool:
    """Whether the turn is stored while the model is being asked: that of a new conversation is, unless nothing may be
    told that is not on disk."""
    is_new = request.session_id is None and request.about.parent_message_id is None
    return is_new and state.config.durability == "relaxed"


@asynccontextmanager
async def _stored(
    state: State, turn: Turn, begin: Callable[[], Awaitable[Begun]] | None
) -> AsyncIterator[Begun | None]:
    """Around the preparation of a turn, which is stored before that, unless `begin` is None.

    Of a turn that is refused meanwhile, or which the server does not live to begin, nothing stays; of one that is
    stopped, or whose client leaves, the question.
    """
    with state.runs.preparing(turn.id):
        if begin is None:
            yield None
            return
        storing = asyncio.create_task(_with_room(state, turn, begin))
        try:
            yield await asyncio.shield(storing)
        except (asyncio.CancelledError, ChatcoreError) as error:
            await asyncio.wait([storing])
            if storing.exception() is None:
                await state.runs.abandon(turn, getattr(error, "code", "disconnected"))
                if isinstance(error, ChatcoreError) or state.streams.draining:
                    with suppress(NotFound):  # somebody has deleted the conversation
                        await state.conversations.take_back(turn.principal, storing.result())
            raise


class _Place:
    """The place of a history until it belongs to its run, which has it as long as anybody has the run."""


def _admit(state: State, place: _Place, new: int, stored: int) -> None:
    """Finds room for a history: for what is stored of it, and for what is new in the request, in bytes."""
    limit = state.config.max_conversation
    if stored > limit:
        raise TooLarge(
            f"the conversation has {stored} bytes, with all its branches and files; the limit is {limit}",
            hint="begin a new one, or delete messages of this one; max_conversation is the server's limit",
        )
    state.histories.take(place, stored + new)


async def _turn(
    state: State,
    principal: Principal,
    request: ChatRequest,
    settings: LlmSettings,
    *,
    can_approve: bool,
) -> Turn:
    """The turn, without its history."""
    model_id, parameters = effective(request.model, request.parameters(), settings)
    provider, model = state.registry.provider_for(model_id)
    return Turn(
        id=uuid.uuid4().hex,
        principal=principal,
        conversation_id=request.session_id or uuid.uuid4().hex,
        model=model,
        provider=provider.name,
        history=(),
        parameters=parameters,
        tools=await _tools(state, provider, model, parameters, settings),
        limits=state.config.limits,
        client_id=client_of(request.about.client_id, request.session_id),
        metadata=_turn_metadata(request.about),
        can_approve=can_approve,
    )


def _history(
    state: State, request: ChatRequest, settings: LlmSettings, path: Sequence[StoredMessage]
) -> tuple[Message, ...]:
    """What the model is given: the prompt that counts, with the time, and the messages of the path."""
    own = prompt.request_prompt(m.message for m in request.messages) or prompt.stored_prompt(path)
    own = own or settings.system_prompt
    system = prompt.system_prompt(own, state.config.system_prompt, datetime.now(UTC), state.config.zone)
    return prompt.compose_history(path, system)


def _check(request: ChatRequest) -> None:
    said = (m for m in request.messages if m.role == "tool" or not prompt.is_blank(m.content))
    if not any(m.role in ("user", "tool") for m in said) and not request.about.parent_message_id:
        raise ValidationFailed([Problem("$.messages", "must have a message of role user or tool that is not empty")])


def _new_messages(request: ChatRequest) -> list[NewMessage]:
    """What is to be stored. A client's own assistant messages are ignored: the history is the server's."""
    return [
        NewMessage(
            message=message.message,
            client_message_id=message.client_message_id,
            parent_client_message_id=message.parent_client_message_id,
        )
        for message in request.messages
        if message.role != "assistant"
    ]


def _unstored(turn: Turn, new: Sequence[NewMessage]) -> tuple[StoredMessage, ...]:
    """The path of a conversation that is about to be stored, as far as the model needs it."""
    now = datetime.now(UTC)
    return tuple(
        StoredMessage(id=0, conversation_id=turn.conversation_id, parent_id=None, message=m.message, created_at=now)
        for m in new
    )


async def _begin(
    state: State, turn: Turn, new: Sequence[NewMessage], after: int | None, admit: Callable[[int], None]
) -> Begun:
    run = NewRun(
        id=turn.id,
        client_id=turn.client_id,
        format="chat",
        model=turn.model,
        worker=state.runs.worker,
        lease_until=lease(),
        created_at=turn.created_at,
        turn=wire.unstructure(origin_of(turn)),
    )
    return await state.conversations.begin(
        turn.principal,
        conversation_id=turn.conversation_id,
        messages=new,
        run=run,
        after=after,
        exclusive=True,
        small=min(SMALL_HISTORY, state.config.max_conversation),
        admit=admit,
    )


async def _with_room(state: State, turn: Turn, begin: Callable[[], Awaitable[Begun]]) -> Begun:
    """Begins a turn in a known conversation; if an answer is in the way in another worker, asks that worker first."""
    try:
        return await begin()
    except Conflict:
        await state.runs.make_room_elsewhere(turn.principal, turn.conversation_id)
        return await begin()


async def _known(begun: Begun) -> Begun:
    return begun


def _turn_metadata(metadata: RequestMetadata) -> Mapping[str, Any]:
    known = attrs.asdict(metadata, filter=lambda field, value: field.name != "extra" and value is not None)
    return {**metadata.extra, **known}


async def _tools(
    state: State, provider: Provider, model: str, parameters: Mapping[str, Any], settings: LlmSettings
) -> Mapping[str, Tool]:
    """The snapshot of tools for a turn; none for a model that is known not to support them.

    What the catalogue does not know the client's settings may; what nobody knows is taken as supported.
    """
    tools = state.registry.tools()
    if not tools or parameters.get("tool_choice") == "none":
        return {}
    try:
        async with asyncio.timeout(CATALOGUE_PATIENCE):
            known = {entry.id: entry.supports_tools for entry in await provider.models()}
    except (ProviderError, TimeoutError) as error:
        logger.info("the catalogue of %s is not known yet (%s): taking tools as supported", provider.name, error)
        known = {}
    except Exception:  # a plugin's code: it can still answer
        logger.exception("provider %s failed to list its models: taking tools as supported", provider.name)
        known = {}
    supported = known.get(model)
    return {} if (settings.supports_tools if supported is None else supported) is False else tools
