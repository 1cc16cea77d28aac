"""Routes, in one file: a countdown that streams, and a page about it.

    chatcore serve --plugins-dir examples
    curl -N http://127.0.0.1:8000/countdown -H 'Content-Type: application/json' -d '{"start": 3}'

Every view says who may call it. Paths of your own choice are fine as long as no other plugin has them.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable

import attrs
from attrs import validators
from quart import Blueprint, Response
from quart.typing import ResponseReturnValue

from chatcore import sse, wire
from chatcore.access import authenticated, current_principal, public
from chatcore.hooks import NoSettings, Plugin, hookimpl
from chatcore.openapi import describe
from chatcore.requests import read_body


@attrs.frozen
class Countdown:
    """What is counted: from `start` down to zero, one number every `pause` seconds."""

    start: int = attrs.field(validator=[validators.ge(0), validators.le(1000)])
    pause: float = attrs.field(default=1.0, validator=[validators.ge(0), validators.le(60)])


class Countdowns(Plugin[NoSettings]):
    """Counts down over HTTP."""

    @hookimpl
    def register_routes(self) -> Iterable[Blueprint]:
        routes = Blueprint("countdowns", __name__, url_prefix="/countdown")
        routes.add_url_rule("", view_func=about)
        routes.add_url_rule("", view_func=count, methods=["POST"])
        yield routes


@describe(summary="What the countdown is")
@public
async def about() -> ResponseReturnValue:
    return {"countdown": 'POST {"start": 3} here'}


@describe(summary="Count down", body=Countdown, stream=True)
@authenticated
async def count() -> Response:
    """One event `tick` for each number, then one `done` with who has asked."""
    # The body and the principal belong to the request, which is over before the stream is: take them first.
    countdown, who = await read_body(Countdown), current_principal().id
    return Response(_ticks(countdown, who), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})


async def _ticks(countdown: Countdown, who: str) -> AsyncIterator[bytes]:
    for number in range(countdown.start, 0, -1):
        yield sse.encode(wire.dumps({"left": number}), event="tick")
        await asyncio.sleep(countdown.pause)
    yield sse.encode(wire.dumps({"for": who}), event="done")
