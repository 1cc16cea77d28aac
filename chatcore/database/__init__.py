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
    from chatcore.database.messages import NewMessage
    from chatcore.database.pins import Pin, Pins
    from chatcore.database.questions import AskedQuestion, Questions
    from chatcore.database.recent import RecentDocuments
    from chatcore.database.runs import LogRow, NewRun, RunRecord, Runs
    from chatcore.database.tables import JsonField, Moment, Table
    from chatcore.database.tokens import TokenRecord, Tokens
    from chatcore.database.watch import Watcher

__all__ = [
    "AccountRow",
    "Accounts",
    "Approval",
    "Approvals",
    "AskedQuestion",
    "AttachmentRecord",
    "Attachments",
    "Begun",
    "Conversation",
    "ConversationRow",
    "Conversations",
    "Database",
    "Documents",
    "Jobs",
    "JsonField",
    "LogRow",
    "Moment",
    "NewMessage",
    "NewRun",
    "Pin",
    "Pins",
    "Questions",
    "RecentDocuments",
    "RunRecord",
    "Runs",
    "SignInRow",
    "SignIns",
    "Table",
    "TokenRecord",
    "Tokens",
    "Watcher",
    "sqlite_file",
]

_MODULES = {
    "AccountRow": "accounts",
    "Accounts": "accounts",
    "Approval": "approvals",
    "Approvals": "approvals",
    "AskedQuestion": "questions",
    "AttachmentRecord": "attachments",
    "Attachments": "attachments",
    "Begun": "conversations",
    "Conversation": "conversations",
    "ConversationRow": "conversations",
    "Conversations": "conversations",
    "Documents": "documents",
    "Jobs": "jobs",
    "JsonField": "tables",
    "LogRow": "runs",
    "Moment": "tables",
    "NewMessage": "messages",
    "NewRun": "runs",
    "Pin": "pins",
    "Pins": "pins",
    "Questions": "questions",
    "RecentDocuments": "recent",
    "RunRecord": "runs",
    "Runs": "runs",
    "SignInRow": "accounts",
    "SignIns": "accounts",
    "Table": "tables",
    "TokenRecord": "tokens",
    "Tokens": "tokens",
    "Watcher": "watch",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
