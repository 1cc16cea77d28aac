"""Images that models make, kept as files beside their conversation.

An image comes as base64, in one of the forms that servers have, or as a URL. It becomes an attachment: a record that
hangs on the conversation, a file in the blob store, and in the message a content part with a link that expires. So
histories stay small. Who reads a conversation gets links that are fresh; a model gets the image.
"""

import asyncio
import base64
import binascii
import json
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import attrs

from chatcore import pictures, wire
from chatcore.database import AttachmentRecord, Database
from chatcore.database import Attachments as AttachmentTable
from chatcore.errors import ChatcoreError, NotFound, ProviderUnavailable, TooLarge
from chatcore.http import failures, make_client
from chatcore.protocols import Blob, BlobStore
from chatcore.tools import JsonObject, ToolResult
from chatcore.types import Attachment, Event, Message, Notice, Principal, StoredMessage

logger = logging.getLogger(__name__)

LARGEST = 10 * 2**20
"""Bytes of an image, as many as an upload may have."""
LINK = timedelta(days=7)
"""How long a link to a file is good for."""
FETCH = 15.0
"""Seconds for an image that is fetched from elsewhere."""

STORE = 30.0
"""Seconds that a blob store has for a file."""

T = TypeVar("T")

_ID = re.compile(r"[0-9a-f]{32}")
_REFERENCE = re.compile(r"^[ \t]*attachment_id:[ \t]*([0-9a-f]{32})[ \t\r]*(?:\n|\Z)", re.MULTILINE)
_NOT_KEPT = "An image of this answer could not be stored as a file."


