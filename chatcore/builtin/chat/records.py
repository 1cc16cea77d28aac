"""What a client sees of messages and conversations (contract §1.2, §2.5): plain JSON objects."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from chatcore.database import Approval, AskedQuestion, Conversation, ConversationRow, RunRecord
from chatcore.tools import ToolCall
from chatcore.types import Content, Message, StoredMessage


def local_and_utc(moment: datetime, zone: ZoneInfo) -> dict[str, str]:
    """Both forms of a message's time, as every message record has them."""
    return {"created_at": moment.astimezone(zone).isoformat(), "created_at_utc": moment.isoformat()}


def tool_calls(calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
    """Tool calls in the OpenAI form."""
    return [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in calls
    ]


def message_record(stored: StoredMessage, zone: ZoneInfo) -> dict[str, Any]:
    """A message of the history; what an answer or a tool has beside its text stands flat beside it."""
    message = stored.message
    record = {
        "role": message.role,
        "message_id": stored.id,
        "content": _content(message),
        "tool_call_id": message.tool_call_id,
        "client_message_id": stored.client_message_id,
        "parent_client_message_id": stored.parent_client_message_id,
        **local_and_utc(stored.created_at, zone),
        **_answer_fields(stored),
        "annotations": list(message.annotations),
        # Clients look for the name of a tool under either key.
        "tool_name": stored.tool_name,
        "name": stored.tool_name or message.name,
        "status": None if stored.state == "complete" else stored.state,
        "run_id": stored.run_id,
        **_pause(stored),
    }
    return {key: value for key, value in record.items() if value not in (None, [], ())}


def _pause(stored: StoredMessage) -> dict[str, Any]:
    """Why the turn has paused, on the message that says so."""
    match stored.metadata.get("pause"):
        case {"kind": "hop_limit", "hop_count": count}:
            return {"hop_limit_pause": True, "hop_count": count}
        case {"kind": "tool_error_limit", "tool_error_count": count, "limit": limit}:
            return {"tool_error_pause": True, "tool_error_count": count, "tool_error_limit": limit}
    return {}


def _content(message: Message) -> Content:
    """Clients show images that are parts of the content."""
    if not message.images:
        return message.content
    said = message.content or ()
    return (*([{"type": "text", "text": said}] if isinstance(said, str) else said), *message.images)


def answer_metadata(stored: StoredMessage, zone: ZoneInfo) -> dict[str, Any]:
    """The `metadata` event of a stored answer. `meta` is never sent: null would make a client drop its citations."""
    return {
        "role": "assistant",
        **_answer_fields(stored),
        "client_message_id": stored.client_message_id,
        "message_id": stored.id,
        **local_and_utc(stored.created_at, zone),
        **({} if stored.state == "complete" else {"status": stored.state}),
    }


def _answer_fields(stored: StoredMessage) -> dict[str, Any]:
    message = stored.message
    return {
        "finish_reason": stored.finish_reason,
        "model": stored.model,
        "usage": stored.usage,
        "routing": stored.routing,
        "generation_id": stored.generation_id,
        "reasoning": _reasoning(message),
        "tool_calls": tool_calls(message.tool_calls) or None,
    }


def _reasoning(message: Message) -> list[dict[str, str]] | None:
    return [{"type": "reasoning.text", "text": message.reasoning}] if message.reasoning else None


def conversation_row(row: ConversationRow) -> dict[str, Any]:
    """A conversation in the list of the saved ones."""
    conversation = row.conversation
    return {
        "session_id": conversation.id,
        "title": conversation.title,
        "title_source": conversation.title_source,
        "created_at": conversation.created_at.isoformat(),
        "updated_at": conversation.updated_at.isoformat(),
        "message_count": row.message_count,
        "preview": row.preview,
    }


def session_record(conversation: Conversation) -> dict[str, Any]:
    """The `metadata` beside a conversation's messages."""
    return {
        "session_id": conversation.id,
        "created_at": conversation.created_at.isoformat(),
        "timezone": conversation.timezone,
        "title": conversation.title,
        "saved": conversation.saved,
        "updated_at": conversation.updated_at.isoformat(),
        "llm_settings": conversation.llm_settings,
    }


def run_record(record: RunRecord) -> dict[str, Any]:
    """A run as `GET /api/chat/runs/{id}` shows it."""
    return {
        "id": record.id,
        "session_id": record.conversation_id,
        "model": record.model,
        "state": record.state,
        "reason": record.reason,
        "created_at": record.created_at.isoformat(),
        "ended_at": record.ended_at.isoformat() if record.ended_at else None,
        "last_seq": record.last_seq,
    }


def approval_record(approval: Approval) -> dict[str, Any]:
    """A tool call that waits for somebody's consent. `decision` is there when it was decided."""
    record = {
        "run_id": approval.run_id,
        "session_id": approval.conversation_id,
        "call_id": approval.call_id,
        "tool": approval.tool,
        "arguments": approval.arguments,
        "digest": approval.digest,
        "expires_at": approval.expires_at.isoformat(),
    }
    return record if approval.decision is None else {**record, "decision": approval.decision}


def question_record(asked: AskedQuestion) -> dict[str, Any]:
    """What a running tool asks a person. `action` is there when it was answered."""
    record = {
        "question_id": asked.question_id,
        "run_id": asked.run_id,
        "session_id": asked.conversation_id,
        "call_id": asked.call_id,
        "asker": asked.asker,
        "message": asked.message,
        "form": asked.form,
        "url": asked.url,
        "digest": asked.digest,
        "expires_at": asked.expires_at.isoformat(),
    }
    return record if asked.action is None else {**record, "action": asked.action}
