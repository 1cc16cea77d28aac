"""Downloads a GGUF file from a hub that serves files as Hugging Face does, at `/OWNER/NAME/resolve/main/FILE`.

The bytes go to a file `….part` beside the target, named after the hub's tag for this content: a later call goes on
where an earlier one stopped, and never mixes two versions. Only what has passed every check gets the final name.

The hub answers HEAD with the size, the tag and, for large files, the SHA-256 (`X-Linked-Size`, `X-Linked-Etag`), and
redirects to the place of the bytes (huggingface_hub's `file_download`, 2026).
"""

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, TypeAlias
from urllib.parse import quote, urljoin, urlsplit

import attrs

from chatcore.errors import ChatcoreError
from chatcore.http import failures, reason_of
from chatcore.secrets import Secret
from chatcore_llama import weights

if TYPE_CHECKING:
    import httpx

Progress: TypeAlias = Callable[[int, int | None], object]
"""Is told how many bytes there are, of how many (None: unknown)."""

REDIRECTS = 5
AGAIN = "run the command again: it goes on where it stopped"

CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"
"""What tells backups that a directory holds what can be had again (https://bford.info/cachedir)."""

_PIECE = 2**16
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SOURCE = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)/(?P<file>[^\\?#]+\.gguf)")


class FetchFailed(ChatcoreError):
    """The file could not be had. Nothing bad has the final name."""

    code = "fetch_failed"


@attrs.frozen
class Source:
    """A file in a repository of the hub."""

    repo: str
    file: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `OWNER/NAME/FILE.gguf`, where FILE may be in a folder.

        Raises:
            FetchFailed: the text is not of that form.
        """
        match = _SOURCE.fullmatch(text)
        if match is None or not {"", ".", ".."}.isdisjoint(text.split("/")):
            hint = "for example bartowski/Qwen2.5-0.5B-Instruct-GGUF/Qwen2.5-0.5B-Instruct-Q4_K_M.gguf"
            raise FetchFailed(f"{text!r} is not of the form OWNER/NAME/FILE.gguf", hint=hint)
        return cls(match["repo"], match["file"])


@attrs.frozen
class _Remote:
    """A file as the hub describes it. `tag` names this content; None where the hub has no name for it."""

    url: str
    size: int | None
    tag: str | None

    @property
    def sha256(self) -> str | None:
        return self.tag if self.tag and _SHA256.fullmatch(self.tag) else None


@attrs.frozen
class Hub:
    """A hub and how to call it. `client` follows no redirects; `token` is not sent to where the hub redirects."""

    client: "httpx.AsyncClient"
    url: str
    token: Secret | None = None

    async def fetch(self, source: Source, directory: Path, progress: Progress) -> Path:
        """Downloads a file into a directory, under its own name, and gives its path.

        Raises:
            FetchFailed: its hint says whether another try helps.
        """
        target = directory / Path(source.file).name
        with _disk_problems(directory):
            remote = await self._describe(source)
            with _alone(directory):
                part = _part(target, remote)
                await self._download(remote, part, progress)
                _accept(part, remote, target)
        return target

    async def _describe(self, source: Source) -> _Remote:
        """Asks the hub; follows its redirects to itself, and stops at the one to where the bytes are."""
        url = f"{self.url.rstrip('/')}/{source.repo}/resolve/main/{quote(source.file)}"
        for _ in range(REDIRECTS):
            async with self._answer("HEAD", url) as response:
                if response.status_code >= 400:
                    raise self._refusal(response.status_code, source)
                location = _location(response, url)
                if location is None or not self._owns(location) or "x-linked-etag" in response.headers:
                    return _remote(response, location or url)
                url = location
        raise FetchFailed(f"{self.url} redirects in a circle", hint="check the setting 'hub'")

    async def _download(self, remote: _Remote, part: Path, progress: Progress) -> None:
        have = _size(part)
        if have and have == remote.size:
            return
        _check_space(part.parent, remote, have)
        async with self._bytes(remote.url, have) as (start, response):
            with _disk_problems(part.parent), _open(part, start) as file:
                progress(start, remote.size)
                async for data in response.aiter_raw(_PIECE):
                    _write(file, data)
                    progress(file.tell(), remote.size)
        if remote.size is not None and _size(part) < remote.size:
            raise FetchFailed(f"the connection broke off at byte {_size(part)} of {remote.size}", hint=AGAIN)

    @asynccontextmanager
    async def _bytes(self, url: str, have: int) -> "AsyncIterator[tuple[int, httpx.Response]]":
        """The bytes at the end of the redirects, and with which one they begin: not `have` where it gives them all."""
        for _ in range(REDIRECTS):
            async with self._answer("GET", url, {"range": f"bytes={have}-"} if have else {}) as response:
                location = _location(response, url)
                if location is None:
                    if response.status_code >= 400:
                        raise FetchFailed(f"{_host(url)} answers with status {response.status_code}", hint=AGAIN)
                    yield have if _continues(response, have) else 0, response
                    return
            url = location
        raise FetchFailed(f"{_host(url)} redirects in a circle", hint="check the setting 'hub'")

    @asynccontextmanager
    async def _answer(
        self, method: str, url: str, headers: dict[str, str] | None = None
    ) -> AsyncIterator["httpx.Response"]:
        authorization = {"authorization": f"Bearer {self.token.reveal()}"} if self.token and self._owns(url) else {}
        try:
            async with self.client.stream(method, url, headers={**authorization, **(headers or {})}) as response:
                yield response
        except failures() as error:
            raise FetchFailed(f"{_host(url)}: {reason_of(error)}", hint=AGAIN) from error

    def _owns(self, url: str) -> bool:
        return urlsplit(url)[:2] == urlsplit(self.url)[:2]

    def _refusal(self, status: int, source: Source) -> FetchFailed:
        if status in (401, 403):
            hint = "check the name; for files with terms accept them on the hub's page, and set HF_TOKEN"
            return FetchFailed(f"{_host(self.url)} does not give {source.repo} to everybody", hint=hint)
        if status == 404:
            hint = f"see which there are at {self.url.rstrip('/')}/{source.repo}/tree/main"
            return FetchFailed(f"{source.repo} has no file {source.file}", hint=hint)
        return FetchFailed(f"{_host(self.url)} answers with status {status}", hint="try again later")


# --- answers ----------------------------------------------------------------------------------------------------------


def _remote(response: "httpx.Response", url: str) -> _Remote:
    headers = response.headers
    size = headers.get("x-linked-size") or ("" if response.is_redirect else headers.get("content-length", ""))
    tag = headers.get("x-linked-etag") or headers.get("etag", "")
    return _Remote(url, int(size) if size.isdigit() else None, tag.removeprefix("W/").strip('"') or None)


def _location(response: "httpx.Response", url: str) -> str | None:
    location = response.headers.get("location") if response.is_redirect else None
    return urljoin(url, location) if location else None


def _continues(response: "httpx.Response", have: int) -> bool:
    return response.status_code == 206 and response.headers.get("content-range", "").startswith(f"bytes {have}-")


def _host(url: str) -> str:
    return urlsplit(url).netloc


# --- files ------------------------------------------------------------------------------------------------------------


def _part(target: Path, remote: _Remote) -> Path:
    """Where the bytes are gathered. Those of other versions are deleted, as are those that nothing can be added to."""
    (target.parent / "CACHEDIR.TAG").write_text(CACHE_TAG)
    digest = hashlib.sha256((remote.tag or "").encode()).hexdigest()[:12]
    part = target.with_name(f"{target.name}.{digest}.part")
    for other in target.parent.iterdir():
        if re.fullmatch(rf"{re.escape(target.name)}\.[0-9a-f]{{12}}\.part", other.name) and (
            other != part or remote.tag is None or remote.size is None or other.stat().st_size > remote.size
        ):
            other.unlink()
    return part


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _open(part: Path, start: int) -> IO[bytes]:
    file = part.open("r+b" if start else "wb")
    file.seek(start)
    return file


def _write(file: IO[bytes], data: bytes) -> None:
    """Adds bytes; refuses at the first ones if they are not the beginning of a GGUF file."""
    if file.tell() == 0 and not data.startswith(weights.MAGIC):
        raise _not_gguf(Path(file.name))
    file.write(data)


def _accept(part: Path, remote: _Remote, target: Path) -> None:
    """Gives the file its name if it is what the hub says of it; a wrong one is deleted."""
    if weights.problem_of(part):
        raise _not_gguf(part)
    with part.open("r+b") as file:
        right_size = remote.size in (None, os.fstat(file.fileno()).st_size)
        if right_size and remote.sha256 in (None, hashlib.file_digest(file, "sha256").hexdigest()):
            os.fsync(file.fileno())
            part.replace(target)
            return
    part.unlink()
    raise FetchFailed("what came is not the file that the hub describes; it is not kept", hint="run the command again")


def _not_gguf(part: Path) -> FetchFailed:
    part.unlink()
    hint = "what came is perhaps the page of a login or of a proxy; check the setting 'hub'"
    return FetchFailed("what came is not a GGUF file; it is not kept", hint=hint)


def _check_space(directory: Path, remote: _Remote, have: int) -> None:
    free = shutil.disk_usage(directory).free
    if remote.size is not None and remote.size - have > free:
        raise FetchFailed(
            f"{directory} has {free / 1e9:.1f} GB free, and {(remote.size - have) / 1e9:.1f} GB are to come",
            hint="make room, or choose another place with --data",
        )


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """While nobody else downloads into a directory: two that write one file spoil it for each other."""
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            hint = "wait until it has ended, or stop it: what it has is kept"
            raise FetchFailed(f"another download into {directory} is under way", hint=hint) from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _disk_problems(directory: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = f"make room, then {AGAIN}" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check the directory"
        raise FetchFailed(f"{directory} cannot be written: {error.strerror or error}", hint=hint) from error
