"""Finding tools by what they do (chatcore_planner/search.py)."""

import asyncio
import time

import attrs
import pytest
from chatcore_planner.search import NAME, Index, search_tool, words_of

from chatcore.tools import Invocation, Tool, ToolCall, ToolResult


def tool(name: str, description: str = "", **parameters: str) -> Tool:
    async def run(invocation: Invocation) -> ToolResult:
        return ToolResult(name)

    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    return Tool(name, description, {"type": "object", "properties": properties}, run)


TOOLS = [
    tool("calendar_get_events", "List the events of a calendar.", day="The day to look at."),
    tool("calendar_create_event", "Create an event.", title="What it is called."),
    tool("gmail_search", "Search mails by sender, subject or text."),
    tool("spotifyPlayTrack", "Start the music.", track="The song's name."),
    tool("notes_write", "Write a note to a file."),
    tool("notes_delete", "Delete a note from a file."),
]


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("what is in my calendar", "calendar_get_events"),
        ("create events", "calendar_create_event"),
        ("a mail from Ada", "gmail_search"),
        ("play a song", "spotifyPlayTrack"),
        ("PLAY TRACKS", "spotifyPlayTrack"),
        ("delete the note", "notes_delete"),
        ("notes_write", "notes_write"),
    ],
)
def test_the_best_fit_comes_first(query: str, name: str) -> None:
    """By words of names, descriptions and parameters, in any form."""
    assert Index(TOOLS).find(query)[0].name == name


def test_what_does_not_fit_is_not_found() -> None:
    """And never more than was asked for."""
    assert Index(TOOLS).find("weather") == []
    assert Index(TOOLS).find("") == []
    assert Index([]).find("weather") == []
    assert len(Index(TOOLS).find("a note, an event, a mail", limit=2)) == 2


def test_words() -> None:
    """Of any language, and of names in any style."""
    assert words_of("getEvents play_track HTTPServer Zürich 日本") == {
        *("get", "event", "play", "track", "httpserver", "zürich", "日本"),
    }


async def test_a_search_among_thousands_of_words_delays_nobody() -> None:
    """They are looked at elsewhere: the event loop is always free again in a fraction of the time that this takes. Of a
    long description the beginning counts."""
    started = time.thread_time()
    Index(wordy("other"))
    whole = time.thread_time() - started
    invocation = Invocation(ToolCall("1", NAME), {"query": "500 word1999"}, "local", "c", "r")
    longest = []
    for word in ("word", "term", "name"):  # more than once, since garbage is collected whenever it is time for that
        searching = asyncio.create_task(search_tool(wordy(word)).run(invocation))
        steps, last = [], time.thread_time()
        while not searching.done():
            await asyncio.sleep(0)
            steps.append(time.thread_time() - last)
            last = time.thread_time()
        assert searching.result().reveals == ("tool_500",)
        longest.append(max(steps))
    assert min(longest) < whole / 4


def wordy(word: str) -> list[Tool]:
    """A thousand tools with much to say, in words of their own."""
    about = " ".join(f"{word}{number}" for number in range(2_000))
    return [attrs.evolve(TOOLS[0], name=f"tool_{number}", description=f"{number} {about}") for number in range(1_000)]


async def test_the_tool_reveals_what_it_finds() -> None:
    """It says what there is to be found, and where nothing fits, too."""
    search = search_tool(TOOLS)
    assert (search.name, search.read_only) == (NAME, True)
    assert "6 more" in search.description
    assert "calendar (2), notes (2), gmail (1)" in search.description

    async def ask(query: str) -> ToolResult:
        return await search.run(Invocation(ToolCall("1", NAME), {"query": query}, "local", "c", "r"))

    found = await ask("calendar events")
    assert found.reveals == ("calendar_get_events", "calendar_create_event")
    assert "calendar_get_events: List the events of a calendar." in found.text
    nothing = await ask("weather")
    assert (nothing.reveals, nothing.is_error) == ((), False)
    assert "notes (2)" in nothing.text
