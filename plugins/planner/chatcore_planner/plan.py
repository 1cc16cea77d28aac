"""A plan: which tools a turn will need, in which order. It is what a model has written, and read leniently."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from chatcore import wire
from chatcore.errors import RequestError
from chatcore_planner.contexts import Contexts

EVERYTHING = "__all__"
"""The context of all tools."""


class Unusable(Exception):
    """What the model has written is no plan."""


@attrs.frozen(kw_only=True)
class Plan:
    """What a turn is about, and what it needs. `stages` are contexts that are used one after the other; `candidates`
    the tools by context, as the model chose them. Without `broad` there is nothing beyond the stages."""

    intent: str = ""
    stages: tuple[tuple[str, ...], ...] = ()
    ranked: tuple[str, ...] = ()
    broad: bool = True
    candidates: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    hints: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    privacy_note: str | None = None
    stop_conditions: tuple[str, ...] = ()
    failure: str | None = None

    @property
    def contexts(self) -> tuple[str, ...]:
        """All contexts of the stages, each once."""
        return tuple(dict.fromkeys(context for stage in self.stages for context in stage))

    @property
    def is_fallback(self) -> bool:
        """Whether nobody has made it."""
        return self.failure is not None or self is SPECIFIED


SPECIFIED = Plan(intent="use specified tools")
"""The plan where a request says itself which tools are to be used."""


def fallback(reason: str) -> Plan:
    """The plan where there is none: all tools."""
    return Plan(failure=reason)


def parse(text: str, contexts: Contexts) -> Plan:
    """The plan that a model has written. Contexts that there are not are left out, a tool's name stands for its own.

    Raises:
        Unusable: it is no JSON object, or its stages make no sense.
    """
    given = _object(text)
    inner = given.get("plan")
    if isinstance(inner, dict):
        given = inner
    known = _known(contexts)
    ranked = _contexts(given.get("ranked_contexts"), known)
    stages = _stages(given.get("stages", given.get("attempts")), known) or ((ranked,) if ranked else ())
    broad = given.get("broad_search")
    return Plan(
        intent=_text(given.get("intent")) or "",
        stages=stages,
        ranked=ranked,
        broad=broad if isinstance(broad, bool) else True,
        candidates=_candidates(given.get("candidate_tools"), known),
        hints={tool: _texts(hints) for tool, hints in _items(given.get("argument_hints"))},
        privacy_note=_text(given.get("privacy_note")),
        stop_conditions=_texts(given.get("stop_conditions")),
    )


def _object(text: str) -> dict[str, Any]:
    """The JSON object in a text; models like to put it into a fence, or a sentence before it."""
    found = re.search(r"\{.*\}", text, re.DOTALL)
    try:
        value = wire.loads(found[0].encode()) if found else None
    except RequestError:
        value = None
    if not isinstance(value, dict):
        raise Unusable("the model wrote no JSON object")
    return value


def _known(contexts: Contexts) -> Mapping[str, str]:
    """The context of every word that may stand for one."""
    names = {tool.name.lower(): context for context, tools in contexts.items() for tool in tools}
    return {**names, **{context: context for context in contexts}, EVERYTHING: EVERYTHING}


def _contexts(given: Any, known: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(known[word.lower()] for word in _texts(given) if word.lower() in known))


def _stages(given: Any, known: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        raise Unusable("the plan's stages are no list")
    stages = [_contexts(stage if isinstance(stage, list) else [stage], known) for stage in given]
    return tuple(stage for stage in stages if stage)


def _candidates(given: Any, known: Mapping[str, str]) -> Mapping[str, tuple[str, ...]]:
    named = {
        known[context.lower()]: [entry.get("name") if isinstance(entry, dict) else entry for entry in entries]
        for context, entries in _items(given)
        if context.lower() in known and isinstance(entries, list)
    }
    return {context: _texts(names) for context, names in named.items()}


def _items(given: Any) -> Iterable[tuple[str, Any]]:
    return given.items() if isinstance(given, dict) else ()


def _texts(given: Any) -> tuple[str, ...]:
    return tuple(text for item in given if (text := _text(item))) if isinstance(given, list) else ()


def _text(given: Any) -> str | None:
    return given.strip() or None if isinstance(given, str) else None
