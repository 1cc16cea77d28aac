"""The sockets that a server listens on.

Workers of one server listen on a socket each, all of the same address (SO_REUSEPORT), so that the system spreads the
connections over them. One socket for all of them does not spread: of 40 connections at once, one worker of four took
33 to 40, whichever the system happened to wake. The price is that each socket has a queue of its own, in which clients
would wait for a worker that has died; so new connections are steered to the sockets whose workers are there.
"""

import ctypes
import errno
import socket
import struct
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from chatcore.config import Config
from chatcore.errors import ConfigError

BACKLOG = 4096
"""How many connections may wait to be accepted."""
STALLED = 60.0
"""Seconds after which a connection is dropped whose other end takes nothing of what it is sent, or is gone."""

_SHARED = sys.platform == "linux"  # elsewhere SO_REUSEPORT means something else: there all workers have one socket
_ATTACH_PROGRAM = 51  # SO_ATTACH_REUSEPORT_CBPF, which the module `socket` lacks
# The instructions of a classic BPF program (linux/filter.h, linux/bpf_common.h).
_LOAD_RANDOM, _MODULO, _JUMP_IF_EQUAL, _RETURN = (0x20, 0xFFFFF000 + 56), 0x94, 0x15, 0x06


def listen(config: Config) -> socket.socket:
    """A socket that listens on the configured address.

    Raises:
        ConfigError: the address is taken, or not this machine's.
    """
    return _listen(config, config.port, shared=False)


def listen_for_workers(config: Config) -> Sequence[socket.socket]:
    """A socket for each worker, all on the configured address. The first one gets all connections until `steer`.

    Raises:
        ConfigError: the address is taken, or not this machine's.
    """
    alone = listen(config)  # a shared one would be given an address that another server shares
    if not _SHARED:
        return [alone] * config.workers
    port = alone.getsockname()[1]
    alone.close()
    with ExitStack() as made:
        sockets = [made.enter_context(_listen(config, port, shared=True)) for _ in range(config.workers)]
        made.pop_all()
    steer(sockets, [0])
    return sockets


def steer(sockets: Sequence[socket.socket], ready: Sequence[int]) -> None:
    """Has the system give each new connection to one of the sockets whose indices are `ready`, at random.

    Connections that wait in the queue of another stay there. Where the system does not know how, nothing happens.
    """
    if not _SHARED:
        return
    code, operand = _LOAD_RANDOM
    program = [(code, 0, 0, operand), (_MODULO, 0, 0, len(ready))]
    for number, index in enumerate(ready):
        program += [(_JUMP_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, index)]
    program.append((_RETURN, 0, 0, ready[0]))  # not reached, but a program must end with it
    packed = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    description = struct.pack("HP", len(program), ctypes.addressof(packed))
    try:
        sockets[0].setsockopt(socket.SOL_SOCKET, _ATTACH_PROGRAM, description)
    except OSError:
        return  # an old kernel, or a sandbox: clients of a worker that has died wait until there is another


def url(config: Config, listening: socket.socket) -> str:
    """The URL of the address that a socket listens on."""
    host, port = listening.getsockname()[:2]
    scheme = "https" if config.certfile else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _remedy(error: Exception) -> str:
    number = getattr(error, "errno", None)
    if not isinstance(error, OSError) or isinstance(error, socket.gaierror) or number == errno.EADDRNOTAVAIL:
        return "choose another with --host"
    if number in (errno.EMFILE, errno.ENFILE):
        return "run fewer workers, or let the server open more files (ulimit -n)"
    return "choose another with --port"


def _listen(config: Config, port: int, *, shared: bool) -> socket.socket:
    listening = None
    try:
        listening = socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the connections inherit it, and this:
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # on Linux
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED * 1000))
        listening.bind((config.host, port))
        listening.listen(BACKLOG)
    except (OSError, TypeError, ValueError) as error:  # all but the first: a name that cannot be looked up at all
        if listening is not None:
            listening.close()
        why = error.strerror if isinstance(error, OSError) else None
        raise ConfigError(
            f"cannot listen on {config.host} port {config.port}: {why or error}", hint=_remedy(error)
        ) from error
    listening.setblocking(False)
    return listening
