"""Tools, in one file: the model can keep notes for a person and find them again.

    chatcore serve --plugins-dir examples

Each person has notes of their own: a tool with a parameter of type `Invocation` is told for whom it runs. The model is
not shown that parameter.
"""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import attrs
from attrs import validators

from chatcore.errors import ToolFailed
from chatcore.hooks import Context, Plugin, hookimpl
from chatcore.settings import option
from chatcore.tools import Invocation, Tool


@attrs.frozen
class Settings:
    """What can be set under `[plugins.tool_plugin]` in chatcore.toml."""

    most: int = option(1000, help="The most notes that are kept for one person.", validator=validators.ge(1))


class Notes(Plugin[Settings]):
    """Lets the model keep notes and find them again."""

    settings_class = Settings

    def __init__(self, context: Context[Settings]) -> None:
        super().__init__(context)
        self._writing = asyncio.Lock()  # a model may ask for several notes at once

    @hookimpl
    def register_tools(self) -> Iterable[Tool]:
        yield Tool.of(self.note_add)
        yield Tool.of(self.note_find, read_only=True)

    async def note_add(self, text: str, invocation: Invocation) -> str:
        """Keep a note for the user.

        Args:
            text: the note, one line.
            invocation: for whom; the model is not shown it.
        """
        line = " ".join(text.split())
        if not line:
            raise ToolFailed("the note is empty: give the text to keep")
        async with self._writing:
            number = await asyncio.to_thread(self._append, self._file(invocation), line)
        return f"Kept as note {number}."

    async def note_find(self, words: str, invocation: Invocation) -> Sequence[str]:
        """Find notes of the user.

        Args:
            words: what must all occur in a note; empty finds every note.
            invocation: for whom; the model is not shown it.
        """
        notes = await asyncio.to_thread(_read, self._file(invocation))
        wanted = words.casefold().split()
        return [note for note in notes if all(word in note.casefold() for word in wanted)]

    def _append(self, file: Path, line: str) -> int:
        notes = _read(file)
        if len(notes) >= self.settings.most:
            raise ToolFailed(f"there are {len(notes)} notes already, which is the limit")
        with file.open("a", encoding="utf-8") as stream:
            stream.write(f"{line}\n")
        return len(notes) + 1

    def _file(self, invocation: Invocation) -> Path:
        # A principal's name may be any text; its hash is always a file name.
        return self.context.data / f"{hashlib.sha256(invocation.principal_id.encode()).hexdigest()[:32]}.txt"


def _read(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []
