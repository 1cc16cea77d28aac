"""Conversations and their messages in the database."""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeAlias
from uuid import uuid4

import attrs
import peewee

from chatcore.database import messages as rows
from chatcore.database import runs, tables, tree
from chatcore.database.handle import Database
from chatcore.database.messages import NewMessage
from chatcore.database.repository import reads, writes
from chatcore.database.runs import NewRun
from chatcore.database.search import found
from chatcore.database.titles import auto_title
from chatcore.errors import Conflict, NotFound
from chatcore.tools import JsonObject
from chatcore.types import Content, Principal, StoredMessage

PREVIEW = 200
"""Characters of a conversation's first question that the list shows."""

_ANY_SIZE = 2**62

TitleSource: TypeAlias = Literal["auto", "ai", "user"]


@attrs.frozen
class Conversation:
    """A conversation. `leaf` is the id of the last message of its active path, `updated_at` the time of its last
    message. `size` is what all its messages and files take: the bytes of their text and JSON, of a file as base64, and
    for each value of the JSON some more."""

    id: str
    title: str | None
    title_source: TitleSource
    saved: bool
    timezone: str | None
    llm_settings: JsonObject | None
    leaf: int | None
    created_at: datetime
    updated_at: datetime
    size: int


@attrs.frozen
class ConversationRow:
    """A conversation in a list. `preview` is the beginning of the user's first message, as plain text."""

    conversation: Conversation
    message_count: int
    preview: str


@attrs.frozen
class Begun:
    """What a turn begins with. `created`: the conversation is new. `stored` are the new messages, `path` is the active
    path, from its first message to the last of them. `left` is the end of the path that was the active one before."""

    conversation: Conversation
    created: bool
    stored: tuple[StoredMessage, ...]
    path: tuple[StoredMessage, ...]
    left: int | None = None


@attrs.frozen
class Conversations:
    """The conversations in the database. Every method raises NotFound for what is somebody else's, as if there were
    no such thing."""

    database: Database

    async def begin(
        self,
        principal: Principal,
        *,
        conversation_id: str | None,
        messages: Sequence[NewMessage],
        run: NewRun,
        after: int | None = None,
        exclusive: bool = False,
        small: int = _ANY_SIZE,
        admit: Callable[[int], object] = lambda size: None,
    ) -> Begun:
        """Stores what a turn begins with, all of it or nothing, and gives what the model is to be asked.

        The conversation is made if there is none with this id; None gives it an id of 32 hexadecimal digits. The
        messages go to the end of the active path, or below message `after` (0: below none), which makes a new branch
        the active one. A system message that only repeats the last one of that path is not stored again. A
        conversation without a title gets one from the first text of the user.

        `admit` is told the size of a conversation that is not `small`, before anything is read of it or stored; what it
        raises is raised.

        Raises:
            NotFound: `after` is not a message of this conversation.
            Conflict: `exclusive`, and another run of this conversation is under way.
        """
        begin = partial(_begin, principal.id, conversation_id, messages, run, after, exclusive=exclusive)
        # The size is only known to the unit of work, and may be another the next time.
        while isinstance(begun := await self.database.write(partial(begin, most=small)), int):
            admit(begun)
            small = begun
        return begun

    @writes
    def take_back(self, principal: Principal, begun: Begun) -> None:
        """Deletes the messages that `begin` has stored of a turn to which there is no answer, with the conversation if
        it was made for them, and makes the path the active one that was it before."""
        key, conversation = _find(principal.id, begun.conversation.id)
        if begun.created and not conversation.saved:
            tables.Conversation.delete().where(tables.Conversation.key == key).execute()
            return
        nodes = rows.nodes(key)
        gone = frozenset(message.id for message in begun.stored) & nodes.keys()
        untouched = conversation.leaf == begun.conversation.leaf and begun.left in {None, *nodes}
        _shrink(key, nodes, gone, begun.left if untouched else conversation.leaf)

    @writes
    def add_answer(
        self, principal: Principal, conversation_id: str, parent_id: int | None, messages: Sequence[NewMessage]
    ) -> tuple[StoredMessage, ...]:
        """Stores an answer below message `parent_id`, all of it or nothing: the assistant's message, and below it one
        for each tool that it asks for. The active path grows by it if it ended at `parent_id`. Raises RunLost."""
        return _add_answer(self.database.worker, principal.id, conversation_id, parent_id, messages)

    @writes
    def finish_tool(
        self, principal: Principal, message_id: int, content: Content, *, is_error: bool, metadata: JsonObject
    ) -> StoredMessage:
        """Puts a tool's answer into its place. Raises Conflict if the place is taken, and RunLost."""
        place = rows.one(principal.id, message_id)
        if place.run_id:
            runs.hold(place.run_id, self.database.worker)
        if place.state != "pending":
            raise Conflict("this tool call has an answer already")
        stored = attrs.evolve(
            place,
            message=attrs.evolve(place.message, content=content),
            state="complete",
            is_error=is_error,
            metadata={**place.metadata, **metadata},
        )
        rows.replace(place, stored)
        return stored

    @writes
    def recover_answer(
        self,
        principal: Principal,
        conversation_id: str,
        run_id: str,
        question: int | None,
        messages: Sequence[NewMessage],
        *,
        told: Collection[int] | None = None,
    ) -> tuple[StoredMessage, ...]:
        """Stores what is known of an answer that its worker did not live to end, below the last message of its run, or
        below `question` if it has none; if that is gone, nothing. The places of its tools' answers stay as they are,
        and wait no longer. Where nothing came of it, the last answer to the question is the conversation's again.

        `told` are the messages that the run's log tells of. The worker may have stored an answer and died before the
        log told of it: then that one is given, with what follows it, and is not stored a second time.

        Raises:
            RunLost: another worker recovers it.
        """
        key, conversation = _find(principal.id, conversation_id)
        runs.hold(run_id, self.database.worker)
        tables.execute("UPDATE message SET state = 'complete' WHERE run_id = ? AND state = 'pending'", run_id)
        earlier = rows.tree(key, conversation_id, run_id)
        answers = [message.id for message in earlier if message.message.role == "assistant"]
        if told is not None and (untold := [answer for answer in answers if answer not in told]):
            return tuple(message for message in earlier if message.id >= untold[0])
        parent = earlier[-1].id if earlier else question
        nodes = rows.nodes(key)
        if parent is not None and parent not in nodes:
            return ()
        if parent is not None and not messages and conversation.leaf == parent:
            leaf = tree.newest_below(nodes, parent)
            tables.execute('UPDATE conversation SET leaf = ? WHERE "key" = ?', leaf, key)
        return _add_answer(self.database.worker, principal.id, conversation_id, parent, messages)

    @reads
    def get(self, principal: Principal, conversation_id: str) -> Conversation:
        """A conversation."""
        return _find(principal.id, conversation_id)[1]

    @reads
    def path(self, principal: Principal, conversation_id: str, leaf: int | None = None) -> tuple[StoredMessage, ...]:
        """The messages from the first one to `leaf`, or to the end of the active path."""
        key, conversation = _find(principal.id, conversation_id)
        if leaf is not None:
            rows.role_of(key, leaf)
        return rows.path(key, conversation_id, conversation.leaf if leaf is None else leaf)

    @reads
    def tree(self, principal: Principal, conversation_id: str, run_id: str | None = None) -> tuple[StoredMessage, ...]:
        """The messages of all branches, or those of a run, the oldest first."""
        return rows.tree(_find(principal.id, conversation_id)[0], conversation_id, run_id)

    @reads
    def list_saved(
        self, principal: Principal, *, limit: int = 50, offset: int = 0, search: str | None = None
    ) -> Sequence[ConversationRow]:
        """The saved conversations, the most recently active first. For what `search` finds see `search.py`."""
        conversation, message, first = tables.Conversation, tables.Message, tables.Message.alias()
        wanted = (conversation.owner == principal.id) & conversation.saved
        if search:
            wanted &= found(principal.id, search)
        newest_first = (conversation.updated_at.desc(), conversation.key.desc())
        page = conversation.select(conversation.key).where(wanted).order_by(*newest_first).limit(limit).offset(offset)
        asked = peewee.Case(None, [(message.role == "user", message.id)])
        counted = (
            message.select(
                message.conversation.alias("of"),
                peewee.fn.COUNT(message.id).alias("count"),
                peewee.fn.MIN(asked).alias("first"),
            )
            .where(message.conversation.in_(page))
            .group_by(message.conversation)
        )
        query = (
            conversation.select(
                *(getattr(conversation, name) for name in _FIELDS),
                peewee.fn.COALESCE(counted.c.count, 0),
                peewee.fn.COALESCE(peewee.fn.SUBSTR(first.text, 1, PREVIEW), ""),
            )
            .join(counted, peewee.JOIN.LEFT_OUTER, on=(counted.c.of == conversation.key))
            .join(first, peewee.JOIN.LEFT_OUTER, on=(first.id == counted.c.first))
            .where(conversation.key.in_(page))
            .order_by(*newest_first)
        )
        return [
            ConversationRow(Conversation(*fields), count, preview) for *fields, count, preview in tables.fetch(query)
        ]

    @writes
    def select_leaf(self, principal: Principal, conversation_id: str, message_id: int) -> Conversation:
        """Makes the path to a message the active one. The tool messages that belong to it come along."""
        key, _ = _find(principal.id, conversation_id)
        return _change(principal.id, conversation_id, leaf=rows.place_under(key, message_id))

    @writes
    def save(
        self,
        principal: Principal,
        conversation_id: str,
        *,
        title: str | None = None,
        llm_settings: JsonObject | None = None,
    ) -> Conversation:
        """Puts a conversation into the list of the saved ones, made if there is none. A title that is blank, and what
        is not given, leave what there is."""
        if _look_up(principal.id, conversation_id) is None:
            _create(principal.id, conversation_id, datetime.now(UTC))
        return _change(principal.id, conversation_id, saved=True, **_chosen(title, llm_settings))

    @writes
    def unsave(self, principal: Principal, conversation_id: str) -> Conversation:
        """Takes a conversation off the list. It stays readable."""
        return _change(principal.id, conversation_id, saved=False)

    @writes
    def update(
        self,
        principal: Principal,
        conversation_id: str,
        *,
        title: str | None = None,
        llm_settings: JsonObject | None = None,
    ) -> Conversation:
        """Changes what is given, as `save` does."""
        return _change(principal.id, conversation_id, **_chosen(title, llm_settings))

    @writes
    def set_ai_title(self, principal: Principal, conversation_id: str, title: str) -> Conversation:
        """Sets a title that a model made, but not over one that the user chose. Gives the conversation as it then
        is."""
        _, conversation = _find(principal.id, conversation_id)
        if conversation.title_source == "user":
            return conversation
        return _change(principal.id, conversation_id, title=tables.without_nul(title), title_source="ai")

    @writes
    def delete(self, principal: Principal, conversation_id: str, *, even_saved: bool) -> bool:
        """Deletes a conversation with its messages, runs and logs. False: it is saved, and was left."""
        key, conversation = _find(principal.id, conversation_id)
        if conversation.saved and not even_saved:
            return False
        tables.Conversation.delete().where(tables.Conversation.key == key).execute()
        return True

    @writes
    def delete_message(self, principal: Principal, conversation_id: str, ref: str) -> None:
        """Deletes messages: those with the client-side id `ref`, or else the one with this number.

        What answers them goes too (see `tree.py`). Later turns stay: they move up to the nearest message that stays,
        and so does the end of the active path.
        """
        key, conversation = _find(principal.id, conversation_id)
        nodes = rows.nodes(key)
        _shrink(key, nodes, _chosen_to_go(nodes, ref, runs.questions(key)), conversation.leaf)

    @reads
    def runs_deleted_with(self, principal: Principal, conversation_id: str, ref: str) -> frozenset[str]:
        """The runs that have no place any more when `delete_message` has deleted that."""
        key, _ = _find(principal.id, conversation_id)
        nodes, questions = rows.nodes(key), runs.questions(key)
        gone = _chosen_to_go(nodes, ref, questions)
        return frozenset(run for run, asked in questions.items() if asked in gone) | {
            run for row_id in gone if (run := nodes[row_id].run_id)
        }


# --- one conversation -------------------------------------------------------------------------------------------------

_FIELDS = [field.name for field in attrs.fields(Conversation)]
_FIND = f'SELECT "key", {", ".join(_FIELDS)} FROM conversation WHERE owner = ? AND id = ?'  # noqa: S608  names of ours


def _look_up(owner: str, conversation_id: str) -> tuple[int, Conversation] | None:
    """A conversation with its key. A unit of work that writes has it for itself from here on."""
    for key, *fields in tables.rows(tables.Conversation, tables.locked(_FIND), owner, conversation_id):
        return key, Conversation(*fields)
    return None


def _find(owner: str, conversation_id: str) -> tuple[int, Conversation]:
    found = _look_up(owner, conversation_id)
    if found is None:
        raise NotFound("Conversation not found")
    return found


def _create(owner: str, conversation_id: str, now: datetime, title: str | None = None) -> tuple[int, Conversation]:
    [(key,)] = tables.execute(
        "INSERT INTO conversation (id, owner, title, title_source, saved, created_at, updated_at) "
        "VALUES (?, ?, ?, 'auto', ?, ?, ?) RETURNING \"key\"",
        conversation_id,
        owner,
        title,
        False,
        tables.microseconds(now),
        tables.microseconds(now),
    )
    return key, Conversation(conversation_id, title, "auto", False, None, None, None, now, now, 0)


def _grow(key: int, leaf: int | None, now: datetime, size: int) -> None:
    """Moves the end of the active path, for messages of this size that were added."""
    tables.execute(
        'UPDATE conversation SET leaf = ?, updated_at = ?, size = size + ? WHERE "key" = ?',
        leaf,
        tables.microseconds(now),
        size,
        key,
    )


