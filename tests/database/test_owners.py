"""Nobody reaches what is somebody else's, by any method there is or will be."""

import inspect
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import pytest

from chatcore.database import (
    AccountRow,
    Accounts,
    Approval,
    Approvals,
    AttachmentRecord,
    Attachments,
    Begun,
    Conversation,
    Conversations,
    Database,
    Documents,
    LogRow,
    NewMessage,
    NewRun,
    RecentDocuments,
    Runs,
    tables,
)
from chatcore.errors import NotFound
from chatcore.types import Principal

FILE = AttachmentRecord(
    id="a",
    conversation_id="c",
    blob="c/a__image.png",
    media_type="image/png",
    filename="image.png",
    size=1,
    created_at=datetime.now(UTC),
)
_NOW = datetime.now(UTC)
BEGUN = Begun(Conversation("c", None, "auto", False, None, None, None, _NOW, _NOW, 0), False, (), ())
# What each method is called with, beside the principal: Ann's things. `None` instead of NotFound is an answer that
# one's own empty shelf gives too.
MISSING = "not found"
CALLS: dict[tuple[type[Any], str], tuple[dict[str, Any], Any]] = {
    (Conversations, "begin"): ({"conversation_id": "c", "messages": [], "after": 1}, MISSING),
    (Conversations, "take_back"): ({"begun": BEGUN}, MISSING),
    (Conversations, "add_answer"): ({"conversation_id": "c", "parent_id": 1, "messages": []}, MISSING),
    (Conversations, "finish_tool"): ({"message_id": 3, "content": "x", "is_error": False, "metadata": {}}, MISSING),
    (Conversations, "recover_answer"): (
        {"conversation_id": "c", "run_id": "r", "question": 1, "messages": []},
        MISSING,
    ),
    (Conversations, "get"): ({"conversation_id": "c"}, MISSING),
    (Conversations, "path"): ({"conversation_id": "c"}, MISSING),
    (Conversations, "tree"): ({"conversation_id": "c"}, MISSING),
    (Conversations, "list_saved"): ({"search": "secret"}, []),
    (Conversations, "select_leaf"): ({"conversation_id": "c", "message_id": 1}, MISSING),
    (Conversations, "save"): ({"conversation_id": "c", "title": "Mine"}, "one of his own"),
    (Conversations, "unsave"): ({"conversation_id": "c"}, MISSING),
    (Conversations, "update"): ({"conversation_id": "c", "title": "Mine"}, MISSING),
    (Conversations, "set_ai_title"): ({"conversation_id": "c", "title": "Mine"}, MISSING),
    (Conversations, "delete"): ({"conversation_id": "c", "even_saved": True}, MISSING),
    (Conversations, "runs_deleted_with"): ({"conversation_id": "c", "ref": "1"}, MISSING),
    (Conversations, "delete_message"): ({"conversation_id": "c", "ref": "1"}, MISSING),
    (Runs, "get"): ({"run_id": "r"}, MISSING),
    (Runs, "running"): ({"conversation_id": "c"}, []),
    (Runs, "log"): ({"run_id": "r", "after": 0}, MISSING),
    (Approvals, "open"): ({"run_id": "r"}, []),
    (Approvals, "decide"): ({"run_id": "r", "call_id": "a", "digest": "d", "decision": "reject"}, MISSING),
    (Attachments, "add"): ({"record": FILE}, MISSING),
    (Attachments, "find"): ({"ids": ["b"]}, {}),
    (Accounts, "get"): ({"name": "mail"}, None),
    (Accounts, "refuse"): ({"name": "mail"}, None),
    (Accounts, "delete"): ({"name": "mail"}, False),
    (Documents, "get"): ({"namespace": "n", "key": "k"}, None),
    (Documents, "list"): ({"namespace": "n"}, {}),
    (Documents, "put"): ({"namespace": "n", "key": "k", "value": 2}, "one of his own"),
    (Documents, "update"): ({"namespace": "n", "key": "k", "change": lambda old: [old]}, [None]),
    (Documents, "delete"): ({"namespace": "n", "key": "k"}, False),
    (RecentDocuments, "get"): ({"namespace": "n", "key": "k"}, None),
    (RecentDocuments, "update"): ({"namespace": "n", "key": "k", "change": lambda old: [old]}, [None]),
    (RecentDocuments, "delete"): ({"namespace": "n", "key": "k"}, False),
}
# For the worker that executes runs, which no request reaches directly.
INTERNAL = {
    Runs: {"journal", "settle", "finish", "hand_over", "renew", "claim_expired", "forget", "prune", "news", "signal"}
    | {"signals"},
    Approvals: {"request", "unsettled", "settle", "close", "paused"},
    Attachments: {"orphans", "forget"},
    Accounts: {"list", "any", "put"},  # the operator's; and a row names its owner
}


