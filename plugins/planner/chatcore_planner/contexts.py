"""What tools are about. A context is a word such as `calendar`, and the tools that belong to it."""

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeAlias

from chatcore.tools import Tool

Contexts: TypeAlias = Mapping[str, Sequence[Tool]]


def contexts_of(tools: Iterable[Tool], patterns: Mapping[str, Sequence[str]]) -> Contexts:
    """The tools by context: those whose patterns a tool fits, else those that it names itself, else the first word of
    its name."""
    grouped: dict[str, list[Tool]] = {}
    for tool in tools:
        fitting = [context.lower() for context, wanted in patterns.items() if fits(tool.name, wanted)]
        for context in fitting or tool.contexts or [first_word(tool.name)]:
            grouped.setdefault(context, []).append(tool)
    return grouped


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether a tool's name is one of these, or fits a pattern such as `calendar_*`."""
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def first_word(name: str) -> str:
    """`calendar` for `calendar_get_events`, and for `calendar__list`, a name with its server's before it."""
    return (name.replace("-", "_").strip("_").partition("_")[0] or name).lower()
