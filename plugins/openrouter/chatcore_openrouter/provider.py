"""OpenRouter as a provider: what it has beside the OpenAI chat format."""

import asyncio
import unicodedata
from typing import Any
from urllib.parse import quote

import attrs

from chatcore.errors import PluginOff, ProviderRefused
from chatcore.openai import OpenAIProvider, Timeouts
from chatcore.tools import JsonObject
from chatcore.types import Model, ModelRequest
from chatcore_openrouter.settings import Settings

RECORD_DELAYS = (0.3, 0.6, 1.1)
"""Seconds between the tries for the record of a generation: it is there a second or two after the answer."""


def make_provider(settings: Settings) -> "OpenRouterProvider":
    """The provider with these settings.

    Raises:
        PluginOff: there is no key.
    """
    if settings.api_key is None:
        raise PluginOff("set OPENROUTER_API_KEY", hint="Keys are made at https://openrouter.ai/keys.")
    return OpenRouterProvider(
        name="openrouter",
        open=True,
        base_url=settings.base_url,
        api_key=settings.api_key,
        default_model=settings.default_model,
        timeouts=Timeouts(first_byte=settings.timeout, idle=settings.timeout),
        extra_headers=_attribution(settings),
    )


class OpenRouterProvider(OpenAIProvider):
    """All models of OpenRouter, by its own ids (`author/slug`), those that it does not list too."""

    routing_headers = ("openrouter-", *OpenAIProvider.routing_headers)

    def payload(self, request: ModelRequest) -> dict[str, Any]:
        payload = super().payload(request)
        payload.setdefault("usage", {"include": True})
        if request.conversation_id:
            # Keeps a conversation at one of the model's servers, which has its beginning in the cache.
            payload.setdefault("session_id", request.conversation_id[:256])
        return payload

    def model_from(self, info: JsonObject) -> Model:
        model = super().model_from(info)
        # Every entry lists what its model supports; one that says nothing of tools has none.
        return attrs.evolve(model, supports_tools=bool(model.supports_tools))

    async def generation(self, generation_id: str) -> JsonObject:
        """OpenRouter's record of a generation. Waits some two seconds for one that is not there yet.

        Raises:
            ProviderError: with `upstream_status` 404 if there is none.
        """
        for delay in RECORD_DELAYS:
            try:
                return await self.get("generation", {"id": generation_id})
            except ProviderRefused as error:
                if error.upstream_status != 404:
                    raise
            await asyncio.sleep(delay)
        return await self.get("generation", {"id": generation_id})

    async def key(self) -> JsonObject:
        """What OpenRouter knows of the key: its limit, and what it has used of it, in US dollars.

        Raises:
            ProviderError: it cannot be had.
        """
        return await self._data("key")

    async def endpoints(self, model: str) -> list[JsonObject]:
        """The servers that run a model (`author/slug`), with their prices and limits.

        Raises:
            ProviderError: with `upstream_status` 404 if there is no such model.
        """
        data = await self._data(f"models/{quote(model, safe='/:~')}/endpoints")
        return [endpoint for endpoint in data.get("endpoints") or () if isinstance(endpoint, dict)]

    async def _data(self, path: str) -> JsonObject:
        data = (await self.get(path)).get("data")
        if not isinstance(data, dict):
            raise ProviderRefused(f"openrouter: the answer to {path} has no 'data'", kind="unreadable")
        return data


def _attribution(settings: Settings) -> dict[str, str]:
    """Whose request it is. Both spellings of each header: OpenRouter renamed one, stand-ins may know the other."""
    headers: dict[str, str] = {}
    if settings.app_url:
        headers |= dict.fromkeys(("HTTP-Referer", "Referer"), _ascii(settings.app_url))
    if settings.app_title:
        headers |= dict.fromkeys(("X-OpenRouter-Title", "X-Title"), _ascii(settings.app_title))
    return headers


def _ascii(text: str) -> str:
    """What a header can hold of a text: letters without their accents, one line."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return " ".join(plain.split())
