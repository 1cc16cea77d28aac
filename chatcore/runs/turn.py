"""A turn: the model is asked, its tools are run, and it is asked again until it has answered.

`run_turn` tells what happens as it happens, in lists of events, one for each read from upstream. It stores every
message before it tells of it. At each moment the stored conversation is one that a model accepts: an answer that asks
for tools is stored together with a place for each tool's answer, which says that the outcome is unknown until it is
known.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence
from functools import partial

import attrs

from chatcore import wire
from chatcore.answer import Answer
from chatcore.attachments import Attachments
from chatcore.database import Conversations, NewMessage
from chatcore.errors import ChatcoreError, DatabaseError, ProviderError, ProviderRefused, StreamBroken
from chatcore.protocols import Provider
from chatcore.runs import eventlog
from chatcore.runs.paused import REPEATS, Paused, Tally
from chatcore.runs.run import Run
from chatcore.runs.stop import LOG_FAILED, SERVER_STOPPED
from chatcore.runs.toolcalls import UNKNOWN_OUTCOME, ToolCalls
from chatcore.tools import JsonObject, Tool, ToolCall
from chatcore.types import (
    Attachment,
    Event,
    Failed,
    Finish,
    Limits,
    Message,
    MessageStored,
    ModelRequest,
    Notice,
    RunEnded,
    RunState,
    StoredMessage,
    Tell,
    TextDelta,
    Turn,
    content_text,
)

ANSWER_LIMIT = "answer_limit"
"""The reason of a stop because more was said in a turn than its limit allows."""
EVENT = 128
"""Bytes that an event counts beside what it says: it takes more than that in memory."""
LONGEST_BREATH = 100
"""Events after which a turn lets others have theirs, however much of its answer has come already."""

_REFUSED_TOOLS = {
    404: re.compile("tool", re.IGNORECASE),
    400: re.compile("not support tools|tool choice requires", re.IGNORECASE),
}
"""How servers say that a model has no tools, for which there is no code. OpenRouter: "No endpoints found that support
tool use". Ollama: "… does not support tools". vLLM: '"auto" tool choice requires --enable-auto-tool-choice …'."""


@attrs.frozen
class _Ending:
    """Why a turn goes no further. `not_run` is what the unanswered tool calls are answered with."""

    state: RunState
    reason: str
    not_run: str = "This tool was not run: the answer was broken off."
    event: Event | None = None


@attrs.frozen
class Resumed:
    """Where to go on with a turn that waited: with the calls of its last answer, which is stored, with their places, as
    `stored`."""

    tally: Tally
    stored: Sequence[StoredMessage]


@attrs.define
class _Work:
    """What changes while a turn goes on."""

    run: Run
    turn: Turn
    provider: Provider
    conversations: Conversations
    attachments: Attachments
    tell: Tell
    tally: Tally
    history: list[Message]
    tools: tuple[Tool, ...]
    last_id: int | None = None
    images: list[JsonObject] = attrs.field(factory=list)
    failure: ProviderError | None = None
    over: bool = False


async def run_turn(
    run: Run,
    provider: Provider,
    conversations: Conversations,
    attachments: Attachments,
    tell: Tell,
    resumed: Resumed | None = None,
) -> None:
    """Answers the turn of a run. The last event is `RunEnded`, whatever happens to the model or its tools; only where
    the server stops while calls wait for somebody's consent there is none, and another worker goes on with it,
    `resumed`.

    Raises:
        DatabaseError: a message could not be stored. Nothing after that is told.
    """
    tally = Tally() if resumed is None else resumed.tally
    turn, history = run.turn, list(run.turn.history)
    tools = () if turn.parameters.get("tool_choice") == "none" else tuple(turn.tools.values())
    tell = partial(_tell_counted, run, tally, tell)
    work = _Work(run, turn, provider, conversations, attachments, tell, tally, history, tools)
    await _begin(work, resumed)
    while not work.over:
        work.tally.hops += 1
        answer = Answer()
        async with run.stop.interrupts():
            await _ask(work, answer)
        ending = _ending(work, answer)
        stored = await _store_answer(work, answer, ending)
        if stored:
            tell([MessageStored(stored[0])])
        if ending is not None:
            await _end(work, ending)
        else:
            await _run_tools(work, stored)


