"""The models of all providers over a real socket (contract §1.3)."""

import json

import pytest

from chatcore.errors import ProviderRefused, ProviderUnavailable
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.protocols import Health
from chatcore.testing.scripted import ScriptedProvider
from chatcore.types import Model

ENTRIES = {
    "openai/gpt-4": {"context_length": 8192, "pricing": {"prompt": "0.00003"}, "supported_parameters": ["tools"]},
    "anthropic/claude": {"context_length": 200_000, "pricing": {"prompt": "0.000003"}, "created": 1692901234},
    "openrouter/auto": {"context_length": 2_000_000, "pricing": {"prompt": "-1"}},
}


class Gateway(Plugin[NoSettings]):
    """Lists models."""

    @hookimpl
    def register_providers(self):
        return [Listing("gateway", ENTRIES)]


class Sick(Plugin[NoSettings]):
    """Has a provider that is down."""

    @hookimpl
    def register_providers(self):
        return [Listing("sick", {}, ProviderUnavailable("no connection"))]


class Listing(ScriptedProvider):
    """A provider with these models, or this error instead."""

    open = False
    default_model = None

    def __init__(self, name, entries, error=None):
        super().__init__()
        self.name = name
        self.entries = entries
        self.error = error

    def health(self):
        return Health()

    async def models(self):
        if self.error:
            raise self.error
        return [
            Model(model_id, model_id.title(), info={"id": model_id, **info}) for model_id, info in self.entries.items()
        ]


async def get(chat, path="/api/models", **query):
    response = await chat.client.get(path, params=query)
    assert response.status_code == 200, response.text
    return response.json()


def ids(answer):
    return [model["id"] for model in answer["data"]]


async def test_models_of_all_providers_are_listed(make_chat):
    """Those of installed providers and of built-in ones, enriched, with the numbers."""
    answer = await get(await make_chat(Gateway))
    assert set(ids(answer)) == {"scripted/model", *ENTRIES, "echo"}
    assert answer["metadata"] == {"total": 5, "base_count": 5, "count": 5, "errors": {}}
    by_id = {model["id"]: model for model in answer["data"]}
    assert by_id["openai/gpt-4"]["prompt_price_per_million"] == 30
    assert by_id["openrouter/auto"]["prompt_price"] is None
    assert by_id["anthropic/claude"]["created_at"] == "2023-08-24T18:20:34+00:00"
    assert by_id["echo"]["pricing"]["prompt"] == "0"


@pytest.mark.parametrize("path", ["/api/models", "/api/models/", "/api/models/metadata", "/api/models/metadata/"])
async def test_both_spellings_are_served(make_chat, path):
    """With and without a slash at the end, and without a redirect."""
    chat = await make_chat()
    assert (await chat.client.get(path)).status_code == 200


@pytest.mark.parametrize(
    ("query", "found", "base_count"),
    [
        ({"tools_only": "true"}, {"scripted/model", "openai/gpt-4", "echo"}, 3),
        ({"tools_only": "false"}, {"scripted/model", "openai/gpt-4", "anthropic/claude", "openrouter/auto", "echo"}, 5),
        ({"search": "claude"}, {"anthropic/claude"}, 5),
        ({"search": "", "filters": ""}, {"scripted/model", *ENTRIES, "echo"}, 5),
        ({"filters": json.dumps({"context_length": {"max": 10_000}})}, {"openai/gpt-4"}, 5),
        ({"tools_only": "1", "search": "other", "filters": json.dumps({"series": "gpt"})}, {"openai/gpt-4"}, 3),
        ({"filters": json.dumps({"id": {"like": "gpt"}})}, set(), 5),
        ({"unknown": "x"}, {"scripted/model", *ENTRIES, "echo"}, 5),
    ],
)
async def test_query_selects(make_chat, query, found, base_count):
    """`tools_only`, `search` and `filters` together; `base_count` is that of `tools_only`."""
    answer = await get(await make_chat(Gateway), **query)
    assert set(ids(answer)) == found
    assert answer["metadata"] == {"total": 5, "base_count": base_count, "count": len(found), "errors": {}}


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"filters": "[]"}, 400),
        ({"filters": "{"}, 400),
        ({"filters": '{"a": NaN}'}, 400),
        ({"filters": "[" * 3000}, 400),
        ({"tools_only": "perhaps"}, 422),
        ({"filters": "[" * 5001}, 422),
        ({"search": "a " * 501}, 422),
    ],
)
async def test_query_that_makes_no_sense_is_refused(make_chat, query, status):
    """With what is wrong with it."""
    response = await (await make_chat()).client.get("/api/models", params=query)
    assert response.status_code == status
    assert response.json()["detail"]


async def test_sick_provider_is_named(make_chat):
    """The models of the others are there all the same."""
    answer = await get(await make_chat(Sick))
    assert set(ids(answer)) == {"scripted/model", "echo"}
    assert answer["metadata"]["errors"] == {"sick": "no connection"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ProviderRefused("invalid key", upstream_status=401), 401),
        (ProviderUnavailable("busy", upstream_status=503), 503),
        (ProviderUnavailable("no connection"), 502),
    ],
)
@pytest.mark.parametrize("path", ["/api/models", "/api/models/metadata"])
async def test_failure_with_nothing_to_show_has_the_upstreams_status(make_chat, path, error, status):
    """Without a status of the upstream it is 502."""
    chat = await make_chat(provider=Listing("down", {}, error), config={"disable": ("echo",)})
    response = await chat.client.get(path)
    assert response.status_code == status
    assert response.json()["detail"] == error.message


async def test_metadata_tells_what_can_be_filtered(make_chat):
    """Paths with what is found there, and the facets; of all models or of those with tools."""
    chat = await make_chat(Gateway)
    answer = await get(chat, "/api/models/metadata")
    assert (answer["total"], answer["base_count"]) == (5, 5)
    properties = {found["path"]: found for found in answer["properties"]}
    assert properties["pricing.prompt"]["examples"] == ["-1", "0", "0.000003", "0.00003"]
    assert properties["supports_tools"]["boolean_values"] == [False, True]
    assert properties["context_length"]["max"] == 2_000_000
    assert answer["facets"]["prompt_price_per_million"] == {"min": 0, "max": 30}
    assert "claude" in answer["facets"]["series_normalized"]
    with_tools = await get(chat, "/api/models/metadata", tools_only="true")
    assert (with_tools["total"], with_tools["base_count"]) == (5, 3)
    assert "claude" not in with_tools["facets"]["series_normalized"]
