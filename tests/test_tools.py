"""Tools made from Python functions: what a model is shown of them, and what happens when it calls."""

import functools
from datetime import UTC, datetime
from typing import Literal

import attrs
import pytest

from chatcore.errors import ToolFailed
from chatcore.tools import Invocation, Tool, ToolCall, ToolResult


def invocation(**arguments: object) -> Invocation:
    return Invocation(
        call=ToolCall("call_1", "tool", "{}"),
        arguments=arguments,
        principal_id="local",
        conversation_id="c",
        run_id="r",
    )


async def roll(sides: int = 6, times: Literal[1, 2] = 1) -> str:
    """Rolls a die.

    Args:
        sides: How many sides it has.
    """
    return f"{times} of {sides}"


def test_a_tool_shows_a_model_what_the_function_says():
    """The name, the docstring, the type hints and the texts of the parameters."""
    tool = Tool.of(roll)
    assert tool.name == "roll"
    assert tool.description == "Rolls a die."
    assert tool.parameters == {
        "type": "object",
        "properties": {
            "sides": {"type": "integer", "default": 6, "description": "How many sides it has."},
            "times": {"type": "integer", "enum": [1, 2], "default": 1},
        },
        "additionalProperties": False,
    }
    assert (tool.timeout, tool.read_only, tool.destructive) == (None, False, False)


def test_a_tool_may_be_given_another_name_and_hints():
    """What is said to `of` is in the tool."""
    tool = Tool.of(roll, name="dice-2", timeout=1.5, read_only=True, idempotent=True)
    assert (tool.name, tool.timeout, tool.read_only, tool.destructive) == ("dice-2", 1.5, True, False)
    assert (tool.idempotent, tool.open_world) == (True, False)
    other = Tool.of(roll, destructive=True, open_world=True)
    assert (other.read_only, other.destructive, other.idempotent, other.open_world) == (False, True, False, True)


def test_a_definition_is_what_a_tool_says_of_itself():
    """As JSON; where it comes from, how long it may take and what runs it are no part of it."""
    tool = Tool.of(roll, destructive=True)
    assert tool.definition == {
        "name": "roll", "description": "Rolls a die.", "parameters": tool.parameters, "destructive": True
    }  # fmt: skip
    assert attrs.evolve(tool, source="s", timeout=5.0, run=Tool.of(roll).run).fingerprint == tool.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"description": "Rolls a die.\u200b"},
        {"parameters": {"type": "object"}},
        {"read_only": True},
        {"destructive": False},
        {"idempotent": True},
        {"open_world": True},
    ],
)
def test_another_definition_has_another_fingerprint(change):
    """However small the difference is."""
    tool = Tool.of(roll, destructive=True)
    assert attrs.evolve(tool, **change).fingerprint != tool.fingerprint


@pytest.mark.parametrize("name", ["two words", "é", "a" * 65, "a.b", "a/b", "a\n"])
def test_a_name_that_an_api_would_refuse_is_refused(name):
    """At most 64 letters, digits, `_` and `-`."""
    with pytest.raises(ValueError, match="name"):
        Tool.of(roll, name=name)


async def test_a_call_gives_text():
    """Defaults fill in what the model left out."""
    tool = Tool.of(roll)
    assert await tool.run(invocation()) == ToolResult("1 of 6")
    assert await tool.run(invocation(sides=20, times=2)) == ToolResult("2 of 20")


async def test_a_method_is_a_function_too():
    """A bound method makes a tool that has an object behind it."""

    @attrs.define
    class Counter:
        count: int = 0

        async def add(self, number: int) -> str:
            """Adds a number."""
            self.count += number
            return str(self.count)

    counter = Counter(40)
    assert await Tool.of(counter.add).run(invocation(number=2)) == ToolResult("42")
    assert counter.count == 42


@attrs.frozen
class Weather:
    place: str
    at: datetime
    degrees: tuple[float, ...] = ()


async def test_an_answer_that_is_not_text_is_json():
    """attrs values, lists, numbers and None; text stays what it is."""

    async def weather(place: str) -> Weather:
        return Weather(place, datetime(2026, 1, 31, tzinfo=UTC), (1.5,))

    async def nothing() -> None:
        pass

    async def numbers() -> list[int]:
        return [1, 2]

    async def broken_text() -> dict[str, str]:
        return {"text": "half a \ud83d"}

    assert await Tool.of(weather).run(invocation(place="Graz")) == ToolResult(
        '{"at":"2026-01-31T00:00:00Z","degrees":[1.5],"place":"Graz"}'
    )
    assert await Tool.of(nothing).run(invocation()) == ToolResult("null")
    assert await Tool.of(numbers).run(invocation()) == ToolResult("[1,2]")
    assert await Tool.of(broken_text).run(invocation()) == ToolResult('{"text":"half a ?"}')


async def test_a_result_passes_as_it_is():
    """A function that has more to say than text gives a ToolResult."""
    result = ToolResult("no", is_error=True, parts=({"type": "text", "text": "x"},))

    async def tool() -> ToolResult:
        return result

    assert await Tool.of(tool).run(invocation()) is result


async def test_a_function_is_given_its_invocation():
    """The parameter is not shown to the model, who cannot fill it in either."""

    async def whoami(context: Invocation, greeting: str = "hi") -> str:
        return f"{greeting} {context.principal_id} {context.run_id}"

    tool = Tool.of(whoami)
    assert set(tool.parameters["properties"]) == {"greeting"}
    assert await tool.run(invocation()) == ToolResult("hi local r")
    with pytest.raises(ToolFailed, match=r"\$\.context: is not known"):
        await tool.run(invocation(context="root"))


async def test_wrong_arguments_are_told_to_the_model():
    """All of them, with their paths, so that it can do better; the function is not called."""
    called = []

    async def book(place: Weather, seats: int) -> str:
        called.append(place)
        return ""

    with pytest.raises(ToolFailed) as caught:
        await Tool.of(book).run(invocation(place={"place": "Graz", "at": "soon"}, seat=2, seats="2"))
    assert str(caught.value) == (
        "wrong arguments: $.seat: is not known: did you mean 'seats'?; "
        "$.place.at: must be a time as in 2026-01-31T12:00:00+00:00; "
        "$.seats: must be an integer, not a string"
    )
    assert called == []


async def test_what_a_function_raises_comes_through():
    """It is for the turn to tell a ToolFailed from a bug."""

    async def fails() -> str:
        raise ToolFailed("no such place")

    async def bug() -> str:
        raise LookupError("bug")

    with pytest.raises(ToolFailed, match="no such place"):
        await Tool.of(fails).run(invocation())
    with pytest.raises(LookupError):
        await Tool.of(bug).run(invocation())


def plain(a: int) -> str:
    return ""


async def generator(a: int):
    yield ""


async def without_hint(a) -> str:
    return ""


async def without_form(a: object) -> str:
    return ""


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (plain, "write 'async def'"),
        (generator, "write 'async def'"),
        (Weather, "write 'async def'"),
        (without_hint, "'a' has no type hint"),
        (without_form, "has no form in JSON"),
        (functools.partial(roll, sides=2), "partial"),
    ],
)
def test_what_cannot_be_a_tool_is_a_type_error(function, text):
    """When the tool is made, and not when a model calls it."""
    with pytest.raises(TypeError, match=text):
        Tool.of(function)


def test_tools_that_look_alike_are_equal():
    """The function behind a tool does not count: a source may make its tools anew each time."""
    assert Tool.of(roll) == Tool.of(roll)
    assert "run" not in repr(Tool.of(roll))
