"""Asking the model for a plan, before the turn begins."""

import asyncio
from contextlib import aclosing
from typing import Any, cast

from chatcore import wire
from chatcore.answer import Answer
from chatcore.errors import ChatcoreError
from chatcore.hooks import Host
from chatcore.tools import Tool
from chatcore.types import Message, ModelRequest, Turn
from chatcore_planner.contexts import Contexts
from chatcore_planner.plan import Plan, Unusable, fallback, parse

_LATEST = 12  # messages of the conversation that a plan is made from
_LONGEST = 2000  # characters of each
_NOT_ASKED = frozenset({"plugins", "usage"})
"""Parameters of a request that say nothing of what it needs."""
_INSTRUCTIONS = """\
You choose tools for an assistant. You are given a conversation, and the tools that there are, by context. Answer with \
one JSON object and nothing else:
{"intent": what the user wants, in a few words,
 "stages": [[context, …], …], the contexts that are needed first, then those that are needed after them, and so on,
 "ranked_contexts": [context, …], the most useful first,
 "candidate_tools": {context: [name of a tool, …]},
 "argument_hints": {name of a tool: [what to give it, …]},
 "broad_search": whether other tools may be needed as well,
 "stop_conditions": [when to stop using tools, …],
 "privacy_note": what personal data the tools will read or send, if the user should be asked first; else null}
If no tool is needed, "stages" is empty and "broad_search" is false."""


async def plan_for(turn: Turn, contexts: Contexts, host: Host, timeout: float) -> Plan:
    """The plan for a turn. Whatever goes wrong: there is one, of all tools, with the reason."""
    try:
        async with asyncio.timeout(timeout):
            return parse(await _asked(turn, contexts, host), contexts)
    except TimeoutError:
        return fallback(f"there was no plan within {timeout:g} s")
    except (ChatcoreError, Unusable) as error:
        return fallback(str(error))


async def _asked(turn: Turn, contexts: Contexts, host: Host) -> str:
    provider, _ = host.provider_for(turn.model)
    request = ModelRequest(
        model=turn.model,
        messages=(
            Message(role="system", content=_INSTRUCTIONS),
            Message(role="user", content=wire.dumps(_digest(turn, contexts)).decode()),
        ),
        parameters={"temperature": 0, "response_format": {"type": "json_object"}},
    )
    answer = Answer()
    async with aclosing(cast("Any", provider.stream(request))) as stream:
        async for events in stream:
            answer.add(events)
    return answer.message().text


def _digest(turn: Turn, contexts: Contexts) -> dict[str, Any]:
    said = [message for message in turn.history if message.role in ("user", "assistant") and message.text]
    return {
        "request": {"model": turn.model, **{k: turn.parameters[k] for k in turn.parameters if k not in _NOT_ASKED}},
        "conversation": [{"role": m.role, "content": m.text[:_LONGEST]} for m in said[-_LATEST:]],
        "tools": {context: [_described(tool) for tool in tools] for context, tools in contexts.items()},
    }


def _described(tool: Tool) -> dict[str, Any]:
    described = {
        "name": tool.name,
        "description": tool.description[:300],
        "parameters": list(tool.parameters.get("properties") or ()),
    }
    return described | ({"server": tool.source.rpartition("/")[2]} if tool.source else {})
