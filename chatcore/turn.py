"""A turn: the model is asked, its tools are run, and it is asked again until it has answered.

`run_turn` is one async generator of lists of events, one list for each read from upstream. It stores every message
before it tells of it. At each moment the stored conversation is one that a model accepts: an answer that asks for tools
is stored together with a place for each tool's answer, which says that the outcome is unknown until it is known.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import attrs

from chatcore import wire
from chatcore.answer import Answer
from chatcore.database import Begun, Conversations, NewMessage
from chatcore.errors import ChatcoreError, ProviderError, ProviderRefused, RequestError, StreamBroken, ToolFailed
from chatcore.protocols import Provider
from chatcore.tools import Invocation, JsonObject, Tool, ToolCall, ToolResult
from chatcore.types import (
    Attachment,
    Event,
    Failed,
    Finish,
    Message,
    MessageStored,
    ModelRequest,
    Notice,
    RunEnded,
    RunState,
    StoredMessage,
    ToolFinished,
    ToolStarted,
    Turn,
)

SERVER_STOPPED = "server_stopped"
"""The reason of a stop that nobody asked for: the answer counts as broken off."""

UNKNOWN_OUTCOME = "The outcome of this tool call is unknown: the server stopped while it ran. It was not repeated."


class Stop:
    """Ends a running turn from outside. The turn stores what it has and comes to its end."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self._scope: asyncio.Timeout | None = None

    def request(self, reason: str) -> None:
        """Stops the turn; the first reason counts. `reason` is a short name such as `user` or `disconnected`."""
        if self.reason is None:
            self.reason = reason
            if self._scope is not None:
                self._scope.reschedule(0)

    @asynccontextmanager
    async def interrupts(self) -> AsyncIterator[None]:
        """A block that ends, without an error, when the stop is requested. Check `reason` after it."""
        scope = asyncio.timeout(None if self.reason is None else 0)
        try:
            async with scope:
                self._scope = scope
                yield
        except TimeoutError:
            if not scope.expired():
                raise
        finally:
            self._scope = None


@attrs.frozen
class _Ending:
    """Why a turn goes no further. `not_run` is what the unanswered tool calls are answered with."""

    state: RunState
    reason: str
    not_run: str = "This tool was not run: the answer was broken off."
    event: Event | None = None


@attrs.define
class _Work:
    """What changes while a turn goes on."""

    turn: Turn
    provider: Provider
    conversations: Conversations
    begun: Callable[[], Awaitable[Begun]]
    stop: Stop
    history: list[Message]
    tools: tuple[Tool, ...]
    may_drop_tools: bool
    last_id: int | None = None
    images: list[JsonObject] = attrs.field(factory=list)
    errors_in_a_row: int = 0
    attempts: Counter[str] = attrs.field(factory=Counter)
    cost: float = 0.0


async def run_turn(
    turn: Turn, provider: Provider, conversations: Conversations, begun: Callable[[], Awaitable[Begun]], stop: Stop
) -> AsyncGenerator[Sequence[Event], None]:
    """Answers a turn. The last event is `RunEnded`, whatever happens to the model or its tools.

    `begun` gives what is stored of the turn, once it is: the answer hangs on the last message of its path.

    Raises:
        DatabaseError: a message could not be stored. Nothing after that is told.
    """
    tool_choice = turn.parameters.get("tool_choice")
    work = _Work(
        turn=turn,
        provider=provider,
        conversations=conversations,
        begun=begun,
        stop=stop,
        history=list(turn.history),
        tools=() if tool_choice == "none" else tuple(turn.tools.values()),
        may_drop_tools=tool_choice in (None, "auto"),
    )
    for hop in range(1, turn.limits.hops + 1):
        answer = Answer()
        failure: ProviderError | None = None
        if images := _take_images(work):
            answer.add(images)
            yield images
        try:
            async with stop.interrupts(), aclosing(_ask(work, answer)) as batches:
                async for events in batches:
                    yield events
        except ProviderError as error:
            failure = error
        ending = _ending(work, answer, failure, hop)
        stored = await _store_answer(work, answer, ending)
        yield [MessageStored(message) for message in stored[:1]]
        if ending is None:
            async with aclosing(_run_tools(work, stored)) as batches:
                async for events in batches:
                    yield events
            ending = _ending_after_tools(work)
        if ending is not None:
            yield [*([ending.event] if ending.event else []), RunEnded(ending.state, ending.reason)]
            return