def _tell_counted(run: Run, tally: Tally, tell: Tell, events: Sequence[Event]) -> None:
    """Tells what happens, and ends a turn in which more was said than may be: all of it is kept until the turn ends."""
    tell(events)
    for event in events:
        raw: bytes | None = getattr(event, "raw", None)
        tally.said += EVENT + (_size(event) if raw is None else len(raw))
    if tally.said > run.turn.limits.max_answer:
        run.stop.request(ANSWER_LIMIT)


def _size(event: Event) -> int:
    """How much an event says, in bytes, that was not told in a chunk of its server's."""
    return len(event.text) if isinstance(event, TextDelta) else len(eventlog.pack([event]))


async def _begin(work: _Work, resumed: Resumed | None) -> None:
    """What comes before the model is asked: the notices of the plugins, or the calls that another worker has begun."""
    if resumed is not None:
        work.last_id = resumed.stored[-1].id
        await _run_tools(work, resumed.stored, begun=True)
        return
    if work.turn.notices:
        work.tell(work.turn.notices)
    if work.turn.stopped_for is not None:
        await _end(work, _Ending("stopped", work.turn.stopped_for))


async def _ask(work: _Work, answer: Answer) -> None:
    """One call of the model, and one more without tools if it refuses them. A failure is noted."""
    if images := await _take_images(work):
        answer.add(images)
        work.tell(images)
    try:
        await _stream(work, answer)
    except ProviderError as error:
        if not (work.tools and answer.empty and _may_go_without(work.turn) and _refuses_tools(error)):
            work.failure = error
            return
        work.tools = ()
        work.tell(
            [Notice("tools_unsupported", f"{work.turn.model} does not support tools; asking again without them.")]
        )
        await _ask(work, answer)


async def _run_tools(work: _Work, stored: Sequence[StoredMessage], *, begun: bool = False) -> None:
    """Runs the tools that an answer asks for. `begun`: another worker has begun that."""
    run = work.run
    stores = work.conversations, work.attachments
    calls = ToolCalls(work.turn, work.tools, run.stop, *stores, run.approvals, work.tell, work.tally)
    await (calls.go_on(stored) if begun else calls.run(stored, partial(_paused, work, stored)))
    work.history += calls.answers
    work.images = calls.images
    work.turn = attrs.evolve(work.turn, hidden=work.turn.hidden - calls.revealed)
    if calls.left_waiting:
        work.over = True
    elif ending := _ending_after_tools(work):
        await _end(work, ending)


def _paused(work: _Work, stored: Sequence[StoredMessage]) -> JsonObject:
    """What another worker needs to go on from here."""
    paused: JsonObject = wire.unstructure(Paused.of(work.turn, work.history, work.tally, stored[0].id))
    return paused


async def _end(work: _Work, ending: _Ending) -> None:
    if work.last_id is None and not (begun := await work.run.begun).stored:
        # Of an answer that was to be made anew nothing came: the earlier one is the conversation's again.
        await work.conversations.take_back(work.turn.principal, begun)
    work.over = True
    events = [ending.event] if ending.event else []
    if isinstance(ending.event, Notice):
        events.append(await _store_pause(work, ending.event))
    work.tell([*events, RunEnded(ending.state, ending.reason)])


async def _stream(work: _Work, answer: Answer) -> None:
    """What the provider says, taken in as it comes. A stop closes the provider's generator, and so its connection."""
    stream = work.provider.stream(await _request(work))
    breath = 0
    try:
        async for events in stream:
            images = len(answer.images)
            answer.add(events)
            work.tell(events if len(answer.images) == images else await _keep_images(work, answer, images, events))
            breath += len(events)
            if breath > LONGEST_BREATH:
                breath = 0
                await asyncio.sleep(0)
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


