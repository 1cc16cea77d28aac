"""The built-in plugin for chatting in a terminal."""

from collections.abc import Iterable

import click

from chatcore.builtin.terminal.command import chat
from chatcore.hooks import NoSettings, Plugin, hookimpl


class Terminal(Plugin[NoSettings]):
    """Chats in the terminal, with a running server or without one."""

    @hookimpl
    def register_commands(self) -> Iterable[click.Command]:
        yield chat
