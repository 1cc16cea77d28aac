"""Shows answers: as rendered Markdown that grows in place, or as plain text where the output is not a terminal."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, Self

import click
from markdown_it import MarkdownIt
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markdown import Markdown
from rich.segment import Segment
from rich.spinner import Spinner
from rich.text import Text as Styled

from chatcore.console import harmless
from chatcore.terminal.frames import Note, Part, Problem, Reasoning, Text, ToolUse

FRAMES_PER_SECOND = 12


class Screen(Protocol):
    """Shows the parts of one answer; a context, at whose end everything is on the screen."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def show(self, part: Part) -> None: ...

    def pause(self) -> AbstractContextManager[object]:
        """While somebody is asked something: what was shown stays above."""


class PlainScreen:
    """The answer's text on standard output as it comes, so that it can be piped; everything else on standard error."""

    def __init__(self) -> None:
        self._end = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        click.echo("" if self._end.endswith("\n") or not self._end else "\n", nl=False)

    def show(self, part: Part) -> None:
        match part:
            case Text(text):
                click.echo(text, nl=False)
                self._end = text
            case Problem(text):
                click.echo(f"Error: {harmless(text)}", err=True)
            case Note(text):
                click.echo(harmless(text), err=True)
            case ToolUse(name, status):
                click.echo(f"[{harmless(name)} {status}]", err=True)

    @contextmanager
    def pause(self) -> Iterator[None]:
        if self._end and not self._end.endswith("\n"):
            click.echo()
        self._end = ""
        yield


class RichScreen:
    """Rendered Markdown.

    Blocks that are complete are printed once and for all; only the last one, which still grows, is drawn again and
    again. So nothing flickers, however long the answer is, and the terminal's own scrolling has all of it.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, refresh_per_second=FRAMES_PER_SECOND, transient=True)
        self._kind: type[Text | Reasoning] = Text
        self._growing = ""

    def __enter__(self) -> Self:
        self._live.update(Spinner("dots", style="dim"))
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._complete(len(self._growing))
        self._live.stop()

    def show(self, part: Part) -> None:
        match part:
            case Text(text) | Reasoning(text):
                self._grow(type(part), text)
            case ToolUse(name, status):
                mark, style = {"started": ("…", "dim"), "finished": ("✓", "dim green")}.get(status, ("✗", "red"))
                self._line(f"{mark} {name}", style)
            case Note(text):
                self._line(text, "dim")
            case Problem(text):
                self._line(text, "red")

    @contextmanager
    def pause(self) -> Iterator[None]:
        self._complete(len(self._growing))
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def _grow(self, kind: type[Text | Reasoning], text: str) -> None:
        if kind is not self._kind:
            self._complete(len(self._growing))
            self._kind = kind
        self._growing += harmless(text)
        if "\n" in text:
            self._complete(_start_of_last_block(self._growing))
        self._live.update(_Block(self._rendered(self._growing), self._console.height - 2))

    def _line(self, text: str, style: str) -> None:
        self._complete(len(self._growing))
        self._live.console.print(Styled(harmless(text), style))

    def _complete(self, length: int) -> None:
        """Prints the first `length` characters of what grows, and lets the rest grow on."""
        block, self._growing = self._growing[:length], self._growing[length:]
        if block.strip():
            self._live.update(Styled(), refresh=True)
            self._live.console.print(_Block(self._rendered(block)), "\n", end="", sep="")

    def _rendered(self, text: str) -> RenderableType:
        return Markdown(text) if self._kind is Text else Styled(text.strip(), "dim italic")


class _Block:
    """Something without the empty lines around it; of more than `height` lines only the last ones.

    A terminal cannot draw again what has left it at the top.
    """

    def __init__(self, whole: RenderableType, height: int | None = None) -> None:
        self._whole = whole
        self._height = height

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = console.render_lines(self._whole, options.update(height=None), pad=False)
        full = [number for number, line in enumerate(lines) if any(segment.text.strip() for segment in line)]
        shown = lines[full[0] : full[-1] + 1] if full else []
        for line in shown if self._height is None else shown[-max(self._height, 1) :]:
            yield from line
            yield Segment.line()


def _start_of_last_block(markdown: str) -> int:
    """Where the last block of a Markdown text begins: the blocks before it cannot change any more."""
    blocks = [token.map[0] for token in MarkdownIt().parse(markdown) if token.level == 0 and token.map]
    return sum(map(len, markdown.splitlines(keepends=True)[: blocks[-1]])) if blocks else 0
