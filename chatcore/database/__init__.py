"""The database: a handle with threads of its own, tables, migrations, and repositories by subject.

The names below are imported when first used, because most of them need peewee, which takes a while to import.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from chatcore.database.handle import Database
from chatcore.database.urls import sqlite_file

if TYPE_CHECKING:
    from chatcore.database.accounts import AccountRow, Accounts, SignInRow, SignIns
    from chatcore.database.approvals import Approval, Approvals
    from chatcore.database.attachments import AttachmentRecord, Attachments
    from chatcore.database.conversations import Begun, Conversation, ConversationRow, Conversations
    from chatcore.database.documents import Documents
    from chatcore.database.jobs import Jobs
    from chatcore.database.messages import NewMessage, json_size
    from chatcore.database.pins import Pin, Pins
    from chatcore.database.questions import AskedQuestion, Questions
    from chatcore.database.recent import RecentDocuments
    from chatcore.database.runs import LogRow, NewRun, RunRecord, Runs
    from chatcore.database.tables import JsonField, Moment, Table
    from chatcore.database.tokens import TokenRecord, Tokens
    from chatcore.database.watch import Watcher

_MODULES = {
    "accounts": ("AccountRow", "Accounts", "SignInRow", "SignIns"),
    "approvals": ("Approval", "Approvals"),
    "attachments": ("AttachmentRecord", "Attachments"),
    "conversations": ("Begun", "Conversation", "ConversationRow", "Conversations"),
    "documents": ("Documents",),
    "jobs": ("Jobs",),
    "messages": ("NewMessage", "json_size"),
    "pins": ("Pin", "Pins"),
    "questions": ("AskedQuestion", "Questions"),
    "recent": ("RecentDocuments",),
    "runs": ("LogRow", "NewRun", "RunRecord", "Runs"),
    "tables": ("JsonField", "Moment", "Table"),
    "tokens": ("TokenRecord", "Tokens"),
    "watch": ("Watcher",),
}
_HOME = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [  # noqa: RUF022  in the order above
    "Database", "sqlite_file",
    "AccountRow", "Accounts", "SignInRow", "SignIns",
    "Approval", "Approvals",
    "AttachmentRecord", "Attachments",
    "Begun", "Conversation", "ConversationRow", "Conversations",
    "Documents",
    "Jobs",
    "NewMessage", "json_size",
    "Pin", "Pins",
    "AskedQuestion", "Questions",
    "RecentDocuments",
    "LogRow", "NewRun", "RunRecord", "Runs",
    "JsonField", "Moment", "Table",
    "TokenRecord", "Tokens",
    "Watcher",
]  # fmt: skip


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
