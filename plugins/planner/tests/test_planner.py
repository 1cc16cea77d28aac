"""The plugin in a server (chatcore_planner/plugin.py, choose.py, ask.py, notices.py)."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from chatcore_planner import Planner

from chatcore import wire
from chatcore.errors import ProviderUnavailable
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.testing.chat import Chat, Reply
from chatcore.testing.contracts import PluginContract
from chatcore.testing.scripted import ScriptedProvider, Step, call, text
from chatcore.tools import Tool

MakeChat = Callable[..., Awaitable[Chat]]
VERBS = ("search", "write", "auth_status")
NAMES = [f"{context}_{verb}" for context in ("calendar", "gmail", "notes") for verb in VERBS]


class TestContracts(PluginContract):
    plugin = Planner


class Toolbox(Plugin[NoSettings]):
    """Has tools."""

    @hookimpl
    def register_tools(self) -> list[Tool]:
        return [made(name) for name in NAMES]


def made(name: str) -> Tool:
    async def act() -> str:
        return f"{name} done"

    context, _, verb = name.partition("_")
    act.__doc__ = f"{verb.title()} something in your {context}."
    return Tool.of(act, name=name)


def plan(**given: Any) -> list[Step]:
    return [text(wire.dumps(given).decode())]


def offered(provider: ScriptedProvider) -> list[set[str]]:
    return [{tool.name for tool in request.tools} for request in provider.requests]


def notices(reply: Reply) -> list[Any]:
    return [frame.data for frame in reply.named("notice")]


def results(reply: Reply) -> dict[str, str]:
    """What each tool has answered."""
    return {frame.data["name"]: frame.data["result"] for frame in reply.named("tool") if frame.data.get("result")}


async def start(make_chat: MakeChat, *scripts: Sequence[Step], **settings: Any) -> Chat:
    return await make_chat(Planner, Toolbox, provider=ScriptedProvider(*scripts), **settings)


# --- search -----------------------------------------------------------------------------------------------------------


async def test_few_tools_are_all_told(make_chat: MakeChat) -> None:
    """There is nothing to choose."""
    chat = await start(make_chat, search_above=len(NAMES))
    await chat.say("hello")
    assert offered(chat.provider) == [set(NAMES)]


async def test_many_tools_are_searched(make_chat: MakeChat) -> None:
    """What is found can be called from then on; so can what was not, if the model knows it."""
    scripts = ([call("search_tools", query="write notes"), call("gmail_write")], [call("notes_write")], [text("ok")])
    chat = await start(make_chat, *scripts, search_above=3, always=["*_auth_status"])
    reply = await chat.say("hello")
    always = {"search_tools", "calendar_auth_status", "gmail_auth_status", "notes_auth_status"}
    first, second, third = offered(chat.provider)
    assert first == always
    assert second == third >= {*always, "notes_write"}
    told = results(reply)
    assert told["search_tools"].startswith("These can be called now:\nnotes_write: ")
    assert (told["gmail_write"], told["notes_write"]) == ("gmail_write done", "notes_write done")


async def test_a_tool_of_the_same_name_hides_no_search(make_chat: MakeChat) -> None:
    """As servers have one that stand for others: both are there, each with a name of its own."""

    class Gateway(Toolbox):
        @hookimpl
        def register_tools(self) -> list[Tool]:
            return [*super().register_tools(), made("search_tools")]

    scripts = [call("planner__search_tools", query="other tools")], [call("search_tools")], [text("ok")]
    chat = await make_chat(Planner, Gateway, provider=ScriptedProvider(*scripts), search_above=3)
    reply = await chat.say("hello")
    assert offered(chat.provider)[0] == {"planner__search_tools"}
    assert "search_tools" in offered(chat.provider)[1]
    assert results(reply)["search_tools"] == "search_tools done"


async def test_a_request_that_names_tools_has_its_way(make_chat: MakeChat) -> None:
    """Nothing is hidden from it, and nothing planned."""
    chat = await start(make_chat, search_above=3, plan=True)
    for fields in ({"tool_choice": "required"}, {"tools": [{"type": "openrouter:web_search"}]}):
        [notice] = notices(await chat.say("hello", **fields))
        assert (notice["type"], notice["intent"]) == ("tool_plan_status", "use specified tools")
        assert (notice["used_fallback"], notice["fallback_reason"], notice["contexts"]) == (True, None, [])
    assert offered(chat.provider) == [set(NAMES), set(NAMES)]


async def test_a_denied_tool_cannot_be_found_out_of_it(make_chat: MakeChat) -> None:
    """The policy stands after the search, too."""
    scripts = ([call("search_tools", query="write notes")], [call("notes_write")], [text("ok")])
    chat = await start(make_chat, *scripts, search_above=3, config={"tool_policy": {"notes_write": "deny"}})
    reply = await chat.say("hello")
    assert "notes_write" not in set().union(*offered(chat.provider))
    assert "does not allow notes_write" in results(reply)["notes_write"]


# --- plans ------------------------------------------------------------------------------------------------------------


async def test_a_plan_chooses_the_tools(make_chat: MakeChat) -> None:
    """Those that it names, that fit, and that say whether somebody is signed in; the others can be found."""
    given = plan(
        intent="See what comes",
        stages=[["calendar"]],
        candidate_tools={"calendar": ["calendar_search"]},
        argument_hints={"calendar_search": ["tomorrow"]},
        stop_conditions=["it is known"],
        broad_search=True,
    )
    chat = await start(make_chat, given, [text("ok")], plan=True)
    reply = await chat.say("what comes?")
    asked, answered = chat.provider.requests
    assert (asked.model, asked.tools) == (answered.model, ())
    assert asked.parameters == {"temperature": 0, "response_format": {"type": "json_object"}}
    digest = wire.loads(asked.messages[1].text.encode())
    assert digest["conversation"] == [{"role": "user", "content": "what comes?"}]
    assert [tool["name"] for tool in digest["tools"]["gmail"]] == ["gmail_search", "gmail_write", "gmail_auth_status"]
    names = {tool.name for tool in answered.tools}
    assert names == {"search_tools", "calendar_search", "calendar_auth_status"}
    system = answered.messages[0].text
    assert system.endswith(
        "# Plan\nWhat the user wants: See what comes\nFor calendar_search: tomorrow\nStop using tools when: it is known"
    )
    [notice] = notices(reply)
    assert notice == {
        "type": "tool_plan_status",
        "message": "See what comes",
        "used_fallback": False,
        "fallback_reason": None,
        "contexts": ["calendar"],
        "display_contexts": ["Calendar"],
        "intent": "See what comes",
        "broad_search": True,
    }


async def test_a_narrow_plan_leaves_nothing_else(make_chat: MakeChat) -> None:
    """A later stage comes after a tool of the one before."""
    given = plan(stages=[["calendar"], ["notes"]], broad_search=False)
    scripts = (given, [call("calendar_search")], [call("gmail_search")], [text("ok")])
    chat = await start(make_chat, *scripts, plan=True)
    reply = await chat.say("hello")
    calendar = {name for name in NAMES if name.startswith("calendar")}
    notes = {name for name in NAMES if name.startswith("notes")}
    assert offered(chat.provider)[1:] == [calendar, calendar | notes, calendar | notes]
    assert "There is no tool" in results(reply)["gmail_search"]


async def test_beyond_the_last_stage_there_are_all_tools(make_chat: MakeChat) -> None:
    """If the plan is broad, and they are not too many."""
    given = plan(stages=[["calendar"], ["notes"]], broad_search=True)
    steps = ([call("calendar_search")], [call("notes_search")], [text("ok")])
    chat = await start(make_chat, given, *steps, given, *steps, plan=True)
    await chat.say("hello")
    calendar, notes = ({name for name in NAMES if name.startswith(context)} for context in ("calendar", "notes"))
    search = {"search_tools"}
    assert offered(chat.provider)[1:] == [calendar | search, calendar | notes | search, {*NAMES, *search}]
    chat = await start(make_chat, given, *steps, plan=True, search_above=len(NAMES) - 1)
    await chat.say("hello")
    assert offered(chat.provider)[3] == calendar | notes | search


@pytest.mark.parametrize(
    ("script", "patience", "reason"),
    [
        ([text("I would rather not.")], 20.0, "no JSON object"),
        ([ProviderUnavailable("too busy")], 20.0, "too busy"),
        ([asyncio.Event()], 0.05, "within 0.05 s"),
    ],
    ids=["nonsense", "error", "silence"],
)
async def test_without_a_plan_there_are_all_tools(
    make_chat: MakeChat, script: list[Step], patience: float, reason: str
) -> None:
    """The notice says why."""
    chat = await start(make_chat, script, [text("ok")], plan=True, plan_timeout=patience)
    reply = await chat.say("hello")
    assert reply.text == "ok"
    assert offered(chat.provider)[1] == set(NAMES)
    [notice] = notices(reply)
    assert (notice["used_fallback"], notice["broad_search"]) == (True, True)
    assert reason in notice["fallback_reason"]


async def test_an_empty_plan_leaves_all_tools(make_chat: MakeChat) -> None:
    """As one of contexts that there are not."""
    chat = await start(make_chat, plan(stages=[["weather"]], broad_search=False), [text("ok")], plan=True)
    await chat.say("hello")
    assert offered(chat.provider)[1] == set(NAMES)


# --- consent ----------------------------------------------------------------------------------------------------------

PRIVATE = plan(intent="Read", stages=[["gmail"]], privacy_note="Your mails are read.", broad_search=False)


async def test_tools_are_withheld_until_there_is_consent(make_chat: MakeChat) -> None:
    """The client is told what for, and may repeat the request with it."""
    chat = await start(make_chat, PRIVATE, [text("ok")], PRIVATE, [text("ok")], plan=True)
    reply = await chat.say("read my mails")
    [_, notice] = notices(reply)
    assert (notice["type"], notice["contexts"], notice["intent"]) == ("privacy_consent_required", ["gmail"], "Read")
    assert "Your mails are read." in notice["message"]
    assert offered(chat.provider)[1] == set()
    reply = await chat.say("read my mails", metadata={"privacy_consent": {"status": "granted", "by": "Ada"}})
    [_, notice] = notices(reply)
    assert (notice["type"], notice["status"], notice["details"]) == (
        "privacy_consent_granted",
        "granted",
        {"by": "Ada"},
    )
    assert offered(chat.provider)[3] == {"gmail_search", "gmail_write", "gmail_auth_status"}


async def test_consent_is_confirmed_although_nobody_asks_for_it_again(make_chat: MakeChat) -> None:
    """The next plan need not have the same note."""
    chat = await start(make_chat, plan(stages=[["gmail"]]), [text("ok")], plan=True)
    reply = await chat.say("read my mails", metadata={"privacy_consent": True})
    [_, notice] = notices(reply)
    assert (notice["type"], notice["message"]) == ("privacy_consent_granted", "You have consented.")
    assert offered(chat.provider)[1] >= {"gmail_search"}


async def test_without_consent_nothing_is_done(make_chat: MakeChat) -> None:
    """The model is not asked, neither for a plan nor for an answer; the stream ends as any other."""
    chat = await start(make_chat, plan=True)
    reply = await chat.say("read my mails", metadata={"privacy_consent": "denied"})
    assert chat.provider.requests == []
    assert [notice["type"] for notice in notices(reply)] == ["privacy_consent_denied"]
    assert reply.frames[-1].data == "[DONE]"
    run = (await chat.client.get(f"/api/chat/runs/{reply.run_id}")).json()
    assert (run["state"], run["reason"]) == ("stopped", "privacy_consent_denied")


# --- the switch -------------------------------------------------------------------------------------------------------


async def switch(chat: Chat, on: bool | None) -> bool:
    answer = await chat.client.put("/api/settings/planner", json={"llm_planner_enabled": on})
    assert answer.json() == (await chat.client.get("/api/settings/planner/")).json()
    return bool(answer.json()["llm_planner_enabled"])


async def test_plans_are_switched_on_and_off(make_chat: MakeChat) -> None:
    """For who does it; null is as the configuration says."""
    given = plan(stages=[["calendar"]], broad_search=False)
    chat = await start(make_chat, given, [text("ok")], [text("ok")])
    assert (await chat.client.get("/api/settings/planner")).json() == {"llm_planner_enabled": False}
    assert await switch(chat, True)
    assert [notice["type"] for notice in notices(await chat.say("hello"))] == ["tool_plan_status"]
    assert len(chat.provider.requests) == 2
    assert not await switch(chat, False)
    assert notices(await chat.say("hello")) == []
    assert await switch(chat, True)
    assert not await switch(chat, None)
    for wrong in ({}, {"llm_planner_enabled": "yes"}, []):
        assert (await chat.client.put("/api/settings/planner", json=wrong)).status_code == 422
