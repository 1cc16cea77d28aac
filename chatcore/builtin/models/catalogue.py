"""The catalogue: the models of all providers as one list of entries in OpenRouter's form, with fields added for search.

An upstream's entry may lack anything and have anything in its place: what cannot be used is left out, never an error.
"""

import asyncio
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import attrs

from chatcore.builtin.models.facets import Facets, Property, facets_of, properties_of
from chatcore.builtin.models.filters import Filter, leaves, number
from chatcore.errors import ChatcoreError, ProviderError, ProviderUnavailable
from chatcore.openai import supports_tools
from chatcore.protocols import Provider
from chatcore.tools import JsonObject
from chatcore.types import Model

logger = logging.getLogger(__name__)

_SERIES: Mapping[str, tuple[str, ...]] = {
    "openai": ("gpt",),
    "anthropic": ("claude",),
    "google": ("gemini", "PaLM", "pam"),
    "x-ai": ("grok",),
    "cohere": ("cohere",),
    "amazon": ("nova",),
    "perplexity": ("router",),
    "openrouter": ("router",),
    "mistralai": ("mistral",),
    "deepseek": ("deepseek",),
    "yi": ("yi",),
    "01-ai": ("yi",),
    "meta-llama": ("llama", "llama2", "llama3", "llama4"),
    "meta": ("llama",),
    "qwen": ("qwen",),
    "microsoft": ("other",),
    "nvidia": ("other",),
}
"""What people call the models of an author. The seeds' clients filter by these words."""


@attrs.frozen
class Entry:
    """One model of the catalogue, ready to be sent."""

    info: JsonObject

    @cached_property
    def text(self) -> str:
        """Every value of the entry, in lower case, one a line."""
        return "\n".join(str(value).lower() for value in leaves(self.info) if value is not None)


@attrs.frozen
class Catalogue:
    """Entries, and what can be said about all of them: computed when first asked for, then kept."""

    entries: tuple[Entry, ...]

    @cached_property
    def with_tools(self) -> "Catalogue":
        """The models that can call tools."""
        return Catalogue(tuple(entry for entry in self.entries if entry.info["supports_tools"]))

    @cached_property
    def properties(self) -> tuple[Property, ...]:
        """Every path that occurs in an entry, with what is found there."""
        return properties_of([entry.info for entry in self.entries])

    @cached_property
    def facets(self) -> Facets:
        """What the entries can be filtered by."""
        return facets_of([entry.info for entry in self.entries])

    def select(self, search: str, filters: Sequence[Filter]) -> list[JsonObject]:
        """The entries in which every word of `search` occurs and that pass every filter."""
        words = search.lower().split()
        return [
            entry.info
            for entry in self.entries
            if all(word in entry.text for word in words) and all(passes(entry.info) for passes in filters)
        ]


class Catalogues:
    """Reads the providers' models, and keeps what was made of them until a provider has others."""

    def __init__(self, patience: float = 20.0) -> None:
        """`patience`: seconds that one provider may take, so that the others' models can be shown."""
        self._patience = patience
        self._known: dict[str, tuple[tuple[Model, ...], tuple[Entry, ...]]] = {}
        self._merged: tuple[list[tuple[Entry, ...]], Catalogue] = ([], Catalogue(()))

    async def read(self, providers: Iterable[Provider]) -> tuple[Catalogue, dict[str, str]]:
        """The models of all providers, in their order, and the names of those that failed, with the reason.

        Of two entries with the same id the first counts.

        Raises:
            ProviderError: at least one provider failed, and the others have no models.
        """
        providers = tuple(providers)
        answers = await asyncio.gather(*(self._listed(provider) for provider in providers))
        lists: list[tuple[Entry, ...]] = []
        failures: dict[str, ProviderError] = {}
        for provider, answer in zip(providers, answers, strict=True):
            if isinstance(answer, ProviderError):
                failures[provider.name] = answer
            else:
                lists.append(answer)
        if failures and not any(lists):
            raise next(iter(failures.values()))
        return self._merge(lists), {name: error.message for name, error in failures.items()}

    async def _listed(self, provider: Provider) -> tuple[Entry, ...] | ProviderError:
        try:
            async with asyncio.timeout(self._patience):
                models = tuple(await provider.models())
            return self._entries(provider.name, models)
        except TimeoutError:
            error: ChatcoreError = ProviderUnavailable(f"no list of models within {self._patience:.0f} s")
        except ChatcoreError as failure:
            error = failure
        except Exception:  # a plugin's code: its fault must not hide the models of the others
            logger.exception("provider %s failed to list its models", provider.name)
            return ProviderError("its list of models failed: see the server's log")
        logger.warning("provider %s has no list of models: %s", provider.name, error)
        return error if isinstance(error, ProviderError) else ProviderError(error.message, hint=error.hint)

    def _entries(self, provider: str, models: tuple[Model, ...]) -> tuple[Entry, ...]:
        known = self._known.get(provider)
        if known is None or known[0] != models:  # tuples compare their items by identity first
            known = models, tuple(Entry(enrich(model)) for model in models)
            self._known[provider] = known
        return known[1]

    def _merge(self, lists: list[tuple[Entry, ...]]) -> Catalogue:
        if self._merged[0] != lists:
            by_id: dict[str, Entry] = {}
            for entry in (entry for entries in lists for entry in entries):
                by_id.setdefault(entry.info["id"], entry)
            self._merged = lists, Catalogue(tuple(by_id.values()))
        return self._merged[1]


