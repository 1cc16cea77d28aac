"""What `/metrics` tells: each metric with its meaning, and how it is read from the part of the server that counts."""

import os
import resource
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

from chatcore.tally import Histogram, Labels, Tally

if TYPE_CHECKING:
    from chatcore.state import State

STARTED = time.time()
"""When this process started, in seconds since 1970: this module is imported early."""

_PROC = Path("/proc/self")


@attrs.frozen
class Metric:
    """A metric: its name on the wire, and what its numbers mean. `worker` is another label of each."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


METRICS: Sequence[Metric] = (
    Metric("chatcore_streams", "gauge", "Streams that are open."),
    Metric("chatcore_runs", "gauge", "Answers under way."),
    Metric("chatcore_runs_ended_total", "counter", "Answers that have ended, by how.", ("state", "reason")),
    Metric("chatcore_first_token_seconds", "histogram", "From asking the model to its first word.", ("provider",)),
    Metric("chatcore_events_total", "counter", "Events of answers."),
    Metric("chatcore_tokens_total", "counter", "Tokens as the providers count them.", ("kind", "model")),
    Metric("chatcore_cost_dollars_total", "counter", "What answers have cost, where the provider tells.", ("model",)),
    Metric("chatcore_requests_total", "counter", "Requests that were answered, by status.", ("status",)),
    Metric("chatcore_calls_total", "counter", "Calls into plugins that have ended.", ("plugin", "call")),
    Metric("chatcore_call_failures_total", "counter", "Calls into plugins that have failed.", ("plugin", "call")),
    Metric("chatcore_call_seconds_total", "counter", "How long calls into plugins took.", ("plugin", "call")),
    Metric("chatcore_calls_running", "gauge", "Calls into plugins that are under way.", ("plugin", "call")),
    Metric("chatcore_database_waiting", "gauge", "Reads and writes that wait for the database.", ("kind",)),
    Metric("chatcore_database_commit_seconds", "histogram", "How long the database took to write a group."),
    Metric("chatcore_loop_lag_seconds", "histogram", "How late the event loop was, measured 10 times a second."),
    Metric("chatcore_loop_blocked_total", "counter", "Times that code has blocked the event loop.", ("plugin",)),
    Metric("process_cpu_seconds_total", "counter", "CPU time of the process, user and system."),
    Metric("process_resident_memory_bytes", "gauge", "Memory of the process."),
    Metric("process_open_fds", "gauge", "Open files and connections of the process."),
    Metric("process_max_fds", "gauge", "How many the process may have."),
    Metric("process_start_time_seconds", "gauge", "When the process started, in seconds since 1970."),
)  # fmt: skip


@attrs.frozen
class Buckets:
    """What a histogram holds."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    sum: float


@attrs.frozen
class Sample:
    """One number, or one histogram, of a metric."""

    labels: Labels
    value: float | Buckets


Readings: TypeAlias = Mapping[str, tuple[Sample, ...]]
"""The samples of one worker, by the names of their metrics."""


# --- reading ----------------------------------------------------------------------------------------------------------


def read(state: "State") -> Readings:
    """The readings of this worker, as they are now."""
    readings: dict[str, Sequence[Sample]] = {
        "chatcore_streams": _one(state.streams.count),
        "chatcore_runs": _one(state.runs.count),
        "chatcore_runs_ended_total": _sums(state.runs.counts.ended),
        "chatcore_first_token_seconds": [
            Sample((provider,), _buckets(taken)) for provider, taken in state.runs.counts.first_token.items()
        ],
        "chatcore_events_total": _one(state.runs.counts.events),
        "chatcore_tokens_total": _sums(state.runs.counts.tokens),
        "chatcore_cost_dollars_total": _sums(state.runs.counts.cost),
        "chatcore_requests_total": _sums(state.answered),
        **_calls(state),
        "chatcore_database_waiting": [Sample((kind,), waiting) for kind, waiting in state.database.waiting.items()],
        "chatcore_database_commit_seconds": _one(_buckets(state.database.commits)),
        "chatcore_loop_lag_seconds": _one(_buckets(state.watchdog.lag)),
        "chatcore_loop_blocked_total": _sums(state.watchdog.blocks),
        **_process(),
    }
    return {name: tuple(samples) for name, samples in readings.items()}


def _one(value: float | Buckets) -> Sequence[Sample]:
    return [Sample((), value)]


def _sums(tally: Tally) -> Sequence[Sample]:
    return [Sample(labels, total) for labels, total in tally.sums().items()]


def _buckets(histogram: Histogram) -> Buckets:
    return Buckets(tuple(histogram.bounds), tuple(histogram.counts), histogram.sum)


def _calls(state: "State") -> Mapping[str, Sequence[Sample]]:
    charges = {(charge.plugin, charge.what): charge for charge in state.registry.calls.charges()}
    return {
        "chatcore_calls_total": [Sample(labels, charge.calls) for labels, charge in charges.items()],
        "chatcore_call_failures_total": [Sample(labels, charge.failures) for labels, charge in charges.items()],
        "chatcore_call_seconds_total": [Sample(labels, charge.seconds) for labels, charge in charges.items()],
        "chatcore_calls_running": [Sample(labels, charge.running) for labels, charge in charges.items()],
    }


def _process() -> Mapping[str, Sequence[Sample]]:
    """What the system says of this process, under the names that all Prometheus clients use."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    readings = {
        "process_cpu_seconds_total": _one(used.ru_utime + used.ru_stime),
        "process_max_fds": _one(resource.getrlimit(resource.RLIMIT_NOFILE)[0]),
        "process_start_time_seconds": _one(STARTED),
    }
    with suppress(OSError):  # on Linux only, and not while too many files are open
        pages = int((_PROC / "statm").read_text().split()[1])
        readings["process_resident_memory_bytes"] = _one(pages * os.sysconf("SC_PAGE_SIZE"))
        readings["process_open_fds"] = _one(len(list((_PROC / "fd").iterdir())))
    return readings
