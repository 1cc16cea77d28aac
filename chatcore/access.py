"""Who may call a route: the policy that every view declares, and the checks before every request.

Decisions are made on the view that a request was routed to, never on its path. In this order:

1. A CORS preflight is answered. A path without a route goes on to its 404.
2. A request that may change something, and every WebSocket, must not come from a foreign page: its `Origin`, if it has
   one, is the server's own or one of `cors_origins`.
3. The authenticators are asked who it is; the first that knows the credentials' kind decides.
4. Where nobody has to sign in (no authenticator, or none that is active), everybody is `LOCAL`: on a server that
   listens on loopback only, if the request also *names* it so in `Host` (a page elsewhere that has its own name resolve
   to 127.0.0.1 does not), or wherever `insecure` is set.
5. A view that is not public needs a principal (401) with its scopes (403). A view without a policy counts as one.

Scopes say what a principal may do. A view names those it needs; one that names none needs `ORDINARY`. A principal that
names none has `ORDINARY`, one that names some has these and no more, and `*` stands for all.
"""

import asyncio
import ipaddress
import logging
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

import attrs
from quart import Blueprint, Quart, Response, Websocket, current_app, g, has_app_context, request, websocket
from quart.typing import ResponseTypes
from quart.wrappers import BaseRequestWebsocket

from chatcore.config import LOOPBACK_ORIGINS, Config
from chatcore.errors import ConfigError, DatabaseError, Forbidden, Unauthenticated
from chatcore.protocols import Authenticator, Credentials
from chatcore.types import LOCAL, Principal

logger = logging.getLogger(__name__)

PATIENCE = 1.0
"""Seconds after which a public view is answered without knowing who asks."""

ORDINARY = "chat"
"""The scope of every view that needs a principal and names no other scope."""

COUNTERS = "metrics"
"""The scope of views that give counters and nothing else."""
RECALLED = 3600.0
"""Seconds for which somebody who was given counters gets them also while the database cannot say who it is: they are
needed most then."""

View = TypeVar("View", bound=Callable[..., Any])


@attrs.frozen
class Policy:
    """Who may call a view: everybody, or a principal that has all of `scopes`, or `ORDINARY` where there are none."""

    name: Literal["public", "authenticated"]
    scopes: frozenset[str] = frozenset()

    @property
    def needed(self) -> frozenset[str]:
        """The scopes without which nobody may call it."""
        return frozenset() if self.name == "public" else self.scopes or frozenset({ORDINARY})

    def missing(self, principal: Principal) -> frozenset[str]:
        """The scopes that a principal lacks."""
        held = principal.scopes or frozenset({ORDINARY})
        return frozenset() if "*" in held else self.needed - held


def public(view: View) -> View:
    """Marks a view that everybody may call. Somebody who is known is still known in it."""
    return _declare(view, Policy("public"))


def authenticated(view: View) -> View:
    """Marks a view that needs a principal. One whose scopes are named needs `chat` among them."""
    return _declare(view, Policy("authenticated"))


def requires(*scopes: str) -> Callable[[View], View]:
    """Marks a view that needs a principal with all of `scopes`. The scope `*` stands for all."""

    def mark(view: View) -> View:
        return _declare(view, Policy("authenticated", frozenset(scopes)))

    return mark


def _declare(view: View, policy: Policy) -> View:
    earlier = policy_of(view) or policy
    if earlier.name != policy.name:
        raise TypeError(f"{view!r} is declared {earlier.name} and {policy.name}: choose one")
    vars(view)["chatcore_policy"] = Policy(policy.name, earlier.scopes | policy.scopes)
    return view


def policy_of(view: Callable[..., Any]) -> Policy | None:
    """What a view declares, or None if it declares nothing. A blueprint's static files are public."""
    if getattr(view, "__func__", None) is Blueprint.send_static_file:
        return Policy("public")
    policy: Policy | None = getattr(view, "chatcore_policy", None)
    return policy


def current_principal() -> Principal:
    """Who is asking. For use in a view; a stream takes it before it begins.

    Raises:
        Unauthenticated: nobody is known, or there is no request.
    """
    principal: Principal | None = g.get("principal") if has_app_context() else None
    if principal is None:
        raise Unauthenticated("nobody is signed in", hint="send 'Authorization: Bearer TOKEN'")
    return principal