def methods() -> list[tuple[type[Any], str]]:
    """All methods of the repositories whose things have owners."""
    return [
        (repository, name)
        for repository in (Conversations, Runs, Approvals, Attachments, Accounts, Documents, RecentDocuments)
        for name, method in inspect.getmembers(repository, inspect.iscoroutinefunction)
        if name not in INTERNAL.get(repository, ())
    ]


def test_principal_comes_first() -> None:
    """Every method asks for the principal before anything else, and every one is tried below."""
    for repository, name in methods():
        assert list(inspect.signature(getattr(repository, name)).parameters)[1] == "principal", (repository, name)
    assert set(methods()) == set(CALLS)


@pytest.mark.parametrize(("repository", "name"), CALLS)
async def test_stranger(
    database: Database,
    ann: Principal,
    bob: Principal,
    user: Callable[..., NewMessage],
    answer: Callable[..., list[NewMessage]],
    new_run: Callable[..., NewRun],
    repository: type[Any],
    name: str,
) -> None:
    """A stranger is told that there is no such thing, and changes nothing; the owner may do the same thing."""
    conversations, runs = Conversations(database), Runs(database)
    begun = await conversations.begin(ann, conversation_id="c", messages=[user("secret")], run=new_run("r"))
    await conversations.add_answer(ann, "c", begun.path[0].id, answer("1", "look", run_id="r"))
    await conversations.save(ann, "c")
    await runs.settle("here", [LogRow("r", 1, 1, b"x")])
    await Documents(database).put(ann, "n", "k", 1)
    await Approvals(database).request([_asked("r")], {})
    await Attachments(database).add(ann, attrs.evolve(FILE, id="b"))
    mail = AccountRow(owner="ann", name="mail", subject="", scopes=[], sealed="x", expires_at=None)
    await Accounts(database).put(mail)
    before = await _everything_of(database, "ann")
    options, expected = CALLS[repository, name]
    handle = repository(Documents(database) if repository is RecentDocuments else database)
    if name == "begin":
        options = {**options, "run": new_run()}
    if expected is MISSING:
        with pytest.raises(NotFound):
            await getattr(handle, name)(bob, **options)
    else:
        given = await getattr(handle, name)(bob, **options)
        assert given == expected or expected == "one of his own"
    assert await _everything_of(database, "ann") == before
    if name == "begin":
        options = {**options, "run": new_run()}
    await getattr(handle, name)(ann, **options)


def _asked(run_id: str) -> Approval:
    return Approval(
        place=3,
        run_id=run_id,
        conversation_id="c",
        call_id="a",
        tool="look",
        arguments={},
        digest="d",
        expires_at=datetime.now(UTC) + timedelta(minutes=1),
    )


async def _everything_of(database: Database, owner: str) -> list[Any]:
    return await database.read(
        lambda: [
            tables.execute("SELECT * FROM conversation WHERE owner = ?", owner),
            tables.execute("SELECT * FROM message"),
            tables.execute("SELECT * FROM run"),
            tables.execute("SELECT * FROM run_log"),
            tables.execute("SELECT * FROM approval"),
            tables.execute("SELECT * FROM attachment"),
            tables.execute("SELECT * FROM account WHERE owner = ?", owner),
            tables.execute("SELECT * FROM document WHERE owner = ?", owner),
        ]
    )