def enrich(model: Model) -> JsonObject:
    """The catalogue entry of a model: the provider's own, with the fields that clients search and sort by.

    Added are `supports_tools`, `input_modalities`, `output_modalities`, `context_length`, `prompt_price` (US dollars
    per token), `prompt_price_per_million`, `supported_parameters` (trimmed) and `supported_parameters_normalized`,
    `series`, `series_normalized`, `provider_prefix`, and `created_at` (ISO-8601). A number that is not known is None;
    so is the price of a router, which upstreams give as "-1".
    """
    info = {**_assumed(model), **model.info, "id": model.id}
    info["name"] = name = _text(info.get("name")) or model.name
    parameters = [text for text in map(_text, _items(info.get("supported_parameters"))) if text]
    architecture = _object(info.get("architecture"))
    price = _price(_object(info.get("pricing")).get("prompt"))
    series = _series(model.id, name)
    info |= {
        "supports_tools": bool(supports_tools(info) if model.supports_tools is None else model.supports_tools),
        "input_modalities": _normalized(architecture.get("input_modalities")),
        "output_modalities": _normalized(architecture.get("output_modalities")),
        "context_length": _context_length(info, model),
        "prompt_price": price,
        "prompt_price_per_million": None if price is None else round(price * 1_000_000, 6),
        "supported_parameters": parameters,
        "supported_parameters_normalized": _normalized(parameters),
        "series": series,
        "series_normalized": _normalized(series),
        "provider_prefix": model.id.partition("/")[0],
    }
    if not info.get("created_at"):
        info["created_at"] = _moment(info.get("created"))
    return info


def _assumed(model: Model) -> dict[str, Any]:
    """What an entry has where the provider's says nothing. A model without any entry runs here, free of charge."""
    return {
        "architecture": {"modality": "text->text", "input_modalities": ["text"], "output_modalities": ["text"]},
        "supported_parameters": ["tools", "tool_choice"] if model.supports_tools else [],
        **({} if model.info else {"pricing": {"prompt": "0", "completion": "0"}}),
    }


def _series(model_id: str, name: str) -> list[str]:
    prefix, _, suffix = model_id.partition("/")
    tokens = re.split(r"[\s/_-]+", f"{model_id} {name}")
    labels = (model_id, prefix, suffix, *tokens, *_SERIES.get(prefix.lower(), ()), "Other")
    return [label for label in dict.fromkeys(labels) if label]


def _context_length(info: JsonObject, model: Model) -> int | None:
    stated = (info.get("context_length"), model.context_length, _object(info.get("top_provider")).get("context_length"))
    return next((length for length in map(_whole, stated) if length and length > 0), None)


def _whole(value: object) -> int | None:
    found = _number(value)
    return None if found is None else int(found)


def _price(value: object) -> float | None:
    found = _number(value)
    return None if found is None or found < 0 else found


def _number(value: object) -> float | None:
    """A number, or a string that is one. Neither NaN nor anything beyond 10^15 is a price or a length."""
    found = number(value)
    return found if abs(found) <= 1e15 else None


def _moment(value: object) -> str | None:
    seconds = _number(value)
    try:
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _normalized(value: object) -> list[str]:
    return sorted({text.lower() for text in map(_text, _items(value)) if text})


def _items(value: object) -> Sequence[object]:
    return value if isinstance(value, list | tuple) else ()


def _object(value: object) -> JsonObject:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""
