"""The catalogue: entries of all providers, with fields added for search."""

import asyncio
import logging

import attrs
import pytest

from chatcore.builtin.models.catalogue import Catalogues, enrich
from chatcore.errors import ConfigError, ProviderRefused, ProviderUnavailable
from chatcore.types import Model

GPT = {
    "id": "openai/gpt-4",
    "name": "GPT-4",
    "created": 1692901234,
    "description": "A large model.",
    "context_length": 8192,
    "architecture": {
        "modality": "text+image->text",
        "input_modalities": ["Text", "image"],
        "output_modalities": ["text"],
        "tokenizer": "GPT",
    },
    "pricing": {"prompt": "0.00003", "completion": "0.00006"},
    "top_provider": {"context_length": 8192, "is_moderated": True},
    "supported_parameters": ["temperature", " Top_P ", "tools"],
}


def enriched(model_id="a/b", **info):
    """The entry made of a model whose provider says `info`."""
    return enrich(Model(model_id, "B", info={"id": model_id, **info}))


# --- enrichment ---


def test_entry_keeps_what_upstream_says_and_gains_fields():
    """Every field of upstream is there; those that clients search and sort by are added."""
    entry = enrich(Model("openai/gpt-4", "GPT-4", info=GPT))
    assert {key: entry[key] for key in ("description", "pricing", "architecture", "top_provider", "created")} == {
        key: GPT[key] for key in ("description", "pricing", "architecture", "top_provider", "created")
    }
    assert {key: value for key, value in entry.items() if key not in GPT} == {
        "created_at": "2023-08-24T18:20:34+00:00",
        "supports_tools": True,
        "input_modalities": ["image", "text"],
        "output_modalities": ["text"],
        "prompt_price": 0.00003,
        "prompt_price_per_million": 30.0,
        "supported_parameters_normalized": ["temperature", "tools", "top_p"],
        "series": ["openai/gpt-4", "openai", "gpt-4", "gpt", "4", "GPT", "Other"],
        "series_normalized": ["4", "gpt", "gpt-4", "openai", "openai/gpt-4", "other"],
        "provider_prefix": "openai",
    }
    assert entry["supported_parameters"] == ["temperature", "Top_P", "tools"]
    assert GPT["supported_parameters"] == ["temperature", " Top_P ", "tools"]


@pytest.mark.parametrize(
    ("model_id", "labels"),
    [
        ("anthropic/claude-sonnet-4.6", {"claude", "sonnet", "4.6"}),
        ("google/gemma-3", {"gemini", "PaLM", "pam", "gemma"}),
        ("x-ai/grok-4", {"grok"}),
        ("meta-llama/scout", {"llama", "llama2", "llama3", "llama4"}),
        ("01-ai/large", {"yi"}),
        ("openrouter/auto", {"router", "auto"}),
        ("nvidia/nemotron:free", {"other", "nemotron:free"}),
        ("Mistralai/x", {"mistral"}),
        ("nobody/x", {"nobody", "x"}),
        ("echo", {"echo"}),
    ],
)
def test_series_hold_the_words_that_people_use(model_id, labels):
    """Id, its two halves, its tokens, the author's usual names, and always Other."""
    entry = enriched(model_id)
    assert labels | {"Other", model_id} <= set(entry["series"])
    assert "" not in entry["series"]
    assert len(entry["series"]) == len(set(entry["series"]))


def test_series_hold_the_tokens_of_the_name():
    """Split at white space, slashes, underscores and hyphens."""
    assert {"Big", "Fast", "Model"} <= set(enriched("a/b", name="Big_Fast - Model")["series"])


@pytest.mark.parametrize(
    ("price", "per_token", "per_million"),
    [
        ("0.00000015", 0.00000015, 0.15),
        ("0", 0.0, 0.0),
        (0.000003, 0.000003, 3.0),
        (0, 0.0, 0.0),
        ("-1", None, None),
        (-1, None, None),
        ("", None, None),
        ("free", None, None),
        ("NaN", None, None),
        ("1e400", None, None),
        (10**400, None, None),
        (True, None, None),
        (None, None, None),
        (["1"], None, None),
    ],
)
def test_price_is_a_number_or_unknown(price, per_token, per_million):
    """Decimal strings become numbers. The "-1" of a router is no price, and so is nothing that is not a number."""
    entry = enriched(pricing={"prompt": price})
    assert entry["prompt_price"] == per_token
    assert entry["prompt_price_per_million"] == per_million


@pytest.mark.parametrize(
    ("created", "iso"),
    [
        (0, "1970-01-01T00:00:00+00:00"),
        ("1692901234", "2023-08-24T18:20:34+00:00"),
        (1e14, None),
        ("yesterday", None),
        (None, None),
        (True, None),
        ({}, None),
    ],
)
def test_created_at_is_the_time_in_iso_form(created, iso):
    """Seconds since 1970 become a time that clients can sort by; anything else is no time."""
    assert enriched(created=created)["created_at"] == iso


def test_created_at_of_upstream_stays():
    """An upstream that has the field is believed."""
    assert enriched(created=0, created_at="2026-01-01")["created_at"] == "2026-01-01"


