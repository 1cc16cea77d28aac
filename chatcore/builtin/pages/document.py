"""The OpenAPI 3.1 document of an application, made from its routes and what they say about themselves.

A view that says nothing appears with what its route tells.
"""

import inspect
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import attrs
from quart import Quart
from werkzeug.routing import Rule

from chatcore import wire
from chatcore.access import Policy, policy_of
from chatcore.openapi import Error, ServerSentEvent, describe, described

logger = logging.getLogger(__name__)

_PARAMETER = re.compile(r"<(?:(?P<converter>\w+)(?:\([^)]*\))?:)?(?P<name>\w+)>")
_CONVERTERS: Mapping[str, Mapping[str, str]] = {
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "uuid": {"type": "string", "format": "uuid"},
}
_BEARER = "bearer"


def document(app: Quart, *, title: str, version: str) -> dict[str, Any]:
    """The OpenAPI document of all HTTP routes of an application, but for static files.

    A view that describes itself wrongly, as with a type that JSON does not have, is logged, and appears as if it said
    nothing.
    """
    schemas = wire.Schemas()
    paths: dict[str, dict[str, Any]] = {}
    used: Counter[str] = Counter()
    for rule, method in _operations(app):
        path = paths.setdefault(_PARAMETER.sub(r"{\g<name>}", rule.rule), {})
        if method.lower() not in path:
            used[rule.endpoint] += 1
            number = used[rule.endpoint]
            path[method.lower()] = {
                "operationId": f"{rule.endpoint}_{number}" if number > 1 else rule.endpoint,
                **_operation(rule, app.view_functions[rule.endpoint], schemas),
            }
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.named.items())),
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer"}},
        },
    }


def _operations(app: Quart) -> Iterator[tuple[Rule, str]]:
    for rule in sorted(app.url_map.iter_rules(), key=lambda rule: (rule.rule, rule.endpoint)):
        if not rule.websocket and rule.endpoint.rpartition(".")[2] != "static":
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, method


def _operation(rule: Rule, view: Callable[..., Any], schemas: wire.Schemas) -> dict[str, Any]:
    said = described(view)
    policy = policy_of(view) or Policy("authenticated")
    blueprint = rule.endpoint.rpartition(".")[0]
    try:
        types = _types(rule, said, policy, schemas)
    except (TypeError, ValueError, NameError):
        logger.exception("the route %s describes itself in a way that cannot be shown", rule.endpoint)
        types = _types(rule, describe(), policy, schemas)
    return {
        **_texts(said, inspect.getdoc(view) or ""),
        **({"tags": list(said.tags or (blueprint,))} if said.tags or blueprint else {}),
        **types,
        "security": [] if policy.name == "public" else [{_BEARER: sorted(policy.needed)}],
    }


def _types(rule: Rule, said: describe, policy: Policy, schemas: wire.Schemas) -> dict[str, Any]:
    parameters = [*_path_parameters(rule), *_query_parameters(said, schemas)]
    return {
        **({"parameters": parameters} if parameters else {}),
        **({"requestBody": _body(said, schemas)} if said.body is not None else {}),
        "responses": _responses(said, policy, schemas),
    }


def _texts(said: describe, docstring: str) -> dict[str, str]:
    if said.summary:
        summary, description = said.summary, docstring
    else:
        summary, _, description = (part.strip() for part in docstring.partition("\n"))
    texts = {"summary": summary, "description": description}
    return {name: text for name, text in texts.items() if text}


def _path_parameters(rule: Rule) -> Iterator[dict[str, Any]]:
    for match in _PARAMETER.finditer(rule.rule):
        schema = _CONVERTERS.get(match["converter"], {"type": "string"})
        yield {"name": match["name"], "in": "path", "required": True, "schema": dict(schema)}


def _query_parameters(said: describe, schemas: wire.Schemas) -> Iterator[dict[str, Any]]:
    for field in wire.fields_of(said.query) if said.query else ():
        schema = schemas.of_field(field)
        text = {"description": schema.pop("description")} if "description" in schema else {}
        yield {"name": field.name, "in": "query", "required": field.default is attrs.NOTHING, **text, "schema": schema}


def _body(said: describe, schemas: wire.Schemas) -> dict[str, Any]:
    return {"required": True, "content": _content("application/json", said.body, schemas)}


def _responses(said: describe, policy: Policy, schemas: wire.Schemas) -> dict[str, Any]:
    content = _content("application/json", said.answer, schemas) if said.answer is not None else {}
    if said.stream:
        content |= _content("text/event-stream", ServerSentEvent, schemas)
    answer = {"description": HTTPStatus(said.status).phrase, **({"content": content} if content else {})}
    error = _content("application/json", Error, schemas)
    return {
        str(said.status): answer,
        **{
            str(status): {"description": HTTPStatus(status).phrase, "content": error}
            for status in sorted({*said.errors, *_usual_errors(said, policy)})
        },
    }


def _usual_errors(said: describe, policy: Policy) -> Iterator[int]:
    if said.body is not None:
        yield from (400, 413, 422)
    if said.query is not None:
        yield 422
    if policy.name == "authenticated":
        yield from (401, 403)


def _content(media_type: str, type_: Any, schemas: wire.Schemas) -> dict[str, Any]:
    return {media_type: {"schema": schemas.of(type_)}}
