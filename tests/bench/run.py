"""Measures chatcore against the plainest proxy, in one run, in turns. Reports ratios; judges nothing.

    uv run python tests/bench/run.py [--repetitions N] [SCENARIO …]

CPU time is that of the server's whole process tree, from outside. Trust the ratios, not the microseconds.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

HERE = Path(__file__).parent
SCENARIOS = {
    # streams, requests, model, ramp in seconds
    "paced": (25, 25, "bench/150-20", 0.5),
    "fan": (50, 50, "bench/400-0", 0),
    "single": (1, 1, "bench/5000-0", 0),
    "first": (1, 200, "bench/10-0", 0),
    "pace1000": (1000, 1000, "bench/30-200", 3),
}
SHORT = ("paced", "fan", "single", "first")
CHATCORE = [sys.executable, "-m", "chatcore", "serve", "--disable", "llama"]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def upstream() -> Iterator[str]:
    """A model's server (see upstream.py). Gives its URL."""
    process = subprocess.Popen([sys.executable, HERE / "upstream.py"], stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/api/v1"
    finally:
        process.terminate()
        process.wait(10)


def settings(url: str, data: Path) -> dict[str, str]:
    """The environment of a chatcore with that model's server."""
    return {
        "OPENROUTER_API_KEY": "bench", "OPENROUTER_BASE_URL": url, "CHATCORE_DATA": str(data),
        "CHATCORE_LOG_LEVEL": "warning", "CHATCORE_MAX_STREAMS": "4000",
    }  # fmt: skip


class Server:
    """A server under measurement."""

    def __init__(self, name: str, command: list[str], port: int, environ: dict[str, str]) -> None:
        self.name = name
        self.port = port
        self.process = subprocess.Popen(
            command, cwd=HERE, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, start_new_session=True
        )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                return
            except OSError:
                time.sleep(0.05)
        raise SystemExit(f"{name} did not start")

    def cpu(self) -> float:
        """Seconds, from the scheduler's own account: the times that `ps` shows come in steps of 10 ms."""
        process = psutil.Process(self.process.pid)
        tasks = [Path(f"/proc/{one.pid}/task").glob("*/schedstat") for one in [process, *process.children(True)]]
        return sum(int(task.read_text().split()[0]) for tree in tasks for task in tree) / 1e9

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def measure(server: Server, scenario: str) -> dict[str, float]:
    streams, requests, model, ramp = SCENARIOS[scenario]
    before = server.cpu()
    done = subprocess.run(
        [sys.executable, HERE / "load.py", *map(str, (server.port, streams, requests, model, ramp))],
        capture_output=True, text=True, check=True, timeout=180,
    )  # fmt: skip
    seen = json.loads(done.stdout)
    cpu = server.cpu() - before
    return {**seen, "cpu_per_event": cpu / max(seen["events"], 1) * 1e6, "cpu_per_request": cpu / requests * 1e3}


def table(scenario: str, results: dict[str, list[dict[str, float]]]) -> str:
    def median(name: str, key: str) -> float:
        return statistics.median(result[key] or 0 for result in results[name])

    lines = [f"\n{scenario}", "server     CPU/event µs  ratio  first ms  ratio  lag p50 ms  lag p99 ms  failed"]
    for name in results:
        pairs = list(zip(results[name], results["baseline"], strict=True))
        cpu = statistics.median(one["cpu_per_event"] / base["cpu_per_event"] for one, base in pairs)
        first = statistics.median(one["first_p50"] / base["first_p50"] for one, base in pairs)
        failed = sum(int(result["failed"]) for result in results[name])
        lines.append(
            f"{name:10} {median(name, 'cpu_per_event'):12.1f} {cpu:6.2f} {median(name, 'first_p50'):9.2f} {first:6.2f}"
            f" {median(name, 'lag_p50'):11.2f} {median(name, 'lag_p99'):11.2f} {failed:7}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("scenarios", nargs="*", default=SHORT, help=", ".join(SCENARIOS))
    parser.add_argument("--repetitions", type=int, default=3)
    options = parser.parse_args()
    ports = free_port(), free_port()
    baseline = [
        sys.executable, "-m", "hypercorn", "-w", "1", "-b", f"127.0.0.1:{ports[0]}", "--log-level", "warning",
        "--backlog", "4096",
    ]  # fmt: skip
    with TemporaryDirectory(prefix="chatcore-bench-", ignore_cleanup_errors=True) as data, upstream() as url:
        servers = [
            Server("baseline", [*baseline, "baseline:app"], ports[0], {"BENCH_UPSTREAM": url + "/"}),
            Server("chatcore", [*CHATCORE, "--port", str(ports[1])], ports[1], settings(url, Path(data))),
        ]
        try:
            compare(servers, options.scenarios, options.repetitions)
        finally:
            for server in servers:
                server.stop()


def compare(servers: list[Server], scenarios: list[str], repetitions: int) -> None:
    """Measures them in turns, and prints a table for each scenario."""
    for server in servers:
        measure(server, "first")  # to warm up
    for scenario in scenarios:
        results: dict[str, list[dict[str, float]]] = {server.name: [] for server in servers}
        for _ in range(repetitions):
            for server in servers:
                results[server.name].append(measure(server, scenario))
        print(table(scenario, results), flush=True)


if __name__ == "__main__":
    main()