@pytest.mark.parametrize(
    ("info", "length"),
    [
        ({"context_length": 8192}, 8192),
        ({"context_length": "8192"}, 8192),
        ({"context_length": 8192.0}, 8192),
        ({"context_length": 0, "top_provider": {"context_length": 4096}}, 4096),
        ({"context_length": -1}, None),
        ({"context_length": True}, None),
        ({}, None),
    ],
)
def test_context_length_is_a_whole_number_or_unknown(info, length):
    """As stated for the model, or else for its first provider."""
    assert enriched(**info)["context_length"] == length


def test_context_length_of_the_model_fills_the_gap():
    """What the provider knows counts where its entry is silent."""
    assert enrich(Model("a/b", "B", context_length=2048, info={"id": "a/b"}))["context_length"] == 2048


@pytest.mark.parametrize("junk", [None, 5, "x", [], [None, 5, {}], {}, {"a": [1]}, True])
@pytest.mark.parametrize(
    "key",
    ["name", "created", "context_length", "architecture", "pricing", "top_provider", "supported_parameters", "series"],
)
def test_entry_may_have_anything_anywhere(key, junk):
    """Wrong types in upstream's entry are no error, and the fields that are added keep their types."""
    entry = enriched(**{key: junk})
    assert isinstance(entry["name"], str)
    assert isinstance(entry["supports_tools"], bool)
    for field in ("input_modalities", "output_modalities", "supported_parameters", "series", "series_normalized"):
        assert all(isinstance(item, str) for item in entry[field])


def test_modalities_are_strings_only():
    """Lower case, sorted, once each; what is no string is left out."""
    entry = enriched(architecture={"input_modalities": ["Text", "text", 5, None, " audio "], "output_modalities": "x"})
    assert entry["input_modalities"] == ["audio", "text"]
    assert entry["output_modalities"] == []


def test_model_without_an_entry_gets_one():
    """A provider that says little runs the model itself: text, free of charge, tools if it says so."""
    entry = enrich(Model("echo", "Echo", context_length=1000, supports_tools=True))
    assert (entry["id"], entry["name"], entry["context_length"], entry["provider_prefix"]) == (
        "echo",
        "Echo",
        1000,
        "echo",
    )
    assert entry["input_modalities"] == entry["output_modalities"] == ["text"]
    assert entry["architecture"]["modality"] == "text->text"
    assert entry["pricing"] == {"prompt": "0", "completion": "0"}
    assert entry["prompt_price"] == 0
    assert entry["supports_tools"] is True
    assert entry["supported_parameters"] == ["tools", "tool_choice"]
    assert enrich(Model("mute", "Mute"))["supports_tools"] is False


def test_thin_entry_is_filled_up_but_its_price_is_not_invented():
    """A server that lists ids only has models for text; what they cost is not known."""
    entry = enrich(Model("vllm/qwen", "qwen", supports_tools=True, info={"id": "qwen", "object": "model"}))
    assert (entry["id"], entry["object"], entry["output_modalities"]) == ("vllm/qwen", "model", ["text"])
    assert entry["supported_parameters"] == ["tools", "tool_choice"]
    assert entry["prompt_price"] is None
    assert "pricing" not in entry


@pytest.mark.parametrize(
    ("info", "able"),
    [
        ({"supported_parameters": ["temperature", "tools"]}, True),
        ({"supported_parameters": ["temperature"]}, False),
        ({"capabilities": {"function_calling": True}}, True),
        ({"capabilities": {"tools": False}}, False),
        ({}, False),
    ],
)
def test_support_of_tools_is_read_from_the_entry(info, able):
    """An entry that says nothing about it is of a model without."""
    assert enriched(**info)["supports_tools"] is able


def test_provider_knows_best_whether_its_model_calls_tools():
    """What the model says of itself counts before its entry."""
    info = {"supported_parameters": ["tools"]}
    assert enrich(Model("a", "A", supports_tools=False, info=info))["supports_tools"] is False
    assert enrich(Model("a", "A", supports_tools=True, info={"id": "a"}))["supports_tools"] is True


# --- all providers ---


@attrs.define
class Source:
    """A provider of which only the models are asked for."""

    name: str
    ids: tuple[str, ...] = ()
    error: Exception | None = None
    gate: asyncio.Event | None = None

    async def models(self):
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return [Model(model_id, model_id, info={"id": model_id, "from": self.name}) for model_id in self.ids]


def ids(found):
    return [entry.info["id"] for entry in found.entries]


async def test_models_of_all_providers_in_their_order():
    """One list, in the order of the providers, with the ids as they are."""
    found, errors = await Catalogues().read([Source("echo", ("echo",)), Source("openrouter", ("b/x", "a/y"))])
    assert ids(found) == ["echo", "b/x", "a/y"]
    assert errors == {}


async def test_no_providers_no_models():
    """An empty catalogue is no error."""
    found, errors = await Catalogues().read([])
    assert (found.entries, errors) == ((), {})


