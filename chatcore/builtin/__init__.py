"""The plugins that ship with the core. They come in through the same door as every other plugin."""

from collections.abc import Sequence
from typing import Any

from chatcore.builtin.accounts import AccountRoutes
from chatcore.builtin.chat import Chat
from chatcore.builtin.disk import Disk
from chatcore.builtin.echo import Echo
from chatcore.builtin.library import Library
from chatcore.builtin.models import Models
from chatcore.builtin.pages import Pages
from chatcore.builtin.review import Review
from chatcore.builtin.service import Service
from chatcore.builtin.tokens import Tokens
from chatcore.hooks import Plugin

BUILTINS: Sequence[tuple[str, type[Plugin[Any]]]] = (
    ("service", Service),
    ("chat", Chat),
    ("models", Models),
    ("library", Library),
    ("review", Review),
    ("tokens", Tokens),
    ("accounts", AccountRoutes),
    ("disk", Disk),
    ("pages", Pages),
    ("echo", Echo),
)
"""By name, in the order in which they are loaded: before those that were installed."""
