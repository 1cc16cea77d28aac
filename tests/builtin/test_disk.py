"""The blob store `disk`: files in the data directory, and the links that serve them."""

import asyncio
import logging
import stat
from datetime import timedelta
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quart import Quart, Response

from chatcore.access import Access
from chatcore.builtin.disk import Disk, DiskFiles
from chatcore.config import Config
from chatcore.database import Database
from chatcore.errors import ChatcoreError, Conflict, NotFound, PluginError, RequestError
from chatcore.hooks import Context, NoSettings
from chatcore.protocols import Blob, BlobStore

PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40
DAY = timedelta(days=1)


def blob(key: str = "a/b.png", media_type: str = "image/png", filename: str = "cat.png") -> Blob:
    return Blob(key=key, media_type=media_type, filename=filename)


@pytest.fixture
def files(tmp_path: Path) -> DiskFiles:
    return DiskFiles(tmp_path / "disk")


# --- the store --------------------------------------------------------------------------------------------------------


async def test_what_was_put_can_be_got(files: DiskFiles) -> None:
    """Also by another instance, as after a restart."""
    await files.put(blob(), PNG)
    assert await files.get("a/b.png") == PNG
    assert await DiskFiles(files.directory).get("a/b.png") == PNG
    assert isinstance(files, BlobStore)


async def test_an_empty_file_is_a_file(files: DiskFiles) -> None:
    """Nothing is not the same as no file."""
    await files.put(blob(), b"")
    assert await files.get("a/b.png") == b""


async def test_the_description_is_kept(files: DiskFiles) -> None:
    """The media type and the name belong to the file."""
    await files.put(blob(filename="Größe “1”.png"), PNG)
    assert (await files.find("a/b.png"))[0] == blob(filename="Größe “1”.png")


async def test_a_key_is_used_once(files: DiskFiles) -> None:
    """The second to come is refused; the first file stays whole."""
    await files.put(blob(), PNG)
    with pytest.raises(Conflict):
        await files.put(blob(filename="other.png"), b"other")
    assert await files.get("a/b.png") == PNG
    assert (await files.find("a/b.png"))[0].filename == "cat.png"


async def test_of_many_at_once_one_wins(files: DiskFiles) -> None:
    """A race for one key has one winner, whose file is whole, and leaves nothing behind."""
    contents = [bytes([number]) * 5000 for number in range(8)]
    results = await asyncio.gather(*(files.put(blob(), data) for data in contents), return_exceptions=True)
    assert [type(r) for r in results].count(Conflict) == 7
    assert await files.get("a/b.png") == contents[results.index(None)]
    assert len([path for path in files.directory.rglob("*") if path.is_file()]) == 2


async def test_a_key_may_begin_like_another(files: DiskFiles) -> None:
    """`a`, `a/data` and `A` are three files, whatever the file system thinks of directories and of case."""
    keys = ["a", "a/data", "A", "a/blob.json"]
    for key in keys:
        await files.put(blob(key), key.encode())
    assert [await files.get(key) for key in keys] == [key.encode() for key in keys]


async def test_a_deleted_file_is_gone(files: DiskFiles) -> None:
    """Its key is free again; nothing of it is left."""
    await files.put(blob(), PNG)
    await files.delete("a/b.png")
    with pytest.raises(NotFound):
        await files.get("a/b.png")
    assert not [path for path in files.directory.rglob("*") if path.is_file()]
    await files.put(blob(), b"new")
    assert await files.get("a/b.png") == b"new"


async def test_deleting_nothing_is_no_error(files: DiskFiles) -> None:
    """Twice is as good as once."""
    assert await files.delete("a/b.png") is None
    assert await files.delete("../../etc/passwd") is None


async def test_what_is_not_there_is_not_found(files: DiskFiles) -> None:
    """For its bytes as for its link."""
    with pytest.raises(NotFound):
        await files.get("none")
    with pytest.raises(NotFound):
        await files.url("none", DAY)


async def test_a_write_that_fails_leaves_nothing(files: DiskFiles) -> None:
    """Half a file is never found."""
    with pytest.raises(TypeError):
        await files.put(blob(), cast(bytes, "text"))
    with pytest.raises(NotFound):
        await files.get("a/b.png")
    assert not [path for path in files.directory.rglob("*") if path.is_file()]


async def test_a_damaged_store_is_no_conflict(files: DiskFiles) -> None:
    """An error of the disk is told as such: the key is not taken."""
    place = files._place("a/b.png")
    place.parent.mkdir(parents=True)
    place.write_text("not a directory")
    with pytest.raises(OSError, match="directory"):
        await files.put(blob(), PNG)