async def test_first_of_two_models_with_one_id_counts():
    """Clients key their lists by id."""
    found, _ = await Catalogues().read([Source("first", ("a",)), Source("second", ("a", "b"))])
    assert [(entry.info["id"], entry.info["from"]) for entry in found.entries] == [("a", "first"), ("b", "second")]


async def test_providers_are_asked_at_the_same_time():
    """The second provider answers while the first still waits."""
    gate = asyncio.Event()

    class Opener:
        name = "opener"

        async def models(self):
            gate.set()
            return [Model("b", "B")]

    found, _ = await asyncio.wait_for(Catalogues().read([Source("first", ("a",), gate=gate), Opener()]), 5)
    assert ids(found) == ["a", "b"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ProviderUnavailable("no connection"), "no connection"),
        (ConfigError("no certificate"), "no certificate"),
        (KeyError("secret detail"), "its list of models failed: see the server's log"),
    ],
)
async def test_sick_provider_is_named_and_the_others_are_shown(error, said, caplog):
    """Whatever goes wrong in one provider is logged, told, and hides nobody else's models."""
    with caplog.at_level(logging.WARNING):
        found, errors = await Catalogues().read([Source("sick", error=error), Source("echo", ("echo",))])
    assert ids(found) == ["echo"]
    assert errors == {"sick": said}
    assert "provider sick" in caplog.text


@pytest.mark.parametrize("models", [["a"], [None], [Model(None, "a")], [Model(["a"], "a")], None, 5])
async def test_provider_that_lists_no_models_is_named(models, caplog):
    """What it gives in their place is nobody else's trouble."""

    class Wrong(Source):
        async def models(self):
            return models

    found, errors = await Catalogues().read([Wrong("wrong"), Source("echo", ("echo",))])
    assert (ids(found), list(errors)) == (["echo"], ["wrong"])
    assert "provider wrong failed to list its models" in caplog.text


async def test_provider_that_hangs_is_left_out():
    """After a while the others are shown without it."""
    hanging = Source("slow", ("s",), gate=asyncio.Event())
    found, errors = await Catalogues(patience=0.01).read([hanging, Source("echo", ("echo",))])
    assert ids(found) == ["echo"]
    assert errors["slow"].startswith("no list of models within")


async def test_failure_with_nothing_to_show_is_the_providers():
    """The first provider's error is raised, with the status of its upstream."""
    sick = [
        Source("a", error=ProviderRefused("no such key", upstream_status=401)),
        Source("b", error=ProviderUnavailable("down")),
        Source("c"),
    ]
    with pytest.raises(ProviderRefused) as caught:
        await Catalogues().read(sick)
    assert caught.value.upstream_status == 401


async def test_nothing_is_computed_again_for_the_same_models():
    """Providers that make new lists of equal models get the same catalogue, with what is known about it."""
    catalogues = Catalogues()
    providers = [Source("echo", ("echo",)), Source("other", ("a", "b"))]
    first, _ = await catalogues.read(providers)
    second, _ = await catalogues.read(providers)
    assert second is first
    assert second.properties is first.properties
    assert second.with_tools is first.with_tools


async def test_changed_models_are_seen():
    """A provider with other models gives another catalogue; the entries of the others are kept."""
    catalogues = Catalogues()
    echo, other = Source("echo", ("echo",)), Source("other", ("a",))
    first, _ = await catalogues.read([echo, other])
    other.ids = ("a", "b")
    second, _ = await catalogues.read([echo, other])
    assert ids(second) == ["echo", "a", "b"]
    assert second.entries[0] is first.entries[0]
    third, _ = await catalogues.read([other])
    assert ids(third) == ["a", "b"]


# --- search ---


async def found(search, *models):
    catalogue, _ = await Catalogues().read([attrs.evolve(Source("s"), ids=models)])
    return [info["id"] for info in catalogue.select(search, ())]


@pytest.mark.parametrize(
    ("search", "ids_found"),
    [
        ("", ["openai/gpt-4", "x-ai/grok"]),
        ("  ", ["openai/gpt-4", "x-ai/grok"]),
        ("GROK", ["x-ai/grok"]),
        ("gpt openai", ["openai/gpt-4"]),
        ("gpt grok", []),
        ("other", ["openai/gpt-4", "x-ai/grok"]),
        ("openai\tgpt", ["openai/gpt-4"]),
        ("none", []),
        ("%", []),
    ],
)
async def test_every_word_must_occur_somewhere(search, ids_found):
    """Words, in any case of letters, in any value of the entry."""
    assert await found(search, "openai/gpt-4", "x-ai/grok") == ids_found


async def test_search_sees_values_at_any_depth():
    """Also numbers, and what lies in lists and objects."""
    model = Model("a", "A", info={"id": "a", "deep": [{"er": {"value": "Needle"}}], "number": 4711, "flag": True})

    class One:
        name = "one"

        async def models(self):
            return [model]

    catalogue, _ = await Catalogues().read([One()])
    assert [len(catalogue.select(word, ())) for word in ("needle", "4711", "true", "er", "flag")] == [1, 1, 1, 1, 0]
