"""The OpenAPI document (chatcore/builtin/pages/document.py), and what a view says for it (chatcore/openapi.py)."""

import logging
import uuid
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
from attrs import validators
from openapi_spec_validator import OpenAPIV31SpecValidator
from quart import Blueprint, Quart, Response

from chatcore import wire
from chatcore.access import authenticated, public, requires
from chatcore.builtin.pages.document import document
from chatcore.openapi import Error, describe
from chatcore.tools import JsonObject


@attrs.frozen
class Text:
    """A piece of text."""

    text: str
    type: Literal["text"] = "text"


@attrs.frozen
class Image:
    url: str
    type: Literal["image"] = "image"


@attrs.frozen
class Message:
    role: Literal["user", "assistant"]
    content: str | tuple[Text | Image, ...]
    at: datetime | None = None
    replies: "tuple[Message, ...]" = ()


@attrs.frozen
class ChatRequest:
    """New messages."""

    messages: tuple[Message, ...] = attrs.field(validator=validators.min_len(1))
    model: str | None = attrs.field(default=None, metadata={"help": "Which model."})
    extra: JsonObject = wire.rest()


@attrs.frozen
class ConversationList:
    conversations: tuple[JsonObject, ...]
    total: int


@attrs.frozen
class Query:
    limit: int = attrs.field(default=50, validator=validators.le(200), metadata={"help": "How many."})
    since: datetime | None = None
    search: str = attrs.field(kw_only=True)


def make_app() -> Quart:
    app = Quart("shop", static_folder=None)
    chat = Blueprint("chat", __name__, url_prefix="/chat", static_folder="static")

    @chat.post("/stream")
    @describe(summary="Answer", body=ChatRequest, stream=True, errors=(404, 503), tags=("talk",))
    @authenticated
    async def stream() -> Response:
        """Streams the answer."""
        return Response()

    @chat.get("/conversations")
    @describe(answer=ConversationList | None, query=Query)
    @authenticated
    async def conversations() -> Response:
        """The conversations.

        Newest first.
        The rest later.
        """
        return Response()

    @chat.route("/conversations/<uuid:conversation_id>/messages/<int:message_id>", methods=["PUT", "DELETE"])
    @describe(status=204, errors=(404,))
    @requires("write", "chat")
    async def change(conversation_id: uuid.UUID, message_id: int) -> Response:
        return Response()

    @chat.get("/files/<path:name>")
    @chat.get("/files/<string(length=2):name>/<float:size>/<any(a,b):kind>")
    @public
    async def file(name: str, size: float = 1, kind: str = "a") -> Response:
        """A file."""
        return Response()

    @chat.websocket("/socket")
    @public
    async def socket() -> None:
        pass

    @app.route("/bare", methods=["GET", "POST"])
    async def bare() -> str:
        return ""

    @app.get("/bare")
    async def shadowed() -> str:
        """Nobody gets here: another route has its path."""
        return ""

    app.register_blueprint(chat)
    return app


@pytest.fixture(scope="module")
def api() -> dict[str, Any]:
    return document(make_app(), title="Shop", version="1.2")


def operation(api: dict[str, Any], method: str, path: str) -> Any:
    return api["paths"][path][method]


def test_the_document_is_valid(api):
    """openapi-spec-validator finds nothing, and it is plain JSON."""
    assert list(OpenAPIV31SpecValidator(api).iter_errors()) == []
    assert wire.loads(wire.dumps(api)) == api
    assert (api["openapi"], api["info"]) == ("3.1.0", {"title": "Shop", "version": "1.2"})


def test_every_http_route_is_in_it(api):
    """WebSockets and static files are not, nor the methods that Quart answers itself."""
    assert {path: set(methods) for path, methods in api["paths"].items()} == {
        "/bare": {"get", "post"},
        "/chat/conversations": {"get"},
        "/chat/conversations/{conversation_id}/messages/{message_id}": {"put", "delete"},
        "/chat/files/{name}": {"get"},
        "/chat/files/{name}/{size}/{kind}": {"get"},
        "/chat/stream": {"post"},
    }


def test_a_body(api):
    """It is required, and refers to its class."""
    assert operation(api, "post", "/chat/stream")["requestBody"] == {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/ChatRequest"}}},
    }
    schema = api["components"]["schemas"]["ChatRequest"]
    assert schema["description"] == "New messages."
    assert schema["properties"]["messages"] == {
        "type": "array",
        "items": {"$ref": "#/components/schemas/Message"},
        "minItems": 1,
    }
    assert schema["properties"]["model"]["description"] == "Which model."
    assert schema["additionalProperties"] is True


def test_nested_classes_are_components(api):
    """Those inside of others, of unions and of themselves too: no reference leads nowhere."""
    assert set(api["components"]["schemas"]) == {
        "ChatRequest",
        "ConversationList",
        "Error",
        "Image",
        "Message",
        "ServerSentEvent",
        "Text",
        "Violation",
    }


def test_a_stream(api):
    """Its answer is one event after the other, each of the documented form."""
    answer = operation(api, "post", "/chat/stream")["responses"]["200"]
    assert answer["content"] == {"text/event-stream": {"schema": {"$ref": "#/components/schemas/ServerSentEvent"}}}
    assert api["components"]["schemas"]["ServerSentEvent"]["required"] == ["data"]


def test_an_answer(api):
    """JSON of the type that the view says; without one it is open, and a 204 has no content."""
    assert operation(api, "get", "/chat/conversations")["responses"]["200"]["content"]["application/json"] == {
        "schema": {"anyOf": [{"$ref": "#/components/schemas/ConversationList"}, {"type": "null"}]}
    }
    assert operation(api, "get", "/bare")["responses"]["200"] == {"description": "OK"}
    path = "/chat/conversations/{conversation_id}/messages/{message_id}"
    assert operation(api, "delete", path)["responses"]["204"] == {"description": "No Content"}


