"""The routes of the chat API (contract §1.2), and of runs, which are chatcore's own."""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import Any

from quart import Blueprint, Response, request
from quart.typing import ResponseReturnValue

from chatcore import wire
from chatcore.access import authenticated, current_principal, public
from chatcore.builtin.chat import records
from chatcore.builtin.chat.formats import FORMATS
from chatcore.builtin.chat.requests import ChatRequest, ConversationsQuery, EventsQuery, SaveRequest
from chatcore.builtin.chat.settings import LARGEST_SETTINGS
from chatcore.builtin.chat.start import start_turn
from chatcore.builtin.chat.titles import ai_title, opening
from chatcore.database import Approvals, Conversation, Questions
from chatcore.errors import ChatcoreError, NotFound, RequestError, TooLarge
from chatcore.openapi import describe
from chatcore.protocols import GenerationLookup
from chatcore.requests import read_body, read_query
from chatcore.runs.readers import Reader
from chatcore.state import State, current
from chatcore.types import Message

logger = logging.getLogger(__name__)

blueprint = Blueprint("chat", __name__, url_prefix="/api/chat")

_LONGEST_NUMBER = 19  # digits; the databases hold no number that has as many


# --- turns and runs ---------------------------------------------------------------------------------------------------


@blueprint.post("/stream")
@describe(summary="Answer new messages", body=ChatRequest, stream=True, errors=(404, 409, 503))
@authenticated
async def stream() -> Response:
    """Stores the new messages and streams the answer.

    The answer goes on when the connection is lost, and can be read on under its run, which the header
    `Chatcore-Run-Id` names. A client that closes the connection to cancel is understood: without a reader for five
    seconds the answer is stopped, unless the request says `Chatcore-On-Disconnect: continue`.

    A client that can ask its user for consent to tool calls says `Chatcore-Approvals: ask`. A call that needs it then
    comes as an event `approval` and waits for its decision, what a running tool asks comes as an event `question` and
    waits for its answer, and leaving is not stopping unless the request says so. For any other client such a call is
    refused, and such a question declined.
    """
    state, principal = current(), current_principal()
    can_approve = _header("Chatcore-Approvals", "refuse", "ask") == "ask"
    leaving = _header("Chatcore-On-Disconnect", *(("continue", "stop") if can_approve else ("stop", "continue")))
    run = await start_turn(
        state,
        principal,
        await read_body(ChatRequest),
        on_disconnect="stop" if leaving == "stop" else "continue",
        can_approve=can_approve,
    )
    reader = await state.runs.reader(principal, run.turn.id)
    return _follow(state, reader, run.turn.model, run.turn.created_at, "chat")


@blueprint.get("/runs/<run_id>/events")
@describe(summary="Read a run on", query=EventsQuery, stream=True, errors=(404, 503))
@authenticated
async def run_events(run_id: str) -> Response:
    """Streams what follows event `after` (or the header `Last-Event-ID`), and ends as the first stream would have."""
    state, query = current(), read_query(EventsQuery)
    reader = await state.runs.reader(current_principal(), run_id, max(query.after, _last_event_id(run_id)))
    record = await state.runs.get(current_principal(), run_id)
    name = query.format or record.format
    state.streams.admit()
    return _follow(state, reader, record.model, record.created_at, name, greeting=b": resumed\n\n")


@blueprint.get("/runs/<run_id>")
@describe(summary="What has become of a run", errors=(404,))
@authenticated
async def get_run(run_id: str) -> ResponseReturnValue:
    """`approvals` are the tool calls that wait for somebody's consent now, `questions` what running ones ask, as in the
    lists of all of them."""
    state, principal = current(), current_principal()
    record = await state.runs.get(principal, run_id)
    waiting = await Approvals(state.database).open(principal, run_id) if record.state == "waiting" else ()
    asked = await Questions(state.database).open(principal, run_id)
    return {
        **records.run_record(record),
        "approvals": [records.approval_record(one) for one in waiting],
        "questions": [records.question_record(one) for one in asked],
    }


@blueprint.post("/runs/<run_id>/stop")
@describe(summary="Stop a run", errors=(404,))
@authenticated
async def stop_run(run_id: str) -> ResponseReturnValue:
    """Stops the answer and keeps what there is of it. A run that has ended stays as it is."""
    return records.run_record(await current().runs.stop(current_principal(), run_id))


