"""The body and the query of a request as attrs values."""

from typing import Literal

import attrs
import pytest
from attrs import validators
from hypothesis import given
from hypothesis import strategies as st
from quart import Quart, Response

from chatcore import wire
from chatcore.errors import RequestError, ValidationFailed
from chatcore.requests import read_body, read_query


@attrs.frozen
class Item:
    name: str
    count: int = 1


@attrs.frozen
class Query:
    limit: int = attrs.field(default=50, validator=[validators.ge(1), validators.le(200)])
    ratio: float | None = None
    deep: bool = False
    search: str | None = attrs.field(default=None, validator=validators.optional(validators.min_len(1)))
    format: Literal["chat", "events"] = "chat"
    tags: tuple[str, ...] = ()
    numbers: tuple[int, ...] | None = None


@attrs.frozen
class Needed:
    id: str


def make_app() -> Quart:
    app = Quart(__name__, static_folder=None)

    @app.post("/body")
    async def body() -> Response:
        return Response(wire.dumps(await read_body(Item)))

    @app.get("/query")
    async def query() -> Response:
        return Response(wire.dumps(read_query(Query)))

    @app.get("/needed")
    async def needed() -> Response:
        return Response(wire.dumps(read_query(Needed)))

    @app.errorhandler(RequestError)
    async def failed(error: RequestError) -> Response:
        problems = error.problems if isinstance(error, ValidationFailed) else ()
        return Response(wire.dumps({"detail": error.message, "problems": problems}), status=error.status)

    return app


APP = make_app()


async def post(data: bytes) -> tuple[int, dict[str, object]]:
    response = await APP.test_client().post("/body", data=data)
    return response.status_code, wire.loads(await response.get_data())


async def get(text: str, path: str = "/query") -> tuple[int, dict[str, object]]:
    response = await APP.test_client().get(f"{path}?{text}")
    return response.status_code, wire.loads(await response.get_data())


async def wrong(text: str, path: str = "/query") -> dict[str, str]:
    """What is wrong in a query, by path."""
    status, answer = await get(text, path)
    assert status == 422
    return {problem["path"]: problem["message"] for problem in answer["problems"]}


async def test_a_body_is_a_value():
    """No header is needed: what is not JSON is told by its text."""
    assert await post(b'{"name": "a"}') == (200, {"name": "a", "count": 1})


@pytest.mark.parametrize(
    "data", [b"", b"{", b"name=a", b'{"name": NaN}', b'"\xff"', b"[" * 10_000, b'{"name": "\\ud800"}', b"1e999"]
)
async def test_a_body_that_is_not_json_is_a_400(data):
    """Whatever it is, and with words about it."""
    status, answer = await post(data)
    assert status == 400
    assert "JSON" in str(answer["detail"])


async def test_a_body_of_the_wrong_shape_is_a_422():
    """With a path for everything that is wrong."""
    status, answer = await post(b'{"nam": 1, "count": "2"}')
    assert status == 422
    assert [problem["path"] for problem in answer["problems"]] == ["$.nam", "$.name", "$.count"]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"[" + b"{}," * 200_000 + b"{}]", 413),
        (b'{"name":"\\\\",' + b'"x":[],' * 200_000 + b'"y":0}', 413),
        (b'{"name":"' + b'a, \\", {' * 200_000 + b'"}', 200),
        (b'"\\' * 200_000 + b"," * 200_001, 400),
    ],
    ids=["values", "fields", "text", "no end"],
)
async def test_a_body_of_very_many_values_is_refused(data, status):
    """They would take a hundred times as much in memory. What is text is no values, whatever it looks like."""
    assert (await post(data))[0] == status


@given(st.binary(max_size=40))
async def test_no_body_makes_another_error(data):
    """Bytes of any kind are a 200, a 400 or a 422."""
    assert (await post(data))[0] in (200, 400, 422)


DEFAULTS = {
    "limit": 50,
    "ratio": None,
    "deep": False,
    "search": None,
    "format": "chat",
    "tags": [],
    "numbers": None,
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ("limit=7", {"limit": 7}),
        ("limit=7&limit=8", {"limit": 8}),
        ("ratio=1.5", {"ratio": 1.5}),
        ("ratio=1", {"ratio": 1.0}),
        ("deep=true", {"deep": True}),
        ("deep=1", {"deep": True}),
        ("deep=false", {}),
        ("deep=0", {}),
        ("search=5", {"search": "5"}),
        ("search=true", {"search": "true"}),
        ("search=a%20b+c%C3%A9", {"search": "a b cé"}),
        ("format=events", {"format": "events"}),
        ("tags=a&tags=b", {"tags": ["a", "b"]}),
        ("tags=a,b", {"tags": ["a,b"]}),
        ("numbers=1&numbers=2", {"numbers": [1, 2]}),
        ("_=123&utm_source=x", {}),
    ],
)
async def test_a_query_is_a_value(text, expected):
    """Each parameter is read as the type of its field; those without a field are not ours."""
    assert await get(text) == (200, DEFAULTS | expected)


@pytest.mark.parametrize(
    ("text", "path", "message"),
    [
        ("limit=0", "$.query.limit", "must be >= 1: 0"),
        ("limit=201", "$.query.limit", "must be <= 200: 201"),
        ("limit=ten", "$.query.limit", "must be an integer, not a string"),
        ("limit=", "$.query.limit", "must be an integer, not a string"),
        ("limit=1.5", "$.query.limit", "must be an integer, not a number"),
        ("limit=%D9%A3", "$.query.limit", "must be an integer, not a string"),
        ("limit=1_0", "$.query.limit", "must be an integer, not a string"),
        (f"limit={'9' * 5000}", "$.query.limit", "must be an integer, not a string"),
        ("ratio=nan", "$.query.ratio", "must be an integer or a number or null, not a string"),
        ("ratio=1e999", "$.query.ratio", "must be an integer or a number or null, not a string"),
        ("deep=yes", "$.query.deep", "must be true or false, not a string"),
        ("deep=2", "$.query.deep", "must be true or false, not an integer"),
        ("format=xml", "$.query.format", "must be one of 'chat', 'events'"),
        ("search=", "$.query.search", "Length of 'search' must be >= 1: 0"),
        ("numbers=1&numbers=x", "$.query.numbers[1]", "must be an integer, not a string"),
    ],
)
async def test_a_wrong_query_is_a_422(text, path, message):
    """With the parameter's name in the path."""
    assert await wrong(text) == {path: message}


async def test_everything_wrong_in_a_query_is_told_at_once():
    """As in a body."""
    assert list(await wrong("limit=0&deep=x&format=")) == ["$.query.limit", "$.query.deep", "$.query.format"]


async def test_a_parameter_may_be_required():
    """A field without a default must be given."""
    assert await wrong("", "/needed") == {"$.query.id": "is missing"}
    assert await get("id=5", "/needed") == (200, {"id": "5"})


@given(st.lists(st.tuples(st.sampled_from(["limit", "ratio", "deep", "numbers"]), st.text(max_size=8)), max_size=3))
async def test_no_query_makes_another_error(pairs):
    """Text of any kind is a 200 or a 422."""
    response = await APP.test_client().get("/query", query_string=dict(pairs))
    assert response.status_code in (200, 422)
