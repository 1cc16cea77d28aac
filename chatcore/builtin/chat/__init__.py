"""The chat API: turns, runs and conversations over HTTP (contract §1.2 and §2)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from chatcore.hooks import NoSettings, Plugin, hookimpl

if TYPE_CHECKING:
    from quart import Blueprint


class Chat(Plugin[NoSettings]):
    """The chat API: turns, runs and conversations."""

    @hookimpl
    def register_routes(self) -> "Iterable[Blueprint]":
        from chatcore.builtin.chat import approvals, attachments, routes  # noqa: PLC0415  Quart is needed by a server only

        yield routes.blueprint
        yield approvals.blueprint
        yield attachments.blueprint
