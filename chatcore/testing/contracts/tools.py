"""The contract of a tool source, and of tools."""

# ruff: noqa: S101
# The contracts speak in assertions.

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest

from chatcore import wire
from chatcore.errors import AccountError, ToolFailed
from chatcore.plugins.fit import misfit
from chatcore.protocols import ToolSource
from chatcore.testing.contracts import watch
from chatcore.testing.contracts.watch import leaving_nothing, touching_nothing
from chatcore.tools import Invocation, JsonObject, Tool, ToolCall, ToolResult

RUN = 60.0
"""Seconds that a tool may take."""

_TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})
_SCHEMAS = ("items", "additionalProperties", "not", "contains", "if", "then", "else", "propertyNames")
_LISTS_OF_SCHEMAS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED_SCHEMAS = ("properties", "$defs", "definitions", "patternProperties")
_CHOICES = ("anyOf", "oneOf", "allOf", "not", "enum")


@pytest.mark.asyncio
class ToolSourceContract:
    """What every tool source keeps. A subclass gives the fixture `source`:

        class TestMine(ToolSourceContract):
            @pytest.fixture
            def source(self):
                return MySource()

    It may also give `calls`: arguments by the name of a tool, for tools that the test may run with them. Without it the
    tools are run that change nothing (`read_only`) and need no arguments.
    """

    @pytest.fixture
    def source(self) -> ToolSource:
        """The source to test, with its tools there."""
        raise NotImplementedError("write a fixture 'source' that gives the tool source to test")

    @pytest.fixture
    def calls(self, source: ToolSource) -> Mapping[str, JsonObject]:
        """The tools to run, with their arguments."""
        return {tool.name: {} for tool in source.tools() if tool.read_only and not _required(tool)}

    async def test_it_is_a_tool_source(self, source: ToolSource) -> None:
        """It has a name, and `tools()` gives tools."""
        assert not (wrong := misfit(source, ToolSource)), wrong
        assert source.name, "its name is empty"
        tools = source.tools()
        assert isinstance(tools, Sequence), f"tools() gave {tools!r}, wanted a list of tools"
        assert all(isinstance(tool, Tool) for tool in tools), "tools() gave something that is not a Tool"

    async def test_tools_are_told_at_once(self, source: ToolSource) -> None:
        """`tools()` is asked for every turn: it tells what is known, and touches no network and no file."""
        started = time.perf_counter()
        with touching_nothing("tools()"):
            source.tools()
        assert time.perf_counter() - started < watch.QUICK, "tools() takes too long"

    async def test_names_are_unique_and_stay(self, source: ToolSource) -> None:
        """No two tools have the same name, and asking again gives the same: presets and histories name them."""
        names = [tool.name for tool in source.tools()]
        assert len(names) == len(set(names)), (
            f"a name is given twice: {sorted({n for n in names if names.count(n) > 1})}"
        )
        assert names == [tool.name for tool in source.tools()], "the names change from one asking to the next"

    async def test_a_tool_says_what_it_does(self, source: ToolSource) -> None:
        """Each tool has a description: the model knows nothing else of it."""
        for tool in source.tools():
            assert tool.description.strip(), f"{tool.name} has no description"

    async def test_parameters_are_a_json_schema_of_an_object(self, source: ToolSource) -> None:
        """The parameters are a JSON Schema whose top is a plain object, as the APIs of all models want it."""
        for tool in source.tools():
            wire.loads(wire.dumps(tool.parameters))
            assert tool.parameters.get("type") == "object", f"{tool.name}: its parameters are not of type 'object'"
            assert isinstance(tool.parameters.get("properties", {}), Mapping), f"{tool.name}: properties is no object"
            choices = [key for key in _CHOICES if key in tool.parameters]
            assert not choices, f"{tool.name}: {choices[0]} at the top of the parameters is refused by many models"
            problems = list(_problems(tool.parameters, "parameters", tool.parameters))
            assert not problems, f"{tool.name}: {problems[0]}"

    async def test_a_call_is_answered(self, source: ToolSource, calls: Mapping[str, JsonObject]) -> None:
        """A tool that is run gives a ToolResult that is JSON, or raises ToolFailed."""
        for tool in _called(source, calls):
            result = await _answer(tool, calls[tool.name])
            assert result is None or isinstance(result, ToolResult), f"{tool.name} gave {result!r}, wanted a ToolResult"
            wire.loads(wire.dumps(result))

    async def test_missing_arguments_are_a_failure_that_the_model_reads(self, source: ToolSource) -> None:
        """A tool that is run without the arguments that it needs says so, or raises ToolFailed; it does not break."""
        for tool in source.tools():
            if _required(tool):
                await _answer(tool, {})

    async def test_a_cancelled_call_ends(self, source: ToolSource, calls: Mapping[str, JsonObject]) -> None:
        """A tool whose turn is stopped ends soon; it does not swallow the cancellation, and no task goes on."""
        async with leaving_nothing():
            for tool in _called(source, calls):
                running = asyncio.create_task(_cancelled_at_once(tool, calls[tool.name]))
                await asyncio.wait([running], timeout=watch.PROMPT)
                assert running.done(), f"{tool.name} did not end within {watch.PROMPT:g} s after it was cancelled"
                assert running.cancelled() or isinstance(running.exception(), ToolFailed), (
                    f"{tool.name}: the cancellation became {running.exception()!r}"
                )


