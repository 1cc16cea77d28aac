"""What each client has set for its model, and what of it a request gets."""

from datetime import UTC, datetime

import pytest

from chatcore.builtin.chat.settings import (
    CLIENTS,
    LlmSettings,
    changed,
    client_named,
    client_of,
    effective,
    settings_of,
)
from chatcore.errors import NotFound, ValidationFailed

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def after(*changes, client="svelte"):
    """The settings after some changes, one after the other."""
    document = {}
    for change in changes:
        document = changed(client, document, change, NOW)
    return settings_of(client, document)


def problems(change, stored=None):
    """The paths that are wrong in a change."""
    with pytest.raises(ValidationFailed) as caught:
        changed("svelte", stored or {}, change, NOW)
    return [problem.path for problem in caught.value.problems]


# --- which client ---


@pytest.mark.parametrize(
    ("said", "conversation", "client"),
    [
        ("kiosk", "cli_1", "kiosk"),
        ("svelte", "kiosk_1", "svelte"),
        ("toaster", "kiosk_1", "svelte"),
        ("", "kiosk_1", "svelte"),
        (None, "kiosk_1", "kiosk"),
        (None, "cli_1", "cli"),
        (None, "voice_voice_1", "voice"),
        (None, "kiosk", "kiosk"),
        (None, "session_1", "svelte"),
        (None, "1f" * 16, "svelte"),
        (None, "kiosks_1", "svelte"),
        (None, "", "svelte"),
        (None, None, "svelte"),
    ],
)
def test_client_is_the_one_named_or_that_of_the_conversation(said, conversation, client):
    """What the request says counts before the prefix of the conversation's id; anything unknown is svelte."""
    assert client_of(said, conversation) == client


def test_unknown_client_is_not_found():
    """The text names those that there are."""
    assert [client_named(name) for name in ("svelte", "kiosk", "voice", "cli")] == list(CLIENTS)
    with pytest.raises(NotFound) as caught:
        client_named("toaster")
    assert caught.value.message == "unknown client 'toaster'; there are: svelte, kiosk, voice, cli"


# --- defaults ---


@pytest.mark.parametrize(
    ("client", "temperature", "max_tokens", "conversation_mode", "timeout"),
    [
        ("svelte", 0.7, 4096, False, 10),
        ("kiosk", 0.7, 300, True, 10),
        ("voice", 1.0, 500, False, 30),
        ("cli", 0.7, 1000, False, 10),
    ],
)
def test_defaults_fit_the_client(client, temperature, max_tokens, conversation_mode, timeout):
    """A short answer on the kiosk, a long one in the browser; the model is the server's for all of them."""
    assert settings_of(client, {}) == LlmSettings(
        model=None,
        temperature=temperature,
        max_tokens=max_tokens,
        conversation_mode=conversation_mode,
        conversation_timeout_seconds=timeout,
    )


# --- changes ---


def test_change_is_a_merge():
    """What is absent stays as it was, and the time of the change is kept."""
    settings = after({"model": "a/b", "temperature": 0.2}, {"max_tokens": 100, "provider": {"sort": "price"}})
    assert settings == LlmSettings(
        model="a/b", temperature=0.2, max_tokens=100, provider={"sort": "price"}, updated_at=NOW
    )


@pytest.mark.parametrize(
    ("field", "value", "default"),
    [
        ("model", "a/b", None),
        ("system_prompt", "Be brief.", None),
        ("supports_tools", False, None),
        ("parameters", {"top_p": 0.5}, None),
        ("provider", {"order": ["x"]}, None),
        ("temperature", 0, 0.7),
        ("max_tokens", 1, 4096),
        ("conversation_mode", True, False),
        ("conversation_timeout_seconds", 60, 10),
    ],
)
def test_every_field_can_be_set_and_cleared(field, value, default):
    """Null goes back to the default; absent leaves it."""
    assert getattr(after({field: value}), field) == value
    assert getattr(after({field: value}, {}), field) == value
    assert getattr(after({field: value}, {field: None}), field) == default


def test_unknown_fields_are_dropped():
    """Clients send what other servers know."""
    assert after({"modle": "x", "api_key": "y", "updated_at": "1999-01-01T00:00:00Z"}) == after({})


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        ({"temperature": 2.1}, ["$.temperature"]),
        ({"temperature": -0.1}, ["$.temperature"]),
        ({"temperature": "0.5"}, ["$.temperature"]),
        ({"temperature": True}, ["$.temperature"]),
        ({"max_tokens": 0}, ["$.max_tokens"]),
        ({"max_tokens": 128_001}, ["$.max_tokens"]),
        ({"max_tokens": 1.5}, ["$.max_tokens"]),
        ({"conversation_timeout_seconds": 0}, ["$.conversation_timeout_seconds"]),
        ({"conversation_timeout_seconds": 61}, ["$.conversation_timeout_seconds"]),
        ({"model": 5}, ["$.model"]),
        ({"supports_tools": "yes"}, ["$.supports_tools"]),
        ({"parameters": []}, ["$.parameters"]),
        ({"provider": "x"}, ["$.provider"]),
        ({"temperature": 3, "max_tokens": 0}, ["$.temperature", "$.max_tokens"]),
        ({"parameters": {"temperature": 3}}, ["$.parameters.temperature"]),
        ({"parameters": {"max_tokens": "many"}, "temperature": 3}, ["$.temperature", "$.parameters.max_tokens"]),
    ],
)
def test_wrong_values_are_named(change, paths):
    """All of them, each at the path where it was sent."""
    assert sorted(problems(change)) == sorted(paths)


