"""The tools of `tool_plugin.py`."""

import pytest

from chatcore.testing.scripted import ScriptedProvider, call, text
from chatcore.types import Principal


@pytest.fixture
def notes(load_example):
    return load_example("tool_plugin")


async def test_a_note_is_kept_and_found_in_another_conversation(make_chat, notes):
    """Notes belong to the person, not to the conversation; every word must occur, in any case."""
    model = ScriptedProvider(
        [call("note_add", text="Milk and\nbread")],
        [text("Kept.")],
        [call("note_find", id="a", words="BREAD milk"), call("note_find", id="b", words="eggs")],
    )
    chat = await make_chat(notes, provider=model)
    assert (await chat.say("Remember milk and bread.")).results == ["Kept as note 1."]
    assert sorted((await chat.say("What is to buy?")).results) == ['["Milk and bread"]', "[]"]


async def test_notes_asked_for_at_once_are_all_kept(make_chat, notes):
    """Tools of one answer run together; none overwrites another's note."""
    model = ScriptedProvider([call("note_add", id=str(n), text=f"note {n}") for n in range(5)])
    chat = await make_chat(notes, provider=model)
    reply = await chat.say("Keep five notes.")
    assert sorted(reply.results) == [f"Kept as note {n}." for n in range(1, 6)]


@pytest.mark.parametrize(("note", "told"), [("  \n ", "the note is empty"), ("one more", "which is the limit")])
async def test_what_cannot_be_kept_is_told_to_the_model(make_chat, notes, note, told):
    """An empty note, and one above the limit, are failed tools: the turn goes on."""
    model = ScriptedProvider([call("note_add", text="first")], [call("note_add", text=note)], [text("Sorry.")])
    chat = await make_chat(notes, provider=model, most=1)
    reply = await chat.say("Keep two notes.")
    assert reply.text == "Sorry."
    assert told in reply.results[1]


async def test_the_model_is_not_shown_for_whom_the_tool_runs(make_chat, notes):
    """The parameter of type `Invocation` is filled in by the server."""
    model = ScriptedProvider()
    chat = await make_chat(notes, provider=model)
    await chat.say("Hello.")
    offered = {tool.name: tool for tool in model.requests[0].tools}
    assert list(offered["note_add"].parameters["properties"]) == ["text"]
    assert offered["note_find"].read_only


async def test_each_person_has_notes_of_their_own(make_chat, notes):
    """A stranger finds nothing, whatever characters the names have."""
    model = ScriptedProvider([call("note_add", text="secret")])
    chat = await make_chat(notes, provider=model)
    await chat.say("Keep it.")
    plugin = chat.app.extensions["chatcore"].plugins
    tool = plugin.registry.tools()["note_find"]
    invocation = invocation_of(Principal("../local"))
    assert (await tool.run(invocation)).text == "[]"
    assert (await tool.run(invocation_of(Principal("local")))).text == '["secret"]'


def invocation_of(principal: Principal):
    from chatcore.tools import Invocation, ToolCall

    return Invocation(ToolCall("1", "note_find"), {"words": ""}, principal.id, "conversation", "run")
