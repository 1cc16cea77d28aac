"""The messages of a conversation, asked of a running chatcore over HTTP."""

import asyncio
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from chatcore.http import Timeouts, failures, make_client, reason_of
from chatcore.types import content_text

MOST = 100
"""Messages that are given at most."""
LONGEST = 2000
"""Characters of a message that are given at most."""

_TIMEOUTS = Timeouts(connect=5.0, first_byte=15.0, idle=15.0)
_GUIDANCE = "Quote from these messages only what matters to the question. Ask for a larger limit to see earlier ones."


class History:
    """What a server's token may see of its conversations."""

    def __init__(self, url: str, token: str | None) -> None:
        self._url = url
        self._headers = {"authorization": f"Bearer {token}"} if token else {}

    async def latest(self, session_id: str | None, limit: int, *, newest_first: bool) -> dict[str, Any]:
        """The latest messages of a conversation. What goes wrong is a result with `error`, as clients expect it."""
        if not session_id:
            return {"error": "no session_id", "hint": "Give the id of a conversation: there is no present one here."}
        try:
            status, body = await self._get(f"/api/chat/session/{quote(session_id, safe='')}/messages")
        except failures() as error:
            return {"error": f"chatcore at {self._url} cannot be reached", "detail": reason_of(error)}
        if status == 404:
            return {"error": f"there is no conversation {session_id!r}", "hint": "Check the session_id."}
        if status != 200:
            return {"error": f"chatcore answered {status}", "detail": body.get("detail", "")}
        return _report(session_id, body["messages"], min(max(limit, 1), MOST), newest_first=newest_first)

    async def _get(self, path: str) -> tuple[int, dict[str, Any]]:
        client = await asyncio.to_thread(make_client, base_url=self._url, headers=self._headers, timeouts=_TIMEOUTS)
        async with client:
            response = await client.get(path)
            is_json = response.headers.get("content-type", "").startswith("application/json")
            return response.status_code, response.json() if is_json else {"detail": response.text[:200]}


def _report(session_id: str, stored: Sequence[Any], limit: int, *, newest_first: bool) -> dict[str, Any]:
    chosen = list(enumerate(stored, start=1))[-limit:]
    if newest_first:
        chosen.reverse()
    order = "newest first" if newest_first else "oldest first"
    return {
        "session_id": session_id,
        "total_available": len(stored),
        "applied_limit": limit,
        "newest_first": newest_first,
        "messages": [_entry(index, position, message) for index, (position, message) in enumerate(chosen)],
        "summary": f"{len(chosen)} of {len(stored)} messages, {order}.",
        "guidance": _GUIDANCE,
    }


def _entry(index: int, position: int, message: dict[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    text = content_text(tuple(content) if isinstance(content, list) else content)
    keys = ("role", "created_at", "created_at_utc", "message_id", "client_message_id", "parent_client_message_id")
    return {
        "index": index,
        "position": position,
        **{key: message.get(key) for key in keys},
        "content": text[:LONGEST],
        "truncated": len(text) > LONGEST,
    }
