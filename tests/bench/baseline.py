"""The yardstick: the plainest proxy that one would write with Quart and httpx. `hypercorn baseline:app` serves it."""

import json
import os
from collections.abc import AsyncIterator

import httpx
from quart import Quart, Response, request

app = Quart(__name__)
client = httpx.AsyncClient(base_url=os.environ["BENCH_UPSTREAM"], timeout=60, trust_env=False)


@app.get("/health")
async def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/api/chat/stream")
async def stream() -> Response:
    body = await request.get_json()

    async def events() -> AsyncIterator[str]:
        async with client.stream("POST", "chat/completions", json={**body, "stream": True}) as response:
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    break
                if line.startswith("data: "):
                    yield f"event: message\ndata: {json.dumps(json.loads(line[6:]))}\n\n"
        yield "event: message\ndata: [DONE]\n\n"

    return Response(events(), mimetype="text/event-stream")
