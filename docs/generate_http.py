"""The reference of the HTTP API, from the OpenAPI document of a server with the built-in plugins. See `generate.py`."""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from quart import Quart

from chatcore.app import create_app
from chatcore.builtin.pages.document import document
from chatcore.config import Config, Loaded

JsonSchema = Mapping[str, Any]

_OWN = {"Error", "Violation", "ServerSentEvent"}  # described in words


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table. Columns in which nothing stands are left out."""
    lines = [list(row) for row in rows]
    used = [index for index in range(len(head)) if any(line[index] for line in lines)]
    chosen = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(line[i].replace('|', chr(92) + '|') for i in used)} |" for line in chosen)


def code(text: str) -> str:
    """Text as code, or nothing where there is none."""
    return f"`{text}`" if text else ""


@cache
def app() -> Quart:
    """A server that was never started."""
    with tempfile.TemporaryDirectory() as directory:
        return create_app(Loaded(config=Config(data=Path(directory))))


@cache
def _document() -> JsonSchema:
    return document(app(), title="chatcore", version=version("chatcore"))


def route(title: str) -> str:
    """A route, written `METHOD /path`: what it takes and gives."""
    method, _, path = title.partition(" ")
    operation = _document()["paths"][path][method.lower()]
    public = "" if operation["security"] else " Public."
    pieces = [
        f"### `{title}`",
        f"{operation.get('summary', 'A file').rstrip('.')}.{public}",
        operation.get("description"),
    ]
    if query := [parameter for parameter in operation.get("parameters", ()) if parameter["in"] == "query"]:
        rows = [(code(p["name"]), _type(p["schema"]), _default(p["schema"]), p.get("description", "")) for p in query]
        pieces.append(table(("parameter", "type", "default", "what it is"), rows))
    if body := operation.get("requestBody"):
        pieces.append(f"Body: {_type(body['content']['application/json']['schema'])}.")
    failing = [status for status in operation["responses"] if not status.startswith("2")]
    answers = [
        f"Answer: {status}{_content(response.get('content', {}))}."
        for status, response in operation["responses"].items()
        if status not in failing
    ]
    errors = f" Errors: {', '.join(failing)}." if failing else ""
    return "\n\n".join(filter(None, [*pieces, " ".join(answers) + errors]))


def _content(content: JsonSchema) -> str:
    if "text/event-stream" in content:
        return ", a [stream](sse.md)"
    if "application/json" in content:
        return f", {_type(content['application/json']['schema'])}"
    return ""


def objects(_: str) -> str:
    """The objects in bodies and answers, each once."""
    schemas = _document()["components"]["schemas"]
    return "\n\n".join(_object(name, schema) for name, schema in schemas.items() if name not in _OWN)


def _object(name: str, schema: JsonSchema) -> str:
    required = schema.get("required", ())
    rows = [
        (code(key), _type(field), "required" if key in required else _default(field), field.get("description", ""))
        for key, field in schema.get("properties", {}).items()
    ]
    fields = table(("field", "type", "default", "what it is"), rows)
    return "\n\n".join(filter(None, [f"### {name}", schema.get("description"), fields]))


def _default(schema: JsonSchema) -> str:
    return code(json.dumps(schema["default"])) if "default" in schema else ""


def _type(schema: JsonSchema) -> str:
    match schema:
        case {"$ref": str(ref)}:
            name = ref.rpartition("/")[2]
            return f"[{name}](#{name.lower()})"
        case {"enum": choices}:
            return " or ".join(code(str(choice)) for choice in choices)
        case {"anyOf": options} | {"oneOf": options}:
            return " or ".join(map(_type, options))
        case {"type": "array", **rest}:
            return f"array of {_type(rest.get('items', {}))}"
        case {"type": list(types)}:
            return " or ".join(types)
        case {"type": str(type_)}:
            return type_ + _limits(schema)
    return "any"


def _limits(schema: JsonSchema) -> str:
    low = schema.get("minimum", schema.get("minLength"))
    high = schema.get("maximum", schema.get("maxLength"))
    if low is None and high is None:
        return ""
    of = " characters" if "maxLength" in schema or "minLength" in schema else ""
    bounds = f"{low} to {high}" if None not in (low, high) else f"at least {low}" if high is None else f"at most {high}"
    return f" ({bounds}{of})"
