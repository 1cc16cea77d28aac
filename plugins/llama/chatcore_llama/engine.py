"""llama.cpp in this process. The only file that imports xllamacpp; everything in it blocks and belongs in a thread.

`xllamacpp.Server` loads a model, then serves it in threads of its own that never touch Python, in the OpenAI format on
a loopback port. What was seen with xllamacpp 2026.10 and is dealt with here:

* Its constructor holds the interpreter's lock until the model is loaded, so that the whole server stands still. It is
  short (0.2 s, nearly whatever the size) if the weights stay in the mapped file: mapped, not rearranged
  (`no_extra_bufts`), not measured against a graphics card first (`fit_params`), without a warm-up. The file is read
  into the system's cache before, and warmed up after, where others can run.
* It stops when the last reference to it goes, and waits for ever if its main loop has not begun by then. `start` has
  an answer of that loop before it gives the server away.
* While it stops, it holds the lock until its open streams notice; they look every `sse_ping_interval` seconds.
* Unasked, it keeps up to 8 GiB of old conversations (`cache_ram_mib`).
* With a thread for each core, and another process at work on one of them, it is ten times slower than with one thread
  alone: its threads wait for each other at every step.
* It says why it cannot load a file on stderr only, where `verbosity` 1 lets through errors and nothing else.
"""

import http.client
import json
import os
import secrets
import threading
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import attrs

from chatcore.secrets import Secret
from chatcore_llama import weights
from chatcore_llama.settings import Settings

FIRST_ANSWERS = 600.0
"""Seconds that a loaded model may take for the answers by which it is seen to work."""

_CHUNK = 2**22


class LoadFailed(Exception):
    """The model cannot be used. The text says why, and what to do."""


class LoadStopped(Exception):
    """The model is not wanted any more."""


@attrs.define
class Server:
    """A model that answers at `base_url`. `context` is how many tokens a conversation may have."""

    base_url: str
    api_key: Secret
    context: int
    supports_tools: bool
    _server: object = attrs.field(repr=False)

    def close(self) -> None:
        """Stops it. Whatever it still answers breaks off."""
        self._server = None


def start(path: Path, name: str, settings: Settings, stop: threading.Event) -> Server:
    """Loads a model and gives its server. `name` is what the server calls the model in its answers.

    Raises:
        LoadFailed: the file, a setting, the memory or the library is not good for it.
        LoadStopped: `stop` was set in time.
    """
    if problem := weights.problem_of(path):
        raise LoadFailed(problem)
    _read_ahead(path, stop)
    key = Secret(secrets.token_urlsafe(32))
    server = _make(path, name, settings, key)
    client = _Client(server.listening_address, key, FIRST_ANSWERS)
    try:
        client.call("GET", "/slots")  # is answered by the main loop: from here on the server can be stopped
        props = client.call("GET", "/props")
        client.call("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "."}], "max_tokens": 1})
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise LoadFailed(f"{path.name} does not chat: {error}; perhaps it is a model for another purpose") from error
    capabilities = props.get("chat_template_caps", {})
    return Server(
        base_url=f"{server.listening_address}/v1",
        api_key=key,
        context=props["default_generation_settings"]["n_ctx"],
        supports_tools=settings.tools if settings.tools is not None else bool(capabilities.get("supports_tools")),
        server=server,
    )


def _read_ahead(path: Path, stop: threading.Event) -> None:
    buffer = bytearray(_CHUNK)
    with path.open("rb", buffering=0) as file:
        while file.readinto(buffer):
            if stop.is_set():
                raise LoadStopped


def _make(path: Path, name: str, settings: Settings, key: Secret) -> Any:
    xllamacpp = _import()
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings.threads or max(1, _processors() // 2)
    for parameter, value in {**_chosen(xllamacpp, settings), **settings.extra, **_required(name, key)}.items():
        try:
            setattr(params, parameter, value)
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise LoadFailed(f"extra.{parameter} = {value!r} is not a parameter of llama.cpp: {error}") from error
    try:
        return xllamacpp.Server(params)
    except (RuntimeError, ValueError) as error:
        raise LoadFailed(
            f"llama.cpp cannot load {path.name}, stderr has its reasons; "
            "if the file is damaged fetch it again, if the memory is too small choose a smaller file or context"
        ) from error


def _processors() -> int:
    """How many of the machine's threads this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _import() -> ModuleType:
    try:
        return import_module("xllamacpp")
    except (ImportError, OSError) as error:
        raise LoadFailed(f"xllamacpp cannot be imported: {error}; 'pip install --force-reinstall xllamacpp'") from error


def _chosen(xllamacpp: Any, settings: Settings) -> dict[str, Any]:
    """Parameters that `extra` may override."""
    return {
        "n_ctx": settings.context * settings.parallel,
        "n_parallel": settings.parallel,
        "load_mode": xllamacpp.llama_load_mode.LLAMA_LOAD_MODE_MMAP,
        "no_extra_bufts": True,
        "fit_params": False,
        "warmup": False,
        "cache_ram_mib": 0,
        "sse_ping_interval": 1,
        "verbosity": 1,
    }


def _required(name: str, key: Secret) -> dict[str, Any]:
    """Parameters on which the rest of the plugin depends."""
    model = {"model_alias": {name}, "use_jinja": True}
    listening = {"hostnames": ["127.0.0.1"], "port": 0, "api_keys": [key.reveal()], "ui": False, "endpoint_slots": True}
    return model | listening


@attrs.frozen
class _Client:
    """Calls the server from this thread."""

    address: str
    key: Secret
    timeout: float

    def call(self, method: str, path: str, body: object = None) -> Any:
        host = urlsplit(self.address)
        connection = http.client.HTTPConnection(host.hostname or "", host.port, timeout=self.timeout)
        headers = {"authorization": f"Bearer {self.key.reveal()}", "content-type": "application/json"}
        try:
            connection.request(method, path, None if body is None else json.dumps(body), headers)
            response = connection.getresponse()
            answer = json.load(response)
        finally:
            connection.close()
        if response.status != 200:
            raise ValueError(answer.get("error", {}).get("message", f"status {response.status}"))
        return answer
