"""chatcore's client, for the conformance suite: connects to the server at the URL that is the last argument.

It lists the tools and calls each as a model would that knows only their schemas; or as the suite says in
MCP_CONFORMANCE_CONTEXT. Where the server wants somebody to sign in, somebody does: the authorization page of the suite
sends a browser back at once. Whoever is asked something says yes, and fills in nothing.
"""

import asyncio
import json
import logging
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx2
from chatcore_mcp.servers import Options, Server, Servers

from chatcore import forms
from chatcore.accounts import Accounts, Answer
from chatcore.addresses import Reach, network
from chatcore.database import Database
from chatcore.errors import ChatcoreError, ToolFailed
from chatcore.secrets import Secret
from chatcore.tools import Invocation, Question, QuestionAnswer, Tool, ToolCall
from chatcore.types import LOCAL

CONTEXT = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT") or "{}")
CLIENT_DOCUMENT = "https://conformance-test.local/client-metadata.json"
"""Where the suite looks for the description of a client that is known by its URL."""
PATIENCE = 3
SAMPLES = {"string": "text", "integer": 1, "number": 1.5, "boolean": True, "array": [], "object": {}}


def main(url: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "mcp_servers.json")
        registered = {key: CONTEXT[key] for key in ("client_id", "client_secret") if key in CONTEXT}
        oauth = registered or {"client_id": CLIENT_DOCUMENT}
        file.write_text(json.dumps({"servers": [{"id": "suite", "url": url, "type": "http", "oauth": oauth}]}))
        asyncio.run(use(file))


async def use(file: Path) -> None:
    database = Database(str(file.with_name("chatcore.db")))
    await database.open()
    accounts = Accounts(database, file.with_name("accounts.key"), public_url="http://127.0.0.1:8000")
    options = Options(
        reach=Reach((network("127.0.0.0/8"), network("::1"))),
        timeout=20,
        prefix=False,
        environ=os.environ,
        log=logging.getLogger("chatcore.plugin.mcp"),
        accounts=accounts,
    )
    servers = Servers(file, options)
    try:
        async with servers.session():
            await use_all(servers, accounts)
    finally:
        await database.close()


async def use_all(servers: Servers, accounts: Accounts) -> None:
    [server] = servers
    await server.settled()
    await sign_in_as_wanted(server, accounts)
    print(server.state, server.problem, [tool.name for tool in servers.tools()], file=sys.stderr)
    tools = {tool.name: tool for tool in servers.tools()}
    wanted = [(call["name"], call.get("arguments") or {}) for call in CONTEXT.get("toolCalls", ())]
    if "json_schema_echo" in tools:  # which is to be given the schema of the other tool as it has arrived here
        [schema] = [info.schema for info in server.known if info.name != "json_schema_echo"]
        wanted = [("json_schema_echo", {"schema": schema})]
    for name, arguments in wanted or [(name, sample(tool.parameters)) for name, tool in tools.items()]:
        failed = not await call(tools[name], arguments)
        if failed and await sign_in_as_wanted(server, accounts):
            await call(tools[name], arguments)


async def call(tool: Tool, arguments: dict[str, Any]) -> bool:
    try:
        result = await tool.run(Invocation(ToolCall("1", tool.name), arguments, "local", "", "", ask=agree))
    except ToolFailed as error:
        print(tool.name, error.message, file=sys.stderr)
        return False
    print(tool.name, result, file=sys.stderr)
    return True


async def agree(question: Question) -> QuestionAnswer:
    """Whatever is asked is accepted, with the defaults."""
    return QuestionAnswer(action="accept", content=forms.filled(forms.form(question.form), {}))


async def sign_in_as_wanted(server: Server, accounts: Accounts) -> bool:
    """Signs in for as long as the server wants that, but not for ever. Gives whether anybody was."""
    tries = 0
    while server.sign_in is not None and server.sign_in.state == "needed" and tries < PATIENCE:
        tries += 1
        try:
            url = await server.sign_in.begin(LOCAL, 10)
            await visit(url, accounts)
            async with asyncio.timeout(10):
                while server.sign_in.url(LOCAL) is not None:
                    await asyncio.sleep(0.01)
        except ChatcoreError as error:
            print(error.message, file=sys.stderr)
            break
        await server.settled()
    return tries > 0


async def visit(url: str, accounts: Accounts) -> None:
    """What a browser does: it is sent back with an answer, which our call-back page takes."""
    async with httpx2.AsyncClient() as browser:
        back = httpx2.URL((await browser.get(url)).headers["location"])
    await accounts.called_back(
        Answer(state=back.params["state"], code=Secret(back.params["code"]), issuer=back.params.get("iss"))
    )


def sample(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties", {})
    return {name: SAMPLES.get(properties[name].get("type"), "text") for name in schema.get("required", properties)}


main(sys.argv[-1])
