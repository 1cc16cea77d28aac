"""Bearer tokens in the database."""

import hashlib
import secrets
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial

import attrs
import peewee

from chatcore.database import tables
from chatcore.database.handle import Database
from chatcore.database.repository import reads, writes
from chatcore.errors import Conflict, DatabaseError, NotFound

_ID_LENGTH = 11
_USE_NOTED_EVERY = timedelta(minutes=1)


@attrs.frozen
class TokenRecord:
    """A token without its secret. `id` is how it begins, which tells its user which one it is."""

    id: str
    principal_id: str
    name: str
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None


@attrs.frozen
class Tokens:
    """The tokens of all principals. For the command line, and for whoever finds out who is asking."""

    database: Database

    async def create(
        self, principal_id: str, scopes: Collection[str], name: str, expires_at: datetime | None = None
    ) -> tuple[TokenRecord, str]:
        """Makes a token. The second value is the token itself, which is stored nowhere: show it once."""
        token = f"cc_{secrets.token_hex(4)}{secrets.token_urlsafe(32)}"
        record = TokenRecord(
            token[:_ID_LENGTH], principal_id, name, frozenset(scopes), datetime.now(UTC), expires_at, None, None
        )
        await self.database.write(partial(_insert, record, _digest(token)))
        return record, token

    @reads
    def list(self) -> Sequence[TokenRecord]:
        """All tokens, also expired and revoked ones, the oldest first."""
        return _records()

    @reads
    def any(self) -> bool:
        """Whether a token was made and not revoked. An expired one counts: its end opens no door."""
        return bool(_records(tables.Token.revoked_at.is_null()))

    async def find(self, token: str) -> TokenRecord | None:
        """The record of a token that is good now, else None. Notes its use, to the minute, if that can be written."""
        now = datetime.now(UTC)
        for record in await self.database.read(lambda: _records(tables.Token.hash == _digest(token))):
            if record.revoked_at or (record.expires_at and record.expires_at <= now):
                return None
            if record.last_used_at is None or now - record.last_used_at > _USE_NOTED_EVERY:
                with suppress(DatabaseError):  # a disk that is full keeps nobody out who may come in
                    await self.database.write(partial(_note, record.id, last_used_at=now))
            return record
        return None

    @writes
    def revoke(self, ref: str) -> TokenRecord:
        """Revokes the token whose id begins with `ref`, or that is `ref`.

        Raises:
            NotFound: there is none.
            Conflict: there are several.
        """
        whole = _records(tables.Token.hash == _digest(ref))
        meant = whole or [record for record in _records() if ref and record.id.startswith(ref)]
        if not meant:
            raise NotFound(f"no token begins with {ref[:_ID_LENGTH]!r}", hint="see 'chatcore tokens list'")
        if len(meant) > 1:
            raise Conflict(f"{len(meant)} tokens begin with {ref!r}", hint="write more of the one you mean")
        if meant[0].revoked_at:
            return meant[0]
        now = datetime.now(UTC)
        _note(meant[0].id, revoked_at=now)
        return attrs.evolve(meant[0], revoked_at=now)


_COLUMNS = tables.columns(TokenRecord, tables.Token, principal_id=tables.Token.owner)


def _digest(token: str) -> bytes:
    # A plain hash is enough for 256 random bits, and it can be looked up: how long that takes tells nothing of them.
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


def _insert(record: TokenRecord, digest: bytes) -> None:
    tables.insert(tables.Token, record, _COLUMNS, scopes=sorted(record.scopes), hash=digest)


def _records(*conditions: peewee.Expression) -> Sequence[TokenRecord]:
    token = tables.Token
    query = token.select(*_COLUMNS.values()).order_by(token.created_at, token.id)
    found = tables.records(TokenRecord, query.where(*conditions) if conditions else query)
    return [attrs.evolve(record, scopes=frozenset(record.scopes)) for record in found]


def _note(token_id: str, **moments: datetime) -> None:
    tables.Token.update(**moments).where(tables.Token.id == token_id).execute()
