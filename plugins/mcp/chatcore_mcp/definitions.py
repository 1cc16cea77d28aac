"""What a configuration file says of the servers, in any of the forms in which such files are written.

{"servers": [{"id": "time", "command": ["mcp-server-time"]}]}       a list, alone or under "servers"
{"mcpServers": {"time": {"command": "uvx", "args": ["…"]}}}         as desktop clients have it, also under "servers"
"""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import urlsplit, urlunsplit

import attrs

from chatcore import wire
from chatcore.errors import ValidationFailed
from chatcore.tools import JsonObject
from chatcore_mcp.expand import expand

Transport: TypeAlias = Literal["stdio", "http", "sse"]

LONGEST_ID = 100

_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_TRANSPORTS: Mapping[str, Transport] = {
    "stdio": "stdio",
    "http": "http",
    "streamable-http": "http",
    "streamable_http": "http",
    "streamablehttp": "http",
    "sse": "sse",
}


@attrs.frozen(kw_only=True)
class OAuth:
    """How chatcore signs in to a server that asks for that. All is found out where nothing is said.

    `client_id` may also be the https URL of the document that describes the client. With `always` the server is not
    asked before somebody has signed in.
    """

    client_id: str | None = None
    client_secret: str | None = attrs.field(default=None, repr=False)
    scope: str | None = None
    always: bool = False


