"""The tools that a model is told of, by plan or by search. Those that are hidden can be found, or come with a stage."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import attrs

from chatcore.tools import Invocation, Tool, ToolResult
from chatcore.types import Message, Turn
from chatcore_planner.contexts import Contexts
from chatcore_planner.plan import EVERYTHING, Plan
from chatcore_planner.search import NAME, OTHER_NAME, Index, search_tool

BEST = 5
"""Tools of a context that are chosen beside those that the plan names."""

_PREREQUISITE = "_auth_status"  # how the tools are called that say whether somebody is signed in


def with_search(turn: Turn, shown: Iterable[str]) -> Turn:
    """The turn with these tools, and one to find the others with."""
    told = set(shown)
    hidden = [tool for name, tool in turn.tools.items() if name not in told]
    if not hidden:
        return turn
    search = search_tool(hidden, NAME if NAME not in turn.tools else OTHER_NAME)
    tools = {**turn.tools, search.name: search}
    return attrs.evolve(turn, tools=tools, hidden=frozenset(tool.name for tool in hidden) - {search.name})


def with_plan(turn: Turn, plan: Plan, contexts: Contexts, always: Iterable[str], *, many: int) -> Turn:
    """The turn with the tools of a plan: those of its first stage, each later stage after a tool of the one before.

    Where the plan is broad the others can be found, and if there are no more than `many` in all they come after the
    last stage; else there are none. A plan that chooses nothing leaves all.
    """
    stages = _stages(plan, contexts, _question(turn))
    if not any(stages):
        return turn
    chosen = {name for stage in stages for name in stage}
    first = {*stages[0], *always}
    beyond = [list(turn.tools)] if plan.broad and len(turn.tools) <= many else []
    staged = _staged([*stages, *beyond], turn.tools)
    turn = attrs.evolve(turn, tools={**turn.tools, **staged}, history=_told(turn, plan))
    if plan.broad and len(chosen | first) < len(turn.tools):
        return attrs.evolve(with_search(turn, chosen | first), hidden=frozenset(turn.tools.keys() - first))
    tools = {name: tool for name, tool in turn.tools.items() if plan.broad or name in chosen | first}
    return attrs.evolve(turn, tools=tools, hidden=frozenset(tools.keys() - first))


def _stages(plan: Plan, contexts: Contexts, question: str) -> Sequence[Sequence[str]]:
    """The names of the tools of each stage."""
    everything = list({tool.name: tool for tools in contexts.values() for tool in tools}.values())
    known = {**contexts, EVERYTHING: everything}
    return [
        list(dict.fromkeys(name for context in stage for name in _of_context(plan, context, known[context], question)))
        for stage in plan.stages
    ]


def _of_context(plan: Plan, context: str, tools: Sequence[Tool], question: str) -> Iterable[str]:
    if context == EVERYTHING:
        return [tool.name for tool in tools]
    names = [tool.name for tool in tools]
    named = [name for name in plan.candidates.get(context, ()) if name in names]
    fitting = [tool.name for tool in Index(tools).find(f"{question} {plan.intent}", BEST)]
    needed = [name for name in names if name.endswith(_PREREQUISITE)]
    return [*needed, *named, *fitting] if named or fitting else names[:BEST]


def _staged(stages: Sequence[Sequence[str]], tools: Mapping[str, Tool]) -> Mapping[str, Tool]:
    """The tools of every stage but the last, so that what they answer reveals the next one."""
    steps = reversed(list(pairwise(stages)))
    return {name: _revealing(tools[name], following) for stage, following in steps for name in stage}


def _revealing(tool: Tool, names: Sequence[str]) -> Tool:
    async def run(invocation: Invocation) -> ToolResult:
        result = await tool.run(invocation)
        return attrs.evolve(result, reveals=(*result.reveals, *names))

    return attrs.evolve(tool, run=run)


def _question(turn: Turn) -> str:
    """What was said last."""
    return next((message.text for message in reversed(turn.history) if message.role == "user"), "")


def _told(turn: Turn, plan: Plan) -> tuple[Message, ...]:
    """The history, with what the model is to know of its plan in the system prompt."""
    lines = [f"What the user wants: {plan.intent}"] if plan.intent else []
    lines += [f"For {tool}: {'; '.join(hints)}" for tool, hints in plan.hints.items()]
    if plan.stop_conditions:
        lines.append(f"Stop using tools when: {'; '.join(plan.stop_conditions)}")
    first, *rest = turn.history
    if not lines or first.role != "system" or not isinstance(first.content, str):
        return turn.history
    note = "\n".join(["# Plan", *lines])
    return (attrs.evolve(first, content=f"{first.content}\n\n{note}"), *rest)
