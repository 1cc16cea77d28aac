"""Downloading, against a hub on real ports."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from chatcore_llama.hub import FetchFailed, Hub, Source

from chatcore.http import make_client
from chatcore.secrets import Secret

SOURCE = Source("someone/Tiny-GGUF", "tiny-Q4_0.gguf")
Fetch = Callable[..., Any]


@pytest.fixture
async def fetch(hub: Any, tmp_path: Path) -> AsyncIterator[Fetch]:
    """Fetches from the fake hub into `tmp_path / "models"`."""

    def tell(done: int, total: int | None) -> None:
        told.append((done, total))

    told: list[tuple[int, int | None]] = []
    async with make_client() as client:

        async def call(source: Source = SOURCE, *, url: str = "", token: Secret | None = None) -> list[Any]:
            told.clear()
            path = await Hub(client, url or hub.url, token).fetch(source, tmp_path / "models", tell)
            assert path == tmp_path / "models" / Path(source.file).name
            return list(told)

        yield call


def names(tmp_path: Path) -> list[str]:
    """The files that were fetched. The tag says that backups need not have them."""
    found = {path.name for path in (tmp_path / "models").iterdir()}
    assert "CACHEDIR.TAG" in found
    return sorted(found - {"CACHEDIR.TAG"})


async def test_a_file_is_downloaded_under_its_own_name(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """Nothing else is left, and the progress went from nothing to everything."""
    told = await fetch()
    assert names(tmp_path) == ["tiny-Q4_0.gguf"]
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content
    assert told[0] == (0, len(hub.content))
    assert told[-1] == (len(hub.content), len(hub.content))
    assert told == sorted(told)


async def test_a_broken_download_goes_on_where_it_stopped(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """The second call asks for the rest only, and the whole is right."""
    hub.cut_at = 300_000
    with pytest.raises(FetchFailed) as caught:
        await fetch()
    assert "goes on where it stopped" in str(caught.value.hint)
    (part,) = names(tmp_path)
    assert part.endswith(".part")
    have = (tmp_path / "models" / part).stat().st_size
    assert 0 < have <= 300_000

    hub.cut_at = None
    told = await fetch()
    assert hub.ranges_asked == [None, f"bytes={have}-"]
    assert told[0] == (have, len(hub.content))
    assert names(tmp_path) == [SOURCE.file]
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content


async def test_a_server_that_knows_no_ranges_gives_everything_again(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """What was there is replaced, not added to."""
    hub.cut_at = 300_000
    with pytest.raises(FetchFailed):
        await fetch()
    hub.cut_at, hub.ranges = None, False
    await fetch()
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content


async def test_two_versions_are_never_mixed(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """When the file has changed on the hub meanwhile, the old beginning is thrown away."""
    hub.cut_at = 300_000
    with pytest.raises(FetchFailed):
        await fetch()
    hub.cut_at, hub.content = None, hub.content[:4] + b"new" + hub.content[7:]
    await fetch()
    assert hub.ranges_asked == [None, None]
    assert names(tmp_path) == [SOURCE.file]
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content


async def test_a_finished_part_is_not_downloaded_again(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """Who was killed between the last byte and the check loses nothing."""
    hub.cut_at = 300_000
    with pytest.raises(FetchFailed):
        await fetch()
    (part,) = names(tmp_path)
    (tmp_path / "models" / part).write_bytes(hub.content)
    hub.requests.clear()
    await fetch()
    assert hub.ranges_asked == []
    assert names(tmp_path) == [SOURCE.file]


async def test_a_newer_version_replaces_the_old_file(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """Fetching again is an update."""
    await fetch()
    hub.content += b"more"
    await fetch()
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content


async def test_wrong_bytes_are_not_kept(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """The hash that the hub tells must be that of the file."""
    hub.sha256 = "0" * 64
    with pytest.raises(FetchFailed, match="not the file that the hub describes"):
        await fetch()
    assert names(tmp_path) == []


async def test_more_bytes_than_told_are_not_kept(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """The size must be right as well."""
    hub.size = len(hub.content) - 10
    with pytest.raises(FetchFailed, match="not the file that the hub describes"):
        await fetch()
    assert names(tmp_path) == []


async def test_fewer_bytes_than_told_are_a_broken_download(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """They are kept for the next call."""
    hub.size = len(hub.content) + 10
    with pytest.raises(FetchFailed, match=f"broke off at byte {len(hub.content)} of {hub.size}"):
        await fetch()
    assert [name.endswith(".part") for name in names(tmp_path)] == [True]


async def test_a_page_instead_of_the_file_is_not_kept(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """A proxy's login page has the status 200, too."""
    hub.content, hub.media_type, hub.linked = b"<html>please sign in</html>", "text/html", False
    with pytest.raises(FetchFailed, match="not a GGUF file") as caught:
        await fetch()
    assert "login" in str(caught.value.hint)
    assert names(tmp_path) == []


