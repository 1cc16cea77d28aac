"""Documents that are read with every request, kept in memory for a moment."""

import time
from collections.abc import Callable
from typing import Any

from chatcore.database.documents import Documents
from chatcore.types import Principal

FRESH = 1.0
"""Seconds for which a document may still be read as it was, after another process has changed it."""
_MOST = 1000  # documents


class RecentDocuments:
    """As `Documents`, for one process: what it changes itself counts at once, what others change within a second.

    The documents that it gives must not be changed in place.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._known: dict[tuple[str, str, str], tuple[float, Any]] = {}
        self._changes = 0

    async def get(self, principal: Principal, namespace: str, key: str) -> Any:
        """A document, or None if there is none."""
        place = (principal.id, namespace, key)
        known = self._known.get(place)
        if known is not None and known[0] > time.monotonic():
            return known[1]
        changes = self._changes
        document = await self._documents.get(principal, namespace, key)
        if changes == self._changes:  # else it may be what was there before a change
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[place] = (time.monotonic() + FRESH, document)
        return document

    async def update(self, principal: Principal, namespace: str, key: str, change: Callable[[Any], Any]) -> Any:
        """As `Documents.update`."""
        try:
            return await self._documents.update(principal, namespace, key, change)
        finally:
            self._forget(principal, namespace, key)

    async def delete(self, principal: Principal, namespace: str, key: str) -> bool:
        """As `Documents.delete`."""
        try:
            return await self._documents.delete(principal, namespace, key)
        finally:
            self._forget(principal, namespace, key)

    def _forget(self, principal: Principal, namespace: str, key: str) -> None:
        self._changes += 1
        self._known.pop((principal.id, namespace, key), None)
