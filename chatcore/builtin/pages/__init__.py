"""The description of the API: as OpenAPI, as Swagger UI to try it out, and as a page to read.

Everything comes from this server, nothing from elsewhere; the Content-Security-Policy of the pages sees to it.
"""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from quart import Blueprint, Response, current_app, render_template, request, send_file

from chatcore import wire
from chatcore.access import public
from chatcore.builtin.pages.document import document
from chatcore.errors import NotFound
from chatcore.hooks import Context, NoSettings, Plugin, hookimpl
from chatcore.openapi import describe

_ASSETS: Mapping[str, str] = {
    "docs.js": "text/javascript",
    "reference.css": "text/css",
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "favicon-32x32.png": "image/png",
}
_OWN_ASSETS = {"docs.js", "reference.css"}
_ASSET_SECONDS = 86_400

_POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; style-src 'self'"
_REDOC_POLICY = f"{_POLICY}; img-src 'self'"
_DOCS_POLICY = f"{_POLICY}; img-src 'self' data:; script-src 'self'; connect-src 'self'"


class Pages(Plugin[NoSettings]):
    """Describes the API: /openapi.json, /docs and /redoc."""

    def __init__(self, context: Context[NoSettings]) -> None:
        super().__init__(context)
        self._document: dict[str, Any] | None = None

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("pages", __name__, template_folder="templates")
        routes.add_url_rule("/openapi.json", view_func=self.openapi)
        routes.add_url_rule("/docs", view_func=self.docs)
        routes.add_url_rule("/redoc", view_func=self.redoc)
        routes.add_url_rule("/docs/assets/<name>", view_func=self.asset)
        yield routes

    @public
    async def openapi(self) -> Response:
        """The OpenAPI document of this server."""
        return await _fresh(Response(wire.dumps(self._described()), mimetype="application/json"))

    @public
    async def docs(self) -> Response:
        """The API, to try it out."""
        return await _page("pages/docs.html", _DOCS_POLICY, self._described())

    @public
    async def redoc(self) -> Response:
        """The API, to read about it."""
        return await _page("pages/reference.html", _REDOC_POLICY, self._described())

    @describe(errors=(404,))
    @public
    async def asset(self, name: str) -> Response:
        """A file of these pages."""
        media_type = _ASSETS.get(name)
        if media_type is None:
            raise NotFound(f"there is no {name!r} here")
        directory = Path(str(files(__name__))) / "assets" if name in _OWN_ASSETS else _swagger_files()
        return await send_file(directory / name, mimetype=media_type, conditional=True, cache_timeout=_ASSET_SECONDS)

    def _described(self) -> dict[str, Any]:
        # The routes are known only when the app is complete.
        if self._document is None:
            self._document = document(current_app, title="chatcore", version=version("chatcore"))
        return self._document


def _swagger_files() -> Path:
    """Where the package with Swagger UI keeps its files: a directory named after their version."""
    return next(Path(str(files("swagger_ui_bundle") / "vendor")).glob("swagger-ui-*"))


async def _page(template: str, policy: str, described: Mapping[str, Any]) -> Response:
    response = Response(await render_template(template, api=described), mimetype="text/html")
    response.headers["Content-Security-Policy"] = policy
    return await _fresh(response)


async def _fresh(response: Response) -> Response:
    """A response that a browser keeps, and asks about each time whether it has changed."""
    response.headers["Cache-Control"] = "no-cache"
    await response.add_etag()
    return await response.make_conditional(request)