async def _keep_images(work: _Work, answer: Answer, known: int, events: Sequence[Event]) -> Sequence[Event]:
    """The events with links to their images. Of the answer's images those after the `known` ones came with them."""
    await asyncio.shield(work.run.begun)  # the files hang on the conversation; a stop does not undo that it is stored
    kept = await work.attachments.keep(work.turn.principal, work.turn.conversation_id, events)
    answer.images[known:] = [event.part for event in kept if isinstance(event, Attachment)]
    return kept


async def _take_images(work: _Work) -> Sequence[Event]:
    """What the tools of the last hop made that is not text: it belongs to the answer that follows."""
    images = [TextDelta(text) if (text := content_text((part,))) else Attachment(part) for part in work.images]
    work.images.clear()
    return await work.attachments.keep(work.turn.principal, work.turn.conversation_id, images)


async def _request(work: _Work) -> ModelRequest:
    without = () if work.tools else ("tool_choice", "parallel_tool_calls")
    return ModelRequest(
        model=work.turn.model,
        messages=await work.attachments.sent(work.turn.principal, work.turn.conversation_id, work.history),
        tools=tuple(tool for tool in work.tools if tool.name not in work.turn.hidden),
        parameters={key: value for key, value in work.turn.parameters.items() if key not in without},
        conversation_id=work.turn.conversation_id,
    )


def _may_go_without(turn: Turn) -> bool:
    """Whether the request does not insist on a tool."""
    return turn.parameters.get("tool_choice") in (None, "auto")


def _refuses_tools(error: ProviderError) -> bool:
    words = _REFUSED_TOOLS.get(error.upstream_status or 0)
    return isinstance(error, ProviderRefused) and words is not None and bool(words.search(error.message))


def _ending(work: _Work, answer: Answer) -> _Ending | None:
    """Why the turn ends with this answer, or None if tools are to be run and the model asked again."""
    work.tally.cost += answer.cost
    if work.failure is not None:
        broken = isinstance(work.failure, StreamBroken) and not answer.empty
        return _Ending("incomplete" if broken else "failed", work.failure.code, event=failed(work.failure))
    if work.run.stop.reason is not None:
        return _stopped(work.run.stop.reason, work.turn.limits)
    if answer.finish_reason is None:
        return _Ending("incomplete", "no_finish_reason")
    if not answer.tool_calls:
        return _Ending("completed", answer.finish_reason)
    return _limit_reached(work.tally, work.turn.limits, answer.tool_calls)


def _limit_reached(tally: Tally, limits: Limits, calls: Sequence[ToolCall]) -> _Ending | None:
    """The ending of a turn that would go on with these calls, and may not."""
    if tally.hops >= limits.hops:
        text = f"Paused after {tally.hops} calls of the model."
        return _pause("hop_limit", text, {"hop_count": tally.hops, "limit": limits.hops})
    if limits.cost is not None and tally.cost >= limits.cost:
        text = f"Paused: this turn has cost ${tally.cost:.4f}, the limit is ${limits.cost:.4f}."
        return _pause("cost_limit", text, {"cost": tally.cost, "limit": limits.cost})
    if (call := tally.repeated(calls)) is not None:
        text = f"Paused: the model has asked for {call.name} {REPEATS} times in a row, with the same arguments."
        return _pause("repeated_call", text, {"tool": call.name, "limit": REPEATS})
    return None


def _pause(reason: str, text: str, data: JsonObject) -> _Ending:
    text = f"{text} Say 'continue' to go on."
    return _Ending("incomplete", reason, not_run=f"This tool was not run. {text}", event=Notice(reason, text, data))


def _stopped(reason: str, limits: Limits) -> _Ending:
    if reason == ANSWER_LIMIT:
        text = f"Paused: what was said in this turn has more than {limits.max_answer} bytes as it came."
        return _pause(reason, text, {"limit": limits.max_answer})
    state: RunState = "incomplete" if reason == SERVER_STOPPED else "stopped"
    lost = "The answer was stopped: it could not be kept."
    told = Failed(lost, DatabaseError.code) if reason == LOG_FAILED else None
    return _Ending(state, reason, not_run="This tool was not run: the answer was stopped.", event=told)


