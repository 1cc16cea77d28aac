"""A provider, in one file: a model that has read one text and goes on with it, word by word. It needs no key.

    chatcore serve --plugins-dir examples
    curl -N http://127.0.0.1:8000/api/chat/stream -H 'Content-Type: application/json' \
      -d '{"model": "markov", "messages": [{"role": "user", "content": "The server"}]}'

It is a Markov chain: which words may follow is looked up by the two words before. Set `text` to a file to have it read
something else.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import attrs

from chatcore.errors import PluginOff, ProviderRefused
from chatcore.hooks import Context, Plugin, hookimpl
from chatcore.protocols import Health, Provider
from chatcore.settings import option
from chatcore.types import Finish, Model, ModelEvent, ModelRequest, TextDelta, Usage

Chain: TypeAlias = Mapping[tuple[str, str], Sequence[str]]

LONGEST = 100
"""Words of an answer where the request has no `max_tokens`."""

TEXT = """
The server answers a question with words. The words come one after the other, and the server keeps each of them.
The reader may go away and come back, and the words are still there. A plugin adds something to the server, and the
server knows whose it is. When a plugin is taken out, the server goes on without it, and the words go on as well.
A question that has no answer is still a question, and the server keeps it for the reader who comes back.
"""


@attrs.frozen
class Settings:
    """What can be set under `[plugins.provider_plugin]` in chatcore.toml."""

    text: Path | None = option(None, help="A text to learn from, in place of the built-in one.")


@attrs.frozen
class MarkovProvider:
    """Goes on with the last words that it was given, or begins anywhere in its text."""

    chain: Chain = attrs.field(repr=False)
    name: str = "markov"
    open: bool = False
    default_model: str | None = "markov"

    def health(self) -> Health:
        return Health()

    async def models(self) -> Sequence[Model]:
        return [Model("markov", "A Markov chain", context_length=2, supports_tools=False)]

    async def stream(self, request: ModelRequest) -> AsyncIterator[Sequence[ModelEvent]]:
        said = request.messages[-1].text.split() if request.messages else []
        try:
            # Not for secrets: the same seed is to give the same answer, as with any model.
            dice = random.Random(request.parameters.get("seed"))  # noqa: S311
            longest = int(request.parameters.get("max_tokens") or LONGEST)
        except (TypeError, ValueError) as error:
            raise ProviderRefused(f"a parameter is of a wrong type: {error}", upstream_status=400) from error
        words = list(self._words(said, dice, longest))
        for word in words:
            yield [TextDelta(word + " ")]
            await asyncio.sleep(0)  # nothing here waits for a network: let the others go on
        tokens = {
            "prompt_tokens": len(said),
            "completion_tokens": len(words),
            "total_tokens": len(said) + len(words),
        }
        yield [Usage(tokens), Finish("length" if len(words) == longest else "stop", model="markov")]

    def _words(self, said: Sequence[str], dice: random.Random, longest: int) -> Iterable[str]:
        last = (said[-2], said[-1]) if len(said) > 1 else ("", "")
        if last not in self.chain:
            last = dice.choice(list(self.chain))
        for _ in range(longest):
            if last not in self.chain:
                return
            word = dice.choice(self.chain[last])
            yield word
            last = (last[1], word)


def learn(text: str) -> Chain:
    """Which words follow each two words of a text."""
    pairs = list(pairwise(text.split()))
    chain: dict[tuple[str, str], list[str]] = {}
    for pair, (_, following) in pairwise(pairs):
        chain.setdefault(pair, []).append(following)
    return chain


class Markov(Plugin[Settings]):
    """Runs a Markov chain as a model, without a key."""

    settings_class = Settings

    def __init__(self, context: Context[Settings]) -> None:
        super().__init__(context)
        file = self.settings.text
        try:
            self._chain = learn(file.read_text(encoding="utf-8") if file else TEXT)
        except (OSError, UnicodeDecodeError) as error:
            raise PluginOff(f"{file} cannot be read ({error}): set 'text' to a text file") from error
        if not self._chain:
            raise PluginOff(f"{file} has fewer than three words: set 'text' to a longer one")

    @hookimpl
    def register_providers(self) -> Iterable[Provider]:
        yield MarkovProvider(self._chain)
