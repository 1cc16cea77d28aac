"""The readings of all workers in Prometheus' text format.

Importing the library takes 0.1 s: so import this module where nobody waits for it.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import TypeAlias

import attrs
from prometheus_client import generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE

from chatcore.operation.metrics import METRICS, Buckets, Metric, Readings
from chatcore.operation.published import Published

__all__ = ["CONTENT_TYPE", "text"]

_Family: TypeAlias = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


def text(published: Sequence[Published]) -> bytes:
    """The page that Prometheus reads. Of two workers with one number the newer one counts: the other is ending."""
    return generate_latest(_Workers({one.slot: one.readings for one in sorted(published, key=lambda one: one.started)}))


@attrs.frozen
class _Workers:
    """What the library asks for the metrics: the readings of the workers by their numbers."""

    readings: Mapping[int, Readings]

    def collect(self) -> Iterator[_Family]:
        return (_family(metric, self.readings) for metric in METRICS)


def _family(metric: Metric, workers: Mapping[int, Readings]) -> _Family:
    names = ("worker", *metric.labels)
    samples = [
        ((str(slot), *sample.labels), sample.value)
        for slot, readings in workers.items()
        for sample in readings.get(metric.name, ())
    ]
    if metric.kind == "histogram":
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=names)
        for labels, value in samples:
            if isinstance(value, Buckets):
                bounds = [*map(str, value.bounds), "+Inf"]
                histogram.add_metric(labels, list(zip(bounds, accumulate(value.counts), strict=True)), value.sum)
        return histogram
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    family = make(metric.name, metric.help, labels=names)
    for labels, value in samples:
        if not isinstance(value, Buckets):
            family.add_metric(labels, value)
    return family
