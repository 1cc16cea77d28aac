"""Talking: asking, showing the answer, and the prompt with its commands.

The main thread waits for keys and for Ctrl-C; everything that awaits runs in the loop behind the portal.
"""

import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from queue import SimpleQueue
from typing import NoReturn, TypeVar

import click
from anyio.from_thread import BlockingPortal
from rich.console import Console

from chatcore.console import harmless, printable
from chatcore.errors import ChatcoreError
from chatcore.terminal.client import ChatClient, Choice
from chatcore.terminal.frames import Approval, Asked, Note, Problem
from chatcore.terminal.questions import allowed, answer_of
from chatcore.terminal.screen import PlainScreen, RichScreen, Screen

LISTED = 40
"""How many models are listed at most."""

T = TypeVar("T")


class Talk:
    """One person's conversation with a server. Methods named in `COMMANDS` are what a line with a slash calls."""

    def __init__(self, portal: BlockingPortal, client: ChatClient) -> None:
        self._portal = portal
        self._client = client
        self._console = Console()
        self._left = False

    # --- answers ------------------------------------------------------------------------------------------------------

    def ask(self, text: str) -> int:
        """Shows the answer. Gives the exit code that it would mean: 0, 1 for an error, 130 if it was stopped.

        Ctrl-C stops the answer, on the server too; a second one does not wait for the server.
        """
        failed, stopped = False, False

        def stop() -> None:
            nonlocal stopped
            if stopped:
                raise KeyboardInterrupt
            stopped = True
            self._portal.start_task_soon(self._client.stop)

        shown: Screen = RichScreen(self._console) if self._console.is_terminal else PlainScreen()
        with shown as screen, _on_ctrl_c(stop):
            try:
                for part in _iterate(self._portal, self._client.ask(text, can_approve=sys.stdin.isatty())):
                    if isinstance(part, Approval | Asked):
                        self._ask_back(part, screen, stop)
                    else:
                        screen.show(part)
                    failed = failed or isinstance(part, Problem)
            except ChatcoreError as error:
                failed = True
                screen.show(Problem(error.in_full))
            except KeyboardInterrupt:
                stopped = True
            if stopped:
                screen.show(Note("Stopped."))
        return 130 if stopped else int(failed)

    def _ask_back(self, asked: Approval | Asked, screen: Screen, stop: Callable[[], None]) -> None:
        """Asks whether a call may be run, or what a tool asks. Ctrl-C stops the answer instead."""
        try:
            with screen.pause(), _on_ctrl_c(_interrupt):
                if isinstance(asked, Approval):
                    allow = allowed(f"{asked.tool} is to be run with {asked.arguments}. Allow it? [y/N] ")
                    send = partial(self._client.decide, asked, allow=allow)
                else:
                    send = partial(self._client.answer, asked, *answer_of(asked))
            self._portal.call(send)
        except KeyboardInterrupt:
            stop()
        except ChatcoreError as error:
            screen.show(Note(error.in_full))

    # --- the prompt ---------------------------------------------------------------------------------------------------

    def converse(self) -> None:
        """Asks what is typed, until somebody leaves."""
        _edit_lines()
        while not self._left and (text := _typed()) is not None:
            if text.startswith("/") and not text.startswith("//"):
                name, _, argument = text[1:].partition(" ")
                self._command(name, argument.strip())
            elif text.strip():
                self.ask(text.removeprefix("/"))

    def _command(self, name: str, argument: str) -> None:
        if name not in COMMANDS:
            click.echo(f"There is no command /{name}: /help lists them. A message may begin with //.")
            return
        try:
            COMMANDS[name][0](self, argument)
        except ChatcoreError as error:
            click.echo(harmless(error.in_full))

    def help(self, _argument: str) -> None:
        for name, (_, text) in COMMANDS.items():
            click.echo(f"/{name:<8}{text}")
        click.echo(
            "A line that ends with \\ goes on in the next one. Ctrl-C stops an answer, and leaves at the prompt."
        )

    def new(self, _argument: str) -> None:
        self._client.forget()
        click.echo("A new conversation.")

    def model(self, wanted: str) -> None:
        found = self._portal.call(self._client.models, wanted)
        exact = [choice for choice in found if choice.id == wanted]
        if not wanted:
            click.echo(f"The model is {self._client.model or self._client.answered_by or 'the server’s default'}.")
        if wanted and len(exact or found) == 1:
            self._client.model = (exact or found)[0].id
            click.echo(f"The model is {self._client.model} from now on.")
            return
        for choice in found[:LISTED]:
            click.echo(_line(choice))
        if len(found) > LISTED:
            click.echo(f"… and {len(found) - LISTED} more: /model TEXT lists those that have a text in them.")
        if not found:
            click.echo(f"No model has {wanted!r} in it.")

    def quit(self, _argument: str) -> None:
        self._left = True


COMMANDS: Mapping[str, tuple[Callable[[Talk, str], None], str]] = {
    "model": (Talk.model, "lists the models; with a part of a name those that have it, or switches to the only one"),
    "new": (Talk.new, "begins a new conversation"),
    "help": (Talk.help, "says this"),
    "quit": (Talk.quit, "leaves, as Ctrl-D does"),
}


def _line(choice: Choice) -> str:
    length = f"{choice.context_length:,} tokens" if choice.context_length else ""
    price = "" if choice.price is None else f"${choice.price:g}/M" if choice.price else "free"
    return f"  {printable(choice.id):<50} {length:>17} {price:>10}".rstrip()


# --- keys -------------------------------------------------------------------------------------------------------------


def _typed() -> str | None:
    """A message, of several lines where one ends with a backslash; None when somebody leaves."""
    lines = []
    try:
        lines.append(input("> "))
        while lines[-1].endswith("\\"):
            lines[-1] = lines[-1][:-1]
            lines.append(input("… "))
    except (EOFError, KeyboardInterrupt):
        click.echo()
        return None
    return "\n".join(lines)


def _interrupt() -> NoReturn:
    raise KeyboardInterrupt


def _edit_lines() -> None:
    """Gives `input` a history and the keys of readline. A pasted text with several lines is one message."""
    with suppress(ImportError):  # not there on every platform
        import readline  # noqa: PLC0415  as above

        readline.parse_and_bind("set enable-bracketed-paste on")


@contextmanager
def _on_ctrl_c(call: Callable[[], None]) -> Iterator[None]:
    before = signal.signal(signal.SIGINT, lambda _number, _frame: call())
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _iterate(portal: BlockingPortal, source: AsyncIterator[T]) -> Iterator[T]:
    """What an iterator in the loop gives, in this thread. Leaving the iteration closes it."""
    items: SimpleQueue[tuple[T] | None] = SimpleQueue()

    async def pump() -> None:
        try:
            async for item in source:
                items.put((item,))
        finally:
            items.put(None)

    pumping = portal.start_task_soon(pump)
    try:
        while (item := items.get()) is not None:
            yield item[0]
        pumping.result()
    finally:
        pumping.cancel()


def piped() -> str | None:
    """The question on standard input; None if that is a terminal."""
    return None if sys.stdin.isatty() else sys.stdin.read().strip()
