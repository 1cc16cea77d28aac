"""What the metrics are read from (chatcore/operation/metrics.py). The page is tested with the plugin `service`."""

import resource

from chatcore.operation.metrics import _process


def test_the_process_is_measured_also_when_it_may_open_no_file():
    """Then the numbers are missing for which one must be opened: somebody wants to see why."""
    assert {"process_cpu_seconds_total", "process_open_fds"} <= _process().keys()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        found = _process()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert "process_cpu_seconds_total" in found
    assert "process_open_fds" not in found