@pytest.mark.parametrize("change", [{"temperature": 0}, {"temperature": 2}, {"max_tokens": 1}, {"max_tokens": 128_000}])
def test_limits_are_inclusive(change):
    """The ends of a range belong to it."""
    assert after(change)


def test_parameters_set_temperature_and_max_tokens():
    """The pair among the parameters counts, also over one sent beside them."""
    settings = after({"temperature": 0.1, "parameters": {"temperature": 0.9, "max_tokens": 77, "top_p": 0.5}})
    assert (settings.temperature, settings.max_tokens) == (0.9, 77)
    assert settings.parameters == {"temperature": 0.9, "max_tokens": 77, "top_p": 0.5}


def test_later_temperature_is_that_of_the_parameters_too():
    """A page that shows the parameters never shows a value that is not in force."""
    settings = after({"parameters": {"temperature": 0.9, "top_p": 0.5}}, {"temperature": 0.1})
    assert settings.temperature == 0.1
    assert settings.parameters == {"temperature": 0.1, "top_p": 0.5}


@pytest.mark.parametrize("gone", [None, {}, {"top_p": 0.5}, {"temperature": None}])
def test_temperature_goes_with_the_parameters_that_set_it(gone):
    """Clearing the parameters, as a page does for another model, leaves nothing of them behind."""
    assert after({"parameters": {"temperature": 0.9}}, {"parameters": gone}).temperature == 0.7


def test_temperature_beside_the_parameters_stays_when_they_go():
    """What was set on its own, or is sent with the clearing, is kept."""
    assert after({"temperature": 0.1, "parameters": {"top_p": 1}}, {"parameters": None}).temperature == 0.1
    cleared = after({"parameters": {"temperature": 0.9}}, {"parameters": None, "temperature": 0.3})
    assert (cleared.temperature, cleared.parameters) == (0.3, None)


def test_stored_document_is_not_changed_in_place():
    """A change that fails leaves nothing behind."""
    stored = {"model": "a", "parameters": {"temperature": 0.5}}
    problems({"temperature": 3}, stored)
    changed("svelte", stored, {"temperature": 1}, NOW)
    assert stored == {"model": "a", "parameters": {"temperature": 0.5}}


# --- what a request gets ---


def test_request_counts_before_what_is_stored():
    """Model and parameters, one by one; the rest of the stored ones are applied."""
    stored = LlmSettings(model="stored", temperature=0.1, max_tokens=10, parameters={"top_p": 0.5, "seed": 1})
    assert effective("asked", {"seed": 2, "stop": ["x"]}, stored) == (
        "asked",
        {"temperature": 0.1, "max_tokens": 10, "top_p": 0.5, "seed": 2, "stop": ["x"]},
    )
    assert effective(None, {"temperature": 2, "max_tokens": 1}, stored) == (
        "stored",
        {"temperature": 2, "max_tokens": 1, "top_p": 0.5, "seed": 1},
    )


def test_model_may_be_nobodys():
    """Then the server's default counts."""
    assert effective(None, {}, LlmSettings())[0] is None


def test_null_is_as_good_as_absent():
    """In the request, and among the stored parameters."""
    stored = LlmSettings(temperature=0.1, max_tokens=10, parameters={"top_p": None, "seed": 1})
    assert effective(None, {"temperature": None, "seed": None}, stored)[1] == {
        "temperature": 0.1,
        "max_tokens": 10,
        "seed": 1,
    }


def test_provider_is_merged_key_by_key():
    """The request wins where both say something; without either there is none."""
    stored = LlmSettings(provider={"sort": "price", "zdr": True})
    assert effective(None, {"provider": {"sort": "latency"}}, stored)[1]["provider"] == {"sort": "latency", "zdr": True}
    assert effective(None, {}, stored)[1]["provider"] == {"sort": "price", "zdr": True}
    assert "provider" not in effective(None, {}, LlmSettings())[1]


def test_one_limit_of_tokens():
    """The newer name in a request replaces the stored limit; upstreams refuse both at once."""
    stored = LlmSettings(max_tokens=10)
    assert effective(None, {"max_completion_tokens": 5}, stored)[1] == {"temperature": 0.7, "max_completion_tokens": 5}
    both = effective(None, {"max_completion_tokens": 5, "max_tokens": 6}, stored)[1]
    assert (both["max_completion_tokens"], both["max_tokens"]) == (5, 6)


def test_stored_parameters_do_not_replace_what_a_request_is_made_of():
    """Messages, model, tools and streaming are decided for each request."""
    stored = LlmSettings(parameters={"messages": [], "model": "x", "tools": [], "stream": False, "top_k": 1})
    assert effective(None, {}, stored) == (None, {"temperature": 0.7, "max_tokens": 500, "top_k": 1})
    assert effective(None, {"tools": [{"type": "web"}]}, stored)[1]["tools"] == [{"type": "web"}]


def test_nothing_is_changed_in_place():
    """Neither the request nor the settings."""
    request, stored = {"provider": {"sort": "x"}}, LlmSettings(provider={"zdr": True}, parameters={"top_p": 1})
    _, parameters = effective(None, request, stored)
    parameters["provider"]["sort"] = "y"
    assert (request, stored.provider) == ({"provider": {"sort": "x"}}, {"zdr": True})
