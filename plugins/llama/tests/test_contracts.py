"""The contracts that every plugin and every provider keeps."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from chatcore_llama import Llama
from chatcore_llama.provider import LlamaProvider, make_provider
from chatcore_llama.settings import Settings

from chatcore.testing.contracts import PluginContract, ProviderContract


@pytest.mark.usefixtures("smollm2")
class TestPlugin(PluginContract):
    plugin = Llama


@pytest.mark.usefixtures("smollm2")
class TestProvider(ProviderContract):
    @pytest_asyncio.fixture
    async def provider(self) -> AsyncIterator[LlamaProvider]:
        made = make_provider(Settings(max_tokens=8, context=512), Path("no such directory"), logging.getLogger("llama"))
        async with made.session() as provider:
            yield provider

    @pytest_asyncio.fixture
    async def broken(self, tmp_path: Path) -> AsyncIterator[LlamaProvider]:
        path = tmp_path / "broken.gguf"
        path.write_bytes(b"GGUF")
        made = make_provider(Settings(model=path), tmp_path, logging.getLogger("llama"))
        async with made.session() as provider:
            yield provider
