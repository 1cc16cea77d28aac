"""Titles for conversations, made by a model."""

import asyncio
import logging
from collections.abc import Sequence

from chatcore.protocols import Provider
from chatcore.types import Message, ModelRequest, TextDelta

logger = logging.getLogger(__name__)

LONGEST_INPUT = 4000
"""Characters of the conversation that the model is shown."""
LONGEST_TITLE = 120
"""Characters. A longer answer is not a title."""

_SPOKEN = ("user", "assistant")
_PARAMETERS = {"max_tokens": 30, "temperature": 0.3}
_INSTRUCTION = (
    "Write a title for the conversation that follows: at most six words, in its language, without quotation marks. "
    "Answer with the title alone."
)


def opening(messages: Sequence[Message]) -> Sequence[Message]:
    """As many of a conversation's messages, and as much of each, as the model is shown."""
    shown: list[Message] = []
    length = 0
    for message in messages:
        if message.role in _SPOKEN and length < LONGEST_INPUT:
            shown.append(Message(role=message.role, content=message.text[:LONGEST_INPUT]))
            length += len(shown[-1].text)
    return shown


async def ai_title(
    provider: Provider, model: str, messages: Sequence[Message], *, time_limit: float = 15.0
) -> str | None:
    """A title for a conversation, or None if the model gave none that can be used. Never raises: the log says why.

    `time_limit` is in seconds.
    """
    lines = [f"{message.role}: {message.text}" for message in opening(messages)]
    request = ModelRequest(
        model=model,
        messages=(
            Message(role="system", content=_INSTRUCTION),
            Message(role="user", content="\n".join(lines)[:LONGEST_INPUT]),
        ),
        parameters=_PARAMETERS,
    )
    try:
        async with asyncio.timeout(time_limit):
            answer = await _text(provider, request)
    except Exception as error:  # noqa: BLE001  a plugin's code: a conversation without a title is no failure
        logger.warning("no title from %s of provider %s: %r", model, provider.name, error)
        return None
    title = " ".join(answer.split()).strip("\"'`“”„‘’«» ")
    if 0 < len(title) <= LONGEST_TITLE:
        return title
    logger.warning("no title from %s of provider %s: its answer has %d characters", model, provider.name, len(title))
    return None


async def _text(provider: Provider, request: ModelRequest) -> str:
    pieces: list[str] = []
    async for events in provider.stream(request):
        pieces += [event.text for event in events if isinstance(event, TextDelta)]
    return "".join(pieces)
