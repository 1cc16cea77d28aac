"""Trust in tools: which of them a turn is given, and which need a person's consent for each call.

The operator's word is `tool_policy`. Where it is silent a tool's own hints count: one that is marked as destructive
needs consent, any other is run. And the tools of a source, which can change while the server runs, are pinned: as each
is when it is first used, so it must stay. One that changes is suspended until somebody has looked at it.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache, partial

import attrs

from chatcore.database import Database, Pin, Pins
from chatcore.tools import Policy, Tool
from chatcore.types import Turn

logger = logging.getLogger(__name__)

FRESH = 2.0
"""Seconds for which a tool may stay suspended after its new definition was accepted."""

_PREFIX, _DIGEST = re.compile("__"), re.compile("_[0-9a-f]{8}$")
_STRICTNESS: Sequence[Policy] = ("allow", "ask", "deny")
_REMEMBERED = 10_000  # policies; the work of finding one grows with the rules


class Trust:
    """The operator's policy and the pins, for all turns of a server."""

    def __init__(self, rules: Mapping[str, Policy], database: Database) -> None:
        """`rules` are the policies by name or pattern, as in `tool_policy`."""
        self.pins = Pins(database)
        self.policy = lru_cache(_REMEMBERED)(partial(_policy, rules))
        # By source and name. A source may come up with ever new definitions: the last one is enough.
        self._trusted: dict[tuple[str | None, str], str] = {}
        self._suspended: dict[tuple[str | None, str], tuple[str, float]] = {}

    async def vet(self, turn: Turn) -> Turn:
        """The turn with those of its tools that may be called; its `asking` and `withheld` say what holds for them."""
        if not turn.tools:
            return turn
        tools = list(turn.tools.values())
        policies = {tool.name: self.policy(tool.name, tool.source, tool.destructive) for tool in tools}
        withheld = {name: _changed(name) for name in await self._suspended_of(tools)}
        withheld |= {name: _denied(name) for name, policy in policies.items() if policy == "deny"}
        return attrs.evolve(
            turn,
            tools={name: tool for name, tool in turn.tools.items() if tool.name not in withheld},
            asking=frozenset(name for name, policy in policies.items() if policy == "ask"),
            withheld=withheld,
        )

    async def free(self, tools: Mapping[str, Tool]) -> Mapping[str, Tool]:
        """Those of the tools that may be called, and need nobody's consent for it."""
        suspended = await self._suspended_of(list(tools.values()))
        return {
            name: tool
            for name, tool in tools.items()
            if name not in suspended and self.policy(tool.name, tool.source, tool.destructive) == "allow"
        }

    async def _suspended_of(self, tools: Sequence[Tool]) -> Sequence[str]:
        """The names of the tools that are not as they were when they were first used."""
        unsure = [tool for tool in tools if tool.source and not self._is_trusted(tool)]
        if due := [tool for tool in unsure if self._seen(tool) <= time.monotonic()]:
            pins = {(pin.source, pin.name): pin for pin in await self.pins.see(due)}
            for tool in due:
                self._note(tool, pins[str(tool.source), tool.name])
        return [tool.name for tool in unsure if not self._is_trusted(tool)]

    def _is_trusted(self, tool: Tool) -> bool:
        return self._trusted.get(_key(tool)) == tool.fingerprint

    def _seen(self, tool: Tool) -> float:
        """Until when a tool is suspended without another look; 0 if it was not as it is now."""
        fingerprint, until = self._suspended.get(_key(tool), ("", 0.0))
        return until if fingerprint == tool.fingerprint else 0.0

    def _note(self, tool: Tool, pin: Pin) -> None:
        """Remembers what the pin of a tool says."""
        if pin.fingerprint == tool.fingerprint:
            self._trusted[_key(tool)] = tool.fingerprint
            return
        if not self._seen(tool):
            logger.warning(
                "%s of %s is suspended: its definition has changed; see 'chatcore tools review'", tool.name, tool.source
            )
        self._trusted.pop(_key(tool), None)
        self._suspended[_key(tool)] = tool.fingerprint, time.monotonic() + FRESH


def _policy(rules: Mapping[str, Policy], name: str, source: str | None, destructive: bool) -> Policy:
    """What becomes of the calls of a tool: of the rules that fit its name or `SOURCE/NAME` the most exact counts, which
    is one without a pattern, or else the longest; of several as long the strictest.

    What asks or denies by the name that a source's tool would have alone does so too when somebody else's has the same:
    nobody takes a tool out of a rule by a tool of his own. What allows by that name does not.
    """
    known = _with_source([name], source)
    alone = _with_source(_own_names(name), source) if source else ()
    fitting = [
        rule for rule, policy in rules.items() if _fits(rule, known) or (policy != "allow" and _fits(rule, alone))
    ]
    if not fitting:
        return "ask" if destructive else "allow"
    exact = {*known, *alone}
    return rules[max(fitting, key=lambda rule: (rule in exact, len(rule), _STRICTNESS.index(rules[rule])))]


def _fits(rule: str, names: Sequence[str]) -> bool:
    """Whether a rule is about one of these. A name fits itself, also where it looks like a pattern."""
    return rule in names or any(fnmatchcase(name, rule) for name in names)


def _with_source(names: Sequence[str], source: str | None) -> Sequence[str]:
    return [*names, *(f"{source}/{name}" for name in names)] if source else names


def _own_names(name: str) -> Sequence[str]:
    """What a tool may be called by its source. Where somebody else's is called the same it is `SERVER__TOOL`, with a
    digest behind it where even that is somebody else's."""
    own = [name[place.end() :] for place in _PREFIX.finditer(name)]
    return list(dict.fromkeys(filter(None, [*own, *(_DIGEST.sub("", one) for one in own)])))


def _key(tool: Tool) -> tuple[str | None, str]:
    return tool.source, tool.name


def _denied(name: str) -> str:
    return f"This tool was not run: the operator of this server does not allow {name}."


def _changed(name: str) -> str:
    return (
        f"This tool was not run: {name} is suspended, for it is not any more what it was when it was first used. "
        "The operator of this server can look at the change with 'chatcore tools review'."
    )