def _ending_after_tools(work: _Work) -> _Ending | None:
    if work.run.stop.reason is not None:
        return _stopped(work.run.stop.reason, work.turn.limits)
    count, limit = work.tally.errors_in_a_row, work.turn.limits.tool_errors
    if count < limit:
        return None
    text = f"Paused: {count} tool calls in a row have failed."
    return _pause("tool_error_limit", text, {"tool_error_count": count, "limit": limit})


def failed(error: ChatcoreError) -> Failed:
    """The event that tells of an error."""
    if not isinstance(error, ProviderError):
        return Failed(error.told, error.code, error.status)
    return Failed(error.message, error.kind or error.code, error.told_status, error.details)


# --- storing ----------------------------------------------------------------------------------------------------------


async def _store_answer(work: _Work, answer: Answer, ending: _Ending | None) -> tuple[StoredMessage, ...]:
    """Stores the answer and, for every tool call, the place of the tool's answer: all of it or nothing."""
    if answer.empty:
        return ()
    messages = answer_messages(
        answer,
        origin_of(work.turn),
        partial=ending is not None and ending.state != "completed",
        not_run=None if ending is None else ending.not_run,
    )
    said = await work.attachments.out_of_text(work.turn.principal, work.turn.conversation_id, messages[0].message)
    messages[0] = attrs.evolve(messages[0], message=said)
    stored = await _store(work, messages)
    work.history.append(messages[0].message)
    return stored


async def _store_pause(work: _Work, notice: Notice) -> MessageStored:
    """Stores what the user is told of a pause as the turn's last words: who comes later is to see it, too."""
    origin = origin_of(work.turn)
    pause = NewMessage(
        message=Message(role="assistant", content=notice.message),
        run_id=origin.run_id,
        client_message_id=origin.client_message_id,
        parent_client_message_id=origin.parent_client_message_id,
        metadata={"pause": {"kind": notice.kind, **notice.data}},
    )
    return MessageStored((await _store(work, [pause]))[0])


async def _store(work: _Work, messages: Sequence[NewMessage]) -> tuple[StoredMessage, ...]:
    parent_id = work.last_id or (await work.run.begun).path[-1].id
    stored = await work.conversations.add_answer(work.turn.principal, work.turn.conversation_id, parent_id, messages)
    work.last_id = stored[-1].id
    return stored


@attrs.frozen(kw_only=True)
class Origin:
    """Where the messages of a run come from: what each of its rows says beside its content."""

    run_id: str
    model: str
    provider: str
    client_message_id: str | None = None
    parent_client_message_id: str | None = None


def origin_of(turn: Turn) -> Origin:
    """The origin of a turn's messages. All answers of a run share the id that the client chose for its reply."""
    return Origin(
        run_id=turn.id,
        model=turn.model,
        provider=turn.provider,
        client_message_id=turn.metadata.get("client_assistant_message_id"),
        parent_client_message_id=turn.metadata.get("client_parent_message_id"),
    )


def answer_messages(answer: Answer, origin: Origin, *, partial: bool, not_run: str | None) -> list[NewMessage]:
    """The rows of one answer: the assistant's message, then one tool message for each call.

    `not_run` is the answer to the calls; None leaves their places pending.
    """
    finish = answer.finish or Finish("")
    message = answer.message()
    rows = [
        NewMessage(
            message=message,
            state="partial" if partial else "complete",
            run_id=origin.run_id,
            client_message_id=origin.client_message_id,
            parent_client_message_id=origin.parent_client_message_id,
            model=finish.model or origin.model,
            provider=finish.provider or origin.provider,
            finish_reason=answer.finish_reason,
            generation_id=finish.generation_id,
            usage=answer.usage,
            routing=finish.routing,
        )
    ]
    rows += [
        NewMessage(
            message=Message(role="tool", content=not_run or UNKNOWN_OUTCOME, tool_call_id=call.id),
            state="complete" if not_run else "pending",
            run_id=origin.run_id,
            parent_client_message_id=origin.client_message_id,
            tool_name=call.name,
            is_error=True,
        )
        for call in message.tool_calls
    ]
    return rows
