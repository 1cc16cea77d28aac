"""What a model is given: a system prompt, made anew for every turn, and the messages in a form that no model refuses.

Which prompt counts, the first that there is:

1. the request's own system messages (`request_prompt`);
2. the last system message that is stored in the conversation, which an earlier request brought (`stored_prompt`);
3. the client's settings; 4. the configuration; 5. the built-in one.

The time block always stands in front of it. It is never stored: it would tell a later turn the wrong time.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from zoneinfo import ZoneInfo

import attrs

from chatcore.attachments import attachment_id
from chatcore.runs.toolcalls import UNKNOWN_OUTCOME, as_data
from chatcore.tools import JsonObject, ToolCall
from chatcore.types import Content, Message, StoredMessage

BUILT_IN = (
    "You are a helpful assistant. Answer clearly and to the point, in the language of the question. "
    "Say so when you do not know something. Use the tools you are given when they help to answer."
)


def system_prompt(own: str | None, configured: str | None, now: datetime, zone: ZoneInfo) -> str:
    """The text of the system message that a turn begins with: the time, and the prompt.

    Args:
        own: the prompt of the request, the conversation or the client; blank counts as none.
        configured: the server's prompt, used where there is no own one.
        now: the time of the turn, with an offset.
        zone: the time zone that the user lives in.
    """
    prompt = next((text.strip() for text in (own, configured) if text and text.strip()), BUILT_IN)
    return f"{_time_block(now.replace(second=0, microsecond=0), zone)}\n\n{prompt}"


def request_prompt(messages: Iterable[Message]) -> str | None:
    """The text of a request's system messages, or None if it has none."""
    return "\n\n".join(filter(None, (message.text.strip() for message in messages if _is_system(message)))) or None


def stored_prompt(path: Iterable[StoredMessage]) -> str | None:
    """The text of the last system message of a conversation, or None if it has none."""
    texts = [stored.message.text.strip() for stored in path if _is_system(stored.message)]
    return (texts[-1] if texts else None) or None


def compose_history(path: Sequence[StoredMessage], system: str) -> tuple[Message, ...]:
    """The messages that a model is given for a conversation: `system` first, then the stored ones.

    Nothing that chatcore keeps for itself is in them. Stored system messages are left out (`system` stands for them),
    as are empty messages. Every tool call has an id of its own and exactly one answer, which directly follows; a call
    whose answer is not known is answered so, an answer to no call is left out. What a model wrote as arguments stays.
    """
    history = [Message(role="system", content=system)]
    used: dict[str, int] = {}
    for message, answers in _groups(stored for stored in path if not _is_system(stored.message)):
        if message.role == "assistant" and message.tool_calls:
            history += _with_answers(message, answers, used)
        elif not _is_empty(message):
            # What its provider has marked is for that to leave out.
            reasoning = message.reasoning if message.reasoning_mark else None
            history.append(attrs.evolve(message, tool_calls=(), reasoning=reasoning, reasoning_details=()))
    return tuple(history)


@lru_cache(maxsize=16)
def _time_block(now: datetime, zone: ZoneInfo) -> str:
    """The time to the minute: within one, upstreams that keep the work on a prompt's beginning can use it again."""
    local = now.astimezone(zone)
    return (
        "# Date and time\n"
        f"Today is {local:%A}, {local.day} {local:%B %Y} ({local:%Y-%m-%d}).\n"
        f"Local time: {local:%H:%M %Z}, time zone {zone.key}.\n"
        f"UTC: {now.astimezone(UTC):%Y-%m-%dT%H:%MZ}\n"
        'Use these for words such as "today", "tomorrow" or "next week".'
    )


def _is_system(message: Message) -> bool:
    return message.role in ("system", "developer")


def _groups(path: Iterable[StoredMessage]) -> Iterator[tuple[Message, list[Message]]]:
    """Each message that is not a tool's, with the tools' messages that follow it."""
    message: Message | None = None
    answers: list[Message] = []
    for stored in path:
        if stored.message.role == "tool":
            answers.append(_settled(stored))
            continue
        if message:
            yield message, answers
        message, answers = attrs.evolve(stored.message, content=_clean(stored.message.content), tool_call_id=None), []
    if message:
        yield message, answers


def _with_answers(message: Message, answers: Sequence[Message], used: dict[str, int]) -> Iterator[Message]:
    """An assistant message with tool calls, and one answer for each. `used` are the ids that may not be taken again."""
    remaining = list(answers)
    calls: list[ToolCall] = []
    answered: list[Message] = []
    for call in message.tool_calls:
        found = next((answer for answer in remaining if answer.tool_call_id == call.id), None)
        if found:
            remaining.remove(found)
        else:
            found = Message(role="tool", name=call.name, content=UNKNOWN_OUTCOME)
        calls.append(attrs.evolve(call, id=_unused(call.id, used)))
        answered.append(attrs.evolve(found, tool_call_id=calls[-1].id))
    content = None if is_blank(message.content) else message.content
    yield attrs.evolve(message, content=content, tool_calls=tuple(calls))
    yield from map(as_data, answered)


def _settled(stored: StoredMessage) -> Message:
    content = _clean(stored.message.content) or ""
    unknown = stored.state == "pending" and is_blank(content)
    return attrs.evolve(stored.message, content=UNKNOWN_OUTCOME if unknown else content, tool_calls=())


def _unused(call_id: str, used: dict[str, int]) -> str:
    """The id, or one like it: models that number their calls begin again with every answer. `used` has how often each
    was wanted."""
    unused = call_id = call_id or "call"
    while unused in used:
        used[call_id] += 1
        unused = f"{call_id}_{used[call_id]}"
    used[unused] = 1
    return unused


def _clean(content: Content) -> Content:
    """The content without what chatcore and its clients note about a part under `metadata`, but for the file that it
    stands for, which takes its place when the model is asked."""
    return tuple(map(_clean_part, content)) if isinstance(content, tuple) else content


def _clean_part(part: JsonObject) -> JsonObject:
    clean = {key: value for key, value in part.items() if key != "metadata"}
    return {**clean, "metadata": {"attachment_id": key}} if (key := attachment_id(part)) else clean


def _is_empty(message: Message) -> bool:
    return is_blank(message.content) and not message.images


def is_blank(content: Content) -> bool:
    """Whether a content says and shows nothing."""
    if isinstance(content, tuple):
        return all(part.get("type") == "text" and not str(part.get("text") or "").strip() for part in content)
    return not (content or "").strip()