@attrs.frozen
class Attachments:
    """The files of conversations. `store` gives the blob store that is configured; from `hosts` images are fetched."""

    table: AttachmentTable
    store: Callable[[], BlobStore]
    hosts: frozenset[str] = frozenset()

    @classmethod
    def of(cls, database: Database, store: Callable[[], BlobStore], hosts: Sequence[str]) -> "Attachments":
        """The files of the conversations in a database."""
        return cls(AttachmentTable(database), store, frozenset(host.lower() for host in hosts))

    # --- keeping ------------------------------------------------------------------------------------------------------

    async def keep(self, principal: Principal, conversation_id: str, events: Sequence[Event]) -> list[Event]:
        """The events of one read with links in place of their images, also in the chunks that they came in.

        An image that cannot be kept stays as it came, and a notice follows.
        """
        kept, notices, chunk = list(events), list[Event](), 0
        for index, event in enumerate(events):
            if getattr(event, "raw", None):
                chunk = index
            if not isinstance(event, Attachment):
                continue
            try:
                part = await self._part(principal, conversation_id, event.part)
            except Exception as error:  # noqa: BLE001  whatever a plugin's blob store or a server raises: the answer stays
                logger.warning("an image was not kept: %s: %s", type(error).__name__, error)
                notices.append(Notice("image_not_kept", _NOT_KEPT))
                continue
            if part is None:
                continue
            kept[index] = Attachment(part, event.raw)
            if event.raw is not None:
                whole: Any = kept[chunk]
                raw = await asyncio.to_thread(_replaced, whole.raw, event.part, part)
                kept[chunk] = attrs.evolve(whole, raw=raw)
        return kept + notices

    async def out_of_text(self, principal: Principal, conversation_id: str, message: Message) -> Message:
        """The message with the images that its text has, as data URIs, beside its text. One that cannot be kept stays
        in it."""
        text, images = message.text, list(message.images)
        for found in pictures.in_text(text):
            try:
                part = await self._part(principal, conversation_id, {"type": "text", "data": found.base64})
            except Exception as error:  # noqa: BLE001  as above
                logger.warning("an image was not kept: %s: %s", type(error).__name__, error)
                continue
            if part is not None:
                text = text.replace(found.whole, found.name, 1)
                images.append(part)
        return attrs.evolve(message, content=text, images=tuple(images)) if text != message.text else message

    async def referenced(self, principal: Principal, conversation_id: str, tool: str, result: ToolResult) -> ToolResult:
        """What a tool gave, with the files of the conversation that it names in lines `attachment_id: ID` among its
        parts, and without these lines. One that names no such file stays, for the model to see."""
        ids = () if result.is_error else tuple(dict.fromkeys(_REFERENCE.findall(result.text)))
        found = await self._made(principal, ids, self._linked, conversation_id)
        if not found:
            return result
        text = _REFERENCE.sub(lambda line: "" if line[1] in found else line[0], result.text)
        source = {"type": "text", "text": f"{tool}:\n\n"}
        return attrs.evolve(
            result, text=text, parts=(*result.parts, source, *(found[key] for key in ids if key in found))
        )

    async def _part(self, principal: Principal, conversation_id: str, given: JsonObject) -> JsonObject | None:
        """The image of a content part as a part with a link to it. None if there is none in it that could be kept."""
        source = pictures.source_of(given)
        kept = source is not None and pictures.is_url(source) and attachment_id(given)
        data = None if source is None or kept else await self._data(source)
        media_type = None if data is None else pictures.media_type_of(data)
        if data is None or media_type is None:
            return None
        file_id, filename = uuid4().hex, f"image.{media_type.partition('/')[2]}"
        record = AttachmentRecord(
            id=file_id,
            conversation_id=conversation_id,
            blob=f"{_safe(conversation_id)}/{file_id}__{filename}",
            media_type=media_type,
            filename=filename,
            size=len(data),
            created_at=datetime.now(UTC),
        )
        await self.table.add(principal, record)
        await _in_time(self.store().put(Blob(key=record.blob, media_type=media_type, filename=filename), data))
        return await self._linked(record, str(given.get("type", "")))

    async def _data(self, source: str) -> bytes | None:
        """The bytes of an image. None if that is not base64, or from a host that is not allowed."""
        if pictures.is_url(source):
            return await self._fetch(source) if _host(source) in self.hosts else None
        if len(source) > 1.4 * LARGEST:
            raise _too_large()
        try:
            data = await asyncio.to_thread(base64.b64decode, source)
        except (binascii.Error, ValueError):
            return None
        if len(data) > LARGEST:
            raise _too_large()
        return data

    async def _fetch(self, url: str) -> bytes:
        client = await asyncio.to_thread(make_client)
        unreachable: tuple[type[Exception], ...] = (*failures(), TimeoutError)
        try:
            async with asyncio.timeout(FETCH), client, client.stream("GET", url) as response:
                if response.status_code != 200 or not response.headers.get("content-type", "").startswith("image/"):
                    raise ProviderUnavailable(f"{_host(url)} answers {response.status_code}, and with no image")
                data = bytearray()
                async for piece in response.aiter_raw():
                    data += piece
                    if len(data) > LARGEST:
                        raise _too_large()
                return bytes(data)
        except unreachable as error:
            raise ProviderUnavailable(f"{_host(url)} does not give the image: {type(error).__name__}") from error

    # --- links --------------------------------------------------------------------------------------------------------

    async def link(self, principal: Principal, attachment_id: str) -> str:
        """A fresh link to a file. Raises NotFound."""
        found = await self.table.find(principal, [attachment_id])
        if attachment_id not in found:
            raise NotFound("there is no such file")
        return await self.store().url(found[attachment_id].blob, LINK)

    async def shown(self, principal: Principal, messages: Sequence[StoredMessage]) -> Sequence[StoredMessage]:
        """Messages with fresh links: those that they have may have expired, or be of a server that was restored."""
        fresh = await self._parts(principal, [stored.message for stored in messages], self._linked)
        if not fresh:
            return messages
        return [attrs.evolve(stored, message=_with_links(stored.message, fresh)) for stored in messages]

    async def sent(
        self, principal: Principal, conversation_id: str, messages: Sequence[Message]
    ) -> tuple[Message, ...]:
        """Messages for a model: with the images of the conversation in place of the links, which lead to this server.
        One that is gone is left out of an answer."""
        whole = await self._parts(principal, messages, self._whole, conversation_id)
        given: set[str] = set()
        latest_first = [_with_images(m, whole, given) if _files(m) else m for m in reversed(messages)]
        return tuple(reversed(latest_first))

    async def _parts(
        self,
        principal: Principal,
        messages: Sequence[Message],
        make: Callable[[AttachmentRecord], Awaitable[JsonObject]],
        conversation_id: str | None = None,
    ) -> Mapping[str, JsonObject]:
        """What is made of each attachment of some messages, by its id; without those that are gone, or of another
        conversation."""
        ids = {key for message in messages for part in _files(message) if (key := attachment_id(part))}
        return await self._made(principal, ids, make, conversation_id)

    async def _made(
        self,
        principal: Principal,
        ids: Collection[str],
        make: Callable[[AttachmentRecord], Awaitable[JsonObject]],
        conversation_id: str | None = None,
    ) -> Mapping[str, JsonObject]:
        parts = {}
        for key, record in (await self.table.find(principal, ids)).items() if ids else ():
            if conversation_id not in (None, record.conversation_id):
                continue
            try:
                parts[key] = await _in_time(make(record))
            except Exception as error:  # noqa: BLE001  a plugin's blob store: people and models can go on without it
                logger.warning("the image %s cannot be had: %s: %s", record.blob, type(error).__name__, error)
        return parts

    async def _whole(self, record: AttachmentRecord) -> JsonObject:
        """The content part that has the image itself in it."""
        data = await asyncio.to_thread(base64.b64encode, await self.store().get(record.blob))
        return {"type": "image_url", "image_url": {"url": f"data:{record.media_type};base64,{data.decode()}"}}

    async def _linked(self, record: AttachmentRecord, source: str = "") -> JsonObject:
        """The content part that stands for a file (contract §4.6)."""
        url = await self.store().url(record.blob, LINK)
        expires_at = (datetime.now(UTC) + LINK).isoformat()
        metadata = {
            "attachment_id": record.id,
            "display_url": url,
            "delivery_url": url,
            "mime_type": record.media_type,
            "size_bytes": record.size,
            "filename": record.filename,
            "session_id": record.conversation_id,
            "uploaded_at": record.created_at.isoformat(),
            "expires_at": expires_at,
            "signed_url_expires_at": expires_at,
            **({"source_fragment_type": source} if source else {}),
        }
        return {"type": "image_url", "image_url": {"url": url}, "metadata": metadata}

    # --- deleting -----------------------------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Deletes the files of conversations that are gone. What cannot be deleted now is tried again the next time."""
        try:
            while orphans := await self.table.orphans():
                gone = [row_id for row_id, blob in orphans if await self._delete(blob)]
                if not gone:
                    break
                await self.table.forget(gone)
        except ChatcoreError as error:  # nobody waits for this
            logger.warning("files of deleted conversations are left: %s", error)

    async def _delete(self, blob: str) -> bool:
        try:
            await _in_time(self.store().delete(blob))
        except Exception as error:  # noqa: BLE001  a plugin's blob store: the other files can be deleted all the same
            logger.warning("a file of a deleted conversation is left: %s: %s", type(error).__name__, error)
            return False
        return True


