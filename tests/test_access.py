"""Who may call a route. The checks run in a real Quart app; WebSockets go over a real socket."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import aiohttp
import attrs
import hypercorn
import pytest
from hypercorn.asyncio import serve
from hypothesis import given
from hypothesis import strategies as st
from quart import Blueprint, Quart, Response, websocket
from quart.typing import TestClientProtocol as Client

from chatcore import access
from chatcore.access import (
    Access,
    Policy,
    authenticated,
    current_principal,
    is_loopback,
    policy_of,
    public,
    requires,
)
from chatcore.config import Config
from chatcore.errors import ChatcoreError, ConfigError, DatabaseUnavailable, Unauthenticated
from chatcore.protocols import Authenticator, Credentials
from chatcore.types import LOCAL, Principal

# --- policies ---------------------------------------------------------------------------------------------------------


def test_a_view_declares_its_policy() -> None:
    """The decorators mark the view itself and give it back; `policy_of` reads the mark."""

    def view() -> str:
        return "here"

    assert policy_of(view) is None
    assert public(view) is view
    assert policy_of(view) == Policy("public")


def test_scopes_add_up() -> None:
    """`requires` implies `authenticated`; in any order and more than once nothing is lost."""

    @authenticated
    @requires("a")
    @requires("b", "c")
    @authenticated
    def view() -> str:
        return "here"

    assert policy_of(view) == Policy("authenticated", frozenset({"a", "b", "c"}))


@pytest.mark.parametrize("mark", [authenticated, requires("admin")])
def test_a_policy_does_not_contradict_itself(mark: Callable[..., object]) -> None:
    """A view that is public and not public is a programmer's error, found at once."""

    @public
    def view() -> str:
        return "here"

    with pytest.raises(TypeError, match="choose one"):
        mark(view)


def test_a_method_may_be_a_view() -> None:
    """A marked method has its policy on every instance."""

    class Views:
        @requires("x")
        async def view(self) -> str:
            return "here"

    assert policy_of(Views().view) == Policy("authenticated", frozenset({"x"}))


def test_the_static_files_of_a_blueprint_are_public() -> None:
    """They are part of an installed package, and no decorator can reach them."""
    assert policy_of(Blueprint("ui", __name__, static_folder="static").send_static_file) == Policy("public")


def test_there_is_no_principal_outside_a_request() -> None:
    """`current_principal` says so in the words of a 401."""
    with pytest.raises(Unauthenticated):
        current_principal()


# --- a server ---------------------------------------------------------------------------------------------------------


@attrs.frozen
class Keys:
    """Knows `Key NAME`; refuses `Key wrong`. Like every authenticator without `active`, it always wants a sign-in."""

    name: str = "keys"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        kind, _, key = credentials.headers.get("authorization", "").partition(" ")
        if kind != "Key":
            return None
        if key == "wrong":
            raise Unauthenticated("no such key")
        return Principal(key, frozenset(credentials.headers.get("x-scopes", "").split()))


@attrs.define
class Idle:
    """Knows nobody, and wants a sign-in only while it is on."""

    on: bool = False
    name: str = "idle"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        return None

    async def active(self) -> bool:
        return self.on


@attrs.define
class Away:
    """Knows whom `Keys` knows, while its database is there. Where that hangs, it answers nobody."""

    there: bool = True
    hangs: bool = False
    name: str = "away"

    async def authenticate(self, credentials: Credentials) -> Principal | None:
        if self.hangs:
            await asyncio.Event().wait()
        if not self.there:
            raise DatabaseUnavailable("the server cannot be reached")
        return await Keys().authenticate(credentials)

    async def active(self) -> bool:
        return False


ROUTES = Blueprint("routes", __name__)


@ROUTES.route("/public", methods=["GET", "POST"])
@public
async def anybody() -> str:
    try:
        return current_principal().id
    except Unauthenticated:
        return "nobody"


@ROUTES.route("/mine", methods=["GET", "POST", "PUT", "PATCH", "DELETE"])
@authenticated
async def mine() -> str:
    return current_principal().id