def _follow(
    state: State, reader: Reader, model: str, created_at: datetime, format_name: str, *, greeting: bytes = b""
) -> Response:
    frames = FORMATS[format_name](reader.run_id, model, created_at, state.config.zone).frames
    return state.streams.respond(reader, frames, greeting=greeting)


def _header(name: str, default: str, other: str) -> str:
    """A header of the request that has one of two values."""
    value = request.headers.get(name, default)
    if value not in (default, other):
        raise RequestError(f"{name} must be {default!r} or {other!r}")
    return value


def _last_event_id(run_id: str) -> int:
    """The number in `Last-Event-ID: <run id>:<number>`; 0 without one."""
    header = request.headers.get("Last-Event-ID")
    if not header:
        return 0
    run, _, number = header.rpartition(":")
    if run != run_id or not (number.isascii() and number.isdigit() and len(number) < _LONGEST_NUMBER):
        raise RequestError(f"Last-Event-ID must be {run_id}:NUMBER, got {header[:80]!r}")
    return int(number)


@blueprint.get("/test-stream")
@describe(summary="Three words, to try a client with", stream=True)
@public
async def test_stream() -> Response:
    return Response(_hello(), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})


async def _hello() -> AsyncIterator[bytes]:
    for word in ("Hello ", "from ", "server!"):
        chunk = {"choices": [{"index": 0, "delta": {"content": word}}]}
        yield b"event: message\ndata: %b\n\n" % wire.dumps(chunk)
        await asyncio.sleep(0.2)
    yield b"event: message\ndata: [DONE]\n\n"


@blueprint.get("/generation/<path:generation_id>")
@describe(summary="What a generation cost", errors=(404, 502))
@authenticated
async def generation(generation_id: str) -> ResponseReturnValue:
    """The upstream's own record of a generation."""
    state = current()
    for provider in state.registry.providers.values():
        if isinstance(provider, GenerationLookup):
            return dict(await provider.generation(generation_id))
    raise NotFound("no provider keeps records of generations", hint="'chatcore plugins' says which providers there are")


# --- conversations ----------------------------------------------------------------------------------------------------


@blueprint.get("/conversations")
@describe(summary="The saved conversations", query=ConversationsQuery)
@authenticated
async def list_conversations() -> ResponseReturnValue:
    """Newest activity first. `search` finds titles and the text of every message."""
    query = read_query(ConversationsQuery)
    rows = await current().conversations.list_saved(
        current_principal(), limit=query.limit, offset=query.offset, search=query.search
    )
    return {"conversations": [records.conversation_row(row) for row in rows]}


@blueprint.delete("/conversations/<path:session_id>")
@describe(summary="Delete a conversation, saved or not", status=204, errors=(404,))
@authenticated
async def delete_conversation(session_id: str) -> ResponseReturnValue:
    state, principal = current(), current_principal()
    await state.conversations.get(principal, session_id)
    await state.runs.stop_conversation(principal, session_id)
    await state.conversations.delete(principal, session_id, even_saved=True)
    await state.attachments.sweep()
    return "", 204


@blueprint.delete("/session/<path:session_id>")
@describe(summary="Forget a conversation unless it is saved", status=204)
@authenticated
async def delete_session(session_id: str) -> ResponseReturnValue:
    """Always 204: of an unknown or saved conversation nothing is deleted."""
    state, principal = current(), current_principal()
    try:
        if not (await state.conversations.get(principal, session_id)).saved:
            await state.runs.stop_conversation(principal, session_id)
            await state.conversations.delete(principal, session_id, even_saved=False)
            await state.attachments.sweep()
    except NotFound:
        pass
    return "", 204


@blueprint.get("/session/<path:session_id>/messages")
@describe(summary="The messages of a conversation", errors=(404,))
@authenticated
async def list_messages(session_id: str) -> ResponseReturnValue:
    state, principal = current(), current_principal()
    conversation = await _session(state, session_id)
    async with state.reading(conversation.size):
        path = await state.attachments.shown(principal, await state.conversations.path(principal, session_id))
        messages = [records.message_record(stored, state.config.zone) for stored in path]
        shown = {
            "session_id": session_id,
            "metadata": records.session_record(conversation),
            "messages": messages,
        }
        return Response(wire.dumps(shown), mimetype="application/json")


