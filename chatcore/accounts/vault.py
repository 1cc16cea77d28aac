"""What people have with other services: a JSON document for each owner and name, encrypted, in the database.

What is stored under a name is changed by who has claimed it, so that a token which may be used once is used once.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from weakref import WeakValueDictionary

import attrs

from chatcore.accounts.keys import Keys
from chatcore.database import AccountRow, Database, Jobs
from chatcore.database import Accounts as AccountTable
from chatcore.errors import DatabaseError, VaultError
from chatcore.tools import JsonObject
from chatcore.types import Principal
from chatcore.waiting import within

logger = logging.getLogger(__name__)

LEASE = 15.0
"""Seconds for which something stays claimed by a worker that has died."""
LOOK = 0.05
"""Seconds between two tries to claim what another worker has."""


@attrs.frozen(kw_only=True)
class Entry:
    """Something stored. `refused`: the service takes it no more, the owner has to sign in again."""

    document: JsonObject = attrs.field(repr=False)
    subject: str
    scopes: Sequence[str]
    expires_at: datetime | None
    refused: bool
    updated_at: datetime


class Vault:
    """The documents of all principals. Whoever asks names the principal, and gets what is that one's."""

    def __init__(self, database: Database, key_file: Path) -> None:
        self.table = AccountTable(database)
        self.keys = Keys(key_file, self._sample)
        self._jobs = Jobs(database)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def _sample(self) -> str | None:
        row = await self.table.any()
        return row.sealed if row else None

    async def get(self, principal: Principal, name: str) -> Entry | None:
        """What somebody has under a name, or None. It is as the last worker left it.

        Raises:
            VaultError: it cannot be decrypted.
        """
        row = await self.table.get(principal, name)
        if row is None:
            return None
        sealed = await self.keys.unseal(row.sealed)
        # The owner is encrypted too: who can write to the database cannot give one's document to another.
        if sealed is None or sealed["owner"] != principal.id or sealed["name"] != name:
            raise VaultError(
                f"the account {name!r} of {principal.id!r} cannot be decrypted: it was changed, or its key is gone",
                hint=f"forget it ('chatcore accounts forget {name}') and sign in again",
            )
        return Entry(
            document=sealed["document"],
            subject=row.subject,
            scopes=tuple(row.scopes),
            expires_at=row.expires_at,
            refused=row.refused,
            updated_at=row.updated_at,
        )

    async def put(
        self,
        principal: Principal,
        name: str,
        document: JsonObject,
        *,
        subject: str = "",
        scopes: Sequence[str] = (),
        expires_at: datetime | None = None,
    ) -> None:
        """Stores a document, in place of an earlier one. Only it is encrypted: the rest is shown in lists.

        Raises:
            VaultError: it cannot be encrypted.
        """
        sealed = await self.keys.seal({"owner": principal.id, "name": name, "document": document})
        await self.table.put(
            AccountRow(
                owner=principal.id,
                name=name,
                subject=subject,
                scopes=list(scopes),
                sealed=sealed,
                expires_at=expires_at,
            )
        )

    async def refuse(self, principal: Principal, name: str) -> None:
        """Notes that the service takes a document no more: its owner has to sign in again."""
        await self.table.refuse(principal, name)

    async def delete(self, principal: Principal, name: str) -> bool:
        """Deletes a document. False: there was none."""
        return await self.table.delete(principal, name)

    @asynccontextmanager
    async def claim(self, principal: Principal, name: str) -> AsyncIterator[None]:
        """What is under a name is for this task alone while the context is open, among all tasks of all workers.

        It waits for as long as another has it, and cannot be entered twice. A worker that dies loses it after `LEASE`.
        """
        what = f"account {principal.id!r} {name!r}"
        async with self._locks.setdefault(what, asyncio.Lock()):
            holder, ended = uuid.uuid4().hex, asyncio.Event()
            try:
                while not await self._jobs.claim(what, holder, _lease()):  # noqa: ASYNC110  another process has it
                    await asyncio.sleep(LOOK)
                keeping = asyncio.create_task(self._keep(what, holder, ended))
                try:
                    yield
                finally:
                    ended.set()
                    await keeping
            finally:
                await self._jobs.release(holder)

    async def _keep(self, what: str, holder: str, ended: asyncio.Event) -> None:
        """Renews a claim until it has ended. It is not cancelled: a renewal must not come after the release."""
        while not await within(LEASE / 3, ended.wait()):
            with suppress(DatabaseError):  # the next try may succeed before the lease ends
                if not await self._jobs.claim(what, holder, _lease()):
                    logger.warning("%s: this worker was silent for so long that another has claimed it", what)
                    return


def _lease() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=LEASE)
