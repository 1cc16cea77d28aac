"""The contract of a blob store."""

# ruff: noqa: S101
# The contracts speak in assertions.

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from datetime import timedelta
from typing import TypeAlias

import pytest
import pytest_asyncio

from chatcore.errors import Conflict, NotFound, RequestError
from chatcore.plugins.fit import misfit
from chatcore.protocols import Blob, BlobStore

MakeBlob: TypeAlias = Callable[..., Blob]

DATA = bytes(range(256)) * 16
_BIG = 8 * 2**20
_HOUR = timedelta(hours=1)
_HOSTILE = (
    "../up",
    "a/../../up",
    "/etc/passwd",
    "..",
    "",
    "a//b",
    "a\\..\\b",
    "nul\x00",
    "line\nfeed",
    "ü\udcff",
    "k" * 5000,
)


@pytest.mark.asyncio
class BlobStoreContract:
    """What every blob store keeps. A subclass gives the fixture `store`:

        class TestMine(BlobStoreContract):
            @pytest.fixture
            def store(self, tmp_path):
                return MyStore(tmp_path)

    The files of a test have keys that nobody else has, and are deleted after it.
    """

    @pytest.fixture
    def store(self) -> BlobStore:
        """The store to test."""
        raise NotImplementedError("write a fixture 'store' that gives the blob store to test")

    @pytest_asyncio.fixture
    async def make_blob(self, store: BlobStore) -> AsyncIterator[MakeBlob]:
        """Describes files: `make_blob()`, or `make_blob("under/this/key.png")`."""
        made: list[str] = []
        place = f"contract-{uuid.uuid4().hex}"

        def make(name: str = "cat.png", media_type: str = "image/png", filename: str = "cat.png") -> Blob:
            made.append(f"{place}/{name}")
            return Blob(key=made[-1], media_type=media_type, filename=filename)

        yield make
        for key in made:
            await store.delete(key)

    async def test_it_is_a_blob_store(self, store: BlobStore) -> None:
        """It has every member of `BlobStore`, and a name."""
        assert not (wrong := misfit(store, BlobStore)), wrong
        assert store.name, "its name is empty"

    async def test_what_was_put_can_be_got(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """The bytes come back as they were."""
        blob = make_blob()
        await store.put(blob, DATA)
        assert await store.get(blob.key) == DATA

    @pytest.mark.parametrize("size", [0, _BIG], ids=["empty", "8 MiB"])
    async def test_files_of_any_size(self, store: BlobStore, make_blob: MakeBlob, size: int) -> None:
        """An empty file is a file, and a big one stays whole."""
        blob, data = make_blob(), (DATA * (size // len(DATA)))
        await store.put(blob, data)
        got = await store.get(blob.key)
        assert got == data, f"{size} bytes were put and {len(got)} came back, or other ones"

    async def test_a_key_is_used_once(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """The second file under a key is refused with Conflict; the first one stays."""
        blob = make_blob()
        await store.put(blob, DATA)
        with pytest.raises(Conflict):
            await store.put(blob, b"other")
        assert await store.get(blob.key) == DATA, "the file was overwritten"

    async def test_of_many_at_once_one_wins(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """Of several files that are put under one key at the same time one is kept; the others get Conflict."""
        blob = make_blob()
        puts = (store.put(blob, bytes([number]) * 1000) for number in range(8))
        results = await asyncio.gather(*puts, return_exceptions=True)
        winners = [number for number, result in enumerate(results) if result is None]
        assert len(winners) == 1, f"{len(winners)} of 8 were told that their file is kept"
        others = {type(result).__name__ for result in results if result is not None}
        assert all(isinstance(r, Conflict) for r in results if r is not None), f"the others got {others}"
        assert await store.get(blob.key) == bytes(winners) * 1000

    async def test_files_are_put_side_by_side(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """Files with different keys do not disturb each other."""
        blobs = [make_blob(f"{number}.bin") for number in range(16)]
        await asyncio.gather(*(store.put(blob, blob.key.encode()) for blob in blobs))
        assert await asyncio.gather(*(store.get(blob.key) for blob in blobs)) == [b.key.encode() for b in blobs]

    async def test_one_key_may_begin_like_another(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """`a`, `a/b` and `a.b` are three files."""
        blobs = [make_blob(name) for name in ("a", "a/b", "a.b", "A")]
        for blob in blobs:
            await store.put(blob, blob.key.encode())
        for blob in blobs:
            assert await store.get(blob.key) == blob.key.encode()

    async def test_descriptions_may_be_anything(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """The names and media types are a stranger's: they break nothing, and are no path."""
        filenames = ("../../up.png", "Größe “1”\r\nX-Header: y", "", "n" * 300)
        for number, filename in enumerate(filenames):
            blob = make_blob(f"{number}", media_type="no media type\r\n", filename=filename)
            await store.put(blob, DATA)
            assert await store.get(blob.key) == DATA

    async def test_what_is_not_there_is_not_found(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """`get` and `url` raise NotFound."""
        key = make_blob().key
        with pytest.raises(NotFound):
            await store.get(key)
        with pytest.raises(NotFound):
            await store.url(key, _HOUR)

    async def test_what_was_deleted_is_gone(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """Deleting makes a file NotFound and its key free; deleting again, or what never was, is no error."""
        blob = make_blob()
        await store.delete(blob.key)
        await store.put(blob, DATA)
        await store.delete(blob.key)
        await store.delete(blob.key)
        with pytest.raises(NotFound):
            await store.get(blob.key)
        await store.put(blob, b"again")
        assert await store.get(blob.key) == b"again"

    async def test_a_url_is_one_that_a_browser_can_use(self, store: BlobStore, make_blob: MakeBlob) -> None:
        """`url` gives a path of this server or an http(s) address, without spaces and line breaks."""
        blob = make_blob()
        await store.put(blob, DATA)
        url = await store.url(blob.key, _HOUR)
        assert url.startswith(("/", "http://", "https://")), f"{url!r} is not for a browser"
        assert url.isascii(), f"{url!r} is not ASCII"
        assert url.isprintable(), f"{url!r} has characters that cannot be printed"
        assert " " not in url, f"{url!r} has a space"

    @pytest.mark.parametrize("key", _HOSTILE, ids=[ascii(key[:20]) for key in _HOSTILE])
    async def test_a_hostile_key_is_no_file(self, store: BlobStore, key: str) -> None:
        """What is not a key is refused by `put`, and no file for the others: never a place elsewhere."""
        with pytest.raises(RequestError):
            await store.put(Blob(key=key, media_type="text/plain", filename="x"), DATA)
        with pytest.raises(RequestError):
            await store.get(key)
        with pytest.raises(RequestError):
            await store.url(key, _HOUR)
        with suppress(RequestError):  # either is good, as long as nothing else happens
            await store.delete(key)