def test_errors(api):
    """Those that the view names, and those that follow from its body, query and policy; all of one form."""
    path = "/chat/conversations/{conversation_id}/messages/{message_id}"
    assert list(operation(api, "post", "/chat/stream")["responses"]) == [
        "200", "400", "401", "403", "404", "413", "422", "503",
    ]  # fmt: skip
    assert list(operation(api, "get", "/chat/conversations")["responses"]) == ["200", "401", "403", "422"]
    assert list(operation(api, "put", path)["responses"]) == ["204", "401", "403", "404"]
    assert list(operation(api, "get", "/chat/files/{name}")["responses"]) == ["200"]
    assert operation(api, "put", path)["responses"]["404"] == {
        "description": "Not Found",
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    assert set(api["components"]["schemas"]["Error"]["properties"]) == {"detail", "code", "hint"}


def test_path_parameters(api):
    """The converter of the route says what type they have."""
    path = "/chat/conversations/{conversation_id}/messages/{message_id}"
    assert operation(api, "put", path)["parameters"] == [
        {"name": "conversation_id", "in": "path", "required": True, "schema": {"type": "string", "format": "uuid"}},
        {"name": "message_id", "in": "path", "required": True, "schema": {"type": "integer"}},
    ]
    parameters = operation(api, "get", "/chat/files/{name}/{size}/{kind}")["parameters"]
    assert [(one["name"], one["schema"]["type"]) for one in parameters] == [
        ("name", "string"),
        ("size", "number"),
        ("kind", "string"),
    ]


def test_query_parameters(api):
    """Every field of the query's class is one."""
    assert operation(api, "get", "/chat/conversations")["parameters"] == [
        {
            "name": "limit",
            "in": "query",
            "required": False,
            "description": "How many.",
            "schema": {"type": "integer", "maximum": 200, "default": 50},
        },
        {
            "name": "since",
            "in": "query",
            "required": False,
            "schema": {"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}], "default": None},
        },
        {"name": "search", "in": "query", "required": True, "schema": {"type": "string"}},
    ]


def test_texts(api):
    """The summary is what the view says or its docstring's first line; the description is the rest of the docstring."""
    one = operation(api, "post", "/chat/stream")
    assert (one["summary"], one["description"], one["tags"]) == ("Answer", "Streams the answer.", ["talk"])
    one = operation(api, "get", "/chat/conversations")
    assert (one["summary"], one["description"]) == ("The conversations.", "Newest first.\nThe rest later.")
    assert one["tags"] == ["chat"]
    one = operation(api, "get", "/bare")
    assert not {"summary", "description", "tags"} & set(one)


def test_security(api):
    """A public view needs nothing, any other a bearer token, with its scopes; one that says nothing is not public."""
    path = "/chat/conversations/{conversation_id}/messages/{message_id}"
    assert operation(api, "get", "/chat/files/{name}")["security"] == []
    assert operation(api, "post", "/chat/stream")["security"] == [{"bearer": ["chat"]}]
    assert operation(api, "put", path)["security"] == [{"bearer": ["chat", "write"]}]
    assert operation(api, "get", "/bare")["security"] == [{"bearer": ["chat"]}]
    assert api["components"]["securitySchemes"] == {"bearer": {"type": "http", "scheme": "bearer"}}


def test_operations_have_names_of_their_own(api):
    """The endpoint's, numbered where an endpoint has several methods or routes."""
    names = [one["operationId"] for methods in api["paths"].values() for one in methods.values()]
    assert len(set(names)) == len(names)
    assert operation(api, "post", "/chat/stream")["operationId"] == "chat.stream"
    assert {"bare", "bare_2", "chat.change", "chat.change_2", "chat.file", "chat.file_2"} <= set(names)


def test_the_document_does_not_change(api):
    """The same routes give the same document, in the same order."""
    assert wire.dumps(document(make_app(), title="Shop", version="1.2")) == wire.dumps(api)


@pytest.mark.parametrize(
    "wrong", [{"body": Path}, {"answer": attrs.make_class("Bad", {"a": attrs.field(type=object)})}, {"errors": (799,)}]
)
def test_a_view_that_describes_itself_wrongly_is_logged(wrong, caplog):
    """It appears as if it said nothing, the other routes are not touched, and the document stays valid."""
    app = make_app()

    @app.get("/wrong/<int:id>")
    @describe(summary="Wrong", **wrong)
    @authenticated
    async def odd(id: int) -> str:  # noqa: A002 - the name of the parameter
        return ""

    with caplog.at_level(logging.ERROR):
        api = document(app, title="Shop", version="1")
    assert "the route odd describes itself" in caplog.text
    assert operation(api, "get", "/wrong/{id}")["summary"] == "Wrong"
    assert list(operation(api, "get", "/wrong/{id}")["responses"]) == ["200", "401", "403"]
    assert "requestBody" in operation(api, "post", "/chat/stream")
    assert list(OpenAPIV31SpecValidator(api).iter_errors()) == []


def test_an_empty_app_has_a_valid_document():
    """Nothing is required of an application."""
    api = document(Quart("empty", static_folder=None), title="Empty", version="0")
    assert list(OpenAPIV31SpecValidator(api).iter_errors()) == []


async def test_describe_changes_nothing_about_a_view():
    """It is the same function, and other decorators still see what they set."""

    async def view() -> str:
        return "x"

    marked = describe(body=Error)(public(view))
    assert marked is view
    assert await marked() == "x"