@blueprint.delete("/session/<path:session_id>/messages/<path:message_id>")
@describe(summary="Delete a message and what answers it", status=204, errors=(404,))
@authenticated
async def delete_message(session_id: str, message_id: str) -> ResponseReturnValue:
    """`message_id` is the number of the message, or the id that its client gave it. An answer that is being written to
    it is stopped first."""
    state, principal = current(), current_principal()
    going = await state.conversations.runs_deleted_with(principal, session_id, message_id)
    await state.runs.stop_conversation(principal, session_id, going)
    await state.conversations.delete_message(principal, session_id, message_id)
    return "", 204


@blueprint.post("/session/<path:session_id>/save")
@describe(summary="Keep a conversation in the list", body=SaveRequest)
@authenticated
async def save(session_id: str) -> ResponseReturnValue:
    """Makes the conversation if there is none. What the body lacks stays as it is; an unreadable one counts as none."""
    conversation = await current().conversations.save(
        current_principal(), session_id, **_changes(await _lenient_body())
    )
    return {
        "saved": True,
        "session_id": session_id,
        "title": conversation.title,
        "llm_settings": conversation.llm_settings,
    }


@blueprint.post("/session/<path:session_id>/unsave")
@describe(summary="Take a conversation out of the list", errors=(404,))
@authenticated
async def unsave(session_id: str) -> ResponseReturnValue:
    await _session(current(), session_id)
    await current().conversations.unsave(current_principal(), session_id)
    return {"saved": False, "session_id": session_id}


@blueprint.patch("/session/<path:session_id>")
@describe(summary="Change a conversation's title or settings", body=SaveRequest, errors=(400, 404))
@authenticated
async def update(session_id: str) -> ResponseReturnValue:
    changes = _changes(await read_body(SaveRequest))
    if not changes:
        raise RequestError("give a title or llm_settings")
    await _session(current(), session_id)
    await current().conversations.update(current_principal(), session_id, **changes)
    return {"session_id": session_id, **changes}


@blueprint.post("/session/<path:session_id>/generate-title")
@describe(summary="Let a model name a conversation", errors=(404,))
@authenticated
async def generate_title(session_id: str) -> ResponseReturnValue:
    """A title that the user chose is kept; a model that fails leaves the title as it is."""
    state, principal = current(), current_principal()
    said = await _opening(state, session_id)
    if not said:
        raise NotFound("No messages found")
    title = await _title(state, said)
    if title is None:
        conversation = await state.conversations.get(principal, session_id)
        return {
            "session_id": session_id,
            "title": conversation.title,
            "title_source": conversation.title_source,
            "generated": False,
        }
    conversation = await state.conversations.set_ai_title(principal, session_id, title)
    return {"session_id": session_id, "title": conversation.title, "title_source": conversation.title_source}


async def _title(state: State, said: Sequence[Message]) -> str | None:
    """A title, or None if there is nobody who makes one."""
    try:
        provider, model = state.registry.provider_for(state.config.title_model)
    except ChatcoreError as error:
        logger.warning("no title: %s", error.in_full)
        return None
    return await ai_title(provider, model, said)


async def _session(state: State, session_id: str) -> Conversation:
    """A conversation. Under these routes the clients know it as a session, also when there is none."""
    try:
        return await state.conversations.get(current_principal(), session_id)
    except NotFound:
        raise NotFound("Session not found") from None


async def _opening(state: State, session_id: str) -> Sequence[Message]:
    """As much of a conversation as it takes to name it; nothing if there is none."""
    principal = current_principal()
    try:
        conversation = await state.conversations.get(principal, session_id)
        async with state.reading(conversation.size):
            return opening([stored.message for stored in await state.conversations.path(principal, session_id)])
    except NotFound:
        return ()


def _changes(body: SaveRequest) -> dict[str, Any]:
    if len(wire.dumps(body.llm_settings)) > LARGEST_SETTINGS:
        raise TooLarge(f"the settings of a conversation may have no more than {LARGEST_SETTINGS} bytes")
    title = (body.title or "").strip()
    return {
        **({"title": title} if title else {}),
        **({"llm_settings": dict(body.llm_settings)} if body.llm_settings is not None else {}),
    }


async def _lenient_body() -> SaveRequest:
    try:
        return await read_body(SaveRequest)
    except RequestError:
        return SaveRequest()
