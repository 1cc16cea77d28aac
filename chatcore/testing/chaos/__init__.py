"""A provider whose models fail in every way in which a model's server can: for tests of plugins, pages and chatcore.

    chatcore serve --load chatcore.testing.chaos:Chaos
    chat = await make_chat(Chaos)

A model's name says what it does: `chaos/cut-137` closes the connection after 137 bytes. Nothing is simulated inside of
chatcore. The plugin opens a server on a port of this machine, which misbehaves on the wire, and asks it as
`OpenAIProvider` asks any other: what is tested is the code that reads real servers.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Self

import attrs
from attrs.validators import gt

from chatcore.hooks import Context, Plugin, hookimpl
from chatcore.openai import OpenAIProvider, Timeouts
from chatcore.protocols import Lifespan, Provider
from chatcore.settings import option
from chatcore.testing.chaos.models import ANSWER, TOOL, error_reply, listed, reply_of
from chatcore.testing.upstream import FakeUpstream, Reply, Request
from chatcore.tools import Tool

_NOTES = 100
"""Requests that the server remembers: it may run for days."""


class ChaosProvider(OpenAIProvider):
    """Runs the models. `upstream` is the server that they are on; it is there while the `session` is open.

    Args:
        timeout: seconds of silence after which an answer is given up.
    """

    def __init__(self, *, timeout: float = 120.0) -> None:
        super().__init__(
            name="chaos",
            base_url="http://127.0.0.1",
            default_model="steady",
            timeouts=Timeouts(first_byte=timeout, idle=timeout),
        )
        self.upstream = FakeUpstream(base="/v1")
        self.upstream.answer(self._answer)
        self.upstream.route("/models", _catalogue())

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        async with self.upstream:
            self.base_url = self.upstream.url
            async with super().session():
                yield self

    def _answer(self, request: Request) -> Reply:
        del self.upstream.requests[:-_NOTES]
        asked = request.json
        if asked["messages"] and asked["messages"][-1]["role"] == "tool":
            return Reply.sse(ANSWER)
        known = ", ".join(model for model, _ in listed())
        return reply_of(asked["model"]) or error_reply(404, f"there is no model {asked['model']!r}; there are: {known}")


def _catalogue() -> Reply:
    models = [
        {
            "id": model,
            "name": f"Chaos: {model}",
            "description": description,
            "context_length": 100_000,
            "supported_parameters": ["tools"],
        }
        for model, description in listed()
    ]
    return Reply.json({"data": models})


@attrs.frozen
class Settings:
    """What can be set under `[plugins.chaos]`."""

    timeout: float = option(120.0, help="Seconds of silence after which an answer is given up.", validator=gt(0))


class Chaos(Plugin[Settings]):
    """Models that fail in every way, for tests."""

    settings_class = Settings

    def __init__(self, context: Context[Settings]) -> None:
        super().__init__(context)
        self.provider = ChaosProvider(timeout=self.settings.timeout)

    @hookimpl
    def register_providers(self) -> Iterable[Provider]:
        yield self.provider

    @hookimpl
    def register_lifespans(self) -> Iterable[Lifespan]:
        yield Lifespan("upstream", self.provider.session)

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        yield Tool.of(repeat, name=TOOL, read_only=True)


async def repeat(text: str) -> str:
    """Gives a text back. The models of chaos ask for it."""
    return text