@ROUTES.get("/admin")
@requires("admin", "house")
async def admin() -> str:
    return "admin"


@ROUTES.get("/counters")
@requires("metrics")
async def counters() -> str:
    return current_principal().id


@ROUTES.get("/forgotten")
async def forgotten() -> str:
    return "forgotten"


@ROUTES.get("/own-headers")
@public
async def own_headers() -> Response:
    own = {"Referrer-Policy": "no-referrer", "Vary": "Accept", "Access-Control-Expose-Headers": "X-Own"}
    return Response("", headers=own)


@ROUTES.websocket("/ws")
@authenticated
async def ws() -> None:
    await websocket.send(current_principal().id)


async def answer_error(error: ChatcoreError) -> tuple[dict[str, str], int]:
    return {"detail": error.message}, error.status


def make_app(*authenticators: Authenticator, **settings: object) -> Quart:
    """An app with a route for each policy."""
    app = Quart(__name__)
    Access(Config(**settings), lambda: authenticators).install(app)
    app.register_error_handler(ChatcoreError, answer_error)
    app.register_blueprint(ROUTES)
    return app


def client_of(*authenticators: Authenticator, **settings: object) -> Client:
    return make_app(*authenticators, **settings).test_client(use_cookies=False)


async def text(response: Awaitable[Response]) -> tuple[int, str]:
    answer = await response
    return answer.status_code, (await answer.get_data()).decode()


# --- who it is --------------------------------------------------------------------------------------------------------


async def test_the_first_authenticator_that_knows_the_kind_decides() -> None:
    """Authenticators are asked in order; None passes the question on."""
    client = client_of(Idle(), Keys())
    assert await text(client.get("/mine", headers={"Authorization": "Key anna"})) == (200, "anna")


async def test_wrong_credentials_are_not_taken_for_none() -> None:
    """Who presents a wrong key is refused, though nobody would have to sign in."""
    status, body = await text(client_of(Keys(), Idle()).get("/mine", headers={"Authorization": "Key wrong"}))
    assert (status, "no such key" in body) == (401, True)


async def test_without_credentials_the_answer_is_401() -> None:
    """It names the scheme, as HTTP demands."""
    response = await client_of(Keys()).get("/mine")
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_a_public_view_takes_everybody_and_knows_who_is_known() -> None:
    """Neither missing nor wrong credentials keep anybody out of it."""
    client = client_of(Keys())
    assert await text(client.get("/public")) == (200, "nobody")
    assert await text(client.get("/public", headers={"Authorization": "Key wrong"})) == (200, "nobody")
    assert await text(client.get("/public", headers={"Authorization": "Key anna"})) == (200, "anna")


async def test_a_view_without_a_policy_is_not_public() -> None:
    """What nobody thought about is closed."""
    client = client_of(Keys())
    assert (await client.get("/forgotten")).status_code == 401
    assert (await client.get("/forgotten", headers={"Authorization": "Key anna"})).status_code == 200


@pytest.mark.parametrize(
    ("scopes", "status"), [("", 403), ("admin", 403), ("admin house", 200), ("admin house more", 200), ("*", 200)]
)
async def test_all_scopes_are_needed(scopes: str, status: int) -> None:
    """A principal that lacks one is refused with 403; `*` stands for all."""
    headers = {"Authorization": "Key anna", "X-Scopes": scopes}
    assert (await client_of(Keys()).get("/admin", headers=headers)).status_code == status


@pytest.mark.parametrize(
    ("scopes", "status"), [("", 200), ("chat", 200), ("*", 200), ("admin chat", 200), ("metrics", 403), ("admin", 403)]
)
async def test_named_scopes_open_what_they_name_and_no_more(scopes: str, status: int) -> None:
    """A view that names no scope needs `chat`, which who names none has; also the one that forgot its policy."""
    headers = {"Authorization": "Key anna", "X-Scopes": scopes}
    for path in ("/mine", "/forgotten"):
        assert (await client_of(Keys()).get(path, headers=headers)).status_code == status


