"""The provider: waits for the model, then is a client of its server."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import attrs

from chatcore.errors import PluginOff, ProviderError, ProviderRefused, ProviderUnavailable
from chatcore.openai import OpenAIProvider, Timeouts
from chatcore.protocols import Health
from chatcore.types import Model, ModelEvent, ModelRequest
from chatcore_llama import engine, weights
from chatcore_llama.settings import Settings

TIMEOUTS = Timeouts(connect=5.0, first_byte=900.0, idle=60.0)
"""A message may wait for those before it, and a long one is read slowly: only then does the answer begin."""

_TOO_LONG = "start a new conversation, or raise 'context' in [plugins.llama]"


def make_provider(settings: Settings, fetched: Path, log: logging.Logger) -> "LlamaProvider":
    """The provider of the model that is there. `fetched` is the directory of fetched ones.

    Raises:
        PluginOff: there is none, or nothing to run it with.
    """
    if find_spec("xllamacpp") is None:
        raise PluginOff("xllamacpp is not installed", hint="pip install xllamacpp")
    return LlamaProvider(weights.find(settings.model, fetched), settings, log)


class LlamaProvider:
    """One model in this process. It is loaded when the session begins, in the background."""

    name = "llama"
    open = False

    def __init__(self, path: Path, settings: Settings, log: logging.Logger) -> None:
        self.default_model = f"{self.name}/{weights.model_name(path)}"
        self._path = path
        self._settings = settings
        self._log = log
        self._settled = asyncio.Event()
        self._settled.set()  # nothing is being loaded yet
        self._failure: str | None = None
        self._server: engine.Server | None = None
        self._upstream: _Upstream | None = None

    def health(self) -> Health:
        if self._failure is not None:
            return Health("failed", self._failure)
        return Health() if self._upstream else Health("starting", f"loading {self._path.name}")

    async def models(self) -> Sequence[Model]:
        """The one model. Its context and whether it can call tools are known once it is loaded."""
        server = self._server
        context, tools = (server.context, server.supports_tools) if server else (None, self._settings.tools)
        return [Model(self.default_model, weights.model_name(self._path), context, tools)]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Sequence[ModelEvent], None]:
        """One call of the model. Waits while it is being loaded.

        Raises:
            ProviderUnavailable: it could not be loaded, or not in time.
            ProviderError: as `OpenAIProvider.stream`.
        """
        upstream = await self._ready()
        async with aclosing(upstream.stream(request)) as answer:
            async for events in answer:
                yield events

    async def _ready(self) -> "_Upstream":
        try:
            async with asyncio.timeout(self._settings.load_timeout):
                await self._settled.wait()
        except TimeoutError as error:
            raise ProviderUnavailable(
                f"{self._path.name} is still being loaded", retry_after=10.0, hint="try again, or raise load_timeout"
            ) from error
        if self._upstream is None:
            raise ProviderUnavailable(self._failure or "the model is not loaded", hint="the server's log says more")
        return self._upstream

    # --- its life -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def session(self) -> AsyncIterator[Self]:
        """The time in which the model is there. At its end a load under way is awaited: once the file has been read, it
        cannot be broken off."""
        self._settled.clear()
        stop = threading.Event()
        loading = asyncio.create_task(self._load(stop))
        try:
            yield self
        finally:
            stop.set()
            await loading
            if self._upstream is not None:
                # Closing the connections first lets the server notice at once that its streams are of no use.
                await self._upstream.aclose()
                self._upstream = None
            if self._server is not None:
                await asyncio.to_thread(self._server.close)

    async def _load(self, stop: threading.Event) -> None:
        started = time.monotonic()
        try:
            self._server = await asyncio.to_thread(engine.start, self._path, self.default_model, self._settings, stop)
        except engine.LoadStopped:
            self._log.info("%s is not loaded: the server stops", self._path.name)
        except engine.LoadFailed as error:
            self._failure = str(error)
            self._log.error("%s", error)
        except Exception as error:  # noqa: BLE001  foreign code: whatever it raises, the server runs on without it
            self._failure = f"{type(error).__name__}: {error}"
            self._log.exception("%s could not be loaded", self._path.name)
        else:
            self._upstream = _Upstream(self._server, self._settings)
            self._log.info("%s is ready after %.1f s", self.default_model, time.monotonic() - started)
        finally:
            self._settled.set()


class _Upstream(OpenAIProvider):
    """The server of the model."""

    def __init__(self, server: engine.Server, settings: Settings) -> None:
        # It closes connections after a streamed answer without saying so: one that was kept would fail now and then.
        super().__init__(
            name=LlamaProvider.name,
            base_url=server.base_url,
            api_key=server.api_key,
            extra_headers={"connection": "close"},
            timeouts=TIMEOUTS,
        )
        self._server = server
        self._settings = settings

    def payload(self, request: ModelRequest) -> dict[str, Any]:
        if not self._server.supports_tools:
            request = attrs.evolve(request, tools=())
        payload = super().payload(request)
        if payload.get("max_tokens") is None and payload.get("max_completion_tokens") is None:
            payload["max_tokens"] = self._settings.max_tokens
        return payload

    def parse_error(self, status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
        """A 500 is what it cannot do, such as to look at an image: asking again does not help."""
        error = super().parse_error(status, headers, body)
        hint = _TOO_LONG if error.kind == "exceed_context_size_error" else error.hint
        kind = ProviderRefused if status == 500 else type(error)
        return kind(error.message, upstream_status=status, kind=error.kind, details=error.details, hint=hint)
