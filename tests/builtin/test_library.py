"""The settings of clients over a real socket (contract §1.4)."""

import asyncio
from datetime import UTC, datetime

import pytest

from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.types import Principal

LLM = "/api/clients/svelte/llm"
FRESH = {
    "model": None,
    "system_prompt": None,
    "temperature": 0.7,
    "max_tokens": 4096,
    "supports_tools": None,
    "parameters": None,
    "provider": None,
    "conversation_mode": False,
    "conversation_timeout_seconds": 10,
    "updated_at": None,
}


class Names(Plugin[NoSettings]):
    """Lets everybody in who says a name."""

    name = "names"

    @hookimpl
    def register_auth(self):
        return [self]

    async def authenticate(self, credentials):
        name = credentials.headers.get("x-name")
        return Principal(name) if name else None


async def test_fresh_client_has_defaults(make_chat):
    """All fields are there; the model is null, which is the server's default: no key is needed for it."""
    chat = await make_chat()
    assert (await chat.client.get(LLM)).json() == FRESH
    kiosk = (await chat.client.get("/api/clients/kiosk/llm")).json()
    assert kiosk == {**FRESH, "max_tokens": 300, "conversation_mode": True}


async def test_change_is_merged_and_kept(make_chat):
    """A change answers with all settings, as does reading them afterwards; other clients are not touched."""
    chat = await make_chat()
    before = datetime.now(UTC)
    await chat.client.put(LLM, json={"model": "a/b", "provider": {"sort": "price"}, "someday": 1})
    changed = (await chat.client.put(LLM, json={"temperature": 1, "system_prompt": "Be brief."})).json()
    assert before <= datetime.fromisoformat(changed.pop("updated_at")) <= datetime.now(UTC)
    expected = {**FRESH, "model": "a/b", "provider": {"sort": "price"}, "temperature": 1, "system_prompt": "Be brief."}
    assert {**changed, "updated_at": None} == expected
    assert {**(await chat.client.get(LLM)).json(), "updated_at": None} == expected
    assert (await chat.client.get("/api/clients/cli/llm")).json()["model"] is None


async def test_null_clears(make_chat):
    """As a page sends it when another model is chosen, or its prompt deleted."""
    chat = await make_chat()
    await chat.client.put(LLM, json={"model": "a/b", "parameters": {"top_p": 1}, "provider": {}, "system_prompt": "x"})
    cleared = await chat.client.put(
        LLM, json={"model": "c/d", "parameters": None, "provider": None, "system_prompt": None, "supports_tools": None}
    )
    assert {**cleared.json(), "updated_at": None} == {**FRESH, "model": "c/d"}


async def test_reset_goes_back_to_the_defaults(make_chat):
    """Also when nothing was set."""
    chat = await make_chat()
    await chat.client.put(LLM, json={"model": "a/b"})
    for _ in range(2):
        response = await chat.client.post(f"{LLM}/reset")
        assert (response.status_code, response.json()) == (200, FRESH)
    assert (await chat.client.get(LLM)).json() == FRESH


@pytest.mark.parametrize(("method", "path"), [("GET", "llm"), ("PUT", "llm"), ("POST", "llm/reset")])
@pytest.mark.parametrize("slash", ["", "/"])
async def test_both_spellings_are_served_and_unknown_clients_are_not_found(make_chat, method, path, slash):
    """404 names the clients that there are; a slash at the end makes no difference."""
    client = (await make_chat()).client
    assert (await client.request(method, f"/api/clients/voice/{path}{slash}", json={})).status_code == 200
    response = await client.request(method, f"/api/clients/toaster/{path}{slash}", json={})
    assert response.status_code == 404
    assert response.json()["detail"] == "unknown client 'toaster'; there are: svelte, kiosk, voice, cli"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"temperature": 2.5, "max_tokens": 0}', 422),
        (b'{"conversation_mode": 1}', 422),
        (b"[]", 422),
        (b"null", 422),
        (b"", 400),
        (b"{", 400),
        (b'{"temperature": NaN}', 400),
        (b'{"model": "\xff"}', 400),
    ],
)
async def test_wrong_body_changes_nothing(make_chat, body, status):
    """Out of range or of the wrong type is 422, what is no JSON 400; the settings stay."""
    chat = await make_chat()
    response = await chat.client.put(LLM, content=body)
    assert response.status_code == status
    assert response.json()["detail"]
    assert (await chat.client.get(LLM)).json() == FRESH


async def test_every_wrong_field_is_named(make_chat):
    """By its path."""
    chat = await make_chat()
    response = await chat.client.put(LLM, json={"temperature": 3, "parameters": {"max_tokens": "many"}})
    paths = {problem["path"] for problem in response.json()["detail"]}
    assert paths == {"$.temperature", "$.parameters.max_tokens"}


async def test_changes_at_the_same_time_are_all_kept(make_chat):
    """A change is one step for the database: none is made from what another has replaced."""
    chat = await make_chat()
    fields = {"model": "a/b", "system_prompt": "x", "temperature": 0.1, "max_tokens": 7, "supports_tools": True}
    await asyncio.gather(*(chat.client.put(LLM, json={key: value}) for key, value in fields.items()))
    assert (await chat.client.get(LLM)).json().items() >= fields.items()


async def test_settings_belong_to_whoever_set_them(make_chat):
    """Everybody has settings of their own."""
    chat = await make_chat(Names)
    ann, bob = {"x-name": "ann"}, {"x-name": "bob"}
    await chat.client.put(LLM, json={"model": "a/b"}, headers=ann)
    assert (await chat.client.get(LLM, headers=ann)).json()["model"] == "a/b"
    assert (await chat.client.get(LLM, headers=bob)).json() == FRESH
    await chat.client.post(f"{LLM}/reset", headers=bob)
    assert (await chat.client.get(LLM, headers=ann)).json()["model"] == "a/b"
    assert (await chat.client.get(LLM)).status_code == 401


async def test_settings_reach_the_model(make_chat):
    """Model, prompt, parameters and provider preferences are applied, and the request's own count before them."""
    chat = await make_chat()
    await chat.client.put(
        LLM,
        json={
            "model": "scripted/other",
            "system_prompt": "Speak like a pirate.",
            "parameters": {"temperature": 0.1, "top_p": 0.5},
            "provider": {"sort": "price", "zdr": True},
        },
    )
    await chat.say("hi", provider={"sort": "latency"}, top_p=0.9)
    (request,) = chat.provider.requests
    assert request.model == "scripted/other"
    assert request.messages[0].text.endswith("Speak like a pirate.")
    assert (
        request.parameters.items()
        >= {
            "temperature": 0.1,
            "top_p": 0.9,
            "max_tokens": 4096,
            "provider": {"sort": "latency", "zdr": True},
        }.items()
    )