async def test_a_missing_scope_is_named() -> None:
    """So that the user knows what to ask for."""
    headers = {"Authorization": "Key anna", "X-Scopes": "admin"}
    assert "house" in (await text(client_of(Keys()).get("/admin", headers=headers)))[1]


async def test_a_header_that_comes_twice_is_not_picked_from() -> None:
    """Two Authorization headers are one with a comma: no proxy and authenticator can read different ones."""
    client = client_of(Keys())
    response = await client.get("/mine", headers=[("Authorization", "Key anna"), ("Authorization", "Key berta")])
    assert (await response.get_data()) == b"anna, Key berta"


async def test_the_peer_is_not_what_the_client_writes() -> None:
    """The address is the connection's; a header that looks like it never reaches an authenticator as such."""
    seen: list[Credentials] = []

    class Watch:
        name = "watch"

        async def authenticate(self, credentials: Credentials) -> Principal:
            seen.append(credentials)
            return LOCAL

    await client_of(Watch()).get("/mine", headers={"Remote-Addr": "10.0.0.1", "X-Test": "1"})
    assert seen[0].remote != "10.0.0.1"
    assert "remote-addr" not in seen[0].headers
    assert seen[0].headers["x-test"] == "1"


# --- the matched endpoint decides -------------------------------------------------------------------------------------


MONITOR = {"Authorization": "Key prometheus", "X-Scopes": "metrics"}