async def _in_time(work: Awaitable[T]) -> T:
    """What a blob store does, unless it takes too long: a turn, or a reader, waits for it."""
    async with asyncio.timeout(STORE):
        return await work


def attachment_id(part: JsonObject) -> str:
    """The id of the attachment that a content part stands for; empty if it stands for none."""
    match part:
        case {"metadata": {"attachment_id": str(key)}} if _ID.fullmatch(key):
            return key
    return ""


def _files(message: Message) -> Sequence[JsonObject]:
    """The parts of a message that may be attachments: images of an answer, or what a user shows to the model again."""
    return (*message.content, *message.images) if isinstance(message.content, tuple) else message.images


def _with_links(message: Message, fresh: Mapping[str, JsonObject]) -> Message:
    def linked(parts: Sequence[JsonObject]) -> tuple[JsonObject, ...]:
        return tuple(fresh.get(attachment_id(part), part) for part in parts)

    content = linked(message.content) if isinstance(message.content, tuple) else message.content
    return attrs.evolve(message, content=content, images=linked(message.images))


def _with_images(message: Message, whole: Mapping[str, JsonObject], given: set[str]) -> Message:
    """The message with its images. What a user shows again and again is only given once: its bytes were counted once.
    `given` is what comes later than this message, and has what it gives then."""
    images = tuple(whole.get(key, part) for part in message.images if not (key := attachment_id(part)) or key in whole)
    content = message.content
    if isinstance(content, tuple):
        content = tuple(reversed([_given(part, whole, given) for part in reversed(content)]))
    return attrs.evolve(message, content=content, images=images)


def _given(part: JsonObject, whole: Mapping[str, JsonObject], given: set[str]) -> JsonObject:
    """What a model is given of a part of a content. One may have an image in it, whatever else it says that it is."""
    if not (key := attachment_id(part)):
        return part
    if key in whole and key not in given:
        given.add(key)
        return whole[key]
    source = pictures.source_of(part)
    if source is None or pictures.is_url(source):
        return {"type": "text", "text": "[image]"}
    return {name: value for name, value in part.items() if name != "metadata"}


def _replaced(chunk: bytes, part: JsonObject, other: JsonObject) -> bytes:
    """A chunk as JSON, with another part in the place of one."""

    def replaced(value: object) -> object:
        if value == part:
            return other
        if isinstance(value, dict):
            return {key: replaced(item) for key, item in value.items()}
        return [replaced(item) for item in value] if isinstance(value, list) else value

    return wire.dumps(replaced(json.loads(chunk)))


def _safe(conversation_id: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", "_", conversation_id)[:100].strip("._-") or "file"


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _too_large() -> ChatcoreError:
    return TooLarge(f"an image is larger than {LARGEST // 2**20} MiB")
