"""What may be changed over HTTP, and what only in the file on the server.

How a server is reached is the operator's word: nobody makes chatcore run a command, or send a token elsewhere, by a
request. What such a request says of it must repeat what is there, unless the server was added over HTTP itself: then
its URL, its headers and how to sign in may be changed. That one's sign-in is for everybody, only the file can say.
Switching servers and tools off and on may everybody who may use the routes.
"""

from collections.abc import Mapping
from typing import Any

from chatcore import wire
from chatcore.errors import Forbidden, Problem, ValidationFailed
from chatcore.tools import JsonObject
from chatcore_mcp.definitions import Entry, Transport, shown, transport_of

_OPERATORS = ("command", "module", "args", "env", "cwd", "shared")
_ADDRESS = ("url", "http_url", "headers", "type", "transport", "auth", "oauth")
_FREE = ("enabled", "disabled_tools", "tool_prefix", "contexts", "tool_overrides", "kiosk_enabled", "frontend_enabled")


def changes(stored: JsonObject | None, given: JsonObject) -> dict[str, Any]:
    """The fields of an entry to be set, by what a request gives; `stored` is None for a server that is new.

    Raises:
        Forbidden: it says otherwise than the file how the server is reached.
        ValidationFailed: a field has the wrong shape, or a new server no URL.
    """
    wire.structure(dict(given), Entry)
    _check_operators(stored or {}, given)
    own = stored is None or bool(stored.get("added_over_http"))
    new = {key: value for key, value in given.items() if key in _FREE}
    if "disabled" in given:
        new.setdefault("enabled", not given["disabled"])
    for key in _ADDRESS:
        if given.get(key) and not _repeats(key, stored or {}, given[key]):
            if not own:
                raise _forbidden(key)
            new[key] = given[key]
    if "http_url" in new:
        new["url"] = new.pop("http_url")
    if "enabled" in new and "disabled" in (stored or {}):
        new["disabled"] = not new["enabled"]  # the other spelling, which would count as well
    return new if stored is not None else {**_checked(new), "added_over_http": True}


def _checked(new: dict[str, Any]) -> dict[str, Any]:
    if "url" not in new:
        raise ValidationFailed([Problem("$.url", "is missing")])
    return new


def _check_operators(stored: JsonObject, given: JsonObject) -> None:
    for key in _OPERATORS:
        if given.get(key) and not _repeats(key, stored, given[key]):
            raise _forbidden(key)


def _repeats(key: str, stored: JsonObject, given: object) -> bool:
    """Whether a request says of a field what the file says, or what a request is told of it."""
    known = stored.get(key)
    if key in ("type", "transport"):
        return given == known or (bool(stored) and transport_of(given) == _transport(stored))
    if known is None and key in ("url", "http_url"):
        known = stored.get("url") or stored.get("http_url")
    return known == given or (isinstance(known, str) and given == shown(known))


def _transport(stored: JsonObject) -> Transport | None:
    """The transport of a server as requests are told of it."""
    usual: Transport = "stdio" if stored.get("command") or stored.get("module") else "http"
    return transport_of(stored.get("type") or stored.get("transport")) or usual


def _forbidden(key: str) -> Forbidden:
    return Forbidden(
        f"{key!r} cannot be set over HTTP", hint="write it into the file of the servers, on the server itself"
    )


def with_tool(entry: Mapping[str, Any], tool: str, *, enabled: bool) -> list[str]:
    """The tools of an entry that are switched off, after one is switched."""
    written = entry.get("disabled_tools")
    off = [name for name in written if name != tool] if isinstance(written, list) else []
    return off if enabled else [*off, tool]