@pytest.mark.parametrize("fault", [{"there": False}, {"hangs": True}], ids=str)
async def test_counters_are_given_to_whom_they_were_given_before(
    fault: dict[str, bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while it cannot be known who asks: then they are needed most. Nothing else is, and to nobody else."""
    monkeypatch.setattr(access, "PATIENCE", 0.05)
    away = Away()
    client = client_of(away)
    assert await text(client.get("/counters", headers=MONITOR)) == (200, "prometheus")
    assert await text(client.get("/mine", headers={"Authorization": "Key ann"})) == (200, "ann")
    away.there, away.hangs = fault.get("there", True), fault.get("hangs", False)
    for _ in range(2):
        assert await text(client.get("/counters", headers=MONITOR)) == (200, "prometheus")
    others = [("/counters", MONITOR | {"X-Other": "1"}), ("/counters", {}), ("/mine", {"Authorization": "Key ann"})]
    for path, headers in others if not away.there else ():
        assert (await client.get(path, headers=headers)).status_code == 503
    away.there, away.hangs = True, False
    assert await text(client.get("/counters", headers=MONITOR)) == (200, "prometheus")


async def test_who_gets_counters_is_forgotten_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an hour, and as soon as it is known to be nobody, or somebody without the scope."""
    away = Away()
    client = client_of(away)
    assert (await client.get("/counters", headers=MONITOR)).status_code == 200
    now = access.time.monotonic()
    with monkeypatch.context() as later:
        later.setattr(access.time, "monotonic", lambda: now + access.RECALLED + 1)
        away.there = False
        assert (await client.get("/counters", headers=MONITOR)).status_code == 503
    for key, scopes, status in (("wrong", "", 401), ("ann", "chat", 403)):
        away.there = True
        for _ in range(2):
            answer = await client.get("/counters", headers={"Authorization": f"Key {key}", "X-Scopes": scopes})
            assert answer.status_code == status
            away.there, status = False, 403 if key == "ann" else 503


async def test_no_more_than_a_few_are_remembered() -> None:
    """The latest: whoever sends other headers each time fills no memory, and does not drive out who comes often."""
    away = Away()
    client = client_of(away)
    for number in range(100):
        assert (await client.get("/counters", headers=MONITOR)).status_code == 200
        assert (await client.get("/counters", headers=MONITOR | {"X-Other": str(number)})).status_code == 200
    away.there = False
    assert (await client.get("/counters", headers=MONITOR)).status_code == 200
    assert (await client.get("/counters", headers=MONITOR | {"X-Other": "1"})).status_code == 503


async def test_an_unknown_path_is_404_for_everybody() -> None:
    """There is nothing to protect, and nothing to learn."""
    assert (await client_of(Keys()).get("/nothing")).status_code == 404


async def test_a_wrong_method_is_405() -> None:
    """The route does not match, so that no principal is asked for."""
    assert (await client_of(Keys()).delete("/public")).status_code == 405


@pytest.mark.parametrize("path", ["//mine", "/public/../mine", "/mine/", "/%6dine", "/mine;x", "/./mine", "/MINE"])
async def test_no_spelling_of_a_path_gets_around_the_policy(path: str) -> None:
    """Decisions hang on the view; a path that reaches it is checked, any other reaches nothing."""
    status = (await client_of(Keys()).get(path)).status_code
    assert status in {401, 404, 308}


# --- the loopback rule ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("authenticators", [(), (Idle(),)])
async def test_on_loopback_without_tokens_everybody_is_local(authenticators: tuple[Idle, ...]) -> None:
    """The first start needs no account."""
    assert await text(client_of(*authenticators).get("/mine")) == (200, "local")
    assert await text(client_of(*authenticators).get("/public")) == (200, "local")
    assert await text(client_of(*authenticators).get("/admin")) == (200, "admin")


async def test_a_token_ends_the_free_entry_at_once() -> None:
    """Activity is asked for, not remembered from the start."""
    idle = Idle()
    client = client_of(idle)
    assert (await client.get("/mine")).status_code == 200
    idle.on = True
    assert (await client.get("/mine")).status_code == 401


async def test_elsewhere_nobody_is_local() -> None:
    """Should the last token vanish while the server listens on the network, it closes rather than opens."""
    assert (await client_of(Idle(), host="0.0.0.0").get("/mine")).status_code == 401


async def test_insecure_means_everybody() -> None:
    """Who says `insecure` gets it, on any address and under any name; a token still ends it."""
    client = client_of(host="0.0.0.0", insecure=True)
    assert await text(client.get("/mine", headers={"Host": "chat.example.com"})) == (200, "local")
    assert (await client_of(Keys(), host="0.0.0.0", insecure=True).get("/mine")).status_code == 401


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000", "127.1.2.3"]
)
async def test_names_of_this_machine_are_answered(host: str) -> None:
    """With any port: the server may be behind a forwarded one."""
    assert (await client_of().get("/mine", headers={"Host": host})).status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8000",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "",
        "[::1",
        "192.168.1.5",
        "a@localhost.x",
    ],
)
async def test_a_foreign_name_for_this_machine_is_refused(host: str) -> None:
    """DNS rebinding: a page whose own name resolves to 127.0.0.1 is of the same origin, and must not be local."""
    client = client_of()
    status, body = await text(client.get("/mine", headers={"Host": host}))
    assert (status, "tokens create" in body or "localhost only" in body) == (403, True)
    assert await text(client.get("/public", headers={"Host": host})) == (200, "nobody")


async def test_with_tokens_any_name_is_answered() -> None:
    """Behind a proxy the server has a name of its own; the token is what a foreign page lacks."""
    headers = {"Host": "chat.example.com", "Authorization": "Key anna"}
    assert await text(client_of(Keys()).get("/mine", headers=headers)) == (200, "anna")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "192.168.1.5", "chat.example.com"])
async def test_listening_elsewhere_without_a_token_is_refused(host: str) -> None:
    """The message says what to do; with a sign-in, or on demand, it is allowed."""
    with pytest.raises(ConfigError) as refused:
        await Access(Config(host=host), lambda: [Idle()]).check_binding()
    assert "tokens create" in (refused.value.hint or "")
    await Access(Config(host=host), lambda: [Idle(on=True)]).check_binding()
    await Access(Config(host=host), lambda: [Keys()]).check_binding()
    await Access(Config(host=host, insecure=True), lambda: []).check_binding()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.53", "::1", "localhost"])