def _required(tool: Tool) -> Sequence[str]:
    required: Sequence[str] = tool.parameters.get("required", ())
    return required


def _called(source: ToolSource, calls: Mapping[str, JsonObject]) -> Sequence[Tool]:
    tools = [tool for tool in source.tools() if tool.name in calls]
    missing = calls.keys() - {tool.name for tool in tools}
    assert not missing, f"there is no tool {sorted(missing)[0]!r} to run"
    if not tools:
        pytest.skip("there is no fixture 'calls' with the arguments of a tool that may be run")
    return tools


async def _answer(tool: Tool, arguments: JsonObject) -> ToolResult | None:
    """What a tool answers; None if it raises ToolFailed, or says that its user has to sign in to a service."""
    try:
        async with asyncio.timeout(RUN):
            return await tool.run(_invocation(tool, arguments))
    except (ToolFailed, AccountError):
        return None
    except Exception as error:  # noqa: BLE001  that is the rule
        pytest.fail(f"{tool.name} raised {type(error).__name__} ({error}), wanted an answer or ToolFailed")


async def _cancelled_at_once(tool: Tool, arguments: JsonObject) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await tool.run(_invocation(tool, arguments))
    await asyncio.sleep(0)  # a tool without a suspension was not cancelled: its caller is, here
    raise AssertionError("it swallowed the cancellation")


def _invocation(tool: Tool, arguments: JsonObject) -> Invocation:
    call = ToolCall("call_contract", tool.name, wire.dumps(arguments).decode())
    return Invocation(call, arguments, principal_id="local", conversation_id="contract", run_id="contract")


# --- schemas ----------------------------------------------------------------------------------------------------------


def _problems(schema: Any, place: str, root: JsonObject) -> Iterator[str]:
    """What is wrong in a JSON Schema, as far as it can be told without a library for it."""
    if isinstance(schema, bool):
        return
    if not isinstance(schema, Mapping):
        yield f"{place} is {schema!r}, wanted a schema"
        return
    types = schema.get("type", ())
    for name in [types] if isinstance(types, str) else types:
        if name not in _TYPES:
            yield f"{place}.type is {name!r}, wanted one of {', '.join(sorted(_TYPES))}"
    if "enum" in schema and not isinstance(schema["enum"], list | tuple):
        yield f"{place}.enum is {schema['enum']!r}, wanted a list"
    yield from _missing(schema, place, root)
    for key, part in _parts(schema):
        yield from _problems(part, f"{place}.{key}", root)


def _missing(schema: JsonObject, place: str, root: JsonObject) -> Iterator[str]:
    for name in schema.get("required", ()):
        if name not in schema.get("properties", {}):
            yield f"{place}.required names {name!r}, which is not in properties"
    reference = schema.get("$ref")
    if reference is not None and not _resolves(reference, root):
        yield f"{place}.$ref {reference!r} leads nowhere"


def _resolves(reference: str, root: JsonObject) -> bool:
    head, *keys = reference.split("/")
    found: Any = root
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return head == "#" and found is not None


def _parts(schema: JsonObject) -> Iterator[tuple[str, Any]]:
    yield from ((key, schema[key]) for key in _SCHEMAS if key in schema)
    for key in _LISTS_OF_SCHEMAS:
        yield from ((f"{key}[{index}]", part) for index, part in enumerate(schema.get(key, ())))
    for key in _NAMED_SCHEMAS:
        yield from ((f"{key}.{name}", part) for name, part in schema.get(key, {}).items())
