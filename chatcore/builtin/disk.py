"""Files in the data directory, and links under which a browser gets them.

A file is a directory of its own, named after the hash of its key: no key can name a place outside, and the bytes and
their description appear and vanish together, by one rename. A link is signed and expires; the signature is all the
permission that it needs.
"""

import asyncio
import hashlib
import hmac
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import attrs
from quart import Blueprint, Response, request, send_file

from chatcore import wire
from chatcore.access import public
from chatcore.errors import Conflict, Forbidden, NotFound, PluginError, RequestError
from chatcore.hooks import Context, NoSettings, Plugin, hookimpl
from chatcore.operation.durable import make_private, sync
from chatcore.protocols import Blob, BlobStore

_KEY = re.compile(r"(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+(/(?!\.{1,2}(/|$))[A-Za-z0-9_.-]+)*")
_LONGEST_KEY = 512
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_SIGNING_KEY_BYTES = 32

SHOWN = frozenset(
    {"image/png", "image/jpeg", "image/webp", "image/gif", "image/avif", "image/bmp", "image/heic", "application/pdf"}
)
"""The media types that a browser may show in place; anything else is downloaded. None of them can run a script."""


class Disk(Plugin[NoSettings]):
    """Keeps files in the data directory."""

    def __init__(self, context: Context[NoSettings]) -> None:
        super().__init__(context)
        self._files = DiskFiles(context.directory)

    @hookimpl
    def register_storage(self) -> Iterable[BlobStore]:
        yield self._files

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("disk", __name__)
        routes.add_url_rule("/api/blobs/<path:key>", view_func=self.read_blob)
        yield routes

    @public
    async def read_blob(self, key: str) -> Response:
        """The file behind a link of `DiskFiles.url`, whole or in part."""
        expires = request.args.get("expires", "")
        await self._files.check_link(key, expires, request.args.get("signature", ""))
        blob, path = await self._files.find(key)
        return await _response(blob, path, max_age=int(expires) - int(time.time()))


@attrs.define
class DiskFiles:
    """The blob store `disk`. `directory` is its own."""

    directory: Path
    name: str = "disk"
    _signing_key: bytes = attrs.field(default=b"", init=False, repr=False)

    async def put(self, blob: Blob, data: bytes) -> None:
        """Stores a new file; it is on the disk when this returns.

        Raises:
            Conflict: the key is taken.
            RequestError: the key is not of the form that `BlobStore` demands.
        """
        if not _is_key(blob.key):
            raise RequestError(f"{blob.key!r} is not a key: letters, digits, '_', '-', '.' and '/' are")
        await asyncio.to_thread(_write, self._place(blob.key), blob, data)

    async def get(self, key: str) -> bytes:
        """The file's bytes. Raises NotFound."""
        _, path = await self.find(key)
        return await asyncio.to_thread(path.read_bytes)

    async def find(self, key: str) -> tuple[Blob, Path]:
        """The description of a file, and where its bytes are. Raises NotFound."""
        place = self._place(key)
        try:
            description = await asyncio.to_thread((place / "blob.json").read_bytes)
        except FileNotFoundError:
            raise NotFound("there is no such file") from None
        return wire.structure(wire.loads(description), Blob), place / "data"

    async def url(self, key: str, expires: timedelta) -> str:
        """A path of this server under which a browser gets the file until it expires. Raises NotFound."""
        await self.find(key)
        until = str(int(time.time() + expires.total_seconds()))
        return f"/api/blobs/{key}?expires={until}&signature={await self._sign(key, until)}"

    async def check_link(self, key: str, expires: str, signature: str) -> None:
        """Checks what `url` has put into a link.

        Raises:
            NotFound: it is for something that cannot be a file's key.
            Forbidden: it is not from here, or it has expired.
        """
        if not _is_key(key):
            raise NotFound("there is no such file")
        expected = await self._sign(key, expires)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            raise Forbidden("this link was not made here", hint="ask for a new one")
        if int(expires) <= time.time():
            raise Forbidden("this link has expired", hint="ask for a new one")

    async def delete(self, key: str) -> None:
        """Removes the file; no error if there is none."""
        await asyncio.to_thread(_remove, self._place(key))

    def _place(self, key: str) -> Path:
        name = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()
        return self.directory / "files" / name[:2] / name[2:]

    async def _sign(self, key: str, expires: str) -> str:
        if not self._signing_key:
            self._signing_key = await asyncio.to_thread(_load_signing_key, self.directory / "signing.key")
        return hmac.new(self._signing_key, f"{key}\n{expires}".encode(), hashlib.sha256).hexdigest()


def _is_key(key: str) -> bool:
    return len(key) <= _LONGEST_KEY and _KEY.fullmatch(key) is not None


# --- on the disk: these run in threads --------------------------------------------------------------------------------


def _write(place: Path, blob: Blob, data: bytes) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=place.parent))
    try:
        _write_file(draft / "data", data)
        _write_file(draft / "blob.json", wire.dumps(blob))
        sync(draft)
        draft.rename(place)
    except OSError as error:
        if place.is_dir():
            raise Conflict(f"there is a file {blob.key} already") from error
        raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)  # after the rename there is none
    sync(place.parent)


def _write_file(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _remove(place: Path) -> None:
    # Renamed first: a half-removed file must not be found, nor its place taken for free while it is being emptied.
    waste = place.with_name(f"waste-{secrets.token_hex(8)}")
    try:
        place.rename(waste)
    except FileNotFoundError:
        return
    shutil.rmtree(waste)


def _load_signing_key(path: Path) -> bytes:
    """The key of this server's links, made when first needed."""
    make_private(path, lambda: secrets.token_bytes(_SIGNING_KEY_BYTES))
    key = path.read_bytes()
    if len(key) < _SIGNING_KEY_BYTES:
        raise PluginError(
            f"the key that signs links, {path.name}, is damaged",
            hint="delete it: a new one is made, and the links given out become void",
        )
    return key


# --- to the browser ---------------------------------------------------------------------------------------------------


async def _response(blob: Blob, path: Path, *, max_age: int) -> Response:
    media_type = blob.media_type if _MEDIA_TYPE.fullmatch(blob.media_type) else "application/octet-stream"
    response = await send_file(path, mimetype=media_type, conditional=True)
    # Quart's limit of a minute is for the whole body, and a slow line is no reason to cut a large one.
    response.timeout = None
    disposition = "inline" if media_type in SHOWN else "attachment"
    response.headers.set("Content-Disposition", disposition, **_filename(blob.filename))
    response.headers["X-Content-Type-Options"] = "nosniff"
    if media_type != "application/pdf":  # browsers do not show a PDF in a sandbox; it cannot reach the page anyhow
        response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.cache_control.public = False
    response.cache_control.private = True
    response.cache_control.max_age = max_age
    return response


def _filename(name: str) -> dict[str, str]:
    """A file's name as parameters of a header: in ASCII, and if that is not enough as RFC 8187 has it."""
    name = _CONTROL.sub("", name)
    plain = name.encode("ascii", errors="replace").decode()
    encoded = {} if plain == name else {"filename*": "UTF-8''" + quote(name, safe="", errors="replace")}
    return {"filename": plain, **encoded}