async def test_listening_on_loopback_needs_nothing(host: str) -> None:
    """Zero configuration works."""
    await Access(Config(host=host), lambda: []).check_binding()


@given(st.ip_addresses())
def test_loopback_is_two_blocks(address: object) -> None:
    """Exactly 127.0.0.0/8 and ::1."""
    value = str(address)
    assert is_loopback(value) == (value.startswith("127.") or value == "::1")


# --- origins ----------------------------------------------------------------------------------------------------------

FOREIGN = [
    "https://evil.example",
    "null",
    "http://localhost.evil.example",
    "http://[",
    "file://",
    "http://",
    "x",
    "http://a@localhost.x",
]
LOCAL_PAGES = ["http://localhost:5173", "https://localhost", "http://127.0.0.1:3000", "http://[::1]:8080"]


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_changes_nothing(method: str, origin: str) -> None:
    """Not even with the credentials of somebody."""
    headers = {"Origin": origin, "Host": "localhost"}
    response = await client_of().open("/mine", method=method, headers=headers)
    assert response.status_code == 403
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_public_views_check_the_origin_too() -> None:
    """A public view that changes something is as good a target."""
    assert (await client_of(Keys()).post("/public", headers={"Origin": "https://evil.example"})).status_code == 403


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_foreign_page_cannot_read(origin: str) -> None:
    """A GET is answered, as any link's is, but without the header that lets a page have the answer."""
    response = await client_of().get("/mine", headers={"Origin": origin})
    assert response.status_code == 200
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_no_origin_is_no_page() -> None:
    """curl and the command line send none."""
    assert (await client_of().post("/mine")).status_code == 200


@pytest.mark.parametrize(
    ("origin", "host"),
    [("http://chat.example.com", "chat.example.com"), ("https://chat.example.com:8443", "chat.example.com:8443")],
)
async def test_the_own_pages_are_allowed(origin: str, host: str) -> None:
    """The scheme may differ: a proxy before the server ends TLS."""
    headers = {"Origin": origin, "Host": host, "Authorization": "Key anna"}
    assert (await client_of(Keys()).post("/mine", headers=headers)).status_code == 200


async def test_another_port_is_another_origin() -> None:
    """Except on loopback, where pages of any port are allowed by default."""
    headers = {"Origin": "http://chat.example.com:81", "Host": "chat.example.com", "Authorization": "Key anna"}
    assert (await client_of(Keys()).post("/mine", headers=headers)).status_code == 403


@pytest.mark.parametrize("origin", LOCAL_PAGES)
async def test_pages_of_this_machine_are_allowed_by_default(origin: str) -> None:
    """A front end under development has a port of its own."""
    response = await client_of().post("/mine", headers={"Origin": origin})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == origin


@pytest.mark.parametrize("origin", LOCAL_PAGES)
async def test_configured_origins_replace_the_default(origin: str) -> None:
    """Exactly the configured ones are allowed then."""
    client = client_of(cors_origins=("https://chat.example.com",))
    assert (await client.post("/mine", headers={"Origin": origin, "Host": "localhost:1"})).status_code == 403
    response = await client.post("/mine", headers={"Origin": "https://chat.example.com"})
    assert response.status_code == 200
    assert response.headers["Access-Control-Allow-Origin"] == "https://chat.example.com"
    for near in ("http://chat.example.com", "https://chat.example.com:444", "https://chat.example.com.evil.example"):
        assert (await client.post("/mine", headers={"Origin": near})).status_code == 403


# --- CORS -------------------------------------------------------------------------------------------------------------


async def preflight(client: Client, origin: str, path: str = "/mine") -> Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    return await client.options(path, headers=headers)


async def test_a_preflight_is_answered_without_a_principal() -> None:
    """Browsers send no credentials with it."""
    response = await preflight(client_of(Keys()), "http://localhost:5173")
    assert response.status_code == 204
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert response.headers["Access-Control-Allow-Methods"] == "POST"
    assert response.headers["Access-Control-Allow-Headers"] == "authorization,content-type"
    assert int(response.headers["Access-Control-Max-Age"]) > 0


