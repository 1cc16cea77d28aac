"""The page at the end of a sign-in. What it says may come from anywhere: it is text, and nothing in it can run."""

from base64 import b64encode
from hashlib import sha256
from html import escape

from quart import Response

_SCRIPT = (
    "if (window.opener) window.opener.postMessage("
    '{type: "chatcore-account", ok: document.body.dataset.ok === "true"}, window.location.origin);'
)
_STYLE = "body { font: 1.1rem/1.5 system-ui, sans-serif; max-width: 32rem; margin: 15vh auto; padding: 0 1rem; }"
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>
<style>{style}</style></head>
<body data-ok="{ok}"><h1>{title}</h1><p>{text}</p><p>{hint}</p><p>You can close this window.</p>
<script>{script}</script></body>
</html>
"""


def page(text: str, status: int = 200, *, hint: str = "") -> Response:
    """A page with a text. Its opener, if it is a page of this server, is told whether it went well."""
    ok = status == 200
    body = _PAGE.format(
        title="Signed in" if ok else "Not signed in",
        ok="true" if ok else "false",
        text=escape(text),
        hint=escape(hint),
        style=_STYLE,
        script=_SCRIPT,
    )
    return Response(body, status, _HEADERS, mimetype="text/html")


def _source(text: str) -> str:
    """What a Content-Security-Policy calls a script or a style."""
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"script-src {_source(_SCRIPT)}; style-src {_source(_STYLE)}",
    "Referrer-Policy": "no-referrer",  # the address has the code in it
    "Cache-Control": "no-store",
}
