"""The sockets that a server listens on (chatcore/serving/sockets.py)."""

import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from chatcore.config import Config
from chatcore.errors import ConfigError
from chatcore.serving import sockets

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all workers have one socket")


@pytest.fixture
def listening() -> Iterator[Sequence[socket.socket]]:
    """The sockets of four workers."""
    several = sockets.listen_for_workers(Config(port=0, workers=4))
    yield several
    for one in several:
        one.close()


def arrivals(listening: Sequence[socket.socket], connections: int) -> list[int]:
    """How many of so many connections come to each socket."""
    clients = [socket.create_connection(listening[0].getsockname()) for _ in range(connections)]
    counts = [accepted(one) for one in listening]
    for client in clients:
        client.close()
    return counts


def accepted(listening: socket.socket) -> int:
    """How many connections wait for a socket; they are taken from it."""
    count = 0
    while True:
        try:
            listening.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_the_sockets_of_workers_have_one_address(listening: Sequence[socket.socket]) -> None:
    """Also where the port is left to the system."""
    assert len({one.getsockname() for one in listening}) == 1


@linux_only
def test_connections_go_where_there_is_a_worker(listening: Sequence[socket.socket]) -> None:
    """To the first worker until they are steered; then to those that are ready, to each its share."""
    assert arrivals(listening, 20) == [20, 0, 0, 0]
    sockets.steer(listening, [1, 3])
    counts = arrivals(listening, 100)
    assert counts[0] == counts[2] == 0
    assert min(counts[1], counts[3]) >= 20
    sockets.steer(listening, [0, 1, 2, 3])
    assert min(arrivals(listening, 100)) >= 5


@linux_only
def test_who_waits_for_a_worker_that_died_is_served_by_the_next(listening: Sequence[socket.socket]) -> None:
    """Steering takes no connection away from the queue that it is in."""
    client = socket.create_connection(listening[0].getsockname())
    sockets.steer(listening, [2])
    assert [accepted(one) for one in listening] == [1, 0, 0, 0]
    client.close()


def test_a_port_has_one_server(listening: Sequence[socket.socket]) -> None:
    """Also against another server with several workers, whose sockets the system would let in."""
    port = listening[0].getsockname()[1]
    for workers in (1, 2):
        with pytest.raises(
            ConfigError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"
        ) as told:
            sockets.listen_for_workers(Config(port=port, workers=workers))
        assert told.value.hint == "choose another with --port"


@pytest.mark.parametrize("host", ["256.1.1.1", "192.0.2.1", "no.such.host.invalid"])
def test_an_address_that_is_not_this_machines_is_told(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is no address, somebody else's or a name that nobody knows."""
    with pytest.raises(ConfigError, match=f"cannot listen on {host} port 0: ") as told:
        sockets.listen(Config(host=host, port=0))
    assert told.value.hint == "choose another with --host"


def test_a_url_says_where_the_server_is() -> None:
    """With the port that the system chose, and brackets around an IPv6 address."""
    with sockets.listen(Config(port=0)) as one:
        assert sockets.url(Config(), one) == f"http://127.0.0.1:{one.getsockname()[1]}"
    with sockets.listen(Config(host="::1", port=0)) as one:
        assert sockets.url(Config(), one) == f"http://[::1]:{one.getsockname()[1]}"


@pytest.mark.parametrize("host", ["no such host", "\udcff", "a\0b", "x" * 300, "..", "203.0.113.7"])
def test_a_host_that_is_not_this_machine(host: str) -> None:
    """Whatever is wrong with its name; the remedy is another one."""
    with pytest.raises(ConfigError, match="cannot listen on") as caught:
        sockets.listen(Config(host=host, port=0))
    assert caught.value.hint == "choose another with --host"


def test_more_sockets_than_files_may_be_open() -> None:
    """The remedy is not another port."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())) + 5, hard))
    try:
        with pytest.raises(ConfigError, match="Too many open files") as caught:
            sockets.listen_for_workers(Config(port=0, workers=300))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "ulimit -n" in (caught.value.hint or "")
