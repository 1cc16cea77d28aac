"""Servers by the SDK, over HTTP: by both of its transports."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from .conftest import delaying_nobody, sdk

OWN = ["who", "refuse", "crash", "big", "count", "wait", "ask", "greet", "pay", "receipt", "grow"]
GENERIC = ["list_resources", "read_resource", "list_prompts", "get_prompt"]


@pytest.fixture(params=["/mcp", "/sse"])
def entry(request: pytest.FixtureRequest, sdk_server: str) -> dict[str, Any]:
    """A server, once by each transport. The file does not say which it is."""
    return {"url": sdk_server + request.param}


async def test_a_server_is_used_as_it_is(bench, entry):
    """Its tools, with what they say of themselves; its resources and prompts by tools of their own."""
    made = await bench({"full": entry})
    await made.connected("full")
    assert made.names()[: len(OWN)] == OWN
    assert made.names()[-len(GENERIC) :] == GENERIC
    tools = {tool.name: tool for tool in made.servers.tools()}
    assert tools["who"].description == "[full] Says who it is."
    assert (tools["who"].read_only, tools["who"].idempotent, tools["who"].destructive) == (True, True, False)
    assert (tools["refuse"].destructive, tools["refuse"].open_world) == (True, True)
    assert (tools["big"].read_only, tools["big"].destructive) == (False, False)
    assert tools["who"].source == "mcp/full"
    assert (await made.call("who")).text == "full"
    assert (await made.call("list_resources")).text == (
        "text://greeting: greeting – A greeting.\ntext://greeting/{who}: greeting_to – A greeting to somebody."
    )
    assert (await made.call("read_resource", uri="text://greeting/you")).text == "[text://greeting/you]\nhello you"
    assert (await made.call("list_prompts")).text == "summarise(topic, length?): Asks for a summary."
    prompt = await made.call("get_prompt", name="summarise", arguments={"topic": "the sea"})
    assert prompt.text == "user: Summarise the sea, short."


async def test_what_fails_is_told(bench, entry):
    """A refusal with its text; wrong arguments; what needs a person; a resource that is not there."""
    made = await bench({"full": entry})
    await made.connected("full")
    refusal = await made.call("refuse", reason="not today")
    assert (refusal.text, refusal.is_error) == ("Error executing tool refuse: not today", True)
    assert (await made.call("crash")).is_error
    wrong = await made.call("big", size="many")
    assert wrong.is_error
    assert "size" in wrong.text
    asking = await made.call("ask")
    assert asking.is_error
    print(asking.text)
    missing = await made.call("read_resource", uri="text://nowhere")
    assert missing.is_error
    assert (await made.call("read_resource")).text == "'uri' must be a text"
    assert (await made.call("get_prompt", name="summarise", arguments=[1])).text == "'arguments' must be an object"


async def test_a_large_answer_is_cut_and_delays_nobody(bench, entry):
    """Five megabytes of text, and twenty thousand parts: the event loop is free again within 50 ms."""
    made = await bench({"full": entry})
    await made.connected("full")
    await made.call("who")
    text = await delaying_nobody(lambda: made.call("big", size=5_000_000))
    assert not text.is_error
    assert len(text.text) == 400_000
    numbers = await delaying_nobody(lambda: made.call("count", to=20_000))
    assert numbers.text.startswith("0\n1\n2\n")
    assert "19800 more parts were left out" in numbers.text


async def test_a_cancelled_call_is_cancelled_at_the_server(bench, entry, tmp_path: Path):
    """It ends at once for whoever made it. Until then it tells how far it is."""
    made = await bench({"full": entry})
    await made.connected("full")
    note = tmp_path / "note"
    call = asyncio.create_task(made.call("wait", file=str(note)))
    await made.until(lambda: note.exists() and note.read_text())
    await made.until(lambda: made.progress)
    assert made.progress == [("waiting", 1, 3)]
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await made.until(lambda: note.read_text() == "begun cancelled")
    assert (await made.call("who")).text == "full"


async def test_changed_tools_are_followed(bench, entry):
    """When the server says so."""
    made = await bench({"full": entry})
    await made.connected("full")
    new = f"new_{entry['url'].rpartition('/')[2]}"
    assert new not in made.names()
    await made.call("grow", tool=new)
    await made.until(lambda: new in made.names())


async def test_it_also_works_on_standard_input_and_output(bench):
    """With the newest revision of the protocol."""
    made = await bench({"full": sdk("stdio")})
    await made.connected("full")
    assert (await made.call("who")).text == "stdio"
    await made.call("grow", tool="brand_new")
    await made.until(lambda: "brand_new" in made.names())
