"""A provider without a model: it answers with what it was given, and does what the last message tells it.

The test bed of plugins and pages. Lines of the last user message that begin with a slash are orders:

    /call NAME {"json": "arguments"}   asks for a tool (several lines: several tools at once)
    /think TEXT                        thinks TEXT before it answers
    /slow SECONDS                      waits that long before each word
    /fail                              breaks off like a provider that is down
    /cut                               ends without a finish reason

Everything else is the answer, word by word. After a tool it says what the tool gave.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence

import attrs

from chatcore.errors import ProviderUnavailable
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Health, Provider
from chatcore.runs.toolcalls import without_frame
from chatcore.types import (
    Finish,
    Message,
    Model,
    ModelEvent,
    ModelRequest,
    ReasoningDelta,
    TextDelta,
    ToolCallDelta,
    ToolCallStarted,
    Usage,
)


@attrs.frozen
class _Orders:
    """What the last message asks for."""

    text: str
    calls: tuple[tuple[str, str], ...] = ()
    thoughts: str = ""
    pause: float = 0.0
    fail: bool = False
    cut: bool = False


class EchoProvider:
    """Answers with what it was given."""

    name = "echo"
    open = False
    default_model = "echo"

    def health(self) -> Health:
        return Health()

    async def models(self) -> Sequence[Model]:
        return [Model("echo", "Echo", context_length=1_000_000, supports_tools=True)]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        last = request.messages[-1] if request.messages else Message(role="user", content="")
        orders = _orders(last.text) if last.role != "tool" else _Orders(f"The tool said: {without_frame(last.text)}")
        if orders.fail:
            raise ProviderUnavailable("echo was told to fail", upstream_status=503)
        if orders.thoughts:
            yield [ReasoningDelta(orders.thoughts)]
        for piece in _words(orders.text):
            await asyncio.sleep(orders.pause)
            yield [TextDelta(piece)]
        for index, (name, arguments) in enumerate(orders.calls):
            yield [ToolCallStarted(index, f"call_{index}", name), ToolCallDelta(index, arguments)]
        if not orders.cut:
            yield [_usage(request, orders), Finish("tool_calls" if orders.calls else "stop", model="echo")]


def _orders(text: str) -> _Orders:
    orders = _Orders("")
    said: list[str] = []
    for line in text.splitlines():
        order, _, rest = line.partition(" ")
        match order:
            case "/call":
                name, _, arguments = rest.partition(" ")
                orders = attrs.evolve(orders, calls=(*orders.calls, (name, arguments)))
            case "/think":
                orders = attrs.evolve(orders, thoughts=rest)
            case "/slow":
                orders = attrs.evolve(orders, pause=float(rest))
            case "/fail":
                orders = attrs.evolve(orders, fail=True)
            case "/cut":
                orders = attrs.evolve(orders, cut=True)
            case _:
                said.append(line)
    return attrs.evolve(orders, text="\n".join(said))


def _words(text: str) -> Iterable[str]:
    """The text in pieces that end after a space."""
    pieces = text.split(" ")
    return (piece + (" " if index < len(pieces) - 1 else "") for index, piece in enumerate(pieces) if text)


def _usage(request: ModelRequest, orders: _Orders) -> Usage:
    prompt = sum(len(message.text.split()) for message in request.messages)
    completion = len(orders.text.split())
    return Usage(
        {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion, "cost": 0}
    )


class Echo(Plugin[NoSettings]):
    """Answers with what it was given; for trying things out without a model."""

    @hookimpl
    def register_providers(self) -> Iterable[Provider]:
        yield EchoProvider()