@attrs.frozen(kw_only=True)
class Endpoint:
    """How a server is reached: a command to start, or a URL. Two that are equal need not be connected anew.

    `transport` is None for a URL of which nobody said what it speaks. `checked` is set where the URL came over HTTP:
    its host must be within reach.
    """

    transport: Transport | None = None
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    cwd: str | None = None
    url: str = attrs.field(default="", repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    checked: bool = False
    oauth: OAuth = OAuth()

    @property
    def may_sign_in(self) -> bool:
        """Whether it is a server that somebody may have to sign in to: a token in the headers goes before that."""
        return bool(self.url) and not any(name.lower() == "authorization" for name in self.headers)


@attrs.frozen(kw_only=True)
class Definition:
    """A server that can be used. `prefix` is put before the names of all its tools, where there is one. `contexts` are
    what its tools are about, but for those that are in `own_contexts`. What is `shared` is for everybody, also where
    somebody has signed in."""

    id: str
    endpoint: Endpoint
    enabled: bool = True
    disabled_tools: frozenset[str] = frozenset()
    prefix: str | None = None
    contexts: tuple[str, ...] = ()
    own_contexts: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    shared: bool = False


@attrs.frozen
class Unusable:
    """A server whose entry is wrong. `reason` says what to do."""

    id: str
    reason: str


@attrs.frozen(kw_only=True)
class Registration:
    """The `oauth` of an entry: what chatcore is known by at the authorization server, and what it asks for there."""

    client_id: str | None = None
    client_secret: str | None = attrs.field(default=None, repr=False)
    scope: str | None = None
    extra: JsonObject = wire.rest()

    @property
    def given(self) -> Mapping[str, str]:
        """What it says, of what has a meaning here."""
        said = {"client_id": self.client_id, "client_secret": self.client_secret, "scope": self.scope}
        return {key: value for key, value in said.items() if value}


@attrs.frozen(kw_only=True)
class Entry:
    """A server as a file, or the body of a request, has it. Fields that are not listed are somebody else's."""

    id: str | None = None
    enabled: bool = True
    disabled: bool = False
    module: str | None = None
    command: str | tuple[str, ...] | None = None
    args: tuple[str, ...] = ()
    env: Mapping[str, str] = attrs.field(factory=dict)
    cwd: str | None = None
    url: str | None = None
    http_url: str | None = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    type: str | None = None
    transport: str | None = None
    tool_prefix: str | None = None
    disabled_tools: tuple[str, ...] | None = None
    added_over_http: bool = False
    auth: str | None = None
    oauth: Registration | None = None
    shared: bool = False
    extra: JsonObject = wire.rest()

    @property
    def address(self) -> str | None:
        """Its URL, under whichever name."""
        return self.url or self.http_url

    @property
    def argv(self) -> tuple[str, ...]:
        """The command that starts it; empty if there is none."""
        if self.module:
            return (sys.executable, "-m", self.module, *self.args)
        command = (self.command,) if isinstance(self.command, str) else self.command or ()
        return (*command, *self.args) if command else ()


def written(document: object) -> Iterator[tuple[str, Any]]:
    """The entries of a document as they are, each with its id; `#3` for the third of a list if it has none."""
    if isinstance(document, dict):
        groups = [document[key] for key in ("servers", "mcpServers") if document.get(key) is not None]
    else:
        groups = [document]
    for group in groups:
        if isinstance(group, dict):
            yield from group.items()
        elif isinstance(group, list):
            for number, entry in enumerate(group, 1):
                given = entry.get("id") if isinstance(entry, dict) else None
                yield (given if isinstance(given, str) and given else f"#{number}"), entry


def entry_of(document: object, key: str) -> dict[str, Any] | None:
    """The entry with an id, as it is, if that is an object; of several the last. None if there is none."""
    found = [entry for known, entry in written(document) if known == key and isinstance(entry, dict)]
    return found[-1] if found else None


def define(
    document: object, *, environ: Mapping[str, str], directory: Path
) -> tuple[Mapping[str, Definition | Unusable], Sequence[str]]:
    """The servers of a document by id, and what should be said about it.

    An entry that is wrong is `Unusable`; the others can be used all the same. Of two with the same id the later counts.
    """
    defined: dict[str, Definition | Unusable] = {}
    warnings = []
    for key, entry in written(document):
        if key in defined:
            warnings.append(f"two servers have the id {key!r}: the later one counts")
            del defined[key]
        defined[key] = definition_of(key, entry, environ=environ, directory=directory)
    return defined, warnings


def definition_of(key: str, entry: object, *, environ: Mapping[str, str], directory: Path) -> Definition | Unusable:
    """What one entry says. `directory` is what a relative `cwd` is relative to."""
    try:
        parsed = wire.structure(entry, Entry)
        return _definition(key, parsed, _endpoint(parsed, environ, directory))
    except ValidationFailed as error:
        return Unusable(key, error.message)
    except ValueError as error:
        return Unusable(key, str(error))


def check_id(key: str) -> None:
    """Raises ValueError: the text cannot be a server's id, which stands in paths and before the names of tools."""
    if not 0 < len(key) <= LONGEST_ID or "/" in key or not key.isprintable() or key in (".", ".."):
        raise ValueError(f"an id has 1 to {LONGEST_ID} printable characters, and no '/'")


def _definition(key: str, entry: Entry, endpoint: Endpoint) -> Definition:
    check_id(key)
    if key.startswith("#"):
        raise ValueError("it has no id: write one, such as 'id': 'time'")
    return Definition(
        id=key,
        endpoint=endpoint,
        enabled=entry.enabled and not entry.disabled,
        disabled_tools=frozenset(entry.disabled_tools or ()),
        prefix=entry.tool_prefix or None,
        contexts=_words(entry.extra.get("contexts")) or (),
        own_contexts=_own_contexts(entry.extra.get("tool_overrides")),
        shared=entry.shared,
    )


def _own_contexts(overrides: object) -> Mapping[str, tuple[str, ...]]:
    """The contexts of those tools that have some of their own. What is written otherwise has no meaning here."""
    given = overrides.items() if isinstance(overrides, dict) else ()
    words = {tool: _words(override.get("contexts")) for tool, override in given if isinstance(override, dict)}
    return {tool: contexts for tool, contexts in words.items() if contexts is not None}


def _words(given: object) -> tuple[str, ...] | None:
    if not isinstance(given, list):
        return None
    return tuple(dict.fromkeys(word.lower() for word in given if isinstance(word, str) and word))


def _endpoint(entry: Entry, environ: Mapping[str, str], directory: Path) -> Endpoint:
    said = entry.type or entry.transport
    transport = transport_of(said)
    if said and transport is None:
        raise ValueError(f"there is no transport {said!r}: it is stdio, http or sse")
    if len([way for way in (entry.module, entry.command, entry.address) if way]) != 1:
        raise ValueError("write one of 'command', 'module' and 'url'")
    if entry.address is None:
        return _process(entry, transport, environ, directory)
    if transport == "stdio":
        raise ValueError("with the transport stdio write 'command' instead of 'url'")
    url, headers, oauth = entry.address, entry.headers, entry.oauth.given if entry.oauth else {}
    if not entry.added_over_http:  # one who may add servers over HTTP may not have the environment sent to them
        url, headers, oauth = expand(url, environ), expand(headers, environ), expand(oauth, environ)
    if entry.auth not in (None, "oauth"):
        raise ValueError(f"there is no auth {entry.auth!r}: write oauth, or nothing")
    return Endpoint(
        transport=transport,
        url=checked_url(url),
        headers=_checked_headers(headers),
        checked=entry.added_over_http,
        oauth=OAuth(**oauth, always=entry.auth is not None),
    )


def _checked_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Headers that can be sent. What is wrong with one is said without its value, which may be secret."""
    for name, value in headers.items():
        if not _HEADER.fullmatch(name) or not value.isascii() or not value.isprintable() or value != value.strip():
            raise ValueError(f"the header {name!r} cannot be sent: look for line breaks, accents, blanks at its end")
    return headers


def transport_of(said: object) -> Transport | None:
    """The transport that an entry names, by whichever of its names; None if there is no such transport."""
    return _TRANSPORTS.get(said.lower()) if isinstance(said, str) else None


def _process(entry: Entry, transport: Transport | None, environ: Mapping[str, str], directory: Path) -> Endpoint:
    if transport not in (None, "stdio"):
        raise ValueError(f"with the transport {transport} write 'url' instead of 'command'")
    return Endpoint(
        transport="stdio",
        command=expand(entry.argv, environ),
        env=expand(entry.env, environ),
        cwd=None if entry.cwd is None else str(directory / Path(expand(entry.cwd, environ)).expanduser()),
    )


def shown(url: str) -> str:
    """A URL without what may be secret in it; nothing of a text that is none."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def checked_url(url: str) -> str:
    """The URL of a server, if it can be one.

    Raises:
        ValueError: it is no http or https URL.
    """
    parts = urlsplit(url)
    if url != url.strip():
        raise ValueError("there is blank space before the URL, or after it")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{shown(url)!r} is no http or https URL")
    _ = parts.port  # raises for one that is no number
    return url
