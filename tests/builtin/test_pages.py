"""The pages about the API."""

import logging
import re
from pathlib import Path
from typing import cast

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from quart import Blueprint, Quart, Response
from quart.typing import TestClientProtocol as Client

from chatcore import wire
from chatcore.access import authenticated, public
from chatcore.app import error_response
from chatcore.builtin.pages import Pages
from chatcore.database import Database
from chatcore.errors import ChatcoreError
from chatcore.hooks import Context, NoSettings
from chatcore.openapi import Error, describe

ASSETS = {
    "docs.js": "text/javascript",
    "reference.css": "text/css",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}


@pytest.fixture
def client(tmp_path: Path) -> Client:
    app = Quart(__name__, static_folder=None)
    app.url_map.strict_slashes = False
    pages = Pages(Context("pages", NoSettings(), tmp_path, cast(Database, None), logging.getLogger("pages")))
    for blueprint in pages.register_routes():
        app.register_blueprint(blueprint)
    shop = Blueprint("shop", __name__)

    @shop.get("/things/<int:number>")
    @describe(answer=Error)
    @authenticated
    async def thing(number: int) -> Response:
        """A <script>alert(1)</script> & thing.

        One of many.

        {{ 7 * 7 }}
        """
        return Response()

    @shop.post("/things")
    @describe(body=Error, stream=True)
    @public
    async def make() -> Response:
        return Response()

    app.register_blueprint(shop)
    app.register_error_handler(ChatcoreError, error_response)
    return app.test_client()


async def text(client: Client, path: str) -> str:
    response = await client.get(path)
    assert response.status_code == 200
    return cast(str, await response.get_data(as_text=True))


def policy(response: Response) -> dict[str, str]:
    """The Content-Security-Policy by directive."""
    parts = response.headers["Content-Security-Policy"].split("; ")
    return {name: value for name, _, value in (part.partition(" ") for part in parts)}


async def test_the_document_is_valid_openapi(client):
    """It has the routes of the whole app, those of these pages among them."""
    response = await client.get("/openapi.json")
    assert response.content_type == "application/json"
    api = wire.loads(await response.get_data())
    assert list(OpenAPIV31SpecValidator(api).iter_errors()) == []
    assert {"/things", "/things/{number}", "/openapi.json", "/docs", "/redoc"} <= set(api["paths"])
    assert api["info"]["title"] == "chatcore"


@pytest.mark.parametrize("path", ["/openapi.json", "/docs", "/redoc"])
async def test_a_page_is_asked_for_anew_and_sent_once(client, path):
    """A browser asks each time whether it has changed, and gets an empty 304 if not."""
    first = await client.get(path)
    assert first.headers["Cache-Control"] == "no-cache"
    second = await client.get(path, headers={"If-None-Match": first.headers["ETag"]})
    assert (second.status_code, await second.get_data()) == (304, b"")


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/redoc", "/redoc/"])
async def test_pages_load_nothing_from_elsewhere(client, path):
    """Neither a link nor a policy names another host, and everything that they load is there."""
    response = await client.get(path)
    assert response.content_type == "text/html; charset=utf-8"
    page = await response.get_data(as_text=True)
    assert "//" not in page.removeprefix("<!DOCTYPE html>")
    loaded = re.findall(r'<(?:link|script)[^>]* (?:href|src)="([^"]*)"', page)
    assert loaded
    for address in loaded:
        assert address.startswith("/docs/assets/")
        assert (await client.get(address)).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
async def test_pages_have_a_strict_policy(client, path):
    """Only what this server serves; no inline script or style, no frames, no forms."""
    found = policy(await client.get(path))
    assert {found[name] for name in ("default-src", "base-uri", "form-action", "frame-ancestors")} == {"'none'"}
    assert found["style-src"] == "'self'"
    assert not re.search(r"unsafe|\*|http", " ".join(found.values()))
    page = await text(client, path)
    assert not re.search(r"<style|<script(?![^>]* src=)| style=| on\w+=", page)


async def test_swagger_ui_is_given_the_document(client):
    """Its start script reads the address from the page."""
    assert 'data-url="/openapi.json"' in await text(client, "/docs")
    assert "dataset.url" in await text(client, "/docs/assets/docs.js")
    assert policy(await client.get("/docs"))["connect-src"] == "'self'"


async def test_the_reference_needs_no_script(client):
    """It has none, and may have none."""
    assert "<script" not in await text(client, "/redoc")
    assert "script-src" not in policy(await client.get("/redoc"))


async def test_the_reference_has_every_operation_and_schema(client):
    """Each with a place of its own, to which the contents and the other places link."""
    page = await text(client, "/redoc")
    places = re.findall(r'id="([^"]*)"', page)
    assert len(places) == len(set(places))
    assert {"shop.thing", "shop.make", "schema-Error", "schema-Violation", "schema-ServerSentEvent"} <= set(places)
    assert set(re.findall(r'href="#([^"]*)"', page)) == set(places)
    assert "/things/{number}" in page
    assert "text/event-stream" in page


async def test_texts_cannot_break_out_of_the_reference(client):
    """A docstring is text: no markup, and no template."""
    page = await text(client, "/redoc")
    assert "A &lt;script&gt;alert(1)&lt;/script&gt; &amp; thing." in page
    assert "<p>One of many.</p>" in page
    assert "{{ 7 * 7 }}" in page


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
async def test_assets_are_kept_by_browsers(client, name, media_type):
    """With their type, for a day, and with a tag to ask again."""
    response = await client.get(f"/docs/assets/{name}")
    assert response.status_code == 200
    assert response.mimetype == media_type
    assert len(await response.get_data()) > 100
    assert response.headers["Cache-Control"] == "public, max-age=86400"
    again = await client.get(f"/docs/assets/{name}", headers={"If-None-Match": response.headers["ETag"]})
    assert again.status_code == 304


@pytest.mark.parametrize(
    "name",
    [
        "nothing.js",
        "index.html",
        "swagger-ui.js.map",
        "..%2f__init__.py",
        "%2e%2e%2f%2e%2e%2fecho.py",
        "..%5c__init__.py",
        "../__init__.py",
        "%2fetc%2fpasswd",
        "docs.js%00",
        "DOCS.JS",
        "",
    ],
)
async def test_nothing_else_can_be_had(client, name):
    """Assets are had by name from a closed list: there is no path to walk."""
    response = await client.get(f"/docs/assets/{name}")
    assert response.status_code == 404
    assert b"Plugin" not in await response.get_data()


async def test_everybody_may_read_the_pages(client):
    """They say nothing that is not in the source; what they describe still needs a token."""
    api = wire.loads(await (await client.get("/openapi.json")).get_data())
    assert api["paths"]["/docs"]["get"]["security"] == []
    assert api["paths"]["/things/{number}"]["get"]["security"] == [{"bearer": ["chat"]}]
