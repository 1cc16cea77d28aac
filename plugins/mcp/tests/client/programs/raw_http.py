"""A server over HTTP that is written against the wire: python raw_http.py [PORT]. It prints the port.

/mcp      it speaks 2025-03-26, in sessions that it forgets when it ends; with a query it has twenty tools
/modern   it speaks 2026-07-28; its tool asks for input
          its tool `flood` first asks whether there is anybody, so many times
/NNN      it answers every message with that status
/html, /redirect, /gzip, /hang, /half   it is no such server
/secret   it wants a token
"""

import gzip
import json
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

session = uuid.uuid4().hex
tools = [
    {"name": name, "description": "Does it.", "inputSchema": {"type": "object"}}
    for name in ("echo", "big", "slow", "half", "strange", "flood")
]
answered = []
many = [{**tools[0], "name": f"tool_{number}"} for number in range(20)]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        message = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = self.path[1:].partition("?")[0]
        if kind.isdigit():
            return self.say(int(kind), b"no")
        if kind == "secret" and self.headers.get("authorization") != "Bearer letmein":
            return self.say(401, b"no")
        if kind in NO_SERVERS:
            return NO_SERVERS[kind](self)
        if "method" not in message:
            answered.append(message["id"])
        if "id" not in message or "method" not in message:
            return self.say(202, b"")
        answer = self.modern if kind == "modern" else self.old
        return answer(message["id"], message["method"], message.get("params") or {})

    def do_GET(self):
        self.say(405, b"")

    def do_DELETE(self):
        self.say(405, b"")

    def old(self, identifier, method, parameters):
        if method == "initialize":
            about = {"name": "Raw HTTP", "version": "1"}
            value = {"protocolVersion": "2025-03-26", "capabilities": {"tools": {}}, "serverInfo": about}
            return self.result(identifier, value, **{"mcp-session-id": session})
        if method == "server/discover":
            return self.error(identifier, "unknown method")
        if self.headers.get("mcp-session-id") != session:
            return self.say(404, b"no such session")
        if method == "tools/list":
            return self.result(identifier, {"tools": many if "?" in self.path else tools})
        return self.call(identifier, parameters["name"], parameters.get("arguments"))

    def call(self, identifier, name, arguments):
        text = json.dumps(arguments)
        match name:
            case "big":
                text = "x" * arguments["size"]
            case "slow":
                time.sleep(1000)
            case "flood":
                return self.flood(identifier, arguments["size"])
            case "half":
                return self.say(200, f'{{"jsonrpc": "2.0", "id": {identifier}, "result": {{'.encode())
            case "strange":
                return self.result(identifier, {"content": [{"type": "hologram", "of": "you"}]})
        return self.result(identifier, {"content": [{"type": "text", "text": text}]})

    def flood(self, identifier, size):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        answered.clear()
        for number in range(size):
            self.event({"jsonrpc": "2.0", "id": f"ping-{number}", "method": "ping"})
        while len(answered) < size:
            time.sleep(0.01)
        text = f"{len(set(answered))} were answered"
        self.event({"jsonrpc": "2.0", "id": identifier, "result": {"content": [{"type": "text", "text": text}]}})
        self.close_connection = True

    def event(self, message):
        self.wfile.write(f"event: message\ndata: {json.dumps(message)}\n\n".encode())

    def modern(self, identifier, method, parameters):
        always = {"resultType": "complete", "ttlMs": 0, "cacheScope": "private"}
        match method:
            case "server/discover":
                value = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}
            case "tools/list":
                value = {"tools": tools[:1]}
            case _:
                wanted = {"mode": "form", "message": "Who?", "requestedSchema": {"type": "object", "properties": {}}}
                asked = {"a": {"method": "elicitation/create", "params": wanted}}
                return self.result(identifier, {"resultType": "input_required", "inputRequests": asked})
        return self.result(identifier, always | value)

    def result(self, identifier, value, **headers):
        self.say(200, json.dumps({"jsonrpc": "2.0", "id": identifier, "result": value}).encode(), **headers)

    def error(self, identifier, text):
        value = {"jsonrpc": "2.0", "id": identifier, "error": {"code": -32601, "message": text}}
        self.say(200, json.dumps(value).encode())

    def say(self, status, body, kind="application/json", **headers):
        self.send_response(status)
        for key, value in {"content-type": kind, "content-length": str(len(body)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass


NO_SERVERS = {
    "html": lambda handler: handler.say(200, b"<title>Welcome</title>", "text/html"),
    "redirect": lambda handler: handler.say(307, b"", location="http://localhost:9/mcp"),
    "gzip": lambda handler: handler.say(200, gzip.compress(b"x" * 10_000_000), **{"content-encoding": "gzip"}),
    "hang": lambda handler: time.sleep(1000),
    "half": lambda handler: handler.say(200, b'{"jsonrpc": "2.0", "id"'),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100
    allow_reuse_address = True


server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
print(server.server_address[1], flush=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
threading.Event().wait()