def _chosen_to_go(nodes: tree.Nodes, ref: str, questions: Mapping[str, int | None]) -> frozenset[int]:
    """What goes when the messages are deleted that a client calls `ref`. Raises NotFound."""
    chosen = [row_id for row_id, node in nodes.items() if node.client_id == ref]
    chosen = chosen or [row_id for row_id in nodes if str(row_id) == ref]
    if not chosen:
        raise NotFound("Message not found")
    return tree.deleted_with(nodes, chosen, questions)


def _shrink(key: int, nodes: tree.Nodes, gone: frozenset[int], leaf: int | None) -> None:
    """Deletes messages. The active path ends at `leaf`, or at the nearest message above it that stays."""
    size = rows.remove(nodes, gone)
    end = tree.surviving_ancestor(nodes, gone, leaf)
    tables.execute('UPDATE conversation SET leaf = ?, size = size - ? WHERE "key" = ?', end, size, key)


def _change(owner: str, conversation_id: str, **columns: Any) -> Conversation:
    key, conversation = _find(owner, conversation_id)
    if columns:
        tables.Conversation.update(**columns).where(tables.Conversation.key == key).execute()
    return attrs.evolve(conversation, **columns)


def _chosen(title: str | None, llm_settings: JsonObject | None) -> dict[str, Any]:
    """The columns of what the user has chosen."""
    title = (title or "").strip()
    columns: dict[str, Any] = {"title": title, "title_source": "user"} if title else {}
    return columns if llm_settings is None else {**columns, "llm_settings": llm_settings}


# --- messages ---------------------------------------------------------------------------------------------------------


def _begin(
    owner: str,
    conversation_id: str | None,
    messages: Sequence[NewMessage],
    run: NewRun,
    after: int | None,
    *,
    exclusive: bool,
    most: int,
) -> Begun | int:
    """Gives the conversation's size, and does nothing, if it has more than `most`."""
    now = datetime.now(UTC)
    conversation_id = conversation_id or uuid4().hex
    found = _look_up(owner, conversation_id)
    if found and found[1].size > most:
        return found[1].size
    key, conversation = found or _create(owner, conversation_id, now, _auto_title(messages))
    if exclusive and found:
        runs.refuse_second(key, now)
    left = conversation.leaf
    parent = left if after is None else rows.place_under(key, after) if after else None
    earlier = rows.path(key, conversation_id, parent) if parent else ()
    stored, size = rows.append(key, conversation_id, parent, _without_known_prompt(earlier, messages), now)
    path = earlier + stored
    leaf = path[-1].id if path else None
    _grow(key, leaf, now, size)
    conversation = _title(key, conversation, messages)
    conversation = attrs.evolve(conversation, leaf=leaf, updated_at=now, size=conversation.size + size)
    question = next((message.id for message in reversed(path) if message.message.role == "user"), None)
    runs.insert(owner, key, run, question)
    return Begun(conversation, found is None, stored, path, left)


def _without_known_prompt(path: Sequence[StoredMessage], messages: Sequence[NewMessage]) -> Sequence[NewMessage]:
    """The new messages without system messages that say what the path's last one says: some clients send theirs with
    every turn."""
    prompts = [stored.message.content for stored in path if stored.message.role == "system"]
    return [m for m in messages if m.message.role != "system" or m.message.content not in prompts[-1:]]


def _title(key: int, conversation: Conversation, messages: Sequence[NewMessage]) -> Conversation:
    """Gives a conversation that has no title one made of the user's words, if there are any."""
    title = None if conversation.title else _auto_title(messages)
    if title is None:
        return conversation
    tables.execute("UPDATE conversation SET title = ?, title_source = 'auto' WHERE \"key\" = ?", title, key)
    return attrs.evolve(conversation, title=title, title_source="auto")


def _auto_title(messages: Sequence[NewMessage]) -> str | None:
    titles = (auto_title(new.message.content) for new in messages if new.message.role == "user")
    title = next(filter(None, titles), None)
    return title and tables.without_nul(title)


def _add_answer(
    worker: str, owner: str, conversation_id: str, parent_id: int | None, messages: Sequence[NewMessage]
) -> tuple[StoredMessage, ...]:
    now = datetime.now(UTC)
    key, conversation = _find(owner, conversation_id)
    for run_id in {message.run_id for message in messages if message.run_id}:
        runs.hold(run_id, worker)
    if parent_id is not None:
        rows.role_of(key, parent_id)
    stored, size = rows.append(key, conversation_id, parent_id, messages, now)
    leaf = stored[-1].id if stored and conversation.leaf == parent_id else conversation.leaf
    _grow(key, leaf, now, size)
    return stored
