"""What happens while a module is imported. A script, run by `of_import` in a process of its own.

python -B -P quiet.py MODULE FILE
"""

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TIMEOUT = 60.0
"""Seconds that an import may take."""

_LOUD = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.mkdir",
        "os.posix_spawn",
        "os.remove",
        "os.rename",
        "os.rmdir",
        "os.spawn",
        "os.system",
        "socket.connect",
        "socket.getaddrinfo",
        "socket.gethostbyname",
        "socket.sendto",
        "sqlite3.connect",
        "subprocess.Popen",
        "_thread.start_new_thread",
    }
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def of_import(module: str, file: Path) -> Sequence[str]:
    """What the import of a module does that an import must not do: network, processes, threads, files written."""
    done = subprocess.run(  # noqa: S603  our own interpreter and script
        [sys.executable, "-B", "-P", __file__, module, str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    if done.returncode != 0:
        return [f"it raised {done.stderr.strip().rpartition(chr(10))[2]}"]
    if not done.stdout:
        return ["it ended the process"]
    seen: list[str] = json.loads(done.stdout.rpartition("\n")[2])
    return seen


def _main(module: str, file: str) -> None:
    importlib.import_module("chatcore.hooks")  # what this does is not the plugin's
    seen: list[str] = []
    recording = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if recording and (event in _LOUD or (event == "open" and _writes(arguments))):
            seen.append(f"{event} {arguments[0] if event == 'open' else ''}".strip())

    sys.addaudithook(note)
    _import(module, file)
    recording = False
    seen += [f"thread {one.name}" for one in threading.enumerate() if one is not threading.main_thread()]
    sys.stdout.write("\n" + json.dumps(seen))
    sys.stdout.flush()
    os._exit(0)  # a thread that it began would keep the process


def _import(module: str, file: str) -> None:
    """By its name, as chatcore does it; a file that has no name in this process's path is run."""
    try:
        known = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        known = None
    if known is not None and known.origin == file:
        importlib.import_module(module)
        return
    spec = importlib.util.spec_from_file_location(module, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is not a Python file")
    sys.modules[module] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[module])


def _writes(arguments: tuple[Any, ...]) -> bool:
    path, mode, flags = arguments
    return path != os.devnull and (bool(set(mode or "") & set("wax+")) or bool((flags or 0) & _WRITING))


if __name__ == "__main__":
    _main(*sys.argv[1:])
