"""The body and the query of a request as attrs values. For use in a view."""

from typing import TypeVar, get_args

from quart import request

from chatcore import wire
from chatcore.errors import Problem, RequestError, ValidationFailed

T = TypeVar("T")

_BOOLEANS = {"1": True, "0": False}


async def read_body(type_: type[T]) -> T:
    """The JSON body of the request, which can be read once.

    Raises:
        RequestError: it is not JSON.
        ValidationFailed: it has the wrong shape; paths begin with `$`.
        RequestEntityTooLarge: it is over the server's limit.
    """
    # Not cached: the request lives as long as an answer that streams.
    data = await request.get_data(cache=False, as_text=False, parse_form_data=False)
    return wire.structure(wire.loads(data), type_)


def read_query(cls: type[T]) -> T:
    """The query of the request as an attrs class with one field for each parameter.

    Numbers are as in JSON, booleans `true`, `false`, `1`, `0`. Of a parameter that comes several times the last one
    counts; a field that is an array has all of them. Parameters without a field are ignored: browsers and proxies
    add their own.

    Raises:
        ValidationFailed: paths begin with `$.query`.
    """
    values: dict[str, wire.JsonValue] = {}
    for field in wire.fields_of(cls):
        given = request.args.getlist(field.name)
        if given and list in wire.plain_types(field.type):
            values[field.name] = [_value(text, wire.plain_types(get_args(field.type)[0])) for text in given]
        elif given:
            values[field.name] = _value(given[-1], wire.plain_types(field.type))
    try:
        return wire.structure(values, cls)
    except ValidationFailed as error:
        raise ValidationFailed([Problem(f"$.query{p.path[1:]}", p.message) for p in error.problems]) from None


def _value(text: str, types: tuple[type, ...]) -> wire.JsonValue:
    """A parameter as a value of one of the types, or as it is: what is wrong with it is for the converter to say."""
    if str in types:
        return text
    if bool in types and text in _BOOLEANS:
        return _BOOLEANS[text]
    try:
        return wire.loads(text.encode())
    except RequestError:
        return text
