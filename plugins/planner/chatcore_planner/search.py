"""Finding tools by what they are for: the words of a question in their names, descriptions and parameters."""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import islice

import attrs

from chatcore.tools import Invocation, Tool, ToolResult
from chatcore_planner.contexts import first_word

NAME = "search_tools"
OTHER_NAME = f"planner__{NAME}"
"""Where a tool of somebody else's has that name."""
MOST = 10
"""Tools that one search finds."""

_WORD = re.compile(r"[^\W_]+")
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_STEM = 4  # letters in which two forms of a word agree: "event", "events"
_EMPTY = frozenset(
    {"a", "an", "and", "are", "at", "by", "can", "for", "from", "how", "i", "in", "is", "it", "its", "me", "my", "of"}
    | {"on", "or", "that", "the", "this", "to", "what", "when", "where", "which", "who", "with", "you", "your"}
)
"""Words that say nothing of what a tool does, and are rare enough in descriptions to seem to."""
_LONGEST = 2_000  # characters of what a tool says of itself that are looked at
_TEXTS = 100  # names of parameters, and what is said of them
_NAME_WEIGHT, _TEXT_WEIGHT = 3.0, 1.0


@attrs.frozen
class Index:
    """Tools that can be searched."""

    tools: Sequence[Tool]
    _words: Sequence[tuple[frozenset[str], frozenset[str]]] = attrs.field(init=False)
    _frequency: Counter[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        words = [_words(tool.name, _text(tool)) for tool in self.tools]
        object.__setattr__(self, "_words", words)
        object.__setattr__(self, "_frequency", Counter(word for name, text in words for word in name | text))

    def find(self, query: str, limit: int = MOST) -> Sequence[Tool]:
        """The tools that fit best, the best first. A word that few tools have counts more than one that many have."""
        wanted = words_of(query)
        scores = [self._score(wanted, name, text) for name, text in self._words]
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        return [self.tools[number] for number in order[:limit] if scores[number] > 0]

    def _score(self, wanted: Iterable[str], name: frozenset[str], text: frozenset[str]) -> float:
        return sum(
            self._rarity(word) * (_NAME_WEIGHT if word in name else _TEXT_WEIGHT)
            for word in wanted
            if word in name or word in text
        )

    def _rarity(self, word: str) -> float:
        return math.log(1 + len(self.tools) / self._frequency[word])


@lru_cache(5_000)
def _words(name: str, text: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words of a tool. They are remembered: to find them takes longer than to look for some among them."""
    return words_of(name), words_of(text)


def _text(tool: Tool) -> str:
    """What a tool says of itself, and then of its parameters."""
    return " ".join([tool.description[: _LONGEST // 2], *islice(parameters_of(tool), _TEXTS)])[:_LONGEST]


def words_of(*texts: str) -> frozenset[str]:
    """The words of texts, shortened so that forms of one word are the same."""
    found = (word.lower() for text in texts for word in _WORD.findall(_HUMP.sub(" ", text)))
    return frozenset(word[:-1] if len(word) > _STEM and word.endswith("s") else word for word in found) - _EMPTY


def parameters_of(tool: Tool) -> Iterable[str]:
    """The names of a tool's parameters, with what is said of them."""
    properties = tool.parameters.get("properties")
    for name, schema in properties.items() if isinstance(properties, dict) else ():
        yield name
        if isinstance(schema, dict) and isinstance(schema.get("description"), str):
            yield schema["description"]


def search_tool(tools: Sequence[Tool], name: str = NAME) -> Tool:
    """The tool that finds these, and reveals what it has found."""
    index = cache(lambda: Index(tools))  # made when something is searched, which most turns do not do
    about = Counter(first_word(tool.name) for tool in tools)
    topics = ", ".join(f"{topic} ({count})" for topic, count in about.most_common(40))

    async def search_tools(query: str, invocation: Invocation) -> ToolResult:
        found = (await asyncio.to_thread(index)).find(query)
        if not found:
            return ToolResult(f"No tool fits {query!r}. There are tools about: {topics}.")
        lines = [f"{tool.name}: {_first_line(tool.description)}" for tool in found]
        return ToolResult("These can be called now:\n" + "\n".join(lines), reveals=tuple(tool.name for tool in found))

    search_tools.__doc__ = (
        f"Find tools by what they do. There are {len(tools)} more than you see here, about: {topics}.\n\n"
        "Args:\n    query: What you want to do, in a few words.\n"
    )
    return Tool.of(search_tools, name=name, read_only=True, idempotent=True)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]