BAD_KEYS = [
    "", ".", "..", "/etc/passwd", "../x", "a/../b", "a/./b", "a//b", "a/", "/a", "a\x00b", "a b", "ä", "a\\b", "a\n",
    "a/..", "C:x", "a" * 513, "%2e%2e/x", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("key", BAD_KEYS)
async def test_a_key_of_another_form_is_refused(files: DiskFiles, key: str) -> None:
    """Nothing is written, and nothing is found."""
    with pytest.raises(RequestError, match="is not a key"):
        await files.put(blob(key), PNG)
    with pytest.raises(NotFound):
        await files.get(key)
    assert not files.directory.exists()


@given(st.text() | st.text(alphabet="./a\\-"))
def test_no_key_names_a_place_outside(key: str) -> None:
    """Whatever the key, its file lies in the store's directory, at the same depth."""
    root = Path("/srv/data")
    place = DiskFiles(root)._place(key)
    assert place.parent.parent == root / "files"
    assert ".." not in place.parts


async def test_files_are_the_servers_own(files: DiskFiles) -> None:
    """Other users of the machine read neither the files nor the key that signs links."""
    await files.put(blob(), PNG)
    await files.url("a/b.png", DAY)
    _, path = await files.find("a/b.png")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE((files.directory / "signing.key").stat().st_mode) == 0o600


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def plugin(files: DiskFiles) -> Disk:
    """The plugin in the directory of `files`."""
    return Disk(Context("disk", NoSettings(), files.directory, cast(Database, None), logging.getLogger("disk")))


async def test_the_plugin_gives_the_store(plugin: Disk, files: DiskFiles) -> None:
    """Under the name that the configuration's `blob_store` has by default."""
    (store,) = plugin.register_storage()
    assert store.name == Config().blob_store
    await store.put(blob(), PNG)
    assert await files.get("a/b.png") == PNG


@pytest.fixture
def app(plugin: Disk) -> Quart:
    """A server that everybody must sign in to; the links of `files` are its own."""
    app = Quart(__name__)
    for blueprint in plugin.register_routes():
        app.register_blueprint(blueprint)
    Access(Config(host="0.0.0.0"), lambda: []).install(app)

    async def answer(error: ChatcoreError) -> tuple[dict[str, str], int]:
        return {"detail": error.message}, error.status

    app.register_error_handler(ChatcoreError, answer)
    return app


async def get(app: Quart, path: str, **headers: str) -> Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await app.test_client(use_cookies=False).get(path, headers=named)


async def test_a_link_is_all_the_permission_that_is_needed(app: Quart, files: DiskFiles) -> None:
    """A browser's <img> sends no token."""
    await files.put(blob(), PNG)
    response = await get(app, await files.url("a/b.png", DAY))
    assert response.status_code == 200
    assert await response.get_data() == PNG
    assert response.content_type == "image/png"
    assert response.content_length == len(PNG)


async def test_a_link_is_good_for_all_workers(app: Quart, files: DiskFiles) -> None:
    """And after a restart: the key that signs is on the disk. Several that come at once agree on one."""
    await files.put(blob(), PNG)
    links = await asyncio.gather(*(DiskFiles(files.directory).url("a/b.png", DAY) for _ in range(8)))
    assert {(await get(app, link)).status_code for link in links} == {200}


async def test_a_link_of_another_server_is_refused(app: Quart, files: DiskFiles, tmp_path: Path) -> None:
    """Each data directory has a key of its own."""
    other = DiskFiles(tmp_path / "other")
    await other.put(blob(), PNG)
    await files.put(blob(), PNG)
    assert (await get(app, await other.url("a/b.png", DAY))).status_code == 403


async def test_an_expired_link_is_refused(app: Quart, files: DiskFiles) -> None:
    """It says so, since its signature shows that it was good."""
    await files.put(blob(), PNG)
    response = await get(app, await files.url("a/b.png", timedelta(seconds=-1)))
    assert response.status_code == 403
    assert b"expired" in await response.get_data()


async def test_a_changed_link_is_refused(app: Quart, files: DiskFiles) -> None:
    """Neither key nor time nor signature can be changed."""
    await files.put(blob(), PNG)
    await files.put(blob("a/c.png"), PNG)
    link = await files.url("a/b.png", DAY)
    path, _, query = link.partition("?")
    expires, _, signature = query.partition("&")
    forged = [
        link.replace("a/b.png", "a/c.png"),
        f"{path}?{expires}0&{signature}",
        f"{path}?{signature}",
        f"{path}?{expires}",
        f"{path}?expires=never&{signature}",
        f"{path}?expires=-1&signature=",
        f"{path}?{expires}&signature=%FF%00%C3%A4",
        link[:-1],
        link[:-1] + ("0" if link[-1] != "0" else "1"),
        path,
    ]
    assert {url: (await get(app, url)).status_code for url in forged} == dict.fromkeys(forged, 403)


async def test_the_link_of_a_deleted_file_is_404(app: Quart, files: DiskFiles) -> None:
    """Deleting a file takes it from everybody, at once."""
    await files.put(blob(), PNG)
    link = await files.url("a/b.png", DAY)
    await files.delete("a/b.png")
    assert (await get(app, link)).status_code == 404


@pytest.mark.parametrize(
    "key", ["../signing.key", "..%2fsigning.key", "%2e%2e/signing.key", "a%00b", "%FF", "a//b", ""]
)
async def test_no_path_leads_elsewhere(app: Quart, files: DiskFiles, key: str) -> None:
    """Strange paths are not found or forbidden; never an error of the server."""
    assert (await get(app, f"/api/blobs/{key}?expires=9999999999&signature=00")).status_code in {403, 404, 308}


async def test_parts_can_be_asked_for(app: Quart, files: DiskFiles) -> None:
    """Players and resumed downloads ask for ranges."""
    await files.put(blob(), PNG)
    link = await files.url("a/b.png", DAY)
    response = await get(app, link, Range="bytes=8-17")
    assert response.status_code == 206
    assert await response.get_data() == PNG[8:18]
    assert response.headers["Content-Range"] == f"bytes 8-17/{len(PNG)}"
    assert (await get(app, link, Range=f"bytes={len(PNG)}-")).status_code == 416


async def test_what_a_browser_has_is_not_sent_again(app: Quart, files: DiskFiles) -> None:
    """304 for a known ETag; the browser alone may keep the file, as long as the link is good."""
    await files.put(blob(), PNG)
    link = await files.url("a/b.png", DAY)
    response = await get(app, link)
    assert response.cache_control.private
    assert not response.cache_control.public
    assert 86_000 < int(response.cache_control.max_age or 0) <= 86_400
    assert (await get(app, link, If_None_Match=response.headers["ETag"])).status_code == 304


@pytest.mark.parametrize(
    ("media_type", "disposition"),
    [
        ("image/png", "inline"),
        ("image/jpeg", "inline"),
        ("application/pdf", "inline"),
        ("image/svg+xml", "attachment"),
        ("text/html", "attachment"),
        ("text/plain", "attachment"),
        ("application/xhtml+xml", "attachment"),
        ("image/png; charset=x", "attachment"),
        ("", "attachment"),
        ("text/html\r\nX-Evil: 1", "attachment"),
    ],
)
async def test_only_what_cannot_run_is_shown_in_place(
    app: Quart, files: DiskFiles, media_type: str, disposition: str
) -> None:
    """Anything else is downloaded; nothing is guessed from the bytes, nothing runs in this server's origin."""
    await files.put(blob(media_type=media_type), b"<script>alert(1)</script>")
    response = await get(app, await files.url("a/b.png", DAY))
    assert response.status_code == 200
    assert response.headers["Content-Disposition"].startswith(f"{disposition};")
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert ("sandbox" in response.headers.get("Content-Security-Policy", "")) == (media_type != "application/pdf")
    assert "X-Evil" not in response.headers


@pytest.mark.parametrize(
    ("filename", "header"),
    [
        ("cat.png", "inline; filename=cat.png"),
        ("a cat.png", 'inline; filename="a cat.png"'),
        ('a "cat".png', 'inline; filename="a \\"cat\\".png"'),
        ("Größe.png", "inline; filename=\"Gr??e.png\"; filename*=UTF-8''Gr%C3%B6%C3%9Fe.png"),
        ("a\r\nX-Evil: 1\x00.png", 'inline; filename="aX-Evil: 1.png"'),
    ],
)
async def test_the_users_name_for_the_file_is_kept(app: Quart, files: DiskFiles, filename: str, header: str) -> None:
    """A download is called as the upload was; no name can add a header."""
    await files.put(blob(filename=filename), PNG)
    assert (await get(app, await files.url("a/b.png", DAY))).headers["Content-Disposition"] == header


async def test_a_damaged_signing_key_is_named(files: DiskFiles) -> None:
    """An empty key would let anybody sign: the store stops, with the remedy."""
    await files.put(blob(), PNG)
    (files.directory / "signing.key").write_bytes(b"")
    with pytest.raises(PluginError) as damaged:
        await files.url("a/b.png", DAY)
    assert "delete it" in (damaged.value.hint or "")
