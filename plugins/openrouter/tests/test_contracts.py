"""The contracts that every plugin and every provider keeps."""

from collections.abc import AsyncIterator

import pytest_asyncio
from chatcore_openrouter import OpenRouter, Settings
from chatcore_openrouter.provider import OpenRouterProvider, make_provider

from chatcore.secrets import Secret
from chatcore.testing.contracts import PluginContract, ProviderContract
from chatcore.testing.upstream import FakeUpstream, Reply

ANSWER = (
    b'data: {"id":"gen-1","model":"openai/gpt-4o","choices":[{"index":0,"delta":{"content":"Hello"}}]}\n\n'
    b'data: {"id":"gen-1","choices":[{"index":0,"delta":{"content":" there"}}]}\n\n'
    b'data: {"id":"gen-1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    b"data: [DONE]\n\n"
)


class TestPlugin(PluginContract):
    plugin = OpenRouter
    settings = {"api_key": "sk-or-v1-x", "base_url": "http://127.0.0.1:9/api/v1"}  # noqa: RUF012  read only


class TestProvider(ProviderContract):
    @pytest_asyncio.fixture
    async def provider(self) -> AsyncIterator[OpenRouterProvider]:
        async with FakeUpstream() as upstream:
            upstream.answer(Reply.sse(ANSWER, chunks=40))
            async with make_provider(Settings(api_key=Secret("sk-or-v1-x"), base_url=upstream.url)).session() as made:
                yield made

    @pytest_asyncio.fixture
    async def broken(self) -> AsyncIterator[OpenRouterProvider]:
        async with FakeUpstream() as upstream:
            upstream.answer(Reply.sse(ANSWER, drop_after=60))
            async with make_provider(Settings(api_key=Secret("sk-or-v1-x"), base_url=upstream.url)).session() as made:
                yield made
