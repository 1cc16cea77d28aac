"""A server written against the wire, for servers that no SDK would let one write. It speaks 2024-11-05 only.

python raw.py LOG [OPTION...]; its process id, and then each line that it gets, are appended to LOG. The options:

hang        it says nothing, not even to the first message
exit        it ends at once, with a last word
noisy       it writes to its standard error, and lines that are no messages to its standard output, all the time
child       it starts a process of its own that sleeps for ever, and notes its id as well
tools=N     it has N tools more
named=NAME  it has a tool of that name, which says what it was given
once        it can be started only once
next=X      of every page of its tools it says that the next one is called X
version=X   it speaks another revision
claims      it says that it has resources and prompts, of which it knows nothing
"""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

log = Path(sys.argv[1]).open("a", buffering=1)  # noqa: SIM115  it is written to the end
options = dict(option.partition("=")[::2] for option in sys.argv[2:])
version = options.get("version", "2024-11-05")
writing = threading.Lock()
held = []


def send(text):
    with writing:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def result(identifier, value):
    send(json.dumps({"jsonrpc": "2.0", "id": identifier, "result": value}))


def text(identifier, value):
    result(identifier, {"content": [{"type": "text", "text": value}], "isError": False})


def tool(name):
    properties = {"text": {"type": "string", "description": "What to say."}, "size": {"type": "integer"}}
    return {"name": name, "description": f"Does {name}.", "inputSchema": {"type": "object", "properties": properties}}


def dense(identifier, arguments):
    rows = [{"a": 1, "b": [1, 2, 3]}] * 200_000
    result(identifier, {"content": [], "structuredContent": {"rows": rows}})


def die(identifier, arguments):
    sys.stderr.write("I have had enough\n")
    sys.stderr.flush()
    sys.exit(7)


def image(identifier, arguments):
    shown = {"type": "image", "mimeType": "image/png", "data": "iVBORw0KGgo="}
    result(identifier, {"content": [{"type": "text", "text": "Look:"}, shown]})


def change(identifier, arguments):
    names.append(arguments["text"])
    send(json.dumps({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}))
    text(identifier, "changed")


def echo(identifier, arguments):
    text(identifier, json.dumps(arguments))


def slow(identifier, arguments):
    """Answers after so many milliseconds; without a number when `release` is called."""
    if "size" in arguments:
        threading.Timer(arguments["size"] / 1000, text, (identifier, "done")).start()
    else:
        held.append(identifier)


def release(identifier, arguments):
    while held:
        text(held.pop(), "done")
    text(identifier, "released")


TOOLS = {
    "echo": echo,
    "big": lambda identifier, arguments: text(identifier, "x" * arguments.get("size", 5_000_000)),
    "dense": dense,
    "bad_json": lambda identifier, arguments: send(f'{{"jsonrpc": "2.0", "id": {identifier}, "result": {{"content": ['),
    "bad_shape": lambda identifier, arguments: result(identifier, {"content": "nothing of the kind"}),
    "slow": slow,
    "release": release,
    "die": die,
    "image": image,
    "change": change,
    "many_parts": lambda identifier, arguments: result(
        identifier, {"content": [{"type": "text", "text": "x"}] * 100_000}
    ),
}


def answer(message):
    identifier, parameters = message.get("id"), message.get("params") or {}
    match message.get("method"):
        case "initialize":
            capabilities = {"tools": {"listChanged": True}}
            capabilities |= {"resources": {}, "prompts": {}} if "claims" in options else {}
            about = {"name": "Raw Server", "version": "1"}
            result(identifier, {"protocolVersion": version, "capabilities": capabilities, "serverInfo": about})
        case "tools/list":
            start = int(parameters.get("cursor") or 0)
            page = {"tools": [tool(name) for name in names[start : start + 400]]}
            following = {"nextCursor": str(start + 400)} if start + 400 < len(names) else {}
            result(identifier, page | ({"nextCursor": options["next"]} if "next" in options else following))
        case "tools/call":
            TOOLS.get(parameters["name"], echo)(identifier, parameters.get("arguments") or {})
        case str() if identifier is not None:
            send(json.dumps({"jsonrpc": "2.0", "id": identifier, "error": {"code": -32601, "message": "unknown"}}))


names = [*TOOLS, *(f"tool_{number}" for number in range(int(options.get("tools", 0))))]


def make_noise():
    while True:
        sys.stderr.write("noise " * 50 + "\n")
        send("this is no message")


log.write(json.dumps({"pid": os.getpid()}) + "\n")
if "named" in options:
    names.append(options["named"])
if "once" in options and log.tell() > 20:
    sys.exit("not again")
if "exit" in options:
    sys.exit("I will not")
if "child" in options:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
    log.write(json.dumps({"pid": child.pid}) + "\n")
if "noisy" in options:
    threading.Thread(target=make_noise, daemon=True).start()
for line in sys.stdin:
    log.write(line)
    if "hang" not in options:
        answer(json.loads(line))
