"""The HTTP API: the servers, and the choices of which a client's turns are given."""

from quart import Response

from chatcore import wire


def as_json(value: object, status: int = 200) -> Response:
    """An answer that is a value."""
    return Response(wire.dumps(value), status=status, mimetype="application/json")