async def test_an_empty_file_is_not_kept(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """It is no model."""
    hub.content = b""
    with pytest.raises(FetchFailed, match="not a GGUF file"):
        await fetch()
    assert names(tmp_path) == []


async def test_a_hub_without_redirects_serves_too(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """A plain file server names the version by its ETag, which is enough to go on."""
    hub.linked, hub.cut_at = False, 300_000
    with pytest.raises(FetchFailed):
        await fetch()
    hub.cut_at = None
    await fetch()
    asked = [headers.get("range", "") for _, method, _, headers in hub.requests if method == "GET"]
    assert asked[0] == ""
    assert asked[1].startswith("bytes=")
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content


async def test_a_renamed_repository_is_followed(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """The hub redirects to itself; the file keeps the name that was asked for, without its folder."""
    hub.moved_from = "/someone/Old-GGUF/resolve/main/q4%20folder/tiny-Q4_0.gguf"
    await fetch(Source("someone/Old-GGUF", "q4 folder/tiny-Q4_0.gguf"))
    assert names(tmp_path) == [SOURCE.file]


async def test_a_circle_of_redirects_ends(hub: Any, fetch: Fetch) -> None:
    """It is told as what it is."""
    hub.circle = True
    with pytest.raises(FetchFailed, match="circle"):
        await fetch()


async def test_an_unknown_file_is_told_with_the_place_to_look(hub: Any, fetch: Fetch) -> None:
    """A 404 names repository and file, and the page that lists what there is."""
    with pytest.raises(FetchFailed, match=r"someone/Tiny-GGUF has no file other\.gguf") as caught:
        await fetch(Source("someone/Tiny-GGUF", "other.gguf"))
    assert str(caught.value.hint).endswith("/someone/Tiny-GGUF/tree/main")


@pytest.mark.parametrize(
    ("status", "message", "hint"),
    [
        (401, "does not give someone/Tiny-GGUF to everybody", "HF_TOKEN"),
        (403, "does not give someone/Tiny-GGUF to everybody", "HF_TOKEN"),
        (503, "status 503", "later"),
    ],
)
async def test_a_refusal_says_what_to_do(hub: Any, fetch: Fetch, status: int, message: str, hint: str) -> None:
    """Files with terms need a token; other errors need patience."""
    hub.status = status
    with pytest.raises(FetchFailed, match=message) as caught:
        await fetch()
    assert hint in str(caught.value.hint)


async def test_the_token_goes_to_the_hub_alone(hub: Any, fetch: Fetch) -> None:
    """The server that it redirects to gets none: its URL is signed, and it is somebody else's."""
    await fetch(token=Secret("hf_secret"))
    sent = {server: headers.get("authorization") for server, _, _, headers in hub.requests}
    assert sent == {"hub": "Bearer hf_secret", "bytes": None}


async def test_a_hub_that_is_not_there_is_told(fetch: Fetch, tmp_path: Path) -> None:
    """Without a network the text names the host."""
    with pytest.raises(FetchFailed, match=r"127\.0\.0\.1:9"):
        await fetch(url="http://127.0.0.1:9")


async def test_a_file_larger_than_the_disk_is_not_begun(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """The text says how much is missing."""
    hub.size = 10**18
    with pytest.raises(FetchFailed, match=r"1000000000\.0 GB are to come"):
        await fetch()
    assert hub.ranges_asked == []
    assert names(tmp_path) == []


async def test_two_downloads_do_not_spoil_each_other(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """The second is refused while the first goes on, also if it is of the same file."""
    hub.hold_at = 300_000
    first = asyncio.create_task(fetch())
    await asyncio.to_thread(hub.held.wait, 20)
    with pytest.raises(FetchFailed, match=r"another download into .* is under way") as caught:
        await fetch()
    assert "wait" in str(caught.value.hint)
    hub.hold_at = None
    hub.release.set()
    with pytest.raises(FetchFailed, match="the connection was closed"):
        await first
    await fetch()
    assert (tmp_path / "models" / SOURCE.file).read_bytes() == hub.content


async def test_a_place_that_cannot_be_written_is_told(hub: Any, fetch: Fetch, tmp_path: Path) -> None:
    """Here a file stands where the directory should be."""
    (tmp_path / "models").write_text("")
    with pytest.raises(FetchFailed, match="cannot be written"):
        await fetch()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "model.gguf",
        "owner/model.gguf",
        "owner/name/model.bin",
        "owner/name/../model.gguf",
        "owner//name/model.gguf",
        "/owner/name/m.gguf",
        "owner/name/",
        "https://huggingface.co/o/n/blob/main/m.gguf",
        "a/b/c\\d.gguf",
        "a/b/c.gguf?x",
    ],
)
def test_a_source_has_owner_name_and_file(text: str) -> None:
    """Everything else is refused with an example, before anything is asked or written."""
    with pytest.raises(FetchFailed, match="OWNER/NAME/FILE") as caught:
        Source.parse(text)
    assert "for example" in str(caught.value.hint)


def test_a_source_may_be_in_a_folder() -> None:
    """The first two parts are the repository."""
    assert Source.parse("a/b-GGUF/q4/c.gguf") == Source("a/b-GGUF", "q4/c.gguf")