async def _ask(work: _Work, answer: Answer) -> AsyncGenerator[Sequence[Event], None]:
    """One call of the model; asks once more without tools if it refuses them."""
    try:
        async with aclosing(_stream(work, answer)) as batches:
            async for events in batches:
                yield events
    except ProviderRefused as error:
        if not (work.tools and work.may_drop_tools and answer.empty and _refuses_tools(error)):
            raise
    else:
        return
    work.tools = ()
    yield [Notice("tools_unsupported", f"{work.turn.model} does not support tools; asking again without them.")]
    async with aclosing(_stream(work, answer)) as batches:
        async for events in batches:
            yield events


async def _stream(work: _Work, answer: Answer) -> AsyncGenerator[Sequence[Event], None]:
    """What the provider says, taken in as it comes. A stop closes the provider's generator, and so its connection."""
    stream = work.provider.stream(_request(work))
    try:
        async for events in stream:
            answer.add(events)
            yield events
    finally:
        if isinstance(stream, AsyncGenerator):
            await stream.aclose()


def _take_images(work: _Work) -> list[Event]:
    """What the tools of the last hop made that is not text: it belongs to the answer that follows."""
    images: list[Event] = [Attachment(part) for part in work.images]
    work.images.clear()
    return images


def _request(work: _Work) -> ModelRequest:
    without = () if work.tools else ("tool_choice", "parallel_tool_calls")
    return ModelRequest(
        model=work.turn.model,
        messages=tuple(work.history),
        tools=work.tools,
        parameters={key: value for key, value in work.turn.parameters.items() if key not in without},
        conversation_id=work.turn.conversation_id,
    )


def _refuses_tools(error: ProviderRefused) -> bool:
    # OpenRouter answers 404 "No endpoints found that support tool use"; there is no code for it.
    return error.upstream_status == 404 and "tool" in error.message.lower()


def _ending(work: _Work, answer: Answer, failure: ProviderError | None, hop: int) -> _Ending | None:
    """Why the turn ends with this answer, or None if tools are to be run and the model asked again."""
    limits = work.turn.limits
    work.cost += float((answer.usage or {}).get("cost") or 0)
    if failure is not None:
        broken = isinstance(failure, StreamBroken) and not answer.empty
        return _Ending("incomplete" if broken else "failed", failure.code, event=failed(failure))
    if work.stop.reason is not None:
        return _stopped(work.stop.reason)
    if answer.finish_reason is None:
        return _Ending("incomplete", "no_finish_reason")
    if not answer.tool_calls:
        return _Ending("completed", answer.finish_reason)
    if hop >= limits.hops:
        text = f"Paused after {hop} calls of the model. Say 'continue' to go on."
        notice = Notice("hop_limit", text, {"hop_count": hop, "limit": limits.hops})
        return _Ending("incomplete", "hop_limit", not_run=f"This tool was not run. {text}", event=notice)
    if limits.cost is not None and work.cost >= limits.cost:
        text = f"Paused: this turn has cost ${work.cost:.4f}, the limit is ${limits.cost:.4f}."
        notice = Notice("cost_limit", text, {"cost": work.cost, "limit": limits.cost})
        return _Ending("incomplete", "cost_limit", not_run=f"This tool was not run. {text}", event=notice)
    return None


def _stopped(reason: str) -> _Ending:
    state: RunState = "incomplete" if reason == SERVER_STOPPED else "stopped"
    return _Ending(state, reason, not_run="This tool was not run: the answer was stopped.")


def _ending_after_tools(work: _Work) -> _Ending | None:
    if work.stop.reason is not None:
        return _stopped(work.stop.reason)
    count, limit = work.errors_in_a_row, work.turn.limits.tool_errors
    if count < limit:
        return None
    text = f"Paused: {count} tool calls in a row have failed. Say 'continue' to go on."
    notice = Notice("tool_error_limit", text, {"tool_error_count": count, "limit": limit})
    return _Ending("incomplete", "tool_error_limit", event=notice)