# --- the checks -------------------------------------------------------------------------------------------------------

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_HEADERS = {
    "Permissions-Policy": "microphone=(self)",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
_EXPOSED = "Chatcore-Run-Id, Retry-After"
_MOST_RECALLED = 16  # more monitors have no server of this kind
_PREFLIGHT_SECONDS = "7200"  # the most that Chromium keeps an answer


class Access:
    """Who may come in. One for an app: `install` puts it before every request."""

    def __init__(self, config: Config, authenticators: Callable[[], Iterable[Authenticator]]) -> None:
        """`authenticators` is called for every request, so that plugins may come and go."""
        self._authenticators = authenticators
        self._host = config.host
        self._insecure = config.insecure
        self._origins = frozenset(config.cors_origins)
        self._recalled: dict[object, tuple[Principal, float]] = {}

    def install(self, app: Quart) -> None:
        """Puts `before` and `after` around every request and WebSocket of an app."""
        app.before_request(partial(self.before, request))
        app.before_websocket(partial(self.before, websocket))
        app.after_request(partial(self.after, request))
        app.after_websocket(partial(self.after, websocket))

    async def before(self, incoming: BaseRequestWebsocket) -> Response | None:
        """Checks a request, and sets who it is from. Gives the answer to a preflight, else None.

        Raises:
            Unauthenticated: the view needs a principal.
            Forbidden: the principal lacks a scope, or the request comes from a foreign page.
        """
        incoming = _itself(incoming)
        if _is_preflight(incoming):
            return _preflight(incoming)
        if incoming.endpoint is None:
            return None
        if isinstance(incoming, Websocket) or incoming.method not in _SAFE_METHODS:
            self._check_origin(incoming)
        # A view without a policy does not load from a plugin; should one be here all the same, it is not public.
        policy = policy_of(current_app.view_functions[incoming.endpoint]) or Policy("authenticated")
        if policy.name == "public":
            await self._identify_if_possible(incoming)
            return None
        known = self._identify if policy.needed != {COUNTERS} else self._recall
        g.principal = await known(incoming)
        if missing := policy.missing(g.principal):
            raise Forbidden(f"this needs the scope {', '.join(sorted(missing))}", hint="use a token that has it")
        return None

    async def after(self, incoming: BaseRequestWebsocket, response: ResponseTypes | None) -> ResponseTypes | None:
        """Adds the headers that every response has, and those that let an allowed page read it. A WebSocket that was
        accepted has no response."""
        if response is None:
            return None
        headers = response.headers
        there = {name.lower() for name, _ in headers}
        for name, value in _HEADERS.items():
            if name.lower() not in there:
                headers.add(name, value)
        if response.status_code == 401:
            headers.setdefault("WWW-Authenticate", "Bearer")
        if "vary" in there:
            response.vary.add("Origin")
        else:
            headers.add("Vary", "Origin")
        origin = incoming.headers.get("Origin")
        if origin and self._is_allowed(origin):
            headers["Access-Control-Allow-Origin"] = origin
            own = headers.get("Access-Control-Expose-Headers")
            headers["Access-Control-Expose-Headers"] = f"{_EXPOSED}, {own}" if own else _EXPOSED
        return response

    async def sign_in_needed(self) -> bool:
        """Whether only those who sign in may use the server: some authenticator is active."""
        for authenticator in self._authenticators():
            # Not `isinstance`, which takes long for a protocol, and this is asked for every request.
            active = getattr(authenticator, "active", None)
            if active is None or await active():
                return True
        return False

    async def check_binding(self) -> None:
        """Called before the server listens.

        Raises:
            ConfigError: it would serve everybody who can reach it.
        """
        if not (is_loopback(self._host) or self._insecure or await self.sign_in_needed()):
            raise ConfigError(
                f"not listening on {self._host}: everybody who can reach it could use this server",
                hint="make a token with 'chatcore tokens create', listen on 127.0.0.1, or say --insecure",
            )

    async def _identify_if_possible(self, incoming: BaseRequestWebsocket) -> None:
        """For a public view: it is answered also when nobody is known, and when it is not to be had who it is."""
        try:
            async with asyncio.timeout(PATIENCE):
                g.principal = await self._identify(incoming)
        except (Unauthenticated, Forbidden, DatabaseError, TimeoutError):
            pass
        except Exception:  # a plugin's code: its authenticator must not take /health and the pages with it
            logger.exception("who asks for %s is not known: an authenticator has failed", incoming.path)

    async def _recall(self, incoming: BaseRequestWebsocket) -> Principal:
        """Who it is; while the database is away, who sent the very same headers from the same address before."""
        said = _credentials(incoming)
        key = (frozenset(said.headers.items()), said.remote)
        recalled, until = self._recalled.pop(key, (None, 0.0))
        if time.monotonic() >= until:
            recalled = None
        try:
            async with asyncio.timeout(PATIENCE if recalled else None):
                recalled, until = await self._identify(incoming), time.monotonic() + RECALLED
        except (DatabaseError, TimeoutError):
            if recalled is None:
                raise
        if len(self._recalled) >= _MOST_RECALLED:
            del self._recalled[next(iter(self._recalled))]
        self._recalled[key] = (recalled, until)
        return recalled

    async def _identify(self, incoming: BaseRequestWebsocket) -> Principal:
        credentials = _credentials(incoming)
        for authenticator in self._authenticators():
            principal = await authenticator.authenticate(credentials)
            if principal is not None:
                return principal
        if await self.sign_in_needed() or not (self._insecure or is_loopback(self._host)):
            raise Unauthenticated("sign in first", hint="send 'Authorization: Bearer TOKEN'")
        host = incoming.headers.get("Host", "")
        if not (self._insecure or is_loopback(_hostname(f"//{host}"))):
            raise Forbidden(
                f"without tokens this server answers to localhost only, not to {host!r}",
                hint="make a token with 'chatcore tokens create'",
            )
        return LOCAL

    # --- origins ------------------------------------------------------------------------------------------------------

    def _check_origin(self, incoming: BaseRequestWebsocket) -> None:
        origin = incoming.headers.get("Origin")
        if origin is None or self._is_allowed(origin):
            return
        # The scheme is left out: behind a proxy that ends TLS it is not the browser's.
        host = origin.partition("://")[2]
        if not host or host != incoming.headers.get("Host"):
            raise Forbidden(
                f"pages from {origin} may not use this server", hint="add the origin to cors_origins to allow it"
            )

    def _is_allowed(self, origin: str) -> bool:
        if origin in self._origins:
            return True
        local = origin.startswith(("http://", "https://")) and is_loopback(_hostname(origin))
        return local and LOOPBACK_ORIGINS in self._origins


@lru_cache(maxsize=1000)
def is_loopback(host: str | None) -> bool:
    """Whether a host, a name or an address, can only be this machine."""
    if host is None or host == "localhost":
        return host is not None
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _hostname(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _itself(incoming: BaseRequestWebsocket) -> BaseRequestWebsocket:
    """What is behind one of Quart's proxies, each step through which takes long."""
    behind: BaseRequestWebsocket = getattr(incoming, "_get_current_object", lambda: incoming)()
    return behind


def _is_preflight(incoming: BaseRequestWebsocket) -> bool:
    headers = incoming.headers
    return incoming.method == "OPTIONS" and "Origin" in headers and "Access-Control-Request-Method" in headers


def _preflight(incoming: BaseRequestWebsocket) -> Response:
    # Whether the page may ask at all is said by what `after` adds, or does not.
    headers = {
        "Access-Control-Allow-Methods": incoming.headers["Access-Control-Request-Method"],
        "Access-Control-Allow-Headers": incoming.headers.get("Access-Control-Request-Headers", ""),
        "Access-Control-Max-Age": _PREFLIGHT_SECONDS,
    }
    return Response(b"", 204, headers)


def _credentials(incoming: BaseRequestWebsocket) -> Credentials:
    headers: dict[str, str] = {}
    for name, value in incoming.headers:
        name = name.lower()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    # Quart puts the peer's address among the headers, where a client could write too.
    headers.pop("remote-addr", None)
    return Credentials(headers, incoming.remote_addr)
