"""Conversations: turns, lists, titles, and deleting."""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from chatcore.database import (
    AttachmentRecord,
    Attachments,
    Conversations,
    Database,
    LogRow,
    NewMessage,
    NewRun,
    Runs,
    tables,
)
from chatcore.database.messages import size_in_sql
from chatcore.database.runs import set_state
from chatcore.database.sqlite import Sqlite
from chatcore.errors import Conflict, NotFound, RequestError, TooLarge
from chatcore.types import Message, Principal

User = Callable[..., NewMessage]
Answer = Callable[..., list[NewMessage]]
MakeRun = Callable[..., NewRun]


@pytest.fixture
def begin(conversations: Conversations, ann: Principal, new_run: MakeRun) -> Callable[..., Any]:
    """Begins turns of Ann's."""

    async def begin(*messages: NewMessage, conversation_id: str | None = "c", **options: Any) -> Any:
        options.setdefault("run", new_run())
        return await conversations.begin(ann, conversation_id=conversation_id, messages=messages, **options)

    return begin


# --- a turn -----------------------------------------------------------------------------------------------------------


async def test_first_turn(begin: Any, user: User, runs: Runs, ann: Principal, new_run: MakeRun) -> None:
    """A turn makes its conversation, stores what is new, and gives what the model is to be asked."""
    system = NewMessage(message=Message(role="system", content="Be kind."))
    run = new_run("r", client_id="cli", turn={"a": [1]})
    begun = await begin(system, user("Hello", client_message_id="u1"), run=run, conversation_id=None)
    assert begun.created
    assert len(begun.conversation.id) == 32
    assert begun.path == begun.stored
    assert [(row.message.role, row.message.text) for row in begun.path] == [("system", "Be kind."), ("user", "Hello")]
    assert [row.parent_id for row in begun.path] == [None, begun.path[0].id]
    assert begun.conversation.leaf == begun.path[-1].id
    assert begun.path[1].client_message_id == "u1"
    record = await runs.get(ann, "r")
    assert (record.conversation_id, record.state, record.question) == (
        begun.conversation.id,
        "running",
        begun.path[1].id,
    )
    assert (record.worker, record.client_id, record.turn, record.lease_until) == (
        "here",
        "cli",
        {"a": [1]},
        run.lease_until,
    )


async def test_next_turn(begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal) -> None:
    """A later turn goes on at the end of the active path, and knows all of it."""
    first = await begin(user("One"))
    answered = await conversations.add_answer(ann, "c", first.path[-1].id, answer("1", "look", "touch"))
    second = await begin(user("Two"))
    assert not second.created
    assert second.path == first.stored + answered + second.stored
    assert second.stored[0].parent_id == answered[-1].id
    assert await conversations.path(ann, "c") == second.path
    assert (await conversations.get(ann, "c")) == second.conversation


async def test_branch(begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal) -> None:
    """`after` begins a branch there, below the tools if there are any; 0 begins one at the root."""
    first = await begin(user("One"))
    answered = await conversations.add_answer(ann, "c", first.path[-1].id, answer("1", "look", "touch"))
    await begin(user("Two"))
    for place in answered:
        branch = await begin(user("Three"), after=place.id)
        assert branch.path == first.stored + answered + branch.stored
    root = await begin(user("Four"), after=0)
    assert root.path == root.stored
    assert await conversations.path(ann, "c") == root.path
    again = await begin(after=first.path[0].id)
    assert again.path == first.path
    assert len(await conversations.tree(ann, "c")) == 3 + 1 + 1 + 3 + 1