def failed(error: ChatcoreError) -> Failed:
    """The event that tells of an error."""
    if not isinstance(error, ProviderError):
        return Failed(error.message, error.code, error.status)
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
    parent_id = work.last_id or (await work.begun()).path[-1].id
    stored = await work.conversations.add_answer(work.turn.principal, work.turn.conversation_id, parent_id, messages)
    work.history.append(messages[0].message)
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


# --- tools ------------------------------------------------------------------------------------------------------------


async def _run_tools(work: _Work, stored: Sequence[StoredMessage]) -> AsyncGenerator[Sequence[Event], None]:
    """Runs all tools of an answer at once; yields each as it ends. A stop ends those that still run."""
    assistant, *places = stored
    calls = assistant.message.tool_calls
    yield [ToolStarted(call) for call in calls]
    tasks = {
        asyncio.create_task(_run_tool(work, call)): (call, place) for call, place in zip(calls, places, strict=True)
    }
    answers: dict[str, Message] = {}
    pending = set(tasks)
    try:
        while pending and work.stop.reason is None:
            done: set[asyncio.Task[ToolResult]] = set()
            async with work.stop.interrupts():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                yield await _finish_tool(work, *tasks[task], task.result(), answers)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for call, place in tasks.values():
        if call.id not in answers:
            result = ToolResult(
                "This tool was stopped before it had answered; what it did until then is unknown.", True
            )
            yield await _finish_tool(work, call, place, result, answers)
    work.history.extend(answers[call.id] for call in calls)


async def _finish_tool(
    work: _Work, call: ToolCall, place: StoredMessage, result: ToolResult, answers: dict[str, Message]
) -> list[Event]:
    """Stores what a tool answered and counts it."""
    stored = await work.conversations.finish_tool(
        work.turn.principal, place.id, result.text, is_error=result.is_error, metadata={"parts": list(result.parts)}
    )
    answers[call.id] = stored.message
    work.images.extend(result.parts)
    work.errors_in_a_row = work.errors_in_a_row + 1 if result.is_error else 0
    events: list[Event] = [ToolFinished(call, result, stored.id, stored.created_at)]
    return events + _followup(work, call, result)


def _followup(work: _Work, call: ToolCall, result: ToolResult) -> list[Event]:
    """The notice that a tool came back without what it was asked for."""
    if not result.is_error and (result.text or result.parts):
        return []
    work.attempts[call.name] += 1
    reason = "tool_error" if result.is_error else "empty_result"
    data = {
        "tool": call.name,
        "reason": reason,
        "attempt": work.attempts[call.name],
        "confirmation_required": True,
    }
    return [Notice("tool_followup_required", result.text or f"{call.name} gave an empty result.", data)]


async def _run_tool(work: _Work, call: ToolCall) -> ToolResult:
    """Runs one tool. Whatever goes wrong is an answer that the model can read."""
    tool = next((tool for tool in work.tools if tool.name == call.name), None)
    if tool is None:
        return ToolResult(f"There is no tool {call.name!r}. There are: {_names(work.tools)}.", True)
    try:
        arguments = _arguments(call)
    except RequestError as error:
        return ToolResult(f"The arguments of {call.name} are not a JSON object: {error}", True)
    invocation = Invocation(
        call=call,
        arguments=arguments,
        principal_id=work.turn.principal.id,
        conversation_id=work.turn.conversation_id,
        run_id=work.turn.id,
    )
    limit = tool.timeout or work.turn.limits.tool_timeout
    try:
        async with asyncio.timeout(limit):
            result = await tool.run(invocation)
    except TimeoutError:
        return ToolResult(f"{call.name} did not answer within {limit:g} seconds.", True)
    except ToolFailed as error:
        return ToolResult(error.message, True)
    except Exception as error:  # noqa: BLE001  a tool is foreign code: its failure is an answer, not the turn's end
        return ToolResult(f"{call.name} failed: {type(error).__name__}: {error}", True)
    return attrs.evolve(result, text=_capped(result.text, work.turn.limits.tool_output))


def _arguments(call: ToolCall) -> dict[str, object]:
    value = wire.loads(call.arguments.encode()) if call.arguments.strip() else {}
    if not isinstance(value, dict):
        raise RequestError(f"got {call.arguments[:80]}")
    return value


def _capped(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}\n[cut: the tool gave {len(text)} characters, the limit is {limit}]"


def _names(tools: Sequence[Tool]) -> str:
    return ", ".join(tool.name for tool in tools) or "none"