async def test_a_foreign_preflight_gets_no_permission() -> None:
    """Without Access-Control-Allow-Origin the browser sends nothing more."""
    response = await preflight(client_of(), "https://evil.example")
    assert "Access-Control-Allow-Origin" not in response.headers


async def test_an_options_that_is_no_preflight_is_an_ordinary_request() -> None:
    """It needs what the view needs."""
    assert (await client_of(Keys()).options("/mine")).status_code == 401
    assert (await client_of(Keys()).options("/public")).status_code == 200


async def test_errors_can_be_read_by_an_allowed_page() -> None:
    """Its script must be able to show why; the run's id is exposed to it."""
    response = await client_of(Keys()).get("/mine", headers={"Origin": "http://localhost:5173"})
    assert response.status_code == 401
    assert response.headers["Access-Control-Allow-Origin"] == "http://localhost:5173"
    assert "Chatcore-Run-Id" in response.headers["Access-Control-Expose-Headers"]


async def test_a_view_may_expose_more() -> None:
    """What it names beside the headers that every answer exposes can be read, too."""
    response = await client_of().get("/own-headers", headers={"Origin": "http://localhost:5173"})
    assert response.headers["Access-Control-Expose-Headers"] == "Chatcore-Run-Id, Retry-After, X-Own"


async def test_credentials_are_never_allowed() -> None:
    """Tokens travel in a header of the page's own; cookies of this server are nobody's."""
    response = await preflight(client_of(), "http://localhost:5173")
    assert "Access-Control-Allow-Credentials" not in response.headers


# --- headers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/public", "/mine", "/nothing", "/admin"])
async def test_every_response_has_the_headers_of_the_house(path: str) -> None:
    """Also errors, and whatever the routing refused."""
    headers = (await client_of(Keys()).get(path)).headers
    assert headers["Permissions-Policy"] == "microphone=(self)"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["Vary"] == "Origin"


async def test_a_view_may_have_its_own() -> None:
    """What it sets stays; Vary is added to."""
    headers = (await client_of().get("/own-headers")).headers
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Vary"] == "Accept, Origin"


# --- over a socket ----------------------------------------------------------------------------------------------------


@pytest.fixture
async def address() -> AsyncIterator[str]:
    """Where a real server listens: keys for everybody, no free entry."""
    listener = socket.create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    config = hypercorn.Config()
    config.bind = [f"fd://{listener.detach()}"]
    stop = asyncio.Event()
    server = asyncio.create_task(serve(make_app(Keys()), config, shutdown_trigger=stop.wait))  # type: ignore[arg-type]
    yield f"127.0.0.1:{port}"
    stop.set()
    await server


async def test_a_websocket_needs_a_principal(address: str) -> None:
    """The handshake is refused with 401; with a key it opens."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://{address}/ws")
        assert refused.value.status == 401
        assert refused.value.headers is not None
        assert refused.value.headers["WWW-Authenticate"] == "Bearer"
        async with session.ws_connect(f"http://{address}/ws", headers={"Authorization": "Key anna"}) as ws:
            assert await ws.receive_str() == "anna"


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
async def test_a_websocket_of_a_foreign_page_is_refused(address: str, origin: str) -> None:
    """A handshake is a GET, but what follows may change anything."""
    headers = {"Authorization": "Key anna", "Origin": origin}
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://{address}/ws", headers=headers)
        assert refused.value.status == 403


async def test_a_websocket_of_an_allowed_page_opens(address: str) -> None:
    """The same origins count as for requests."""
    headers = {"Authorization": "Key anna", "Origin": "http://localhost:5173"}
    async with aiohttp.ClientSession() as session, session.ws_connect(f"http://{address}/ws", headers=headers) as ws:
        assert await ws.receive_str() == "anna"


async def test_an_unknown_websocket_is_404(address: str) -> None:
    """As any other path without a route."""
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await session.ws_connect(f"http://{address}/nothing")
        assert refused.value.status == 404