async def test_branch_of_nothing(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """`after` must be in this conversation; if it is not, nothing is stored, not even the conversation."""
    other = await begin(user("One"), conversation_id="other")
    await begin(user("One"))
    for after in (other.path[0].id, 10_000, -1):
        with pytest.raises(NotFound, match="Message not found"):
            await begin(user("Two"), after=after)
    with pytest.raises(RequestError):
        await begin(user("Two"), after=2**80)
    with pytest.raises(NotFound):
        await begin(user("Two"), after=1, conversation_id="new")
    with pytest.raises(NotFound, match="Conversation not found"):
        await conversations.get(ann, "new")
    assert len(await conversations.tree(ann, "c")) == 1


async def test_taking_back(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """Of a turn that is taken back nothing is left, and the path is the one that it was: also where the turn began a
    branch, or was to make an answer anew."""
    first = await begin(user("One"))
    answered = await conversations.add_answer(ann, "c", first.path[-1].id, answer("1"))
    path, size = first.stored + answered, (await conversations.get(ann, "c")).size
    for messages, after in (
        ([user("Two", client_message_id=str(first.path[0].id))], None),
        ([user("Other"), user("More")], 0),
        ([], first.path[0].id),
    ):
        begun = await begin(*messages, after=after)
        await conversations.take_back(ann, begun)
        assert await conversations.path(ann, "c") == path
        assert (await conversations.get(ann, "c")).size == size
    assert await conversations.tree(ann, "c") == path


async def test_taking_back_a_first_turn(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """The conversation goes, too, unless somebody has saved it meanwhile."""
    await conversations.take_back(ann, await begin(user("One")))
    with pytest.raises(NotFound):
        await conversations.get(ann, "c")
    begun = await begin(user("One"))
    await conversations.save(ann, "c")
    await conversations.take_back(ann, begun)
    assert await conversations.path(ann, "c") == ()


async def test_taking_back_what_has_changed_meanwhile(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal
) -> None:
    """What others have deleted stays so, and a path that somebody has chosen."""
    first = await begin(user("One"))
    answered = await conversations.add_answer(ann, "c", first.path[-1].id, answer("1"))
    begun = await begin(user("Two"))
    await conversations.delete_message(ann, "c", str(answered[0].id))
    await conversations.take_back(ann, begun)
    assert await conversations.path(ann, "c") == first.path
    begun = await begin(user("Three"), after=0)
    await conversations.select_leaf(ann, "c", first.path[0].id)
    await conversations.take_back(ann, begun)
    assert await conversations.path(ann, "c") == first.path


async def test_question_of_a_run(begin: Any, user: User, answer: Answer, runs: Runs, ann: Principal) -> None:
    """A run answers the last message of the user on its path, new or not."""
    first = await begin(user("One"), user("And"))
    await begin(run=NewRun(id="again", worker="w", lease_until=datetime.now(UTC), model="m", format="chat"))
    assert (await runs.get(ann, "again")).question == first.path[1].id


async def test_one_run_at_a_time(begin: Any, user: User, runs: Runs, new_run: MakeRun) -> None:
    """With `exclusive` a turn is refused while another is under way, unless the worker of that one is dead."""
    await begin(user("One"), run=new_run("r1"))
    with pytest.raises(Conflict, match="being written"):
        await begin(user("Two"), exclusive=True)
    await begin(user("Elsewhere"), conversation_id="d", exclusive=True)
    await begin(user("Beside it"))
    await runs.database.write(lambda: set_state("r1", "waiting"))
    with pytest.raises(Conflict):
        await begin(user("Two"), exclusive=True)
    await runs.renew("here", ["r1", "run3"], datetime.now(UTC) - timedelta(seconds=1))
    for run_id in ("run2", "run3", "run4", "run5"):
        await runs.finish(run_id, "completed", "stop", 1)
    await begin(user("Two"), exclusive=True, run=new_run("r2"))
    await runs.finish("r2", "completed", "stop", 1)
    await begin(user("Three"), exclusive=True)


async def test_same_id_of_two_owners(
    conversations: Conversations, ann: Principal, bob: Principal, user: User, new_run: MakeRun
) -> None:
    """Two people may choose the same id and know nothing of each other."""
    for principal in (ann, bob):
        begun = await conversations.begin(
            principal, conversation_id="default", messages=[user(f"I am {principal.id}")], run=new_run()
        )
        assert begun.created
        assert [row.message.content for row in begun.path] == [f"I am {principal.id}"]
    await conversations.delete(bob, "default", even_saved=True)
    assert len(await conversations.path(ann, "default")) == 1


async def test_begins_at_once(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """Turns that begin at the same time come one after the other."""
    begun = await asyncio.gather(*(begin(user(str(number))) for number in range(20)))
    assert sum(one.created for one in begun) == 1
    path = await conversations.path(ann, "c")
    assert sorted(len(one.path) for one in begun) == list(range(1, 21))
    assert len(path) == 20


async def test_answer_under_a_branch_that_was_left(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal
) -> None:
    """An answer is stored where it belongs; the active path follows only if it ended there."""
    first = await begin(user("One"))
    second = await begin(user("Two"))
    stored = await conversations.add_answer(ann, "c", first.path[-1].id, answer("1"))
    assert (await conversations.get(ann, "c")).leaf == second.path[-1].id
    assert (await conversations.select_leaf(ann, "c", stored[0].id)).leaf == stored[0].id
    assert await conversations.path(ann, "c") == first.path + stored
    assert await conversations.path(ann, "c", second.path[-1].id) == second.path
    assert await conversations.add_answer(ann, "c", stored[0].id, []) == ()


async def test_answer_to_nothing(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal
) -> None:
    """An answer to a message that is gone, or in another conversation, is refused."""
    other = await begin(user("One"), conversation_id="other")
    await begin(user("One"))
    with pytest.raises(NotFound, match="Message not found"):
        await conversations.add_answer(ann, "c", other.path[0].id, answer("1"))
    with pytest.raises(NotFound, match="Conversation not found"):
        await conversations.add_answer(ann, "nowhere", other.path[0].id, answer("1"))
    with pytest.raises(NotFound):
        await conversations.path(ann, "c", other.path[0].id)
    with pytest.raises(NotFound):
        await conversations.select_leaf(ann, "c", other.path[0].id)


async def test_answers_of_tools(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal
) -> None:
    """A tool's answer goes into its place, once; what stands beside it is kept."""
    first = await begin(user("One"))
    _, place, other = await conversations.add_answer(ann, "c", first.path[-1].id, answer(None, "look", "touch"))
    assert (place.state, place.message.content, place.tool_name) == ("pending", "unknown", "look")
    parts = ({"type": "text", "text": "seen"},)
    done = await conversations.finish_tool(ann, place.id, parts, is_error=False, metadata={"seconds": 1})
    assert (done.state, done.message.content, done.message.tool_call_id) == ("complete", parts, "call_look")
    assert (done.tool_name, done.metadata, done.created_at) == ("look", {"seconds": 1}, place.created_at)
    failed = await conversations.finish_tool(ann, other.id, "no", is_error=True, metadata={})
    assert failed.is_error
    assert (await conversations.path(ann, "c"))[-2:] == (done, failed)
    for message_id, error in ((place.id, Conflict), (first.path[0].id, Conflict), (999, NotFound)):
        with pytest.raises(error):
            await conversations.finish_tool(ann, message_id, "again", is_error=False, metadata={})


async def test_answer_of_a_dead_worker(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """What is known of a broken-off answer is stored at the end of its run, and no tool is waited for any more."""
    first = await begin(user("One"), run=new_run("r"))
    question = first.path[-1].id
    stored = await conversations.add_answer(ann, "c", question, answer("1", "look", run_id="r"))
    partial = answer("2", run_id="r", state="partial")
    recovered = await conversations.recover_answer(ann, "c", "r", question, partial, told=[stored[0].id])
    path = await conversations.path(ann, "c")
    assert [(row.message.content, row.state) for row in path] == [
        ("One", "complete"), ("1", "complete"), ("unknown", "complete"), ("2", "partial"),
    ]  # fmt: skip
    assert path[-1:] == recovered


async def test_answer_that_the_log_did_not_live_to_tell_of(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """An answer that was stored, while the log holds only its beginning, is not stored a second time."""
    first = await begin(user("One"), run=new_run("r"))
    question = first.path[-1].id
    one = await conversations.add_answer(ann, "c", question, answer("1", "look", run_id="r"))
    two = await conversations.add_answer(ann, "c", one[-1].id, answer("2", run_id="r"))
    beginning = answer("2", run_id="r", state="partial")
    assert await conversations.recover_answer(ann, "c", "r", question, beginning, told=[one[0].id]) == two
    assert await conversations.recover_answer(ann, "c", "r", question, [], told=[one[0].id, two[0].id]) == ()
    assert len(await conversations.path(ann, "c")) == 4


async def test_dead_run_that_said_nothing(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """Of an answer that was to be made anew the earlier one, the last of several, is the conversation's again."""
    first = await begin(user("One"))
    question = first.path[-1].id
    for text in "12":
        await begin(after=question)
        await conversations.add_answer(ann, "c", question, answer(text))
    path = await conversations.path(ann, "c")
    await begin(after=question, run=new_run("r"))
    assert await conversations.recover_answer(ann, "c", "r", question, [], told=[]) == ()
    assert await conversations.path(ann, "c") == path
    asked = await begin(user("Two"), run=new_run("s"))
    assert await conversations.recover_answer(ann, "c", "s", asked.path[-1].id, [], told=[]) == ()
    assert await conversations.path(ann, "c") == asked.path


async def test_dead_run_whose_question_is_gone(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """The rest of an answer to a deleted question is dropped."""
    first = await begin(user("One"), user("Two"), run=new_run("r"))
    question = first.path[-1].id
    await conversations.delete_message(ann, "c", str(question))
    assert await conversations.recover_answer(ann, "c", "r", question, answer("2", run_id="r"), told=[]) == ()
    assert len(await conversations.tree(ann, "c")) == 1


# --- titles and settings ----------------------------------------------------------------------------------------------


async def test_automatic_title(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """The first text of the user names the conversation; later ones do not."""
    image = ({"type": "image_url", "image_url": {"url": "data:"}},)
    assert (await begin(user(image))).conversation.title is None
    begun = await begin(user("  " + "long " * 20))
    assert begun.conversation.title == ("long " * 20)[:57] + "..."
    assert begun.conversation.title_source == "auto"
    await begin(user("Something else"))
    assert (await conversations.get(ann, "c")).title == begun.conversation.title


async def test_title_of_the_user(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """What the user called a conversation stays, whatever a model thinks of it."""
    await begin(user("Hello"))
    assert (await conversations.set_ai_title(ann, "c", "Greeting")).title_source == "ai"
    chosen = await conversations.update(ann, "c", title=" Mine ")
    assert (chosen.title, chosen.title_source) == ("Mine", "user")
    assert await conversations.set_ai_title(ann, "c", "Greeting") == chosen
    assert await conversations.update(ann, "c", title="  ") == chosen


async def test_saving(conversations: Conversations, ann: Principal) -> None:
    """Saving makes the conversation if need be; what is not given stays as it is."""
    saved = await conversations.save(ann, "c", title="Mine", llm_settings={"model": "echo"})
    assert (saved.saved, saved.title, saved.title_source, saved.llm_settings) == (
        True,
        "Mine",
        "user",
        {"model": "echo"},
    )
    assert await conversations.save(ann, "c") == saved
    assert await conversations.save(ann, "c", title="  ") == saved
    assert await conversations.get(ann, "c") == saved
    assert await conversations.save(ann, "c", llm_settings=None) == saved
    unsaved = await conversations.unsave(ann, "c")
    assert (unsaved.saved, unsaved.title) == (False, "Mine")
    assert await conversations.update(ann, "c", llm_settings={"a": 1}) == await conversations.get(ann, "c")
    assert await conversations.update(ann, "c") == await conversations.get(ann, "c")
    for change in (conversations.unsave, conversations.update):
        with pytest.raises(NotFound):
            await change(ann, "nowhere")


# --- the list ---------------------------------------------------------------------------------------------------------


async def test_list_of_saved_conversations(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal
) -> None:
    """Saved conversations are listed, those with the latest messages first, with a count and a preview."""
    for name in ("a", "b", "c", "hidden"):
        begun = await begin(user(f"{name} " + "x" * 300), conversation_id=name)
        await conversations.add_answer(ann, name, begun.path[-1].id, answer("1"))
        if name != "hidden":
            await conversations.save(ann, name)
    await conversations.save(ann, "empty")
    await begin(user(({"type": "text", "text": "parts"},)), conversation_id="a")
    rows = await conversations.list_saved(ann)
    assert [(row.conversation.id, row.message_count, row.preview[:4]) for row in rows] == [
        ("a", 3, "a xx"),
        ("empty", 0, ""),
        ("c", 2, "c xx"),
        ("b", 2, "b xx"),
    ]
    assert {len(row.preview) for row in rows} == {0, 200}
    assert rows[0].conversation == await conversations.get(ann, "a")
    assert list(await conversations.list_saved(ann, limit=2, offset=1)) == list(rows[1:3])
    assert list(await conversations.list_saved(ann, limit=2, offset=9)) == []


async def test_preview_is_plain_text(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """Of a message in parts the preview shows the text, not the JSON."""
    await conversations.save(ann, "c")
    await begin(user(({"type": "image_url", "image_url": {}}, {"type": "text", "text": "What is this?"})))
    [row] = await conversations.list_saved(ann)
    assert row.preview == "What is this?"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_list_reads_by_index(database: Database, ann: Principal) -> None:
    """The list is one statement that scans no table, however many conversations there are."""
    statements: list[str] = []
    everybody = threading.Barrier(Sqlite.readers)  # or one reader may take the turns of those that start late

    def trace() -> None:
        tables.bound.connection().set_trace_callback(statements.append)
        everybody.wait(10)

    await asyncio.gather(*(database.read(trace) for _ in range(Sqlite.readers)))
    await Conversations(database).list_saved(ann)
    [statement] = [text for text in statements if text.startswith("SELECT")]
    plan = await database.read(lambda: tables.execute("EXPLAIN QUERY PLAN " + statement))
    steps = [str(step[-1]) for step in plan]
    assert not [step for step in steps if step.startswith(("SCAN t", "SCAN conv", "SCAN mess")) and "INDEX" not in step]


# --- deleting ---------------------------------------------------------------------------------------------------------


async def test_delete_conversation(
    begin: Any, user: User, conversations: Conversations, database: Database, ann: Principal
) -> None:
    """With a conversation go its messages, runs and logs; a saved one stays unless that is meant too."""
    await begin(user("One"))
    await conversations.save(ann, "c")
    assert not await conversations.delete(ann, "c", even_saved=False)
    await Runs(database).settle("here", [LogRow("run1", 1, 2, b"x")])
    assert await conversations.delete(ann, "c", even_saved=True)
    models = (tables.Conversation, tables.Message, tables.Run, tables.RunLog)
    assert await database.read(lambda: [model.select().count() for model in models]) == [0] * 4
    with pytest.raises(NotFound):
        await conversations.delete(ann, "c", even_saved=True)


async def test_delete_message(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """A question goes with all that answers it; the turns after it stay, below what is left."""
    first = await begin(user("One", client_message_id="u1"), run=new_run("r1"))
    fields = {"client_message_id": "a1", "parent_client_message_id": "u1"}
    hop = await conversations.add_answer(ann, "c", first.path[-1].id, answer(None, "look", **fields))
    await conversations.add_answer(ann, "c", hop[-1].id, answer("1", **fields))
    second = await begin(user("Two"), run=new_run("r2"))
    two = await conversations.add_answer(ann, "c", second.path[-1].id, answer("2", run_id="r2"))
    await conversations.delete_message(ann, "c", "u1")
    path = await conversations.path(ann, "c")
    assert [row.message.content for row in path] == ["Two", "2"]
    assert path[0].parent_id is None
    with pytest.raises(NotFound, match="Message not found"):
        await conversations.delete_message(ann, "c", "u1")
    await conversations.delete_message(ann, "c", str(two[0].id))
    assert (await conversations.get(ann, "c")).leaf == second.path[-1].id
    await conversations.delete_message(ann, "c", str(second.path[-1].id))
    assert (await conversations.get(ann, "c")).leaf is None
    assert (await begin(user("Three"))).path[0].id > two[0].id, "the number of a deleted message is not given again"


async def test_delete_answers_of_a_question_in_all_branches(
    begin: Any, user: User, answer: Answer, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """Where clients name no parents, what the runs answered goes with its question, on every branch."""
    first = await begin(user("One"), run=new_run("r1"))
    question = first.path[-1].id
    await conversations.add_answer(ann, "c", question, answer("1", "look", run_id="r1"))
    await begin(after=question, run=new_run("r2"))
    await conversations.add_answer(ann, "c", question, answer("1 again", run_id="r2"))
    await conversations.delete_message(ann, "c", str(question))
    assert await conversations.tree(ann, "c") == ()


@pytest.mark.parametrize("ref", ["", "nobody", "-1", "0", "1.0", "01", "１", "9" * 5000, "9" * 19, "' OR 1 --", "%"])
async def test_delete_message_that_is_not_there(
    begin: Any, user: User, conversations: Conversations, ann: Principal, ref: str
) -> None:
    """Whatever a client asks to have deleted, it deletes only what is meant exactly."""
    await begin(user("One"))
    with pytest.raises(NotFound):
        await conversations.delete_message(ann, "c", ref)


async def test_client_id_that_looks_like_a_number(
    begin: Any, user: User, conversations: Conversations, ann: Principal
) -> None:
    """A client-side id counts before a number; a message that is its own parent ends nobody's day."""
    begun = await begin(user("One"), user("Two", client_message_id="1", parent_client_message_id="1"))
    assert begun.path[0].id == 1
    await conversations.delete_message(ann, "c", "1")
    assert [row.message.content for row in await conversations.path(ann, "c")] == ["One"]
    await conversations.delete_message(ann, "c", "1")


async def test_delete_long_conversation(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """A message with thousands of others hanging on it is deleted in one go."""
    await begin(user("One", client_message_id="x"), *[user("Two", parent_client_message_id="x")] * 3000)
    await conversations.delete_message(ann, "c", "x")
    assert await conversations.tree(ann, "c") == ()


async def test_text_that_is_none(begin: Any, user: User, conversations: Conversations, ann: Principal) -> None:
    """Half a surrogate pair, which JSON can write and no file can hold, is the caller's mistake."""
    for work in (
        begin(user("\ud800")),
        begin(user(({"type": "text", "text": "\udfff"},))),
        conversations.get(ann, "\ud800"),
    ):
        with pytest.raises(RequestError, match="surrogate"):
            await work
    begun = await begin(user("nul \0 and \N{GRINNING FACE}"))
    assert begun.path == await conversations.path(ann, "c")


# --- sizes ------------------------------------------------------------------------------------------------------------


def attachment(size: int) -> AttachmentRecord:
    """A file of the conversation `c`."""
    return AttachmentRecord(
        id="a",
        conversation_id="c",
        blob="c/a",
        media_type="image/png",
        filename="image.png",
        size=size,
        created_at=datetime.now(UTC),
    )


async def sizes(database: Database) -> list[tuple[int, int]]:
    """What each conversation is said to take, and what its rows take."""

    def look() -> list[tuple[int, int]]:
        messages = f'SELECT SUM({size_in_sql(tables.bound.octets)}) FROM message WHERE conversation_id = c."key"'
        files = 'SELECT SUM(a.size / 3 * 4) FROM attachment AS a WHERE a.conversation_id = c."key"'
        found = tables.execute(
            f'SELECT size, COALESCE(({messages}), 0) + COALESCE(({files}), 0) FROM conversation AS c ORDER BY "key"'
        )
        return [(said, int(taken)) for said, taken in found]

    return await database.read(look)


async def test_a_conversation_knows_its_size(
    begin: Any, user: User, answer: Answer, conversations: Conversations, database: Database, ann: Principal
) -> None:
    """Whatever is added to it, filled in, or deleted: bytes, not characters, and 32 for each value of its JSON."""
    first = await begin(user("Grüß dich ☕"))
    assert first.conversation.size == len("Grüß dich ☕".encode())
    stored = await conversations.add_answer(ann, "c", first.path[-1].id, answer("Aha.", "look", "think"))
    await conversations.finish_tool(
        ann, stored[1].id, "tea " * 100, is_error=False, metadata={"parts": [{"type": "text", "text": "☕, [{,"}]}
    )
    await Attachments(database).add(ann, attachment(size=3000))
    parts = ({"type": "text", "text": "☕"}, {"type": "image_url", "image_url": {"url": "data:,"}})
    second = await begin(user(parts, client_message_id="two"), user("again\0"))
    [(size, taken)] = await sizes(database)
    assert size == taken > 4000 + 32 * 10
    assert (await conversations.get(ann, "c")).size == size == second.conversation.size
    await conversations.delete_message(ann, "c", "two")
    [(smaller, taken)] = await sizes(database)
    assert size > smaller == taken
    await conversations.delete_message(ann, "c", str(first.path[0].id))
    assert [said == taken for said, taken in await sizes(database)] == [True]


async def test_sizes_of_what_is_there_already(
    begin: Any, user: User, conversations: Conversations, database: Database, ann: Principal
) -> None:
    """The migration that adds them counts what every conversation has."""
    await begin(user("Grüß dich ☕"), user(({"type": "text", "text": "and, [again]"},)))
    await Attachments(database).add(ann, attachment(size=10))
    await conversations.save(ann, "empty")
    before = await sizes(database)

    def forget() -> None:
        tables.execute("ALTER TABLE conversation DROP COLUMN size")
        tables.execute("DELETE FROM chatcore_migrations WHERE name = '0007_sizes'")

    await database.write(forget)
    await database.close()
    await database.open()
    assert await sizes(database) == before
    assert before[0][0] == before[0][1] > before[1][0] == 0


async def test_whoever_begins_is_asked_about_a_large_conversation(
    begin: Any, user: User, conversations: Conversations, ann: Principal, new_run: MakeRun
) -> None:
    """With its size, as long as that is more than it was. Who says no leaves everything as it was."""
    asked: list[int] = []

    def refuse(size: int) -> None:
        asked.append(size)
        raise TooLarge("too large")

    begun = await begin(user("x" * 1000))
    for small, admit in ((1000, refuse), (999, asked.append)):
        await conversations.begin(
            ann, conversation_id="c", messages=[user("y")], run=new_run(), small=small, admit=admit
        )
    assert asked == [1001]
    with pytest.raises(TooLarge):
        await conversations.begin(
            ann, conversation_id="c", messages=[user("z")], run=new_run(), small=999, admit=refuse
        )
    assert [message.message.text for message in await conversations.path(ann, "c")] == [
        begun.path[0].message.text,
        "y",
        "y",
    ]
